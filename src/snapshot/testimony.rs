//! What a tree was asked and what it answered, so that the same questions need no tree the next time.
//!
//! A copy asks the tree below it little: what is at its destination, who owns that, who `app` is. A [`Witness`] notes it; a
//! [`Testimony`] answers in the tree's place, and knows when it was asked something else.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use super::tree::{FileKind, FileTree, Meta, Time, TreePath, Xattrs};
use super::{SnapshotError, TreeFile};
use crate::digest::Digest;

/// Larger directories are not listed for the sake of one question.
const MOST_LISTED: usize = 256;
/// Larger files are not kept: what is asked for are lists of users.
const MOST_CONTENT_BYTES: u64 = 256 << 10;

/// Answers of one tree, by path. Paths and texts that are no UTF-8 are left out: they have to be asked again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Testimony(BTreeMap<String, Answers>);

/// What is known of a path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Answers {
    /// What is there; the inner `None` is nothing.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "is_told")]
    there: Option<Option<Stat>>,
    /// All names of a directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    names: Option<BTreeMap<String, Stat>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    xattrs: Option<Xattrs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// Of a file's data.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
}

/// `null` that is there is an answer.
fn is_told<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Option<Stat>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Kind, device number, mode, owner, size, time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stat(char, u32, u32, u32, u32, u32, u64, i64, u32);

impl From<Meta> for Stat {
    fn from(meta: Meta) -> Stat {
        let (kind, major, minor) = match meta.kind {
            FileKind::File => ('f', 0, 0),
            FileKind::Directory => ('d', 0, 0),
            FileKind::Symlink => ('l', 0, 0),
            FileKind::Fifo => ('p', 0, 0),
            FileKind::Socket => ('s', 0, 0),
            FileKind::Character(major, minor) => ('c', major, minor),
            FileKind::Block(major, minor) => ('b', major, minor),
        };
        let Meta { mode, uid, gid, size_bytes, mtime, .. } = meta;
        Stat(kind, major, minor, mode, uid, gid, size_bytes, mtime.seconds, mtime.nanoseconds)
    }
}

impl Stat {
    fn meta(self) -> Meta {
        let Stat(kind, major, minor, mode, uid, gid, size_bytes, seconds, nanoseconds) = self;
        let kind = match kind {
            'd' => FileKind::Directory,
            'l' => FileKind::Symlink,
            'p' => FileKind::Fifo,
            's' => FileKind::Socket,
            'c' => FileKind::Character(major, minor),
            'b' => FileKind::Block(major, minor),
            _ => FileKind::File,
        };
        let nanoseconds = nanoseconds.min(999_999_999);
        let (mode, mtime, ctime) = (mode & 0o7777, Time { seconds, nanoseconds }, Time::default());
        Meta { kind, mode, uid, gid, size_bytes, mtime, ctime, links: 1, inode: (0, 0) }
    }
}

impl Testimony {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds what another testimony of the same tree knows.
    pub fn extend(&mut self, other: Testimony) {
        for (path, answers) in other.0 {
            let known = self.0.entry(path).or_default();
            known.there = answers.there.or(known.there);
            known.names = answers.names.or(known.names.take());
            known.target = answers.target.or(known.target.take());
            known.xattrs = answers.xattrs.or(known.xattrs.take());
            known.text = answers.text.or(known.text.take());
            known.digest = answers.digest.or(known.digest);
        }
    }

    /// What is at a path: as it was asked, or as it follows from what is above. `None` if that is not known.
    fn there(&self, path: &TreePath) -> Option<Option<Stat>> {
        let text = std::str::from_utf8(path.as_bytes()).ok()?;
        if let Some(there) = self.0.get(text).and_then(|answers| answers.there) {
            return Some(there);
        }
        let name = path.file_name()?;
        let parent = path.parent();
        let above = std::str::from_utf8(parent.as_bytes()).ok()?;
        if let Some(names) = self.0.get(above).and_then(|answers| answers.names.as_ref()) {
            return Some(names.get(std::str::from_utf8(name).ok()?).copied());
        }
        match self.there(&parent) {
            // nothing is below what is no directory
            Some(there) if there.is_none_or(|stat| stat.0 != 'd') => Some(None),
            _ => None,
        }
    }

    fn answers(&self, path: &TreePath) -> Option<&Answers> {
        self.0.get(std::str::from_utf8(path.as_bytes()).ok()?)
    }
}

