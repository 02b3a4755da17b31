//! The entries of a layer tree in the order of its tar.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::LayerError;
use crate::snapshot::dir::WHITEOUT;
use crate::snapshot::{Dir, FileKind, Meta, TreePath, Xattrs};

/// One entry of a layer, without its data.
pub struct Entry {
    /// The name that it is about: a whiteout's is the deleted one, an opaque mark's is the directory's.
    pub path: TreePath,
    /// What it says.
    pub what: What,
}

/// What an entry says of its path.
pub enum What {
    /// A file with its metadata.
    Present {
        /// Kind, mode, owner, times.
        meta: Meta,
        /// Extended attributes.
        xattrs: Xattrs,
        /// Target of a symbolic link; empty else.
        target: Vec<u8>,
    },
    /// Another name of a regular file or special file that came before.
    HardLink {
        /// The first name.
        first: TreePath,
        /// The same metadata as there.
        meta: Meta,
    },
    /// The name is deleted from lower layers.
    Whiteout,
    /// What lower layers have in the directory is deleted.
    Opaque,
}

/// Walks a tree: in each directory names sorted by bytes, a directory before what is in it. Without the root itself; sockets
/// and names that a tar reader would take for whiteouts are left out. With each entry comes the directory that holds it.
pub struct Walk {
    stack: Vec<Level>,
    /// First names of inodes with several.
    firsts: HashMap<(u64, u64), TreePath>,
}

/// A directory that is being walked; what is left of it stands in reverse.
struct Level {
    path: TreePath,
    dir: Arc<Dir>,
    left: Vec<(Vec<u8>, Meta)>,
    /// It is opaque and that has not been said yet.
    mark_due: bool,
}

impl Walk {
    /// Starts at the directory `tree`.
    pub fn new(tree: &Path) -> Result<Walk, LayerError> {
        let root = TreePath::root();
        let dir = Dir::open(tree).map_err(|err| LayerError::tree("open", &root, err))?;
        let level = Level::new(root, dir)?;
        Ok(Walk { stack: vec![level], firsts: HashMap::new() })
    }

    fn step(&mut self) -> Result<Option<(Entry, Arc<Dir>)>, LayerError> {
        loop {
            let Some(level) = self.stack.last_mut() else { return Ok(None) };
            let dir = level.dir.clone();
            if std::mem::take(&mut level.mark_due) {
                return Ok(Some((Entry { path: level.path.clone(), what: What::Opaque }, dir)));
            }
            let Some((name, meta)) = level.left.pop() else {
                self.stack.pop();
                continue;
            };
            if meta.kind == FileKind::Socket || is_reserved(&name) {
                continue;
            }
            let path = level.path.child(&name);
            if meta.kind == WHITEOUT {
                return Ok(Some((Entry { path, what: What::Whiteout }, dir)));
            }
            if meta.links > 1 && meta.kind != FileKind::Directory {
                if let Some(first) = self.firsts.get(&meta.inode) {
                    return Ok(Some((Entry { path, what: What::HardLink { first: first.clone(), meta } }, dir)));
                }
                self.firsts.insert(meta.inode, path.clone());
            }
            let failed = |err| LayerError::tree("read", &path, err);
            let target = match meta.kind {
                FileKind::Symlink => dir.read_link(&name).map_err(failed)?,
                _ => Vec::new(),
            };
            let xattrs = if meta.kind == FileKind::Directory {
                let child = dir.open_dir(&name).map_err(failed)?;
                let xattrs = child.own_xattrs().map_err(failed)?;
                self.stack.push(Level::new(path.clone(), child)?);
                xattrs
            } else {
                dir.xattrs(&name).map_err(failed)?
            };
            return Ok(Some((Entry { path, what: What::Present { meta, xattrs, target } }, dir)));
        }
    }
}

impl Iterator for Walk {
    type Item = Result<(Entry, Arc<Dir>), LayerError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

impl Level {
    fn new(path: TreePath, mut dir: Dir) -> Result<Level, LayerError> {
        let failed = |err| LayerError::tree("read directory", &path, err);
        let mut left = dir.entries().map_err(failed)?;
        left.reverse();
        let mark_due = dir.is_opaque().map_err(failed)?;
        Ok(Level { dir: Arc::new(dir), path, left, mark_due })
    }
}

/// Whether a file of this name would be read back as a whiteout.
pub fn is_reserved(name: &[u8]) -> bool {
    name.starts_with(WHITEOUT_PREFIX)
}

/// What whiteouts begin with (OCI image-spec, "Whiteouts").
pub const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// The name of an opaque mark.
pub const OPAQUE_NAME: &[u8] = b".wh..wh..opq";
