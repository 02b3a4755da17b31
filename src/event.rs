//! What a build reports while it runs.
//!
//! Events are plain values; progress displays, the build record and tests are all views of the same stream. Steps are
//! announced once with their number, in the order people should see them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::diagnostic::Diagnostic;

/// A step's number in progress output, counted from 1.
pub type StepNumber = usize;

/// One thing that happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// A step exists; sent before anything else about it.
    Announced {
        /// Its number.
        step: StepNumber,
        /// What people call it, such as `[build 2/4] RUN make`.
        name: String,
    },
    /// It began to run.
    Started {
        /// Its number.
        step: StepNumber,
    },
    /// Its result was there already.
    Cached {
        /// Its number.
        step: StepNumber,
    },
    /// It ran to its end.
    Done {
        /// Its number.
        step: StepNumber,
        /// From `Started` to now.
        elapsed: Duration,
    },
    /// It failed; the message is one line.
    Failed {
        /// Its number.
        step: StepNumber,
        /// Why.
        message: String,
    },
    /// It was stopped, or never begun, since something else failed.
    Canceled {
        /// Its number.
        step: StepNumber,
    },
    /// Bytes that the step's command printed.
    Output {
        /// Its number.
        step: StepNumber,
        /// Where to.
        stream: Stream,
        /// As they came, cut anywhere.
        bytes: Vec<u8>,
    },
    /// A line about a step that is not its output (`using busybox:latest from the store, pulled 3 days ago`).
    Note {
        /// Its number.
        step: StepNumber,
        /// One line.
        text: String,
    },
    /// Whether a step ran, and why; sent when it has ended well.
    Explained {
        /// Its number.
        step: StepNumber,
        /// Whether it ran.
        verdict: Verdict,
        /// Why it ran, one sentence each; for a hit, where its result is unless it is in the store.
        why: Vec<String>,
    },
    /// Somebody begins to use the display's terminal: nothing is to be written until they end.
    ShellBegins,
    /// They have ended.
    ShellEnds,
    /// A problem that does not stop the build.
    Warning(Box<Diagnostic>),
}

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Its result was there.
    Hit,
    /// It ran and left what it had left before: its former layer stays.
    Adopted,
    /// It ran.
    Ran,
}

/// Which of its outputs a command wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// Takes events; must not block for long. Called from several threads.
pub trait EventSink: Send + Sync {
    /// Takes one event.
    fn event(&self, event: Event);
}

/// Drops everything.
#[derive(Debug, Default)]
pub struct Silent;

impl EventSink for Silent {
    fn event(&self, _event: Event) {}
}
