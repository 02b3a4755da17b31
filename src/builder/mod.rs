//! `BuildRequest` → `BuildResult`: the one place where the rooms are wired together.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::diagnostic::{Diagnostic, Rule, Source, Span, with_causes};
use crate::digest::Digest;
pub use crate::dockerfile::From;
use crate::event::EventSink;
use crate::export::Form;
use crate::graph::{Limits, Network};
pub use crate::image::Descriptor;
pub use crate::plan::{Argument, Credential, Outline};
use crate::reference::{ImageRef, Platform};
use crate::sandbox::{self, Rights};
pub use crate::sandbox::{MemoryAndSwap, Resources};
use crate::store::Store;
pub use attest::Attestations;
pub use disk::DISK_FULL;
pub use lock::Locking;
pub use run::{RunRequest, RunResult, Volume, run};

pub use crate::plan::limits::{BadLimit, retry, time_limit};
pub use crate::source::context::Modes;
use crate::travel::Address;
pub use crate::travel::flag::{Asked, CacheSource, CacheTarget, FlagError};
pub use crate::worker::{AgentSource, InKey, Secret, SecretSource, SshAgent, Strictness};
pub use crate::worker::{StandardStreams, Wiring};

pub mod archive;
pub mod attest;
mod bases;
mod build;
pub mod cache_mounts;
mod caches;
mod calls;
pub mod context_listing;
mod definition;
mod deliver;
pub mod diff;
mod disk;
mod epoch;
pub mod explain;
pub mod fsck;
pub mod hygiene;
pub mod images;
pub mod import;
mod inputs;
pub mod lock;
mod options;
mod output;
mod preflight;
mod prove;
pub mod registry;
mod remote;
mod report;
mod reporter;
mod retold;
mod run;
mod sbom;
mod scanner;
mod settings;

/// Everything that decides a build. Time, environment and descriptors come in here and nowhere else.
pub struct BuildRequest {
    /// The main context.
    pub context: ContextSource,
    /// Where the Dockerfile is.
    pub dockerfile: DockerfileSource,
    /// `--context-modes`: of the files in all contexts.
    pub context_modes: Modes,
    /// `--build-context NAME=VALUE`, names lower-cased.
    pub named_contexts: Vec<(String, NamedContextSource)>,
    /// `--target`.
    pub target: Option<String>,
    /// `--build-arg`, in order; a name without value was looked up in the client's environment already.
    pub build_args: Vec<(String, String)>,
    /// `--label`, in order.
    pub labels: Vec<(String, String)>,
    /// `-t`, in order.
    pub tags: Vec<ImageRef>,
    /// The same as they were written.
    pub tags_as_written: Vec<String>,
    /// `--platform`, in order; the host's when there is none.
    pub platforms: Vec<Platform>,
    /// `--no-cache`, `--no-cache-filter`.
    pub no_cache: NoCache,
    /// `--cache-from`, in order.
    pub cache_from: Vec<CacheSource>,
    /// `--cache-to`, in order.
    pub cache_to: Vec<CacheTarget>,
    /// `--pull`: ask the registry even where the store has the name.
    pub pull: bool,
    /// `-o`, buildx's CSV text; empty means the store alone.
    pub outputs: Vec<String>,
    /// `--annotation`, in order, as written.
    pub annotations: Vec<String>,
    /// `--attest`, `--provenance`, `--sbom`.
    pub attestations: Attestations,
    /// `--lock`, `--locked`.
    pub locking: Locking,
    /// `--strict`.
    pub strictness: Strictness,
    /// `--secret`.
    pub secrets: Vec<Secret>,
    /// `--ssh`.
    pub ssh: Vec<SshAgent>,
    /// `--allow`.
    pub allow: Vec<Entitlement>,
    /// `--network`.
    pub network: Network,
    /// `--add-host NAME:IP`.
    pub extra_hosts: Vec<(String, String)>,
    /// `--memory`, `--cpu-*`, `--pids-limit`.
    pub resources: Resources,
    /// `--cgroup-parent`.
    pub cgroup_parent: Option<String>,
    /// `--shm-size`.
    pub shm_size_bytes: Option<u64>,
    /// `--ulimit`: name, soft, hard.
    pub ulimits: Vec<(String, u64, u64)>,
    /// `--step-timeout`, `--no-output-timeout`, `--retry-run`.
    pub limits: Limits,
    /// A shell for people where a command has failed, wired like this.
    pub on_failure: Option<Wiring>,
    /// RUN steps at the same time.
    pub max_parallelism: usize,
    /// The time that new layers get.
    pub now: SystemTime,
    /// Where an output called `-` goes.
    pub stdout: Box<dyn Write + Send>,
    /// Values of the client's environment that a build may use: `SOURCE_DATE_EPOCH` and proxies.
    pub client_env: Vec<(String, String)>,
}

