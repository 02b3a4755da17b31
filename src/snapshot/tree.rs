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
        if !self.0.is_empty() {
            self.0.push(b'/');
        }
        self.0.extend_from_slice(name);
    }

    /// `self` with one more component.
    #[must_use]
    pub fn child(&self, name: &[u8]) -> TreePath {
        let mut path = self.clone();
        path.push(name);
        path
    }

    /// `self` followed by all components of `rest`.
    #[must_use]
    pub fn join(&self, rest: &TreePath) -> TreePath {
        let mut path = self.clone();
        rest.components().for_each(|name| path.push(name));
        path
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
    /// Names that the inode has on disk; 1 where it does not matter.
    pub links: u64,
    /// Device and inode on disk, to find hard links within one tree.
    pub inode: (u64, u64),
}

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
    fn xattrs(&self, path: &TreePath) -> Result<Vec<(Vec<u8>, Vec<u8>)>, SnapshotError>;
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
    let mut meta = None;
    if todo.is_empty() {
        meta = tree.lookup(&here)?;
    }
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
                }
                todo.extend(target.split(|byte| *byte == b'/').rev().filter(|name| !name.is_empty()).map(<[u8]>::to_vec));
                if todo.is_empty() {
                    meta = tree.lookup(&here)?;
                }
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
