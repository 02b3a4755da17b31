//! An overlay's upper directory, turned into exactly what a step changed.
//!
//! Besides changes it holds what was only copied up (opened for writing, given the owner that it had), whiteouts of names
//! that came and went, opaque marks that the kernel sets on every new directory, and overlayfs's own xattrs. All that goes.
//!
//! What counts as unchanged is BuildKit's rule (`util/overlay`): same type, owner, mode, device number and file capability;
//! for other files than directories also the same size and the same second of modification, and then the same content where
//! both times have no nanoseconds, else the same nanoseconds. So a touched file is a change, and a directory is one only if
//! something in it is or its own metadata is.

use std::io::{self, Read};
use std::path::Path;

use rayon::prelude::*;

use super::dir::WHITEOUT;
use super::tree::{FileKind, FileTree, Meta, Time, TreePath};
use super::view::View;
use super::xattr::{CAPABILITY, Family};
use super::{Dir, SnapshotError};

/// What is left in an upper directory.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// Entries that stay, whiteouts and parents of changes included.
    pub entries: u64,
    /// Names that begin with `.wh.`, sorted: later steps see them, but a tar would turn them into whiteouts.
    pub reserved: Vec<TreePath>,
}

/// Drops from the directory `upper` all that `lower` has unchanged and all that is no part of a layer: sockets, whiteouts of
/// nothing, marks of overlayfs. `family` says which xattrs the overlay was mounted with; the mount must be gone.
///
/// Afterwards `upper` is a layer tree. Directories keep their times.
///
/// # Errors
/// `Io` names the path, in `upper` or in `lower`.
pub fn keep_changes(upper: &Path, lower: &View, family: Family) -> Result<Changes, SnapshotError> {
    let root = Dir::open(upper).map_err(|err| SnapshotError::io("open", &TreePath::root(), err))?;
    let pass = Pass { root: &root, lower, family };
    let mut found = pass.search()?;
    let entries = pass.prune(&mut found)?;
    let mut reserved: Vec<TreePath> = found.into_iter().flat_map(|directory| directory.reserved).collect();
    reserved.sort_unstable();
    Ok(Changes { entries, reserved })
}

/// What one call works with.
struct Pass<'a> {
    root: &'a Dir,
    lower: &'a View,
    family: Family,
}

/// A directory of the upper tree.
struct Directory {
    path: TreePath,
    /// Index of the directory that holds it; the root's own is 0.
    parent: usize,
    below: Below,
    /// Whether it can go when nothing is left in it.
    unchanged: bool,
    mtime: Time,
    /// Entries that stay, without directories until they are decided.
    kept: u64,
    /// Whether names were removed, which changed its time.
    touched: bool,
    reserved: Vec<TreePath>,
}

/// What lower layers show below a directory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Below {
    /// Nothing: there is no such directory, or it is hidden.
    Nothing,
    /// Something that names can be compared with.
    Directory,
}

/// Fewer directories than this on one level are not worth the start of a thread pool.
const MIN_PARALLEL: usize = 8;

