//! croze builds OCI images from Dockerfiles.
//!
//! A build is one pass down this list; every arrow carries a plain value:
//!
//! ```text
//! Dockerfile text
//!   → instructions with spans   dockerfile::parse
//!   → what we must ask outside  plan::wanted_images
//!   → build graph of steps      plan::lower
//!   → schedule                  schedule::run
//!       each step: cache key → hit, or worker: snapshot mounts + sandbox → committed layer
//!   → layers                    layer::commit
//!   → image                     image::assemble
//!   → exporter                  export::export
//! ```
//!
//! The modules stand in reading order, in five floors; which module imports which others is a table in `tests/rooms.rs`.
#![deny(unsafe_code)]
#![warn(missing_docs)]

// words: values that everything speaks
pub mod base64;
pub mod diagnostic;
pub mod digest;
pub mod duration;
pub mod event;
pub mod fields;
pub mod reference;

// meaning: pure; text to graph, graph to image
pub mod dockerfile;
pub mod graph;
pub mod image;
pub mod plan;

// world: one outside thing each
pub mod cache;
pub mod layer;
pub mod registry;
pub mod sandbox;
pub mod snapshot;
pub mod source;
pub mod store;
pub mod travel;

// motion: what makes it go
pub mod builder;
pub mod export;
pub mod schedule;
pub mod task;
pub mod worker;

// doors
pub mod cli;
