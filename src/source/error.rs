//! Why a source could not be had.

use std::io;
use std::path::PathBuf;

use crate::digest::Digest;
use crate::layer::LayerError;
use crate::registry::RegistryError;
use crate::store::StoreError;

/// Why a source could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The registry, or another web server.
    #[error(transparent)]
    Registry(#[from] Box<RegistryError>),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A base layer that does not unpack.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The same, of an image that is known.
    #[error("cannot unpack layer {digest} of `{image}`")]
    BaseLayer {
        /// The blob.
        digest: Digest,
        /// As people write it.
        image: String,
        /// Why.
        source: LayerError,
    },
    /// An image of the store that lacks a part, and its registry does not help.
    #[error("image `{image}` in the store is not whole: {lacks}")]
    Incomplete {
        /// As people write it.
        image: String,
        /// The part and what became of it, in words.
        lacks: String,
        /// Why the registry did not help.
        source: Box<RegistryError>,
    },
    /// An image whose documents contradict each other.
    #[error("image `{name}` cannot be used: {reason}")]
    BadImage {
        /// As people write it.
        name: String,
        /// In words.
        reason: String,
    },
    /// A directory that is no OCI layout, or lacks what was asked for.
    #[error("OCI layout `{path}`: {reason}")]
    Layout {
        /// The directory.
        path: PathBuf,
        /// In words.
        reason: String,
    },
    /// A download that is not what its checksum says.
    #[error("{url} has digest {found}, not {expected} as its checksum says ({size_bytes} bytes{})", html_note(*.looks_like_html))]
    Checksum {
        /// What was downloaded.
        url: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
        /// Its bytes.
        size_bytes: u64,
        /// Whether it begins like a web page, as pages for errors and logins do.
        looks_like_html: bool,
    },
    /// Text that is no git reference.
    #[error("`{text}` is not a usable git reference: {reason}")]
    BadGitRef {
        /// The text.
        text: String,
        /// In words.
        reason: String,
    },
    /// A branch, tag or commit that is not there.
    #[error("git repository {remote} has no branch, tag or commit `{reference}`{}", nearest_note(nearest.as_deref()))]
    NoGitRef {
        /// The repository.
        remote: String,
        /// What was asked for.
        reference: String,
        /// What comes near.
        nearest: Option<String>,
    },
    /// A directory that is not in the tree.
    #[error("git repository {remote} has no directory `{subdir}` at {commit}")]
    NoGitSubdir {
        /// The repository.
        remote: String,
        /// What was asked for.
        subdir: String,
        /// At which commit.
        commit: String,
    },
    /// A reference that is another commit than the checksum says.
    #[error("`{reference}` of git repository {remote} is commit {found}, not {expected} as its checksum says")]
    GitChecksum {
        /// The repository.
        remote: String,
        /// Branch or tag.
        reference: String,
        /// What was asked for.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The git program failed.
    #[error("cannot {action} git repository {remote}: {reason}")]
    Git {
        /// What was tried: `ask`, `fetch`, `check out`.
        action: &'static str,
        /// The repository.
        remote: String,
        /// Its last words.
        reason: String,
    },
    /// A file operation failed.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was tried, such as `read`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl From<RegistryError> for SourceError {
    fn from(error: RegistryError) -> SourceError {
        SourceError::Registry(Box::new(error))
    }
}

fn html_note(looks_like_html: bool) -> &'static str {
    if looks_like_html { ", a web page by the look of it" } else { "" }
}

fn nearest_note(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |nearest| format!("; did you mean `{nearest}`?"))
}
