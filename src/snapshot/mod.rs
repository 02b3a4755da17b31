//! File trees: what is in them, stacks of layer trees seen as one, and what a step changed.
//!
//! Owns: [`TreePath`], [`Meta`], the [`FileTree`] trait and path resolution inside a tree ([`resolve`]), [`View`] (a stack of
//! layer directories read without mounting), [`Dir`] (file operations relative to a descriptor), `builder` (making a new layer tree above a view), `upper` (an overlay's
//! upper directory turned into exactly the changes).
//! In:   layer directories of `store`.
//! Out:  metadata, data, and layer trees ready for `layer::commit`.
//! Rules: nothing inside a tree is ever opened by a joined host path; every step down is `openat2` below a directory
//! descriptor without following links, and links are followed here, inside the root.
//! Elsewhere: tar (`layer`), mounting (`sandbox`).
//!
//! Layer trees on disk are overlay-ready: a deleted name is a character device 0:0, a directory that hides what is below it
//! has the xattr `trusted.overlay.opaque=y`.

use std::fmt;
use std::fs::File;
use std::io;

pub mod builder;
pub mod dir;
pub mod flat;
mod stand_in;
mod testimony;
#[cfg(test)]
pub(crate) mod testing;
pub mod tree;
pub mod upper;
pub mod view;
pub mod xattr;

pub use dir::Dir;
pub use stand_in::owners_are_notes;
pub use testimony::{Testimony, Told, Witness};
pub use tree::{FileKind, FileTree, Last, Meta, Resolved, Time, TreePath, Xattrs, resolve};
pub use view::{DirTree, View, open_layer};

/// Why a tree could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A path inside a tree failed.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was tried, such as `read directory`.
        action: &'static str,
        /// The path inside the tree.
        path: TreePath,
        /// Why.
        source: io::Error,
    },
    /// A link chain that never ends.
    #[error("too many levels of symbolic links at `{path}`")]
    LinkLoop {
        /// Where it began.
        path: TreePath,
    },
    /// A component that is not a directory.
    #[error("`{path}` is not a directory")]
    NotADirectory {
        /// The component.
        path: TreePath,
    },
}

impl SnapshotError {
    /// Wraps an I/O error.
    pub fn io(action: &'static str, path: &TreePath, source: io::Error) -> SnapshotError {
        SnapshotError::Io { action, path: path.clone(), source }
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", String::from_utf8_lossy(self.as_bytes()))
    }
}

/// An open regular file of a tree.
pub type TreeFile = File;