impl BuildRequest {
    /// Whether the result is one image or an index of them: for several platforms, and where BuildKit's build argument asks.
    fn form(&self) -> Form {
        let asked = self.build_args.iter().rev().find(|(name, _)| name == "BUILDKIT_MULTI_PLATFORM");
        let asked = asked.is_some_and(|(_, value)| matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"));
        if asked || self.platforms.len() > 1 { Form::Index } else { Form::Manifest }
    }

    /// Whether the image itself takes what its steps came to along.
    fn has_inline_cache(&self) -> bool {
        let asked = self.build_args.iter().rev().find(|(name, _)| name == "BUILDKIT_INLINE_CACHE");
        asked.is_some_and(|(_, value)| matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"))
            || self.cache_to.iter().any(|target| target.address == Address::Image)
    }

    /// Whether other machines are to have what steps came to.
    fn leaves_cache(&self) -> bool {
        !self.cache_to.is_empty() || self.has_inline_cache()
    }

    /// Proxies of the client, by the names of its variables.
    fn proxies(&self) -> Vec<(String, String)> {
        self.client_env.iter().filter(|(name, _)| name.to_lowercase().ends_with("_proxy")).cloned().collect()
    }

    /// `CROZE_SECRET_KEY`, which machines share that share a cache.
    fn secret_key(&self) -> Option<String> {
        let found = self.client_env.iter().find(|(name, _)| name == "CROZE_SECRET_KEY");
        found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
    }

    /// The socket of the client's ssh agent.
    fn default_agent(&self) -> Option<PathBuf> {
        self.ssh.iter().find(|agent| agent.id == "default").and_then(SshAgent::socket).map(Path::to_owned)
    }

    /// The build's time in whole seconds since 1970.
    fn now_secs(&self) -> i64 {
        self.now.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
    }
}

/// The main context.
pub enum ContextSource {
    /// A directory.
    Directory(PathBuf),
    /// `-`: a tar (any compression) or the text of a Dockerfile.
    Stream(Box<dyn Read + Send>),
    /// A git reference or an http(s) URL, as written.
    Remote(String),
}

/// Where the Dockerfile is.
pub enum DockerfileSource {
    /// `Dockerfile` (else `dockerfile`) of the context.
    Default,
    /// `-f FILE`: relative to the working directory for a directory context, to the context's root for others.
    File(PathBuf),
    /// `-f -`.
    Stream(Box<dyn Read + Send>),
    /// An http(s) URL.
    Url(String),
}

/// The value of a `--build-context`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedContextSource {
    /// A directory.
    Directory(PathBuf),
    /// `docker-image://REF`.
    Image(ImageRef),
    /// `oci-layout://DIR[:TAG][@DIGEST]`, the part behind `//`.
    Layout(String),
    /// A git reference or an http(s) URL.
    Remote(String),
}

/// `--no-cache` and `--no-cache-filter`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoCache {
    /// Use the cache.
    Never,
    /// Run everything.
    All,
    /// Run the steps of these stages.
    Stages(Vec<String>),
}

/// `--allow`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entitlement {
    /// `network.host`.
    NetworkHost,
    /// `security.insecure`.
    SecurityInsecure,
    /// `buildx.local.delete`: `mode=delete` may delete files anywhere.
    LocalDelete,
}

/// What a build gave.
#[derive(Clone, Debug)]
pub struct BuildResult {
    /// What `-q` and `--iidfile` give: digest of the image config, or of the index that holds several images; `None` where no
    /// output wants anything.
    pub image_id: Option<Digest>,
    /// For the metadata file: what the last output wrote that writes images.
    pub exported: Option<ExportedImage>,
    /// For the metadata file, per platform: SLSA v0.2.
    pub provenance: Vec<(Platform, serde_json::Value)>,
    /// Names that it has now, canonical form.
    pub names: Vec<ImageRef>,
    /// Where outputs went, in words, one line each.
    pub written: Vec<String>,
    /// Steps that ran and steps whose result was there.
    pub ran_steps: usize,
    /// See `ran_steps`.
    pub cached_steps: usize,
    /// Warnings, for the metadata file.
    pub warnings: Vec<Diagnostic>,
}

/// An image as an output has it.
#[derive(Debug, Clone)]
pub struct ExportedImage {
    /// Its manifest or index, as an index lists it.
    pub listed: Descriptor,
    /// Digest of the config, if it is one image.
    pub config_digest: Option<Digest>,
    /// Its names: for an archive in canonical form, else as they were written.
    pub names: Vec<String>,
}

/// Why a build ended without a result.
#[derive(Debug)]
pub struct BuildError {
    /// Decides the exit code.
    pub kind: ErrorKind,
    /// All that was found, first cause first; at least one, except when interrupted.
    pub diagnostics: Vec<Diagnostic>,
}

