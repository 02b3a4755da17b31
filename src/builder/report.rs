//! Failures of the rooms below, as diagnostics with a place, a kind and advice.

use std::error::Error;

use super::{BuildError, ErrorKind, disk};
use crate::diagnostic::{Diagnostic, Severity, Source, Span, causes};
use crate::export::ExportError;
use crate::graph::{Graph, Op, Origin, Step, StepIndex};
use crate::layer::LayerError;
use crate::plan::Wanted;
use crate::registry::{CredentialsUsed, RegistryError};
use crate::sandbox::{SandboxError, Stage};
use crate::source::SourceError;
use crate::source::context::ContextError;
use crate::store::StoreError;
use crate::travel::TravelError;
use crate::worker::copy::CopyError;
use crate::worker::{Expired, KeyError, WorkError};

/// A failure of the steps of `graph`, at the one that is to blame: a base image that cannot be had is no fault of the step
/// that happens to read it first.
pub fn run_error(error: WorkError, index: Option<StepIndex>, graph: &Graph) -> BuildError {
    match error {
        WorkError::Base { manifest, source } => {
            let is_base = |index: &StepIndex| matches!(&graph.step(*index).op, Op::Image(image) if image.manifest == manifest);
            let step = graph.indices().find(is_base).or(index).map(|index| graph.step(index));
            step_error(&WorkError::Source(source), step)
        }
        error => step_error(&error, index.map(|index| graph.step(index))),
    }
}

/// A step's failure, pointing at the word of its instruction that is to blame. Without a `step`, at nothing.
pub fn step_error(error: &WorkError, step: Option<&Step>) -> BuildError {
    let nowhere = Origin::default();
    let origin = step.map_or(&nowhere, |step| &step.origin);
    if let WorkError::Warned { warnings } = error {
        return strict_error(warnings.clone());
    }
    if let WorkError::Wanting { diagnostics } = error {
        return BuildError { kind: ErrorKind::Usage, diagnostics: diagnostics.clone() };
    }
    let (kind, code) = match error {
        WorkError::Command { .. } => (ErrorKind::Step, "command-failed"),
        WorkError::Expired { .. } => (ErrorKind::Step, "command-expired"),
        WorkError::Copy(_) => (ErrorKind::Usage, "copy-failed"),
        WorkError::Identity(_) => (ErrorKind::Usage, "unknown-user"),
        WorkError::Warned { .. } => (ErrorKind::Usage, "warned"),
        WorkError::NotGiven { .. } | WorkError::Wanting { .. } => (ErrorKind::Usage, "not-given"),
        WorkError::MountPoint { .. } => (ErrorKind::Step, "mount-failed"),
        WorkError::Mount { .. } => (ErrorKind::Usage, "mount-failed"),
        WorkError::UnknownLimit(_) | WorkError::Context(_) => (ErrorKind::Usage, "bad-request"),
        WorkError::Source(_) | WorkError::Base { .. } => (ErrorKind::Source, "source-failed"),
        WorkError::Snapshot(_) => (ErrorKind::Usage, "path-failed"),
        WorkError::Travel(error) => (travel_kind(error), "cache-failed"),
        WorkError::Canceled => (ErrorKind::Interrupted, "canceled"),
        WorkError::LayerGone(_)
        | WorkError::LayerDamaged(_)
        | WorkError::DiskFilled { .. }
        | WorkError::Sandbox(_)
        | WorkError::ControlGroup(_)
        | WorkError::Layer(_)
        | WorkError::Store(_)
        | WorkError::System { .. } => (ErrorKind::Environment, "environment"),
    };
    let diagnostic = match error {
        WorkError::Command { how, tail, hint } => command_diagnostic(code, how, tail, hint.as_deref(), origin),
        WorkError::Expired { limit, processes, tail } => expired_diagnostic(code, *limit, processes, tail, origin),
        WorkError::DiskFilled { how, tail } => command_diagnostic(code, how, tail, None, origin),
        WorkError::Copy(error) => copy_diagnostic(error, origin),
        WorkError::Identity(error) => user_diagnostic(code, error, origin),
        WorkError::Mount { target, .. } | WorkError::MountPoint { target, .. } => match mount_number(step, target) {
            Some(number) => mount_diagnostic(error, origin, number),
            None => in_stage(at_instruction(code, error.to_string(), origin), origin).because(error),
        },
        WorkError::Source(SourceError::Checksum { .. } | SourceError::Registry(_) | SourceError::Git { .. }) => {
            let span = origin.words.sources.first().copied();
            in_stage(at_word(code, error.to_string(), origin, span), origin).because(error)
        }
        error => in_stage(at_instruction(code, error.to_string(), origin), origin).because(error),
    };
    finish(kind, diagnostic, error)
}

