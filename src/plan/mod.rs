//! What a Dockerfile means: stages, ARG and ENV scopes and instructions become build steps and an image config.
//!
//! Owns: the dispatch of each instruction, which stages a target needs, history texts, build checks that need values.
//! In:   a [`Dockerfile`], [`Options`] from the command line, and the images it builds upon ([`Bases`]).
//! Out:  a [`Graph`] with its target step and a [`Draft`] of the image; diagnostics with spans, all of them at once.
//! Spec: the Dockerfile reference; where BuildKit's `dockerfile2llb` behaves otherwise, its behaviour.
//! Elsewhere: the grammar and word expansion (`dockerfile`), asking for images (`builder`), running steps (`worker`).
//!
//! The room asks first and decides after: [`wanted_images`] says which images must be resolved, and is asked again with
//! the answers until it wants nothing more (a base's `ONBUILD` triggers may bring further images); then [`lower`] cannot
//! fail for anything but what the Dockerfile or the command line says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::diagnostic::{Diagnostic, Severity, Source, Span};
use crate::digest::Digest;
use crate::dockerfile::Dockerfile;
use crate::dockerfile::ignore::Patterns;
use crate::graph::{Graph, Limits, Network, StepIndex};
use crate::image::{History, ImageConfig};
use crate::reference::{ImageRef, Platform};

mod checks;
mod chmod;
mod configure;
mod epoch;
mod expose;
mod from;
mod globals;
mod join;
pub mod limits;
mod lowering;
mod outline;
mod path;
mod remote;
mod run;
mod scope;
mod signal;
mod stages;
mod text;
mod transfer;
mod words;

pub use checks::check_options;
pub use epoch::{Epoch, EpochSource, epoch};
pub use join::{Joined, JoinedImage, join};
pub use outline::{Argument, Credential, Outline};
pub(crate) use remote::{SourceKind, classify};

use lowering::Lowering;
use stages::Stages;

/// Everything on the command line that shapes the plan.
#[derive(Clone, Debug)]
pub struct Options {
    /// `--build-arg`, in order; of several values for one name the last counts.
    pub build_args: Vec<(String, String)>,
    /// What a default of `SOURCE_DATE_EPOCH` came to that names a source; see [`Options::settle_epoch`].
    pub epoch_default: Option<Option<i64>>,
    /// `--target`.
    pub target: Option<String>,
    /// The platform of the image.
    pub target_platform: Platform,
    /// Whether `target_platform` was asked for; otherwise the image keeps its base's platform.
    pub platform_requested: bool,
    /// The platform that commands of the build run on.
    pub build_platform: Platform,
    /// `--label`, in order; set on the final image alone.
    pub labels: Vec<(String, String)>,
    /// `--build-context`, by lower-cased name (`name` or `name::os/arch`). Each replaces the stage or image of that name.
    pub named_contexts: BTreeMap<String, NamedContext>,
    /// `--network`, for commands that do not say otherwise.
    pub network: Network,
    /// Whether the entitlement `network.host` is given.
    pub allow_host_network: bool,
    /// Whether the entitlement `security.insecure` is given.
    pub allow_insecure: bool,
    /// `--add-host NAME:IP`, in order.
    pub extra_hosts: Vec<(String, String)>,
    /// `--shm-size`.
    pub shm_size_bytes: Option<u64>,
    /// `--ulimit`: name, soft, hard.
    pub ulimits: Vec<(String, u64, u64)>,
    /// `--step-timeout`, `--no-output-timeout`, `--retry-run`.
    pub limits: Limits,
    /// Whether there is a main context; without one its tree is empty.
    pub has_main_context: bool,
    /// What the main context leaves out.
    pub ignore: Option<Arc<Patterns>>,
    /// Which stages are lowered.
    pub stages: Wish,
    /// Whether step names begin with the platform, as in builds for several platforms.
    pub platform_in_names: bool,
}

impl Options {
    /// No flags given, for `platform`.
    pub fn new(platform: Platform) -> Options {
        Options {
            build_args: Vec::new(),
            epoch_default: None,
            target: None,
            target_platform: platform.clone(),
            platform_requested: false,
            build_platform: platform,
            labels: Vec::new(),
            named_contexts: BTreeMap::new(),
            network: Network::Default,
            allow_host_network: false,
            allow_insecure: false,
            extra_hosts: Vec::new(),
            shm_size_bytes: None,
            ulimits: Vec::new(),
            limits: Limits::default(),
            has_main_context: true,
            ignore: None,
            stages: Wish::Target,
            platform_in_names: false,
        }
    }

    /// The value given for a build argument.
    pub(crate) fn build_arg(&self, name: &str) -> Option<&str> {
        self.build_args.iter().rev().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }
}

/// Which stages somebody wants lowered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// The target and what it needs.
    Target,
    /// All of them, so that every instruction is checked; unless a target is asked for.
    Every,
}

/// What a `--build-context` gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedContext {
    /// Files: a directory, or a remote tree that the builder has fetched.
    Local,
    /// `docker-image://REF`.
    Image(ImageRef),
    /// `oci-layout://…`, as written.
    Layout(String),
}

/// Names an image that the plan builds upon or copies from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageKey {
    /// Where it is.
    pub image: ImageLocation,
    /// For which platform.
    pub platform: Platform,
}

/// Where an image is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ImageLocation {
    /// In the store or a registry.
    Reference(ImageRef),
    /// `oci-layout://…`, as written.
    Layout(String),
}

