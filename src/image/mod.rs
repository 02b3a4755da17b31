//! Images as data: config, manifest, index, descriptors.
//!
//! Owns: [`ImageConfig`] (ours: `oci-spec`'s drops Docker's health check, shell and triggers), assembling an image from a
//! draft and its layers, the exact bytes of each document.
//! In:   a config draft from `plan`, layers with their creation times.
//! Out:  config and manifest bytes and their digests.
//! Spec: OCI image-spec v1.1; Docker image spec v1.2 for the extra fields.
//! Elsewhere: where blobs live (`store`), archives and registries (`export`, `registry`).

pub mod assemble;
pub mod config;
pub mod document;
mod time;

pub use assemble::{AssembledLayer, DraftHistory, Image, ImageDraft, assemble};
pub use config::{ContainerConfig, Healthcheck, History, ImageConfig, RootFs};
pub use document::{Descriptor, Dialect, Index, Manifest, media_type};
pub use time::rfc3339;