/// Warnings as a strict build takes them.
pub fn strict_error(mut warnings: Vec<Diagnostic>) -> BuildError {
    for warning in &mut warnings {
        warning.severity = Severity::Error;
    }
    let message = match warnings.len() {
        1 => "a warning is an error in a strict build".to_owned(),
        count => format!("{count} warnings are errors in a strict build"),
    };
    let last = Diagnostic::error_without_place("strict", message)
        .help("mend it, leave a rule out with `# check=skip=Rule`, or build without `--strict`");
    BuildError { kind: ErrorKind::Usage, diagnostics: warnings.into_iter().chain([last]).collect() }
}

/// A source of a copy that is not there, or a copy that failed.
pub fn copy_diagnostic(error: &CopyError, origin: &Origin) -> Diagnostic {
    let source_span = |number: &usize| origin.words.sources.get(*number).copied();
    let span = match error {
        CopyError::Missing { source_number, .. }
        | CopyError::BadPattern { source_number, .. }
        | CopyError::OntoFile { source_number, .. }
        | CopyError::OntoDirectory { source_number, .. } => source_span(source_number),
        CopyError::Owner { .. } => origin.words.owner,
        _ => None,
    };
    let CopyError::Missing { path, nearest, hidden_by, .. } = error else {
        return in_stage(at_word("copy-failed", error.to_string(), origin, span), origin).because(error);
    };
    let reads_context = origin.words.read_from.is_none();
    let shown = |path: &dyn std::fmt::Display| {
        let text = path.to_string();
        // what is in a context has no root that people know
        if reads_context { text.trim_start_matches('/').to_owned() } else { text }
    };
    let tree = origin.words.read_from.as_ref().map_or("the context".to_owned(), |from| format!("`{from}`"));
    let message = format!("`{}` not found in {tree}", shown(path));
    let mut diagnostic = in_stage(at_word("missing-source", message, origin, span), origin);
    if let Some(written) = climbing(origin, span) {
        diagnostic = diagnostic
            .note(format!("`..` does not lead out of {tree}: there, `{written}` is `{}`", shown(path)))
            .help("use a directory above as the context, or pass it by `--build-context NAME=DIR` and `COPY --from=NAME`");
    }
    if let Some(hidden_by) = hidden_by {
        diagnostic = diagnostic.note(format!("the ignore file hides it: {hidden_by}"));
    }
    match nearest {
        Some(nearest) => diagnostic.help(format!("did you mean `{}`?", shown(nearest))),
        None => diagnostic,
    }
}

/// Something that the mount with this number asks for and that is not there.
pub fn mount_diagnostic(error: &WorkError, origin: &Origin, number: usize) -> Diagnostic {
    let (code, help) = match error {
        WorkError::NotGiven { what: "secret", id } => ("not-given", Some(format!("pass it with `--secret id={id},src=FILE`"))),
        WorkError::NotGiven { id, .. } => ("not-given", Some(format!("pass it with `--ssh {id}` or `--ssh {id}=SOCKET`"))),
        WorkError::MountPoint { help, .. } => ("mount-failed", help.clone()),
        _ => ("mount-failed", None),
    };
    let span = origin.words.mounts.get(number).copied();
    let diagnostic = in_stage(at_word(code, error.to_string(), origin, span), origin).because(error);
    match help {
        Some(help) => diagnostic.help(help),
        None => diagnostic,
    }
}

