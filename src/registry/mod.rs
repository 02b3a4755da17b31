//! Talks to image registries.
//!
//! Owns: the distribution protocol ([`Client`]), tokens and credentials ([`Credentials`], [`Keyring`]), how hosts are reached
//! ([`RegistryConfig`]), manifests and indexes as they are read ([`manifest`]), and the HTTP transport with its retries,
//! redirects and proxies ([`Transport`]).
//! In:   an [`ImageRef`](crate::reference::ImageRef) or a digest in a repository.
//! Out:  verified documents; blobs as a [`BlobReader`] that cannot end well with wrong bytes; what was pushed ([`Pushing`]).
//! Spec: OCI distribution-spec v1.1; Docker's token authentication.
//! Elsewhere: which image is used and where it is kept (`source::image`), compression (`layer`).

mod auth;
mod blob;
mod client;
mod config;
mod credentials;
mod error;
mod hosts;
pub mod manifest;
mod transport;

pub use auth::basic;
pub use blob::BlobReader;
pub use client::{Client, Fetched, Pushing, Taken};
pub use config::{HostConfig, Identity, Proxies, RegistryConfig, Retry};
pub use credentials::{Anonymous, Credential, CredentialError, Credentials, Kept, Keyring, Secret};
pub use error::{Broken, CredentialsUsed, RegistryError, Tags};
pub use transport::{Payload, Request, Response, Transport, join_url, parse_url, unescape};
