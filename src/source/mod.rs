//! The graph's roots: what a build reads that no step made.
//!
//! Owns: which image a name means and its layers ([`image`], [`oci_layout`]), downloads ([`http`]), git trees ([`git`]), the
//! client's files ([`context`], [`stat_index`]), digests of what is in a tree ([`digest`]).
//! In:   names, URLs and paths as the plan or the command line give them.
//! Out:  verified data in the store, with an identity that a key can be made of.
//! Elsewhere: the registry's protocol and HTTP (`registry`), trees and tars (`layer`, `snapshot`).

pub mod context;
pub mod digest;
mod error;
pub mod extract;
mod follow;
pub mod git;
pub mod http;
pub mod image;
pub mod oci_layout;
pub mod stat_index;

pub use error::SourceError;