impl Pass<'_> {
    /// Goes through all directories, level by level so that neither depth nor width costs stack or descriptors, and decides
    /// about everything but directories. They come in an order in which each stands behind its parent.
    fn search(&self) -> Result<Vec<Directory>, SnapshotError> {
        let meta = self.root.meta().map_err(|err| SnapshotError::io("look up", &TreePath::root(), err))?;
        let mut found = vec![Directory::new(TreePath::root(), 0, Below::Directory, false, meta.mtime)];
        let mut level_start = 0;
        while level_start < found.len() {
            let level_end = found.len();
            let level = &mut found[level_start..];
            let search = |(index, directory): (usize, &mut Directory)| self.search_one(directory, level_start + index);
            let subdirectories: Vec<Vec<Directory>> = if level.len() < MIN_PARALLEL {
                level.iter_mut().enumerate().map(search).collect::<Result<_, _>>()?
            } else {
                level.par_iter_mut().enumerate().map(search).collect::<Result<_, _>>()?
            };
            found.extend(subdirectories.into_iter().flatten());
            level_start = level_end;
        }
        Ok(found)
    }

    /// Decides about the files in a directory and returns the directories in it.
    fn search_one(&self, directory: &mut Directory, index: usize) -> Result<Vec<Directory>, SnapshotError> {
        let failed = |action| {
            let path = &directory.path;
            move |err| SnapshotError::io(action, path, err)
        };
        let mut dir = self.root.open_beneath(&directory.path).map_err(failed("open"))?;
        dir.strip_own_marks(self.family).map_err(failed("clean"))?;
        let mut subdirectories = Vec::new();
        for (name, meta) in dir.entries().map_err(failed("read directory"))? {
            let path = directory.path.child(&name);
            let failed = |action| {
                let path = &path;
                move |err| SnapshotError::io(action, path, err)
            };
            let below = match directory.below {
                Below::Directory => self.lower.lookup(&path)?,
                Below::Nothing => None,
            };
            if meta.kind == FileKind::Directory {
                subdirectories.push(self.directory(&dir, &name, path, index, &meta, below)?);
                continue;
            }
            let stays = match meta.kind {
                FileKind::Socket => false,
                WHITEOUT => below.is_some(),
                _ => match below {
                    Some(below) => !self.is_unchanged(&dir, &name, &path, &meta, &below)?,
                    None => true,
                },
            };
            if !stays {
                dir.remove_file(&name).map_err(failed("drop"))?;
                directory.touched = true;
                continue;
            }
            directory.kept += 1;
            if meta.kind != WHITEOUT {
                dir.strip_marks(&name).map_err(failed("clean"))?;
                if name.starts_with(b".wh.") {
                    directory.reserved.push(path);
                }
            }
        }
        Ok(subdirectories)
    }

    fn directory(
        &self,
        dir: &Dir,
        name: &[u8],
        path: TreePath,
        parent: usize,
        meta: &Meta,
        below: Option<Meta>,
    ) -> Result<Directory, SnapshotError> {
        let failed = |err| SnapshotError::io("open", &path, err);
        let below = below.filter(|below| below.kind == FileKind::Directory);
        let opaque = dir.open_dir(name).and_then(|child| child.is_marked_opaque(self.family)).map_err(failed)?;
        let unchanged = match below {
            Some(below) if !opaque => same_owner_and_mode(meta, &below) && self.same_capability(dir, name, &path)?,
            _ => false,
        };
        let shows = if below.is_some() && !opaque { Below::Directory } else { Below::Nothing };
        let reserved = if name.starts_with(b".wh.") { vec![path.clone()] } else { Vec::new() };
        let mut found = Directory::new(path, parent, shows, unchanged, meta.mtime);
        found.reserved = reserved;
        // Without a directory below, the mark hides nothing: the kernel sets it to save itself look-ups.
        if opaque && below.is_none() {
            dir.open_dir(name)
                .and_then(|child| child.remove_opaque(self.family))
                .map_err(|err| SnapshotError::io("clean", &found.path, err))?;
        }
        Ok(found)
    }

    /// Removes unchanged directories in which nothing is left, deepest first, and gives the others their times back.
    fn prune(&self, found: &mut [Directory]) -> Result<u64, SnapshotError> {
        let mut entries = 0;
        for index in (0..found.len()).rev() {
            let directory = &found[index];
            let (parent, path) = (directory.parent, &directory.path);
            let is_root = path.is_root();
            if directory.unchanged && directory.kept == 0 {
                let name = path.file_name().unwrap_or_default();
                let above = self.root.open_beneath(&path.parent());
                above.and_then(|above| above.remove_dir(name)).map_err(|err| SnapshotError::io("drop", path, err))?;
                found[parent].touched = true;
                found[index].reserved.clear();
                continue;
            }
            if directory.touched {
                let dir = self.root.open_beneath(path);
                dir.and_then(|dir| dir.set_own_mtime(directory.mtime))
                    .map_err(|err| SnapshotError::io("set the time of", path, err))?;
            }
            entries += directory.kept;
            if !is_root {
                found[parent].kept += 1;
            }
        }
        Ok(entries)
    }

    /// BuildKit's rule for what is no directory.
    fn is_unchanged(&self, dir: &Dir, name: &[u8], path: &TreePath, upper: &Meta, below: &Meta) -> Result<bool, SnapshotError> {
        if upper.kind != below.kind
            || !same_owner_and_mode(upper, below)
            || upper.size_bytes != below.size_bytes
            || upper.mtime.seconds != below.mtime.seconds
        {
            return Ok(false);
        }
        if upper.mtime.nanoseconds != 0 || below.mtime.nanoseconds != 0 {
            if upper.mtime.nanoseconds != below.mtime.nanoseconds {
                return Ok(false);
            }
        } else if !self.same_content(dir, name, path, upper.kind)? {
            return Ok(false);
        }
        self.same_capability(dir, name, path)
    }

    fn same_content(&self, dir: &Dir, name: &[u8], path: &TreePath, kind: FileKind) -> Result<bool, SnapshotError> {
        let failed = |err| SnapshotError::io("read", path, err);
        match kind {
            FileKind::Symlink => Ok(dir.read_link(name).map_err(failed)? == self.lower.read_link(path)?),
            FileKind::File => {
                let upper = dir.open_file(name).map_err(failed)?;
                equal(upper, self.lower.open(path)?).map_err(failed)
            }
            _ => Ok(true),
        }
    }

    fn same_capability(&self, dir: &Dir, name: &[u8], path: &TreePath) -> Result<bool, SnapshotError> {
        let capability = |xattrs: Vec<(Vec<u8>, Vec<u8>)>| xattrs.into_iter().find(|(name, _)| name == CAPABILITY);
        let upper = dir.xattrs(name).map_err(|err| SnapshotError::io("read xattrs of", path, err))?;
        Ok(capability(upper) == capability(self.lower.xattrs(path)?))
    }
}