/// A failure of the store itself.
pub fn store_error(error: &StoreError) -> BuildError {
    let diagnostic = Diagnostic::error_without_place("store", error.to_string()).because(error);
    finish(ErrorKind::Environment, diagnostic, error)
}

/// Keys of `--ssh` that cannot be given to anybody.
pub fn key_error(error: &KeyError) -> BuildError {
    match error {
        KeyError::Store(error) => store_error(error),
        KeyError::Socket(_) => environment_error(error),
        KeyError::Unreadable { .. } | KeyError::Unusable { .. } => {
            let diagnostic = Diagnostic::error_without_place("ssh-key", error.to_string()).because(error);
            let diagnostic =
                diagnostic.help("an agent has keys of all kinds, and asks for passphrases: `ssh-add FILE`, then `--ssh default`");
            finish(ErrorKind::Usage, diagnostic, error)
        }
    }
}

/// A failure of this machine's.
pub fn environment_error(error: &(dyn Error + 'static)) -> BuildError {
    let diagnostic = Diagnostic::error_without_place("environment", error.to_string()).because(error);
    finish(ErrorKind::Environment, diagnostic, error)
}

/// A source that no instruction belongs to.
pub fn source_error(error: &SourceError) -> BuildError {
    let diagnostic = Diagnostic::error_without_place("source-failed", error.to_string()).because(error);
    finish(ErrorKind::Source, diagnostic, error)
}

/// A cache elsewhere that could not be written.
pub fn travel_error(error: &TravelError) -> BuildError {
    let mut diagnostic = Diagnostic::error_without_place("cache-failed", error.to_string()).because(error);
    if let TravelError::Registry(error) = error {
        diagnostic = with_registry_advice(diagnostic, error);
    }
    let diagnostic = diagnostic.help("the image is built; with `ignore-error=true` in `--cache-to` this is a note");
    finish(travel_kind(error), diagnostic, error)
}

fn travel_kind(error: &TravelError) -> ErrorKind {
    match error {
        TravelError::Registry(error) => kind_of(error),
        TravelError::Layer(_) | TravelError::Store(_) | TravelError::Io { .. } => ErrorKind::Environment,
        TravelError::Fetch { source, .. } => travel_kind(source),
        _ => ErrorKind::Source,
    }
}

/// A context that cannot be opened.
pub fn context_error(error: &ContextError) -> BuildError {
    match error {
        ContextError::Store(error) => store_error(error),
        ContextError::Io { .. } => {
            let diagnostic = Diagnostic::error_without_place("bad-context", error.to_string()).because(error);
            finish(ErrorKind::Usage, diagnostic, error)
        }
        ContextError::Archive(_) => {
            let mut diagnostic = Diagnostic::error_without_place("bad-context", "cannot unpack the archive that is the context");
            // what is in between speaks of layers
            diagnostic.notes.extend(causes(error).pop());
            finish(ErrorKind::Usage, diagnostic, error)
        }
    }
}

/// An image that the Dockerfile asks for and that cannot be had.
pub fn wanted_error(error: &SourceError, wanted: &Wanted) -> BuildError {
    let (source, span) = &wanted.place;
    let mut diagnostic = Diagnostic::error("image-unavailable", error.to_string(), source, *span).because(error);
    if let Some(help) = &wanted.help {
        diagnostic =
            diagnostic.note(format!("no stage is called `{}`, so it was taken for an image", wanted.written)).help(help.clone());
    }
    if let SourceError::Registry(error) = error {
        diagnostic = match &**error {
            error if error.is_offline() => diagnostic.help(format!(
                "without a network, `croze import ROOTFS.tar {}` puts a base image into the store",
                wanted.written
            )),
            RegistryError::Denied { .. } => {
                diagnostic.note("a registry may answer like this for a repository that does not exist")
            }
            _ => diagnostic,
        };
    }
    finish(ErrorKind::Source, diagnostic, error)
}

/// A registry that did not do what was asked of it outside a build.
pub fn registry_error(error: &RegistryError) -> BuildError {
    let diagnostic = Diagnostic::error_without_place("registry-failed", error.to_string()).because(error);
    finish(kind_of(error), with_registry_advice(diagnostic, error), error)
}

/// Who can mend it: files of the user's and the machine's are usage or environment, the rest is the registry's.
fn kind_of(error: &RegistryError) -> ErrorKind {
    match error {
        RegistryError::BadHosts { .. } | RegistryError::BadCertificates { .. } => ErrorKind::Usage,
        RegistryError::Credentials(_) => ErrorKind::Environment,
        _ => ErrorKind::Source,
    }
}

/// What to try, where the failure itself suggests it.
fn with_registry_advice(diagnostic: Diagnostic, error: &RegistryError) -> Diagnostic {
    match error {
        RegistryError::Denied { host, used: CredentialsUsed::None, .. } => {
            diagnostic.help(format!("if it is a private one, log in by `croze login {host}`"))
        }
        RegistryError::Denied { .. } => diagnostic.help("log in as a user who may, or ask for the right to"),
        RegistryError::Tls { host, .. } => diagnostic
            .help(format!("`[registry.\"{host}\"]` in config.toml knows `ca = \"FILE\"`, `http = true` and `insecure = true`")),
        _ => diagnostic,
    }
}

/// An output that could not be written.
pub fn export_error(error: &ExportError) -> BuildError {
    if let ExportError::Registry(error) = error {
        return registry_error(error);
    }
    let diagnostic = Diagnostic::error_without_place("export-failed", error.to_string()).because(error);
    let (kind, help) = match error {
        ExportError::Clash { .. } => {
            (ErrorKind::Usage, Some("leave `platform-split=false` out: each platform then has a directory"))
        }
        ExportError::NoDaemon { .. } => {
            (ErrorKind::Environment, Some("`--output type=docker,dest=FILE` writes an archive for `docker load`"))
        }
        _ => (ErrorKind::Environment, None),
    };
    finish(kind, help.into_iter().fold(diagnostic, Diagnostic::help), error)
}

fn command_diagnostic(code: &'static str, how: &str, tail: &[String], hint: Option<&str>, origin: &Origin) -> Diagnostic {
    // what no instruction of the file says, such as a scan, goes by what progress calls it
    let what = if origin.place.is_none() && !origin.name.is_empty() { &origin.name } else { "RUN" };
    let message = format!("`{what}` did not complete successfully: {how}");
    let mut diagnostic = in_stage(at_instruction(code, message, origin), origin);
    if !tail.is_empty() {
        diagnostic = diagnostic.note(format!("the last lines of its output:\n{}", tail.join("\n")));
    }
    match hint {
        Some(hint) => diagnostic.help(hint),
        None => diagnostic,
    }
}

fn expired_diagnostic(code: &'static str, limit: Expired, processes: &[String], tail: &[String], origin: &Origin) -> Diagnostic {
    let message = format!("`RUN` {limit} and was ended");
    let (flag, comment) = match limit {
        Expired::Time(_) => ("--step-timeout", "croze:timeout"),
        Expired::Silence(_) => ("--no-output-timeout", "croze:no-output-timeout"),
    };
    let mut diagnostic = in_stage(at_instruction(code, message, origin), origin);
    if !processes.is_empty() {
        diagnostic = diagnostic.note(format!("what ran then:\n{}", processes.join("\n")));
    }
    diagnostic = diagnostic.note(match tail {
        [] => "it had printed nothing".to_owned(),
        tail => format!("the last lines of its output:\n{}", tail.join("\n")),
    });
    diagnostic.help(format!("if it needs more time, raise `{flag}`, or write `# {comment}=TIME` above the instruction"))
}

/// A user that the image does not know, at the `USER` that says so.
fn user_diagnostic(code: &'static str, error: &(dyn Error + 'static), origin: &Origin) -> Diagnostic {
    let diagnostic = match &origin.words.user {
        Some((source, span)) => {
            let diagnostic = Diagnostic::error(code, error.to_string(), source, *span);
            match &origin.place {
                Some((needed_by, step)) if needed_by == source => {
                    diagnostic.also(first_line(source, *step), "the first step that runs as this user")
                }
                _ => diagnostic,
            }
        }
        None => at_instruction(code, error.to_string(), origin),
    };
    in_stage(diagnostic, origin).because(error).help("create the user in an earlier `RUN`, or give a number")
}

