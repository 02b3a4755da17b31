//! The Dockerfile language: text to instructions with spans, variable expansion in words, ignore files.
//!
//! Owns: the grammar (directives, continuations, heredocs, flags, JSON and shell forms), [`expand`] (variables and quotes
//! in one word), [`mount`] (the options of `RUN --mount`), [`ignore`] (`.dockerignore` patterns), [`rules`] (the build checks)
//! and [`check`] (their options).
//! In:   a [`Source`](crate::diagnostic::Source).
//! Out:  [`Dockerfile`] and diagnostics; all problems of a file at once.
//! Spec: the Dockerfile reference; where behaviour and reference differ, BuildKit's behaviour.
//! Elsewhere: what the instructions mean for an image (`plan`).

pub mod ast;
pub mod check;
pub mod expand;
pub mod ignore;
pub mod mount;
pub mod rules;

mod arguments;
mod comments;
mod directives;
mod flags;
mod glob;
mod healthcheck;
mod heredoc;
mod instruction;
mod json;
mod keyword;
mod lines;
mod onbuild;
mod parser;
mod stage;
mod words;

pub use ast::*;
pub use glob::{BadPattern, glob_match, has_wildcards};
pub use parser::{parse, parse_trigger};
