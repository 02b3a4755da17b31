//! Talks to image registries.
