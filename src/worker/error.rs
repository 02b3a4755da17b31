//! Why a step failed.

use std::time::Duration;

use crate::diagnostic::Diagnostic;
use crate::digest::{DiffId, Digest};
use crate::layer::LayerError;
use crate::sandbox::SandboxError;
use crate::snapshot::SnapshotError;
use crate::source::SourceError;
use crate::source::context::ContextError;
use crate::store::StoreError;
use crate::travel::TravelError;

use super::copy::CopyError;
use super::identity::IdentityError;

/// Why a step failed. The builder turns it into a diagnostic at the step's instruction.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// The control group that `--cgroup-parent` names cannot be had.
    #[error("the steps cannot be put into the control group of `--cgroup-parent`: {0}")]
    ControlGroup(String),
    /// The command ended badly.
    #[error("{how}")]
    Command {
        /// In words: `exit code 3`, `killed by signal 9`.
        how: String,
        /// Last lines that it printed, for the error message.
        tail: Vec<String>,
        /// What may help, such as a missing shell.
        hint: Option<String>,
    },
    /// The command's time was over.
    #[error("{limit} and was ended")]
    Expired {
        /// Which limit.
        limit: Expired,
        /// The processes that ran then, as a tree, one line each.
        processes: Vec<String>,
        /// Last lines that it printed.
        tail: Vec<String>,
    },
    /// The command ended badly, and there was no space left for its files.
    #[error("{how}")]
    DiskFilled {
        /// In words, as for [`WorkError::Command`].
        how: String,
        /// Last lines that it printed.
        tail: Vec<String>,
    },
    /// A file operation of a step.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// The user of a step.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// What a lenient build only warns of.
    #[error("a warning, which is an error in a strict build")]
    Warned {
        /// The warnings; at least one.
        warnings: Vec<Diagnostic>,
    },
    /// A secret or agent that a step requires.
    #[error("{what} `{id}` was not given to this build")]
    NotGiven {
        /// `secret` or `ssh agent`.
        what: &'static str,
        /// Its name.
        id: String,
    },
    /// Secrets or agents that this step, or one behind it, requires.
    #[error("{}", diagnostics.first().map_or("", |first| first.message.as_str()))]
    Wanting {
        /// What is missing; at least one.
        diagnostics: Vec<Diagnostic>,
    },
    /// A mount whose place is not there and cannot be made.
    #[error("cannot mount at `{target}`: {reason}")]
    MountPoint {
        /// Where.
        target: String,
        /// Why.
        reason: String,
        /// What to try.
        help: Option<String>,
    },
    /// A mount that cannot be made.
    #[error("cannot mount at `{target}`: {reason}")]
    Mount {
        /// Where.
        target: String,
        /// Why.
        reason: String,
    },
    /// A `--ulimit` that no kernel has.
    #[error("unknown resource limit `{0}`")]
    UnknownLimit(String),
    /// A base layer vanished between being found and being used.
    #[error("layer {0} is gone from the store; run the build again")]
    LayerGone(DiffId),
    /// A layer that was read has turned out to be damaged. It has been dropped, so that looking again makes or fetches it.
    #[error("layer {0} was damaged in the store and has been dropped")]
    LayerDamaged(DiffId),
    /// The sandbox could not be set up.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// A tree could not be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A layer could not be made.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// A source could not be had.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A base image's layers could not be had.
    #[error("{source}")]
    Base {
        /// Names the image among those of the graph.
        manifest: Digest,
        /// Why.
        source: SourceError,
    },
    /// A context could not be opened.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// A result of another machine could not be brought here.
    #[error(transparent)]
    Travel(#[from] TravelError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A system call of the worker itself.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Stopped.
    #[error("canceled")]
    Canceled,
}

/// A limit that a command has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Expired {
    /// From its start to its end.
    #[error("took longer than {0:?}")]
    Time(Duration),
    /// Without a byte of output.
    #[error("printed nothing for {0:?}")]
    Silence(Duration),
}

impl WorkError {
    /// Wraps an I/O error of the worker itself.
    pub fn system(action: &'static str) -> impl FnOnce(std::io::Error) -> WorkError {
        move |source| WorkError::System { action, source }
    }
}
