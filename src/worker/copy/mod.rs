//! `COPY` and `ADD`: decides what the new layer holds, names that, and makes it.
//!
//! Owns: [`prepare`] (which files, from where, to where, with which owner and mode: data, see [`layout`]), its content key,
//! and [`run()`] (the layout as a layer tree).
//! In:   a [`CopyOp`](crate::graph::CopyOp), the trees that its sources name, the tree copied into.
//! Out:  a layer tree ready for `layer::commit`.
//! Rules: sources and destinations are followed inside their own roots; the layer holds what the parent
//! does not have just so; the behaviour is BuildKit's, surprises included.
//! Elsewhere: what a layer tree looks like (`snapshot::builder`), digests of files (`source::digest`).

use std::path::PathBuf;

use crate::cache::FileStates;
use crate::digest::Digest;
use crate::layer::LayerError;
use crate::snapshot::{FileTree, SnapshotError, Time, TreePath};
use crate::source::digest::FileDigests;
use crate::source::extract::ExtractError;

mod archive;
mod growth;
pub(crate) mod layout;
mod missing;
pub mod mode;
pub mod owner;
mod pack;
mod plan;
mod run;
mod same;
mod select;

pub use missing::missing_sources;
pub use pack::{can_be_packed, pack};
pub(crate) use plan::new_directory;
pub use plan::prepare;
pub(crate) use run::make_layer;
pub use run::{copy_tree, run};

/// What a step input is to a copy.
#[derive(Clone, Copy)]
pub enum CopyInput<'a> {
    /// A tree of files: a context, the layers of a stage or image, a git checkout.
    Tree(TreeInput<'a>),
    /// One downloaded file.
    Download(&'a Download),
}

/// A tree that files are copied from.
#[derive(Clone, Copy)]
pub struct TreeInput<'a> {
    /// The files.
    pub tree: &'a dyn FileTree,
    /// Digests of their data.
    pub digests: &'a dyn FileDigests,
    /// Says which ignore pattern hides a path, for the message when a source is missing.
    pub hidden: Option<&'a HiddenBy<'a>>,
}

/// The ignore pattern that hides a path of a context, such as `.dockerignore:3: *.md`; `None` if none does.
pub type HiddenBy<'a> = dyn Fn(&TreePath) -> Option<String> + Sync + 'a;

/// A downloaded file.
#[derive(Clone, Debug)]
pub struct Download {
    /// Where it is on this machine.
    pub path: PathBuf,
    /// What it is called in the image.
    pub name: Vec<u8>,
    /// When it was changed, as its server says.
    pub mtime: Time,
    /// Digest of its bytes.
    pub digest: Digest,
    /// Its bytes.
    pub size_bytes: u64,
}

/// A copy that is decided: its key is known, its layer can be made.
pub struct Prepared {
    layout: layout::Layout,
    key: Digest,
    /// What is allowed and seldom meant.
    pub remarks: Vec<Remark>,
}

/// Something that a copy may do and that its author should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remark {
    /// A source with wildcards that selects nothing.
    NoMatch {
        /// Number of the source.
        source_number: usize,
    },
    /// A user that the image does not know: the files belong to root.
    UnknownUser {
        /// Its name.
        name: String,
    },
    /// A group that the image does not know: the files belong to the user's own.
    UnknownGroup {
        /// Its name.
        name: String,
    },
}

impl Prepared {
    /// Names the layer's content without times: equal keys make equal layers up to modification times.
    pub fn key(&self) -> Digest {
        self.key
    }

    /// What tells the states of the copied files apart: 64 bits by path, that in the source where there is one.
    pub fn states(&self) -> FileStates {
        self.layout.states()
    }

    /// How many names the layer will hold, those inside archives not counted.
    pub fn entries(&self) -> usize {
        self.layout.len()
    }
}

#[cfg(test)]
mod tests;

/// Why a copy failed. `source` counts the op's sources from 0.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A source that does not exist.
    #[error("`{path}` does not exist")]
    Missing {
        /// Number of the source.
        source_number: usize,
        /// As it was looked for.
        path: TreePath,
        /// The path that was probably meant.
        nearest: Option<TreePath>,
        /// The ignore pattern that hides it.
        hidden_by: Option<String>,
    },
    /// A pattern that cannot be read.
    #[error("syntax error in pattern `{pattern}`")]
    BadPattern {
        /// Number of the source.
        source_number: usize,
        /// The pattern.
        pattern: String,
    },
    /// An exclude pattern that cannot be read.
    #[error("syntax error in exclude pattern `{pattern}`")]
    BadExclude {
        /// The pattern.
        pattern: String,
    },
    /// A `--chmod` that cannot be read.
    #[error("`{mode}` is no file mode")]
    BadMode {
        /// The mode.
        mode: String,
    },
    /// A directory where something else is.
    #[error("cannot copy a directory to `{path}`: it is not a directory")]
    OntoFile {
        /// Number of the source.
        source_number: usize,
        /// The destination.
        path: TreePath,
    },
    /// A file where a directory is.
    #[error("cannot copy a file to `{path}`: it is a directory")]
    OntoDirectory {
        /// Number of the source.
        source_number: usize,
        /// The destination.
        path: TreePath,
    },
    /// A destination that leads through something that is no directory.
    #[error("cannot copy to `{destination}`: `{path}` is not a directory")]
    ThroughFile {
        /// As it was asked for.
        destination: String,
        /// What is in the way.
        path: TreePath,
    },
    /// A directory for which there is no place.
    #[error("cannot make the directory `{directory}`: `{path}` is not a directory")]
    NoPlace {
        /// As it was asked for.
        directory: String,
        /// What is in the way.
        path: TreePath,
    },
    /// An owner that is not known.
    #[error("owner `{text}` is not known")]
    Owner {
        /// The text of `--chown` or `USER`.
        text: String,
        /// Why.
        source: owner::OwnerError,
    },
    /// A file that changed while it was copied.
    #[error("`{path}` changed while it was copied")]
    Changed {
        /// The file in its source.
        path: TreePath,
    },
    /// An archive that could not be unpacked.
    #[error("cannot unpack `{archive}`")]
    Archive {
        /// The archive in its source.
        archive: TreePath,
        /// Why.
        source: ExtractError,
    },
    /// A file on this machine that could not be read.
    #[error("cannot read `{path}`")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The layer could not be written as a tar.
    #[error(transparent)]
    Layer(LayerError),
    /// A source or the parent could not be read, or the layer not written.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}
