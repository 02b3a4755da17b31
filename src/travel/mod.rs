//! Caches that travel: results of steps that another machine left in a directory, a registry or a bucket.
//!
//! ```text
//! --cache-from   Place → config.v0 document → Imports: key → record, diff_id → blob      before the first step
//!                schedule asks cache: the store, then Imports; a hit costs no byte
//!                worker needs a tree: Imports::fetch → checked, unpacked, recorded        only then
//! --cache-to     layers of steps that have ended → blobs that the place lacks             while other steps run
//!                results of the build → the rest of the blobs → document                 behind the last step
//! ```
//!
//! Owns: the text of `--cache-from` and `--cache-to` ([`flag`]), the document ([`config`]), where it lies ([`place`]), what a
//! build takes from there ([`Imports`]) and leaves there ([`Uploads`], [`send()`]).
//! In:   records of steps and layers of the store.
//! Out:  the same on another machine.
//! Rules: nothing is believed beyond its digest: a layer is unpacked as a base image's is, into the tree that its `diff_id`
//! names, or not at all. What a cache lacks or spoils costs time, never the build.
//! Spec: BuildKit's `application/vnd.buildkit.cacheconfig.v0` (moby/buildkit, `cache/remotecache/v1/types/spec.go`). Its
//! records are named by keys of croze here, so BuildKit finds a well-formed cache in it and no step of its own.
//! Elsewhere: what a key is made of (`cache`), the distribution protocol (`registry`), unpacking (`layer`).

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::{DiffId, Digest};
use crate::layer::LayerError;
use crate::registry::RegistryError;
use crate::store::StoreError;

mod actions;
pub mod address;
pub mod answers;
mod azure;
mod bucket;
mod checked;
mod chunks;
pub mod config;
mod container;
mod directory;
pub mod flag;
mod import;
pub mod inline;
mod mounts;
pub mod place;
mod send;
mod sign;
mod uploads;

pub use address::Address;
pub use answers::Answers;
pub use flag::{CacheSource, CacheTarget, FlagError, Mode, Mounts, OnFailure};
pub use import::{Import, Imports, Transfers};
pub use mounts::SentMount;
pub use place::Place;
pub use send::{Results, Sent, send};
pub use uploads::{Sending, Uploads};

/// Why a cache could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TravelError {
    /// Nothing is there yet.
    #[error("there is no cache at `{place}`")]
    Absent {
        /// Where, as people write it.
        place: String,
    },
    /// An image without a cache in it.
    #[error("`{place}` is an image without a cache; `--cache-to type=inline` puts one in")]
    PlainImage {
        /// Where.
        place: String,
    },
    /// A cache of BuildKit's own.
    #[error("the cache at `{place}` was written by BuildKit, whose keys are not croze's; nothing in it can be used")]
    Foreign {
        /// Where.
        place: String,
    },
    /// A cache of another version.
    #[error("the cache at `{place}` was written by another version of croze ({found}); nothing in it can be used")]
    OtherVersion {
        /// Where.
        place: String,
        /// What it says it is.
        found: String,
    },
    /// A document that cannot be understood.
    #[error("the cache at `{place}` is malformed: {reason}")]
    Malformed {
        /// Where.
        place: String,
        /// In words.
        reason: String,
    },
    /// Bytes that are not those of their name.
    #[error("the cache at `{place}` has {found} in the place of {expected}")]
    WrongBytes {
        /// Where.
        place: String,
        /// What was asked for.
        expected: Digest,
        /// What is there.
        found: Digest,
    },
    /// Layers that the cache names and does not hold, as one of `mode=min` does.
    #[error("the cache holds no files for {}", list(layers))]
    NotCarried {
        /// Which; at least one.
        layers: Vec<DiffId>,
    },
    /// A layer that could not be brought here.
    #[error("cannot fetch layer {diff_id} from the cache at `{place}`")]
    Fetch {
        /// The layer.
        diff_id: DiffId,
        /// From where.
        place: String,
        /// Why.
        source: Box<TravelError>,
    },
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] Box<RegistryError>),
    /// A layer does not unpack, or cannot be compressed.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file failed.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was tried, such as `create`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl From<RegistryError> for TravelError {
    fn from(error: RegistryError) -> TravelError {
        TravelError::Registry(Box::new(error))
    }
}

impl TravelError {
    /// For `map_err`: what was tried, on which path.
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TravelError {
        let path = path.to_owned();
        move |source| TravelError::Io { action, path, source }
    }

    /// Whether a build that does without what failed gets over it.
    pub fn is_mended_without_cache(&self) -> bool {
        matches!(self, TravelError::NotCarried { .. } | TravelError::Fetch { .. }) && !self.is_local()
    }

    /// Whether this machine is at fault rather than the cache: then doing without the cache does not help.
    fn is_local(&self) -> bool {
        match self {
            TravelError::Store(_) => true,
            TravelError::Layer(error) => !error.is_about_content() && !matches!(error, LayerError::TooLarge { .. }),
            TravelError::Fetch { source, .. } => source.is_local(),
            _ => false,
        }
    }
}

fn list(layers: &[DiffId]) -> String {
    let names: Vec<String> = layers.iter().map(DiffId::to_string).collect();
    names.join(", ")
}