/// Answers in a tree's place.
pub struct Told<'a> {
    testimony: &'a Testimony,
    was_silent: AtomicBool,
}

impl<'a> Told<'a> {
    /// By this testimony.
    pub fn new(testimony: &'a Testimony) -> Told<'a> {
        Told { testimony, was_silent: AtomicBool::new(false) }
    }

    /// Whether something was asked that the testimony does not know: then what came of the answers means nothing.
    pub fn was_silent(&self) -> bool {
        self.was_silent.load(Ordering::Relaxed)
    }

    /// The digest of a file's data.
    ///
    /// # Errors
    /// Nobody knows it.
    pub fn digest(&self, path: &TreePath) -> Result<Digest, SnapshotError> {
        self.answer("read", path, self.testimony.answers(path).and_then(|answers| answers.digest))
    }

    fn answer<T>(&self, action: &'static str, path: &TreePath, answer: Option<T>) -> Result<T, SnapshotError> {
        answer.ok_or_else(|| {
            self.was_silent.store(true, Ordering::Relaxed);
            SnapshotError::io(action, path, io::Error::other("nobody knows"))
        })
    }
}

impl FileTree for Told<'_> {
    fn lookup(&self, path: &TreePath) -> Result<Option<Meta>, SnapshotError> {
        Ok(self.answer("look up", path, self.testimony.there(path))?.map(Stat::meta))
    }

    fn read_dir(&self, path: &TreePath) -> Result<Vec<(Vec<u8>, Meta)>, SnapshotError> {
        let names = self.testimony.answers(path).and_then(|answers| answers.names.as_ref());
        let names = self.answer("read directory", path, names)?;
        Ok(names.iter().map(|(name, stat)| (name.clone().into_bytes(), stat.meta())).collect())
    }

    fn read_link(&self, path: &TreePath) -> Result<Vec<u8>, SnapshotError> {
        let target = self.testimony.answers(path).and_then(|answers| answers.target.clone());
        Ok(self.answer("read link", path, target)?.into_bytes())
    }

    fn open(&self, path: &TreePath) -> Result<TreeFile, SnapshotError> {
        let text = self.testimony.answers(path).and_then(|answers| answers.text.as_ref());
        let text = self.answer("open", path, text)?;
        let open = || -> io::Result<File> {
            let mut file = File::from(memfd_create("croze", MemfdFlags::CLOEXEC)?);
            file.write_all(text.as_bytes())?;
            file.seek(SeekFrom::Start(0))?;
            Ok(file)
        };
        open().map_err(|error| SnapshotError::io("open", path, error))
    }

    fn xattrs(&self, path: &TreePath) -> Result<Xattrs, SnapshotError> {
        self.answer("read xattrs of", path, self.testimony.answers(path).and_then(|answers| answers.xattrs.clone()))
    }
}

/// A tree, and what it was asked.
pub struct Witness<'a> {
    tree: &'a dyn FileTree,
    testimony: Mutex<Testimony>,
}