/// An image that must be resolved before lowering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Which.
    pub key: ImageKey,
    /// The name as written.
    pub written: String,
    /// The word that asks for it.
    pub place: (Source, Span),
    /// What to try when there is no such image: the stage with the nearest name.
    pub help: Option<String>,
}

/// A resolved image.
#[derive(Clone, Debug, PartialEq)]
pub struct Base {
    /// Canonical name, for messages.
    pub name: String,
    /// Digest of the manifest chosen for the platform.
    pub manifest: Digest,
    /// Its config.
    pub config: ImageConfig,
}

/// The images resolved so far.
pub type Bases = BTreeMap<ImageKey, Base>;

/// What a Dockerfile comes to.
#[derive(Debug)]
pub struct Lowered {
    /// All steps that the target needs.
    pub graph: Graph,
    /// The step that gives the image's tree; [`Op::Scratch`](crate::graph::Op::Scratch) for an empty one.
    pub target: StepIndex,
    /// Trees that a scanner of the image is shown beside it, by name; the steps are not among `steps`.
    pub extras: BTreeMap<String, StepIndex>,
    /// The image, without layers and times.
    pub draft: Draft,
    /// `SOURCE_DATE_EPOCH`, in seconds.
    pub epoch: Option<i64>,
    /// Which paths of each context are read (`context` is the main one): absolute, `/` for all.
    pub context_uses: BTreeMap<String, BTreeSet<String>>,
    /// What the target can be given.
    pub outline: Outline,
    /// The steps that the target needs, in the order people should see them (that of the file).
    pub steps: Vec<StepIndex>,
}

/// An image before its layers exist.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// All but layers, history and time of creation.
    pub config: ImageConfig,
    /// The base image's history, oldest first.
    pub base_history: Vec<History>,
    /// What this build adds to it.
    pub history: Vec<DraftHistory>,
}

/// A history item before its layer exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DraftHistory {
    /// `RUN /bin/sh -c make # buildkit`.
    pub created_by: String,
    /// `buildkit.dockerfile.v0`.
    pub comment: Option<String>,
    /// The step whose own layer belongs to this item (for `COPY --link` the copy, not the merge); `None` when there is none.
    pub layer: Option<StepIndex>,
}

/// The images that the target needs and that are not in `bases` yet, in the order of the file.
///
/// Stages that the target does not need ask for nothing. Call again with the answers until the list is empty.
///
/// # Errors
/// What is wrong with the Dockerfile's `FROM` lines, names and dependencies; at least one error.
pub fn wanted_images(dockerfile: &Dockerfile, options: &Options, bases: &Bases) -> Result<Vec<Wanted>, Vec<Diagnostic>> {
    let mut diagnostics = Vec::new();
    match Stages::find(dockerfile, options, bases, &mut diagnostics) {
        Some(stages) if !has_errors(&diagnostics) => Ok(stages.wanted()),
        _ => {
            // nothing will be resolved any more: report what else is wrong, as far as it shows without the images
            let mut all = lower(dockerfile, options, bases).1;
            all.retain(|diagnostic| diagnostic.code != UNRESOLVED);
            Err(all)
        }
    }
}

/// What is wrong with a Dockerfile beside the errors in `known`, which were found when it was read, as far as that shows without its
/// images; so that all problems of a file are told at once. Nothing is guessed: no word with variables is judged, no instruction that
/// has an error already, and no file that may lack a stage.
pub fn mistakes(dockerfile: &Dockerfile, options: &Options, known: &[Diagnostic]) -> Vec<Diagnostic> {
    if dockerfile.has_gaps {
        return Vec::new();
    }
    let lines = |diagnostic: &Diagnostic| dockerfile.lines_at(diagnostic.place.as_ref()?.1);
    let blamed: Vec<Span> = known.iter().filter(|known| known.severity == Severity::Error).filter_map(lines).collect();
    let mut found = lower(dockerfile, options, &Bases::new()).1;
    found.retain(|diagnostic| {
        let is_known = lines(diagnostic).is_some_and(|lines| blamed.contains(&lines));
        let written = diagnostic.place.as_ref().and_then(|(source, span)| source.text().get(span.range()));
        let is_constant = written.is_none_or(|text| !text.contains('$'));
        diagnostic.severity == Severity::Error && diagnostic.code != UNRESOLVED && is_constant && !is_known
    });
    found
}

/// Lowers what the target needs. Without errors among the diagnostics there is a result.
///
/// `bases` must hold all that [`wanted_images`] asks for; one that is missing is an error at its place.
pub fn lower(dockerfile: &Dockerfile, options: &Options, bases: &Bases) -> (Option<Lowered>, Vec<Diagnostic>) {
    let mut diagnostics = Vec::new();
    let Some(stages) = Stages::find(dockerfile, options, bases, &mut diagnostics) else {
        return (None, diagnostics);
    };
    checks::unused_build_args(dockerfile, stages.instructions(), options, &mut diagnostics);
    for wanted in stages.wanted() {
        let (source, span) = &wanted.place;
        let message = format!("image `{}` was not resolved for {}", wanted.written, wanted.key.platform);
        diagnostics.push(Diagnostic::error(UNRESOLVED, message, source, *span));
    }
    let lowered = Lowering::new(dockerfile, options, bases, &stages, &mut diagnostics).run();
    let result = lowered.filter(|_| !has_errors(&diagnostics));
    (result, diagnostics)
}

/// The code of what [`lower`] says of an image that was not resolved.
pub const UNRESOLVED: &str = "unresolved-image";

fn has_errors(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
}

#[cfg(test)]
mod tests;
