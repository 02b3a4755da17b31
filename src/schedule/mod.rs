//! Runs the steps that a target needs, as many at the same time as their inputs and the limits allow.
//!
//! Owns: step states (`state`, pure), the loop (`run`), the [`Worker`] trait, slots.
//! In:   a graph, a target, a worker, the cache.
//! Out:  the target's output, or the first failure; events on the way.
//! Elsewhere: how a step runs and what its key is made of (`worker`), what is recorded (`cache`).

use std::future::Future;

use crate::cache::explain::Description;
use crate::digest::CacheKey;
use crate::graph::StepIndex;
use crate::store::{Record, StoreError};

mod run;
pub mod state;

pub use run::{Failure, Limits, Outcome, Schedule, Summary};

/// What knows how steps are run. One per build.
pub trait Worker: Send + Sync + 'static {
    /// What a step gives to its readers.
    type Output: Clone + Send + Sync + 'static;
    /// A step that has its inputs and its key.
    type Task: Send + Sync + 'static;
    /// Why a step failed.
    type Error: From<StoreError> + std::fmt::Display + Send + 'static;

    /// Looks at a step whose inputs are there: gives its output if that costs nothing (a source), else its key.
    fn prepare(
        &self,
        index: StepIndex,
        inputs: Vec<Self::Output>,
    ) -> impl Future<Output = Result<Prepared<Self::Output, Self::Task>, Self::Error>> + Send;

    /// The output of a step whose record was found.
    fn recall(&self, task: &Self::Task, record: &Record) -> Self::Output;

    /// Whether the layer of a record, which was written before the machine last started, is still whole.
    fn prove(&self, record: &Record) -> impl Future<Output = Result<bool, Self::Error>> + Send;

    /// Whether a failure is the last word on its step, and people are to be told: the builder gets over some of them.
    fn is_final(&self, error: &Self::Error) -> bool;

    /// What a step's key is made of, for people. Asked only for steps that must run.
    fn describe(&self, task: &Self::Task) -> Description;

    /// Runs a step to its end and returns the record to keep. When the schedule's cancellation turns true, stops what it has
    /// started, cleans up and returns [`Worker::Error`] soon.
    fn run(&self, task: &Self::Task) -> impl Future<Output = Result<(Record, Novelty), Self::Error>> + Send;
}

/// Whether a step that ran gave something that had not been there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Novelty {
    /// Its layer is its own.
    New,
    /// It left what it had left before: the record is of its former layer.
    Adopted,
}

/// A step that was looked at.
pub enum Prepared<O, T> {
    /// Nothing to run.
    Output(O),
    /// To be looked up, and run if not found.
    Task {
        /// Names its result.
        key: CacheKey,
        /// What it needs to run.
        slot: Slot,
        /// The rest.
        task: T,
    },
}

/// What a running step holds, so that not too many run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// A command: many, since commands often wait.
    Command,
    /// Copying and hashing: as many as there are cores.
    Processor,
}