fn at_word(code: &'static str, message: String, origin: &Origin, span: Option<Span>) -> Diagnostic {
    match (&origin.place, span) {
        (Some((source, _)), Some(span)) => Diagnostic::error(code, message, source, span),
        _ => at_instruction(code, message, origin),
    }
}

/// At an instruction's first line: enough to find it, whatever follows.
fn at_instruction(code: &'static str, message: String, origin: &Origin) -> Diagnostic {
    match &origin.place {
        Some((source, span)) => Diagnostic::error(code, message, source, first_line(source, *span)),
        None => Diagnostic::error_without_place(code, message),
    }
}

fn in_stage(diagnostic: Diagnostic, origin: &Origin) -> Diagnostic {
    match origin.stage_label.as_str() {
        "" => diagnostic,
        label => diagnostic.note(format!("in stage `{label}`")),
    }
}

/// The source as written, if it begins with a way up.
fn climbing(origin: &Origin, span: Option<Span>) -> Option<&str> {
    let written = origin.place.as_ref()?.0.text().get(span?.range())?;
    let ups = written.trim_start_matches(['"', '\'', '/']).trim_start_matches("./");
    (ups == ".." || ups.starts_with("../")).then_some(written)
}

fn mount_number(step: Option<&Step>, target: &str) -> Option<usize> {
    let Op::Exec(op) = &step?.op else { return None };
    op.mounts.iter().position(|mount| mount.target == target)
}

