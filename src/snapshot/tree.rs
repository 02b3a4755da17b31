//! Paths and metadata inside a tree, the trait that all trees share, and the following of links inside one.

use std::fmt;

use super::{SnapshotError, TreeFile};

/// A path inside a tree: relative to its root, no empty, `.` or `..` components, no leading or trailing slash; empty is the
/// root. Bytes, as file names are.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct TreePath(Vec<u8>);

impl TreePath {
    /// The root.
    pub fn root() -> TreePath {
        TreePath::default()
    }

    /// `text` cleaned against the root: `..` at the top stays at the top, as Go's `path.Clean("/"+text)`.
    pub fn clean(text: &[u8]) -> TreePath {
        let mut path = TreePath::root();
        for component in text.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => path = path.parent(),
                name => path.push(name),
            }
        }
        path
    }

    /// The bytes, without a leading slash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends one component, which must not hold a slash nor be `.` or `..`.
    pub fn push(&mut self, name: &[u8]) {
        debug_assert!(!name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/'));
        self.push_all(name);
    }

    /// `self` with one more component.
    #[must_use]
    pub fn child(&self, name: &[u8]) -> TreePath {
        let mut path = self.with_room(name.len());
        path.push(name);
        path
    }

    /// `self` followed by all components of `rest`.
    #[must_use]
    pub fn join(&self, rest: &TreePath) -> TreePath {
        if rest.is_root() {
            return self.clone();
        }
        let mut path = self.with_room(rest.0.len());
        path.push_all(&rest.0);
        path
    }

    /// A copy that can take so many more bytes and a slash: walks make one path per file.
    fn with_room(&self, more_bytes: usize) -> TreePath {
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + more_bytes);
        bytes.extend_from_slice(&self.0);
        TreePath(bytes)
    }

    /// Appends components that are clean already.
    fn push_all(&mut self, components: &[u8]) {
        if !self.0.is_empty() {
            self.0.push(b'/');
        }
        self.0.extend_from_slice(components);
    }

    /// Without the last component; the root's parent is the root.
    #[must_use]
    pub fn parent(&self) -> TreePath {
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => TreePath(self.0[..slash].to_vec()),
            None => TreePath::root(),
        }
    }

    /// The last component; `None` for the root.
    pub fn file_name(&self) -> Option<&[u8]> {
        self.0.rsplit(|byte| *byte == b'/').next().filter(|name| !name.is_empty())
    }

    /// The components from the root down.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
    }

    /// Whether `self` is `ancestor` or below it.
    pub fn starts_with(&self, ancestor: &TreePath) -> bool {
        ancestor.is_root()
            || self.0 == ancestor.0
            || (self.0.starts_with(&ancestor.0) && self.0.get(ancestor.0.len()) == Some(&b'/'))
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What kind of file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Unix socket; in no layer.
    Socket,
    /// Character device with its number (major, minor).
    Character(u32, u32),
    /// Block device with its number.
    Block(u32, u32),
}

/// Seconds and nanoseconds since 1970; nanoseconds count up, also before 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord, Default)]
pub struct Time {
    /// Whole seconds.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// What a tree knows of a file without opening it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meta {
    /// Kind of file.
    pub kind: FileKind,
    /// Permission, setuid, setgid and sticky bits: `0o7777`.
    pub mode: u32,
    /// Owner as the image sees it (context trees: 0).
    pub uid: u32,
    /// Group as the image sees it (context trees: 0).
    pub gid: u32,
    /// Bytes of a regular file, length of a link's target; 0 else.
    pub size_bytes: u64,
    /// Modification time.
    pub mtime: Time,
    /// When the inode changed last, which nobody can set; 1970 where it does not matter.
    pub ctime: Time,
    /// Names that the inode has on disk; 1 where it does not matter.
    pub links: u64,
    /// Device and inode on disk, to find hard links within one tree.
    pub inode: (u64, u64),
}

/// Extended attributes: names and values, sorted by name.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// A tree of files that can be read: a stack of layers, a context directory, a checkout.
///
/// Paths are exact: no method follows a link, in the last component or before it; a path with a link or a file in the
/// middle does not exist. Following is [`resolve`]'s work.
pub trait FileTree: Send + Sync {
    /// What is at `path`; `None` if nothing.
    fn lookup(&self, path: &TreePath) -> Result<Option<Meta>, SnapshotError>;