impl<'a> Witness<'a> {
    /// That has heard nothing yet.
    pub fn new(tree: &'a dyn FileTree) -> Witness<'a> {
        Witness { tree, testimony: Mutex::default() }
    }

    /// All that it heard.
    pub fn finish(self) -> Testimony {
        self.testimony.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the digest of a file's data, which was asked for in another way.
    pub fn note_digest(&self, path: &TreePath, digest: Digest) {
        self.note(path, |answers| answers.digest = Some(digest));
    }

    fn note(&self, path: &TreePath, note: impl FnOnce(&mut Answers)) {
        if let Ok(text) = std::str::from_utf8(path.as_bytes()) {
            let mut testimony = self.testimony.lock().unwrap_or_else(PoisonError::into_inner);
            note(testimony.0.entry(text.to_owned()).or_default());
        }
    }

    /// Notes all that is in a small directory: a name that comes next time can be told then.
    fn note_names(&self, path: &TreePath) {
        let is_known = |testimony: &Testimony| testimony.answers(path).is_some_and(|answers| answers.names.is_some());
        if is_known(&self.testimony.lock().unwrap_or_else(PoisonError::into_inner)) {
            return;
        }
        if let Ok(entries) = self.tree.read_dir(path)
            && entries.len() <= MOST_LISTED
        {
            let named = |(name, meta): (Vec<u8>, Meta)| Some((String::from_utf8(name).ok()?, Stat::from(meta)));
            // one name that cannot be written would count as absent
            if let Some(names) = entries.into_iter().map(named).collect::<Option<BTreeMap<String, Stat>>>() {
                self.note(path, |answers| answers.names = Some(names));
            }
        }
    }
}

impl FileTree for Witness<'_> {
    fn lookup(&self, path: &TreePath) -> Result<Option<Meta>, SnapshotError> {
        let meta = self.tree.lookup(path)?;
        self.note(path, |answers| answers.there = Some(meta.map(Stat::from)));
        if meta.is_some_and(|meta| meta.kind == FileKind::Directory) {
            self.note_names(path);
        }
        Ok(meta)
    }

    fn read_dir(&self, path: &TreePath) -> Result<Vec<(Vec<u8>, Meta)>, SnapshotError> {
        self.note_names(path);
        self.tree.read_dir(path)
    }

    fn read_link(&self, path: &TreePath) -> Result<Vec<u8>, SnapshotError> {
        let target = self.tree.read_link(path)?;
        if let Ok(text) = String::from_utf8(target.clone()) {
            self.note(path, |answers| answers.target = Some(text));
        }
        Ok(target)
    }

    fn open(&self, path: &TreePath) -> Result<TreeFile, SnapshotError> {
        let file = self.tree.open(path)?;
        let mut text = String::new();
        let is_small = |file: &File| file.metadata().is_ok_and(|metadata| metadata.len() <= MOST_CONTENT_BYTES);
        if is_small(&file)
            && let Ok(second) = self.tree.open(path)
            && second.take(MOST_CONTENT_BYTES).read_to_string(&mut text).is_ok()
        {
            self.note(path, |answers| answers.text = Some(text));
        }
        Ok(file)
    }

    fn xattrs(&self, path: &TreePath) -> Result<Xattrs, SnapshotError> {
        let xattrs = self.tree.xattrs(path)?;
        self.note(path, |answers| answers.xattrs = Some(xattrs.clone()));
        Ok(xattrs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{DirTree, Last, resolve, testing};

    fn path(text: &str) -> TreePath {
        TreePath::clean(text.as_bytes())
    }

    /// What was heard about the tree of `script`, through the form in which it travels.
    fn heard(script: &str, ask: impl FnOnce(&dyn FileTree)) -> Testimony {
        let temp = tempfile::tempdir().unwrap();
        assert!(testing::make(temp.path(), script));
        let tree = DirTree::open(temp.path()).unwrap();
        let witness = Witness::new(&tree);
        ask(&witness);
        let text = serde_json::to_vec(&witness.finish()).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    #[test]
    fn the_same_questions_have_the_same_answers() {
        let ask = |tree: &dyn FileTree| {
            let found = resolve(tree, &path("l/f"), Last::Follow).unwrap();
            let text = io::read_to_string(tree.open(&found.path).unwrap()).unwrap();
            let meta = found.meta.map(|meta| (meta.kind, meta.mode, meta.uid, meta.mtime));
            (found.path, meta, text, tree.xattrs(&path("a")).unwrap(), tree.lookup(&path("none/x")).unwrap())
        };
        let mut expected = None;
        let testimony = heard("dir a; file a/f text; link l a", |tree| expected = Some(ask(tree)));
        let told = Told::new(&testimony);
        assert_eq!(Some(ask(&told)), expected);
        assert!(!told.was_silent());
    }

    #[test]
    fn what_was_not_asked_is_known_where_it_follows() {
        let testimony = heard("dir a; file a/f text", |tree| {
            tree.lookup(&path("a")).unwrap();
            tree.lookup(&path("none")).unwrap();
        });
        let told = Told::new(&testimony);
        assert_eq!(told.lookup(&path("a/new")).unwrap(), None);
        assert_eq!(told.lookup(&path("a/f")).unwrap().map(|meta| meta.size_bytes), Some(4));
        assert_eq!(told.lookup(&path("a/f/below")).unwrap(), None);
        assert_eq!(told.lookup(&path("none/below")).unwrap(), None);
        assert!(!told.was_silent());
        assert!(told.lookup(&path("b")).is_err() && told.was_silent());
        let told = Told::new(&testimony);
        assert!(told.open(&path("a/f")).is_err() && told.was_silent());
    }
}