/// What depends on the cause alone: a full disk is the machine's fault whatever was being done, and so is a damaged store.
fn finish(mut kind: ErrorKind, mut diagnostic: Diagnostic, error: &(dyn Error + 'static)) -> BuildError {
    if let Some(WorkError::Sandbox(SandboxError::NotAllowed | SandboxError::Start { .. })) = error.downcast_ref() {
        diagnostic = diagnostic.help("run croze as root; in a container, as one that may make namespaces (`--privileged`)");
    }
    if let Some(WorkError::Sandbox(SandboxError::Setup { stage: Stage::PrepareEmulator, .. })) = error.downcast_ref() {
        diagnostic = diagnostic.help(
            "an emulator for a step alone takes Linux 6.7; register one for the whole machine (Debian's binfmt-support does), or \
             build that stage with `FROM --platform=$BUILDPLATFORM`",
        );
    }
    let source = match error.downcast_ref() {
        Some(WorkError::Source(source)) => Some(source),
        _ => error.downcast_ref::<SourceError>(),
    };
    let on_this_machine = match source {
        Some(SourceError::Incomplete { .. } | SourceError::Store(StoreError::DamagedName { .. })) => {
            diagnostic = diagnostic.help("import or build that image again; one from a registry is fetched when it answers");
            true
        }
        Some(SourceError::Store(_) | SourceError::Io { .. }) => true,
        Some(SourceError::Registry(error)) => {
            kind = kind_of(error);
            diagnostic = with_registry_advice(diagnostic, error);
            false
        }
        Some(SourceError::BaseLayer { source: LayerError::TooLarge { .. }, .. }) => {
            diagnostic = diagnostic.help("if you trust it, raise `max_entries` or `max_bytes` in `[layer]` of config.toml");
            false
        }
        _ => false,
    };
    let kind = if on_this_machine { ErrorKind::Environment } else { kind };
    disk::explained(BuildError { kind, diagnostics: vec![diagnostic] }, error)
}

fn first_line(source: &Source, span: Span) -> Span {
    let text = source.text();
    let end = span.end.min(text.len());
    let start = span.start.min(end);
    let line_end = text.get(start..end).and_then(|text| text.find('\n')).map_or(end, |length| start + length);
    Span::new(start, line_end)
}