    /// The names in a directory and what they are, sorted by bytes.
    fn read_dir(&self, path: &TreePath) -> Result<Vec<(Vec<u8>, Meta)>, SnapshotError>;

    /// The target of a link.
    fn read_link(&self, path: &TreePath) -> Result<Vec<u8>, SnapshotError>;

    /// Opens a regular file for reading.
    fn open(&self, path: &TreePath) -> Result<TreeFile, SnapshotError>;

    /// Extended attributes sorted by name, those of overlayfs left out; context trees have none.
    fn xattrs(&self, path: &TreePath) -> Result<Xattrs, SnapshotError>;
}

/// Whether a link in the last component is followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Last {
    /// Yes.
    Follow,
    /// No.
    Keep,
}

/// Where a path leads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resolved {
    /// The path without links before its end. When something is missing: the existing part resolved, the rest as written.
    pub path: TreePath,
    /// What is there; `None` if it does not exist.
    pub meta: Option<Meta>,
    /// Every path that was asked on the way, in order, with the answer; cache keys of copies hold them.
    pub asked: Vec<(TreePath, Option<Meta>)>,
}

/// Follows `path` inside `tree`: absolute links start at the tree's root, `..` cannot leave it.
///
/// After a missing component the rest is taken as written (a `..` in a link's text still climbs). A component that exists
/// and is no directory, with more to follow, is an error.
pub fn resolve(tree: &dyn FileTree, path: &TreePath, last: Last) -> Result<Resolved, SnapshotError> {
    let mut todo: Vec<Vec<u8>> = path.components().rev().map(<[u8]>::to_vec).collect();
    let mut here = TreePath::root();
    let mut asked = Vec::new();
    let mut hops = 0;
    let mut missing = false;
    // Always what `here` is: a link to `.` or `/` ends the walk without another look-up.
    let mut meta = tree.lookup(&here)?;
    while let Some(name) = todo.pop() {
        match name.as_slice() {
            b"" | b"." => continue,
            b".." => {
                here = here.parent();
                meta = tree.lookup(&here)?;
                missing = meta.is_none();
                continue;
            }
            _ => {}
        }
        let next = here.child(&name);
        let found = if missing { None } else { tree.lookup(&next)? };
        if !missing {
            asked.push((next.clone(), found));
        }
        match found {
            Some(Meta { kind: FileKind::Symlink, .. }) if !todo.is_empty() || last == Last::Follow => {
                hops += 1;
                if hops > 255 {
                    return Err(SnapshotError::LinkLoop { path: path.clone() });
                }
                let target = tree.read_link(&next)?;
                if target.first() == Some(&b'/') {
                    here = TreePath::root();
                    meta = tree.lookup(&here)?;
                }
                todo.extend(target.split(|byte| *byte == b'/').rev().filter(|name| !name.is_empty()).map(<[u8]>::to_vec));
                continue;
            }
            Some(found) if found.kind != FileKind::Directory && !todo.is_empty() => {
                return Err(SnapshotError::NotADirectory { path: next });
            }
            None => missing = true,
            Some(_) => {}
        }
        here = next;
        meta = found;
    }
    Ok(Resolved { path: here, meta, asked })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{DirTree, testing};

    #[track_caller]
    fn check_clean(text: &str, expected: &str) {
        assert_eq!(TreePath::clean(text.as_bytes()).as_bytes(), expected.as_bytes());
    }

    #[test]
    fn paths_are_cleaned_against_the_root() {
        check_clean("/a//b/./c/", "a/b/c");
        check_clean("../../a/../b", "b");
        check_clean("/", "");
        check_clean("..a/...", "..a/...");
    }

    #[test]
    fn parts_of_a_path() {
        let path = TreePath::clean(b"a/b/c");
        assert_eq!(path.parent(), TreePath::clean(b"a/b"));
        assert_eq!(path.file_name(), Some(&b"c"[..]));
        assert_eq!(path.components().collect::<Vec<_>>(), [b"a", b"b", b"c"]);
        assert_eq!(TreePath::clean(b"a").join(&TreePath::clean(b"b/c")), path);
        assert_eq!((TreePath::root().parent(), TreePath::root().file_name()), (TreePath::root(), None));
        assert_eq!(path.to_string(), "/a/b/c");
    }

    #[test]
    fn being_below_is_by_whole_components() {
        let path = TreePath::clean(b"ab/c");
        for (ancestor, expected) in [("", true), ("ab", true), ("ab/c", true), ("a", false), ("ab/c/d", false)] {
            assert_eq!(path.starts_with(&TreePath::clean(ancestor.as_bytes())), expected, "{ancestor}");
        }
    }

    /// Resolves `path` in the tree of `script`: where it leads, with a `?` behind it if nothing is there, or the error.
    #[track_caller]
    fn check(script: &str, path: &str, last: Last, expected: &str) {
        let temp = tempfile::tempdir().unwrap();
        assert!(testing::make(temp.path(), script));
        let tree = DirTree::open(temp.path()).unwrap();
        let found = match resolve(&tree, &TreePath::clean(path.as_bytes()), last) {
            Ok(Resolved { path, meta, .. }) => {
                assert_eq!(tree.lookup(&path).unwrap(), meta, "the answer belongs to the path");
                format!("{path}{}", if meta.is_some() { "" } else { "?" })
            }
            Err(err) => err.to_string(),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn links_are_followed_inside_the_root() {
        check("dir a; file a/f 1; link l a", "l/f", Last::Keep, "/a/f");
        check("dir a; file a/f 1; dir b; link b/l ../a", "b/l/f", Last::Keep, "/a/f");
        check("dir a; file a/f 1; dir b; link b/l /a", "b/l/f", Last::Keep, "/a/f");
        check("link up ../../..; file f 1", "up/f", Last::Keep, "/f");
        check("dir a; link a/x ../y; link y z; file z 1", "a/x", Last::Follow, "/z");
    }

    #[test]
    fn the_last_link_is_followed_on_demand() {
        check("link l f; file f 1", "l", Last::Keep, "/l");
        check("link l f; file f 1", "l", Last::Follow, "/f");
        check("link l f", "l", Last::Follow, "/f?");
    }

    #[test]
    fn links_to_directories_themselves_lead_there() {
        check("link l .", "l", Last::Follow, "/");
        check("link l /", "l", Last::Follow, "/");
        check("dir d; link d/l .", "d/l", Last::Follow, "/d");
        check("dir d; link d/l ..", "d/l", Last::Follow, "/");
        check("dir d; link d/l /", "d/l/d", Last::Follow, "/d");
        check("", "", Last::Follow, "/");
    }

    #[test]
    fn what_is_missing_is_taken_as_written() {
        check("dir a", "a/b/c", Last::Follow, "/a/b/c?");
        check("link l none/../../x", "l/y", Last::Follow, "/x/y?");
        check("dir a; file a/f 1; link l none/../a", "l/f", Last::Follow, "/a/f");
    }

    #[test]
    fn files_and_endless_links_are_no_way() {
        check("file f 1", "f/x", Last::Follow, "`/f` is not a directory");
        check("link a b; link b a", "a/x", Last::Keep, "too many levels of symbolic links at `/a/x`");
        check("link a a", "a", Last::Keep, "/a");
    }

    #[test]
    fn every_look_up_is_told_in_order() {
        let temp = tempfile::tempdir().unwrap();
        assert!(testing::make(temp.path(), "dir a; link l a"));
        let tree = DirTree::open(temp.path()).unwrap();
        let resolved = resolve(&tree, &TreePath::clean(b"l/x/y"), Last::Follow).unwrap();
        let asked: Vec<_> = resolved.asked.iter().map(|(path, meta)| (path.to_string(), meta.map(|meta| meta.kind))).collect();
        let expected = [("/l", Some(FileKind::Symlink)), ("/a", Some(FileKind::Directory)), ("/a/x", None)]
            .map(|(path, kind)| (path.to_owned(), kind));
        assert_eq!(asked, expected);
    }
}