impl Directory {
    fn new(path: TreePath, parent: usize, below: Below, unchanged: bool, mtime: Time) -> Directory {
        Directory { path, parent, below, unchanged, mtime, kept: 0, touched: false, reserved: Vec::new() }
    }
}

fn same_owner_and_mode(left: &Meta, right: &Meta) -> bool {
    (left.mode, left.uid, left.gid) == (right.mode, right.uid, right.gid)
}

/// Whether both have the same bytes.
fn equal(mut left: impl Read, mut right: impl Read) -> io::Result<bool> {
    let (mut left_part, mut right_part) = (Vec::new(), Vec::new());
    loop {
        left_part.clear();
        right_part.clear();
        left.by_ref().take(1 << 16).read_to_end(&mut left_part)?;
        right.by_ref().take(1 << 16).read_to_end(&mut right_part)?;
        if left_part != right_part {
            return Ok(false);
        }
        if left_part.is_empty() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::snapshot::testing::{Mounted, make};

    struct Run {
        _temp: tempfile::TempDir,
        upper: PathBuf,
        changes: Changes,
    }

    /// Runs `step` in an overlay over a tree made by `lower`; `None` without the privilege.
    fn run(lower: &str, step: &str) -> Option<Run> {
        let temp = tempfile::tempdir().unwrap();
        let [below, upper] = ["lower", "upper"].map(|name| temp.path().join(name));
        fs::create_dir(&below).unwrap();
        fs::create_dir(&upper).unwrap();
        if !make(&below, lower) {
            return None;
        }
        let layers = [below];
        let mounted = Mounted::with_upper(&layers, &upper, &temp.path().join("merged"))?;
        assert!(make(mounted.path(), step));
        drop(mounted);
        let view = View::new(layers.to_vec()).unwrap();
        let changes = keep_changes(&upper, &view, Family::Trusted).unwrap();
        Some(Run { _temp: temp, upper, changes })
    }

    /// The upper tree, one line per entry.
    fn listing(upper: &Path) -> Vec<String> {
        let mut lines = Vec::new();
        let mut todo = vec![(TreePath::root(), Dir::open(upper).unwrap())];
        while let Some((path, mut dir)) = todo.pop() {
            for (name, meta) in dir.entries().unwrap() {
                let child = path.child(&name);
                let mut line = child.to_string();
                match meta.kind {
                    WHITEOUT => line += " gone",
                    FileKind::Directory => {
                        let below = dir.open_dir(&name).unwrap();
                        line += if below.is_opaque().unwrap() { "/ opaque" } else { "/" };
                        todo.push((child, below));
                    }
                    _ => {}
                }
                lines.push(line);
            }
        }
        lines.sort();
        lines
    }

    #[track_caller]
    fn check(lower: &str, step: &str, expected: &[&str]) {
        let Some(run) = run(lower, step) else { return };
        assert_eq!(listing(&run.upper), expected);
        assert_eq!(run.changes.entries, expected.len() as u64);
    }

    #[test]
    fn nothing_leaves_nothing() {
        check("dir a; file a/f 1", "", &[]);
    }

    #[test]
    fn what_was_only_copied_up_goes() {
        check("dir a; file a/f 1; link l f", "own a/f 0; own l 0; mode a/f 644", &[]);
        check("dir a; dir a/b; file a/b/f 1", "own a/b 0; own a/b/f 0", &[]);
    }

    #[test]
    fn equal_whole_seconds_compare_the_content() {
        check("file f 1; time f 5", "file f 1; time f 5", &[]);
        check("file f 1; time f 5", "file f 2; time f 5", &["/f"]);
        check("link l a; time l 5", "rm l; link l a; time l 5", &[]);
        check("link l a; time l 5", "rm l; link l b; time l 5", &["/l"]);
    }

    #[test]
    fn equal_nanoseconds_do_not() {
        check("file f 1; nanos f 7", "file f 2; nanos f 7", &[]);
        check("file f 1; nanos f 7", "file f 1; nanos f 8", &["/f"]);
    }

    #[test]
    fn changes_stay_with_their_parents() {
        check("dir a; file a/f 1; file a/g 1", "own a/g 0; file a/f 22", &["/a/", "/a/f"]);
        check("dir a; file a/f 1", "mode a/f 600", &["/a/", "/a/f"]);
        check("dir a", "mode a 700", &["/a/"]);
        check("file f 1", "xattr f security.capability \x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0", &["/f"]);
    }

    #[test]
    fn directories_ignore_their_times() {
        check("dir t; time t 5", "dir t/x; rm t/x", &[]);
        check("dir t; time t 5", "time t 6", &[]);
    }

    #[test]
    fn whiteouts_stay_where_they_delete_something() {
        check("dir a; file a/f 1", "rm a/f", &["/a/", "/a/f gone"]);
        check("dir a; file a/f 1", "file a/g 1; rm a/g", &[]);
        check("dir a; file a/f 1", "rm a", &["/a gone"]);
    }

    #[test]
    fn opaque_marks_stay_where_they_hide_something() {
        check("dir a; file a/f 1", "rm a; dir a; file a/g 2", &["/a/ opaque", "/a/g"]);
        check("dir a", "dir a/new; file a/new/f 1", &["/a/", "/a/new/", "/a/new/f"]);
        // What equals the hidden file is still all there is.
        check("dir a; file a/f 1; time a/f 5", "rm a; dir a; file a/f 1; time a/f 5", &["/a/ opaque", "/a/f"]);
    }

    #[test]
    fn sockets_go() {
        check("dir a", "socket a/s; fifo a/p", &["/a/", "/a/p"]);
    }

    #[test]
    fn reserved_names_are_told() {
        let Some(run) = run("dir a", "file a/.wh.x 1; dir .wh.d") else { return };
        assert_eq!(run.changes.reserved, [TreePath::clean(b".wh.d"), TreePath::clean(b"a/.wh.x")]);
        assert_eq!(listing(&run.upper), ["/.wh.d/", "/a/", "/a/.wh.x"]);
    }

    #[test]
    fn directories_that_lose_names_keep_their_time() {
        let Some(run) = run("dir a; file a/f 1", "own a/f 0; file a/g 1; socket a/s; time a 77") else { return };
        let meta = Dir::open(&run.upper).unwrap().stat(b"a").unwrap().unwrap();
        assert_eq!(meta.mtime, Time { seconds: 77, nanoseconds: 0 });
        assert_eq!(listing(&run.upper), ["/a/", "/a/g"]);
    }

    #[test]
    fn marks_go_and_escaped_names_stay() {
        let step =
            "file f 2; xattr f user.overlay.opaque y; xattr f trusted.overlay.mine z; dir a/b; xattr a user.overlay.opaque y";
        let Some(run) = run("file f 1; dir a", step) else { return };
        let names = |name: &str| {
            let path = run.upper.join(name);
            let mut names = Vec::new();
            let mut buffer = [0; 4096];
            let count = rustix::fs::llistxattr(&path, &mut buffer).unwrap();
            names.extend(
                buffer[..count]
                    .split(|byte| *byte == 0)
                    .filter(|name| !name.is_empty())
                    .map(|name| name.escape_ascii().to_string()),
            );
            names
        };
        assert_eq!(names("f"), ["trusted.overlay.overlay.mine"]);
        assert_eq!(names("a"), [""; 0]);
    }

    #[test]
    fn wide_trees_are_searched_in_parallel_to_the_same_end() {
        let lower: String = (0..3 * MIN_PARALLEL).map(|index| format!("dir d{index}; file d{index}/f 1;")).collect();
        let step: String = (0..3 * MIN_PARALLEL).map(|index| format!("own d{index}/f 0;")).collect();
        check(&lower, &format!("{step} file d5/f 22"), &["/d5/", "/d5/f"]);
    }
}
