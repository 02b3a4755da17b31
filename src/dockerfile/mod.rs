//! The Dockerfile language: text to instructions with spans, variable expansion in words, ignore files.
//!
//! Owns: the grammar (directives, continuations, heredocs, flags, JSON and shell forms), [`expand`] (variables and quotes
//! in one word), [`mount`] (the options of `RUN --mount`), [`ignore`] (`.dockerignore` patterns).
//! In:   a [`Source`](crate::diagnostic::Source).
//! Out:  [`Dockerfile`] and diagnostics; all problems of a file at once.
//! Spec: the Dockerfile reference; where behaviour and reference differ, BuildKit's behaviour.
//! Elsewhere: what the instructions mean for an image (`plan`).

pub mod ast;

pub use ast::*;