/// Kinds of failure, by who can mend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A step's command failed (1).
    Step,
    /// Wrong usage, or an error in the Dockerfile (2).
    Usage,
    /// Source, registry or network (3).
    Source,
    /// Entitlement or lock (4).
    Policy,
    /// Disk, kernel, namespaces, store (5).
    Environment,
    /// A bug of ours (70).
    Internal,
    /// Stopped by the client (130, or 143 for SIGTERM: the door knows which).
    Interrupted,
}

/// Builds. `cancel` turning true stops every step and returns [`ErrorKind::Interrupted`] once all sandboxes are gone.
pub async fn build(
    store: Store,
    request: BuildRequest,
    events: Arc<dyn EventSink>,
    cancel: watch::Receiver<bool>,
) -> Result<BuildResult, BuildError> {
    // what this build uses is not pruned while it runs
    let lease = store.lease().map_err(|error| disk::with_store(report::store_error(&error), store.root()))?;
    let built = build::build(store.clone(), request, events, cancel).await;
    drop(lease);
    built.map_err(|error| disk::with_store(error, store.root()))
}

/// What the build checks find in all stages, or in those that `--target` needs, without running anything; the base images'
/// documents are fetched.
///
/// # Errors
/// There is nothing to check: no Dockerfile could be read.
pub async fn check(
    store: Store,
    request: BuildRequest,
    events: Arc<dyn EventSink>,
    cancel: watch::Receiver<bool>,
) -> Result<Checked, BuildError> {
    calls::check(store, request, events, cancel).await
}

/// What the target can be given, without running anything; the base images' documents are fetched.
///
/// # Errors
/// What a build would fail with before its first step.
pub async fn outline(
    store: Store,
    request: BuildRequest,
    events: Arc<dyn EventSink>,
    cancel: watch::Receiver<bool>,
) -> Result<(Source, Outline), BuildError> {
    calls::outline(store, request, events, cancel).await
}

/// The file and its stages. Nothing but the file is asked for.
///
/// # Errors
/// What is wrong with the file's text.
pub async fn targets(
    store: Store,
    request: BuildRequest,
    events: Arc<dyn EventSink>,
    cancel: watch::Receiver<bool>,
) -> Result<(Source, Vec<From>), BuildError> {
    calls::targets(store, request, events, cancel).await
}

/// What the build checks say about a file.
#[derive(Debug)]
pub struct Checked {
    /// The file.
    pub source: Source,
    /// Findings of BuildKit's checks, in its order.
    pub findings: Vec<Finding>,
    /// What else a reader might want to mend.
    pub warnings: Vec<Diagnostic>,
    /// What a build would be refused with because of the findings: the file says `check=error=true`.
    pub violation: Option<String>,
    /// Why a build would fail before its first step.
    pub error: Option<BuildError>,
}

/// What a build check found.
#[derive(Debug)]
pub struct Finding {
    /// The check.
    pub rule: &'static Rule,
    /// What is wrong here.
    pub detail: String,
    /// Where, as the bytes of whole lines.
    pub lines: Span,
}

/// Writes what the names in all stages (or in those that `--target` needs) stand for into the lock file, and returns its path.
/// No step runs; downloads are fetched, images and git trees are only asked for. [`BuildRequest::locking`] says what of the
/// file there counts.
///
/// # Errors
/// What a build would fail with before its first step; a source that cannot be reached.
pub async fn lock_names(
    store: Store,
    request: BuildRequest,
    events: Arc<dyn EventSink>,
    cancel: watch::Receiver<bool>,
) -> Result<PathBuf, BuildError> {
    build::lock_names(store, request, events, cancel).await
}

/// Opens the store at `root`.
///
/// # Errors
/// `Environment`: it cannot be made, or is not for this user or program.
pub fn open_store(root: &Path) -> Result<Store, BuildError> {
    Store::open(root).map_err(|error| {
        let absolute = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
        disk::with_store(report::store_error(&error), &absolute)
    })
}

/// Gives this process the rights that building takes; to be called before it has a second thread, and before the store is
/// opened. Returns what a user should know about them, if anything.
///
/// # Errors
/// `Environment`: the process is not root, and the machine gives its user no namespace in which it could be.
pub fn acquire_rights() -> Result<Option<&'static str>, BuildError> {
    match sandbox::acquire() {
        Ok(Rights::Own | Rights::SubordinateIds) => Ok(None),
        Ok(Rights::Contained) => Ok(Some(
            "this container allows no namespaces and no mounts: commands run on copies, with a root directory of their own and no /proc, \
             and share processes, network and users with what runs here",
        )),
        Ok(Rights::OneId) => Ok(Some(
            "this user has no range in /etc/subuid and /etc/subgid: commands run as root whatever USER says, and what they make is \
             root's (`sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER` gives one)",
        )),
        Err(error) => {
            let help = error.help();
            let diagnostic = Diagnostic::error_without_place("no-rights", with_causes(&error)).help(help);
            Err(BuildError { kind: ErrorKind::Environment, diagnostics: vec![diagnostic] })
        }
    }
}
