//! Failures of the rooms below, as diagnostics with a place and a kind.

use std::error::Error;

use super::{BuildError, ErrorKind};
use crate::diagnostic::Diagnostic;
use crate::export::ExportError;
use crate::graph::Origin;
use crate::plan::Wanted;
use crate::source::SourceError;
use crate::source::context::ContextError;
use crate::store::StoreError;
use crate::worker::WorkError;

/// A step's failure, pointing at its instruction.
pub fn step_error(error: &WorkError, origin: &Origin) -> BuildError {
    let (kind, code) = match error {
        WorkError::Command { .. } => (ErrorKind::Step, "command-failed"),
        WorkError::Sandbox(sandbox) if sandbox.exit_code().is_some() => (ErrorKind::Step, "command-failed"),
        WorkError::Copy(_) => (ErrorKind::Usage, "copy-failed"),
        WorkError::Identity(_) => (ErrorKind::Usage, "unknown-user"),
        WorkError::NotGiven { .. } => (ErrorKind::Usage, "not-given"),
        WorkError::Mount { .. } => (ErrorKind::Usage, "mount-failed"),
        WorkError::UnknownLimit(_) | WorkError::Context(_) => (ErrorKind::Usage, "bad-request"),
        WorkError::Source(_) => (ErrorKind::Source, "source-failed"),
        WorkError::Snapshot(_) => (ErrorKind::Usage, "path-failed"),
        WorkError::Canceled => (ErrorKind::Interrupted, "canceled"),
        WorkError::LayerGone(_)
        | WorkError::Sandbox(_)
        | WorkError::Layer(_)
        | WorkError::Store(_)
        | WorkError::System { .. } => (ErrorKind::Environment, "environment"),
    };
    let message = match error {
        WorkError::Command { how, .. } => format!("`RUN` did not complete successfully: {how}"),
        other => other.to_string(),
    };
    let mut diagnostic = match &origin.place {
        Some((source, span)) => Diagnostic::error(code, message, source, first_line(source.text(), *span)),
        None => Diagnostic::error_without_place(code, message),
    };
    if !origin.stage.is_empty() {
        diagnostic = diagnostic.note(format!("in stage `{}`", origin.stage));
    }
    diagnostic = with_causes(diagnostic, error);
    if let WorkError::Command { tail, hint, .. } = error {
        if !tail.is_empty() {
            diagnostic = diagnostic.note(format!("the last lines of its output:\n{}", tail.join("\n")));
        }
        if let Some(hint) = hint {
            diagnostic = diagnostic.help(hint.clone());
        }
    }
    if let WorkError::NotGiven { what: "secret", id } = error {
        diagnostic = diagnostic.help(format!("pass it with `--secret id={id},src=FILE`"));
    }
    if no_space(error) {
        diagnostic = diagnostic.help("free space on the store's file system, or name another store with `--root DIR`");
    }
    BuildError { kind: if no_space(error) { ErrorKind::Environment } else { kind }, diagnostics: vec![diagnostic] }
}

/// A failure of the store itself.
pub fn store_error(error: &StoreError) -> BuildError {
    let mut diagnostic = with_causes(Diagnostic::error_without_place("store", error.to_string()), error);
    if no_space(error) {
        diagnostic = diagnostic.help("free space on the store's file system, or name another store with `--root DIR`");
    }
    BuildError { kind: ErrorKind::Environment, diagnostics: vec![diagnostic] }
}

/// A source that no instruction belongs to.
pub fn source_error(error: &SourceError) -> BuildError {
    let diagnostic = with_causes(Diagnostic::error_without_place("source-failed", error.to_string()), error);
    BuildError { kind: ErrorKind::Source, diagnostics: vec![diagnostic] }
}

/// A context that cannot be opened.
pub fn context_error(error: &ContextError) -> BuildError {
    match error {
        ContextError::Store(error) => store_error(error),
        ContextError::Io { .. } | ContextError::Archive(_) => {
            let diagnostic = with_causes(Diagnostic::error_without_place("bad-context", error.to_string()), error);
            BuildError { kind: ErrorKind::Usage, diagnostics: vec![diagnostic] }
        }
    }
}

/// An image that the Dockerfile asks for and that cannot be had.
pub fn wanted_error(error: &SourceError, wanted: &Wanted) -> BuildError {
    let (source, span) = &wanted.place;
    let mut diagnostic = Diagnostic::error("image-unavailable", error.to_string(), source, *span);
    diagnostic = with_causes(diagnostic, error);
    if let Some(help) = &wanted.help {
        diagnostic = diagnostic.help(help.clone());
    }
    BuildError { kind: ErrorKind::Source, diagnostics: vec![diagnostic] }
}

/// An output that could not be written.
pub fn export_error(error: &ExportError) -> BuildError {
    let mut diagnostic = with_causes(Diagnostic::error_without_place("export-failed", error.to_string()), error);
    if no_space(error) {
        diagnostic = diagnostic.help("free space where the output and the store are");
    }
    BuildError { kind: ErrorKind::Environment, diagnostics: vec![diagnostic] }
}

/// The causes behind `error`, one note each.
fn with_causes(mut diagnostic: Diagnostic, error: &dyn Error) -> Diagnostic {
    let mut cause = error.source();
    let mut said = error.to_string();
    while let Some(error) = cause {
        let text = error.to_string();
        if !said.contains(&text) {
            diagnostic = diagnostic.note(text.clone());
        }
        said = text;
        cause = error.source();
    }
    diagnostic
}

/// Whether a full disk is behind it.
fn no_space(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return matches!(io.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
        }
        cause = error.source();
    }
    false
}

/// An instruction's first line: enough to find it, whatever follows.
fn first_line(text: &str, span: crate::diagnostic::Span) -> crate::diagnostic::Span {
    let end = span.end.min(text.len());
    let start = span.start.min(end);
    let line_end = text.get(start..end).and_then(|text| text.find('\n')).map_or(end, |length| start + length);
    crate::diagnostic::Span::new(start, line_end)
}
