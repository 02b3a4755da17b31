//! The states of the files that a copy selects, so that the next build can tell which of them changed.
//!
//! A context may have a hundred thousand files, of which few change. The states are therefore kept directory by directory, each
//! under the digest of what it holds: an unchanged directory is neither written again nor read to be compared.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::{CacheKey, Hasher};

/// The states of many files, by directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FileStates {
    directories: BTreeMap<String, DirectoryStates>,
}

/// The states of the files in one directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryStates {
    /// Names all of it.
    pub digest: CacheKey,
    /// How many files.
    pub count: usize,
    /// Names and what tells their states apart, sorted; empty where only the digest was read.
    #[serde(skip)]
    pub files: Vec<(String, u64)>,
}

/// How two sets of files differ; paths sorted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Files that both have, in another state.
    pub changed: Vec<String>,
    /// Files that only the later has.
    pub new: Vec<String>,
    /// Files that only the former has.
    pub gone: Vec<String>,
    /// Directories that differ, the former content of which is not known.
    pub unknown: Vec<String>,
}

impl FileStates {
    /// The states of files named by their directory, their name in it, and what tells their states apart. The last of several
    /// with one path counts.
    pub fn collect<'a>(files: impl IntoIterator<Item = (&'a [u8], u64)>) -> FileStates {
        let mut directories: BTreeMap<String, Vec<(String, u64)>> = BTreeMap::new();
        let mut gathered: (&[u8], Vec<(String, u64)>) = (b"", Vec::new());
        for (path, state) in files {
            let (directory, name) = split(path);
            if directory != gathered.0 {
                let (former, files) = std::mem::replace(&mut gathered, (directory, Vec::new()));
                directories.entry(text(former)).or_default().extend(files);
            }
            gathered.1.push((text(name), state));
        }
        directories.entry(text(gathered.0)).or_default().extend(gathered.1);
        let finished = directories.into_iter().filter(|(_, files)| !files.is_empty());
        FileStates { directories: finished.map(|(directory, files)| (directory, DirectoryStates::new(files))).collect() }
    }

    /// How many files.
    pub fn count(&self) -> usize {
        self.directories.values().map(|directory| directory.count).sum()
    }

    /// The directories.
    pub fn directories(&self) -> impl Iterator<Item = &DirectoryStates> + Clone {
        self.directories.values()
    }

    /// Reads those directories of a former build that `now` has in another state, by `load`, which may not know them.
    pub fn load_what_differs(&mut self, now: &FileStates, load: impl Fn(&CacheKey) -> Option<Vec<u8>>) {
        for (path, directory) in &mut self.directories {
            if now.directories.get(path).is_none_or(|now| now.digest != directory.digest) {
                directory.files =
                    load(&directory.digest).and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
            }
        }
    }

    /// How `now` differs from this former build's.
    pub fn changes(&self, now: &FileStates) -> Changes {
        let mut changes = Changes::default();
        for (path, later) in &now.directories {
            let former = self.directories.get(path);
            if former.is_some_and(|former| former.digest == later.digest) {
                continue;
            }
            if former.is_some_and(|former| !former.is_known()) {
                changes.unknown.push(path.clone());
                continue;
            }
            let former = former.map(DirectoryStates::by_name).unwrap_or_default();
            for (name, state) in &later.files {
                match former.get(name.as_str()) {
                    Some(old) if old == state => {}
                    Some(_) => changes.changed.push(join(path, name)),
                    None => changes.new.push(join(path, name)),
                }
            }
        }
        for (path, former) in &self.directories {
            let later = now.directories.get(path);
            if later.is_some_and(|later| later.digest == former.digest || !former.is_known()) {
                continue;
            }
            if !former.is_known() {
                changes.unknown.push(path.clone());
                continue;
            }
            let later = later.map(DirectoryStates::by_name).unwrap_or_default();
            let gone = former.files.iter().filter(|(name, _)| !later.contains_key(name.as_str()));
            changes.gone.extend(gone.map(|(name, _)| join(path, name)));
        }
        for paths in [&mut changes.changed, &mut changes.new, &mut changes.gone, &mut changes.unknown] {
            paths.sort_unstable();
        }
        changes
    }
}

impl DirectoryStates {
    fn new(mut files: Vec<(String, u64)>) -> DirectoryStates {
        // stable, and turned around: the last of several stays
        files.reverse();
        files.sort_by(|(one, _), (other, _)| one.cmp(other));
        files.dedup_by(|(one, _), (other, _)| one == other);
        let mut hasher = Hasher::new();
        hasher.field(b"file states 1");
        for (name, state) in &files {
            hasher.field(name.as_bytes());
            hasher.update(&state.to_le_bytes());
        }
        DirectoryStates { digest: CacheKey(hasher.finish()), count: files.len(), files }
    }

    /// What [`FileStates::load_what_differs`] reads.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(&self.files).expect("states are plain data")
    }

    fn is_known(&self) -> bool {
        self.files.len() == self.count
    }

    fn by_name(&self) -> BTreeMap<&str, u64> {
        self.files.iter().map(|(name, state)| (name.as_str(), *state)).collect()
    }
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(files: &[(&'static str, u64)]) -> FileStates {
        FileStates::collect(files.iter().map(|(path, state)| (path.as_bytes(), *state)))
    }

    /// What a later build reads of a former one, with all directories that `known` says.
    fn read_back(former: &FileStates, now: &FileStates, known: impl Fn(&str) -> bool) -> FileStates {
        let mut read: FileStates = serde_json::from_slice(&serde_json::to_vec(former).unwrap()).unwrap();
        read.load_what_differs(now, |digest| {
            let (path, directory) = former.directories.iter().find(|(_, directory)| directory.digest == *digest).unwrap();
            known(path).then(|| directory.to_bytes())
        });
        read
    }

    #[test]
    fn changes_are_those_of_the_files_whatever_their_directories() {
        let former = states(&[("a", 1), ("d/x", 1), ("d/y", 2), ("d/e/z", 3), ("same/f", 4), ("old/g", 5)]);
        let now = states(&[("a", 1), ("d/y", 9), ("d/w", 1), ("d/e/z", 3), ("same/f", 4), ("new/h", 5), ("d.x", 1)]);
        let list = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>();
        let mut expected = Changes { changed: list(&["d/y"]), new: list(&["d.x", "d/w", "new/h"]), ..Changes::default() };
        expected.gone = list(&["d/x", "old/g"]);
        assert_eq!(former.changes(&now), expected);
        assert_eq!(read_back(&former, &now, |_| true).changes(&now), expected);
        let in_part = read_back(&former, &now, |path| path != "d").changes(&now);
        let unknown = list(&["d"]);
        assert_eq!(in_part, Changes { new: list(&["d.x", "new/h"]), gone: list(&["old/g"]), unknown, ..Changes::default() });
        assert_eq!((former.count(), now.count()), (6, 7));
    }

    #[test]
    fn the_last_of_two_with_one_path_counts_and_their_order_does_not() {
        assert_eq!(states(&[("d/a", 1), ("x", 0), ("d/a", 2), ("d/b", 3)]), states(&[("d/b", 3), ("d/a", 2), ("x", 0)]));
    }

    #[test]
    fn equal_directories_are_not_read() {
        let former = states(&[("a/f", 1), ("b/g", 1)]);
        let now = states(&[("a/f", 1), ("b/g", 2)]);
        assert_eq!(read_back(&former, &now, |path| path == "b" || panic!("{path} is the same")).changes(&now).changed, ["b/g"]);
    }
}
