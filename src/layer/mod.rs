//! Layer trees ↔ tar streams ↔ blobs.
//!
//! Owns: the tar dialect (entry order, whiteouts, xattrs, times), unpacking of layer tars, compression, which compressed
//! forms of a layer exist.
//! In:   a finished layer tree (`snapshot::upper`, `snapshot::builder`), or a layer blob.
//! Out:  a published tree and its [`DiffId`]; on request a tar stream or a compressed blob.
//! Spec: OCI image-spec v1.1, "Image Layer Filesystem Changeset".
//! Elsewhere: what belongs into the tree (`snapshot`), naming the image (`image`).

use std::fmt;
use std::io;

use crate::digest::DiffId;
use crate::snapshot::{SnapshotError, TreePath};
use crate::store::StoreError;

mod ahead;
pub mod archive;
mod chunks;
mod commit;
mod compress;
mod estargz;
mod gunzip;
pub mod header;
mod incoming;
mod packed;
mod pipeline;
mod proof;
mod sparse;
mod tar;
#[cfg(test)]
mod tests;
mod unpack;
mod walk;

pub use ahead::{Form, commit_ahead};
pub use commit::commit;
pub use compress::{Compression, Encoding, annotations, compressed, converted};
pub use incoming::keep_and_unpack;
pub use packed::{pack, tree, trees};
pub use pipeline::each;
pub use proof::{Proof, examine, is_untouched, sound};
pub use tar::{Content, Contents, TarSummary, write_tar};
pub use unpack::{LayerLimits, Lower, Unpacked, unpack, unpack_into};
pub use walk::{Entry, What, is_reserved};

/// Why a layer could not be written, read or unpacked.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// A path of a layer tree failed.
    #[error("cannot {action} `{path}` in the layer")]
    Tree {
        /// What was tried, such as `create`.
        action: &'static str,
        /// The path inside the tree.
        path: TreePath,
        /// Why.
        source: io::Error,
    },
    /// A file was written to while it was read.
    #[error("`{path}` changed while the layer was being written")]
    Changed {
        /// The path inside the tree.
        path: TreePath,
    },
    /// The place that the tar or blob goes to failed.
    #[error("cannot write the layer")]
    Write(#[source] io::Error),
    /// The blob ends too early, is no valid compressed stream, or no valid tar.
    #[error("the layer is damaged: cannot {action}")]
    Damaged {
        /// What was tried, such as `decompress it`.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The tar is not the one that was asked for.
    #[error("the layer's content is {found} instead of {expected}")]
    WrongContent {
        /// What was asked for.
        expected: DiffId,
        /// What is there.
        found: DiffId,
    },
    /// A hard link to something that is neither in the layer nor, as far as they are known, below it.
    #[error("`{path}` is a hard link to `{target}`, which does not exist")]
    LinkTarget {
        /// The link.
        path: TreePath,
        /// Where it leads.
        target: TreePath,
    },
    /// A directory that the tar takes for granted: what it is like is for the layers below to say, and these are not known.
    #[error("what `{path}` is like is said by layers below this one")]
    ParentBelow {
        /// The directory.
        path: TreePath,
    },
    /// It holds more than one layer may.
    #[error("it has more than {limit} {what}")]
    TooLarge {
        /// Of what.
        what: Excess,
        /// How much was allowed.
        limit: u64,
    },
    /// The store does not have the layer.
    #[error("layer {diff_id} is not in the store")]
    Missing {
        /// What was asked for.
        diff_id: DiffId,
    },
    /// The layers below failed.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Of what a layer has too much.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Excess {
    /// Files, directories, links and whiteouts.
    Entries,
    /// Bytes of files.
    Bytes,
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Excess::Entries => "entries",
            Excess::Bytes => "bytes when it is unpacked",
        })
    }
}

impl LayerError {
    /// Whether it may be the blob's bytes that are wrong, rather than the disk or our rights.
    pub fn is_about_content(&self) -> bool {
        use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        match self {
            LayerError::Damaged { .. } | LayerError::WrongContent { .. } | LayerError::LinkTarget { .. } => true,
            LayerError::Tree { source, .. } => {
                !matches!(source.kind(), PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull)
            }
            LayerError::Snapshot(SnapshotError::LinkLoop { .. }) => true,
            _ => false,
        }
    }

    /// Whether the layer could not be unpacked for want of those below it.
    pub fn needs_lower(&self) -> bool {
        matches!(self, LayerError::LinkTarget { .. } | LayerError::ParentBelow { .. })
    }

    /// Wraps an I/O error on a path of a tree.
    fn tree(action: &'static str, path: &TreePath, source: io::Error) -> LayerError {
        LayerError::Tree { action, path: path.clone(), source }
    }
}
