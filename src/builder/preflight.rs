//! What can be found missing before the first step runs: files of contexts, secrets, agents. All of it is told at once.
//!
//! A command that is found in the cache needs no secret, so a missing one is told when the first step runs that leads to it.

use std::collections::HashMap;
use std::sync::Arc;

use super::report;
use super::{Secret, SecretSource, SshAgent};
use crate::diagnostic::{Diagnostic, with_causes};
use crate::graph::{CopyOp, ExecOp, Mount, MountKind, Op, Step, StepIndex};
use crate::plan::Joined;
use crate::source::context::Context;
use crate::worker::WorkError;
use crate::worker::copy::{HiddenBy, TreeInput, missing_sources};

/// What steps will ask for, and what there is.
pub struct Preflight {
    /// The plan.
    pub plan: Joined,
    /// Opened contexts by name.
    pub contexts: HashMap<String, Arc<Context>>,
    /// The client's secrets.
    pub secrets: Vec<Secret>,
    /// The client's agents.
    pub ssh: Vec<SshAgent>,
}

/// What is not there.
#[derive(Default)]
pub struct Missing {
    /// Files, in the order of the file that names them: nothing can be built without them.
    pub files: Vec<Diagnostic>,
    /// Secrets and agents that commands require.
    pub credentials: Vec<(StepIndex, Diagnostic)>,
}

impl Missing {
    /// All of it, if there is something that nothing can be built without.
    pub fn into_errors(mut self) -> Result<Vec<(StepIndex, Diagnostic)>, Vec<Diagnostic>> {
        if self.files.is_empty() {
            return Ok(self.credentials);
        }
        self.files.extend(self.credentials.into_iter().map(|(_, diagnostic)| diagnostic));
        self.files.sort_by_key(|diagnostic| diagnostic.place.as_ref().map(|(_, span)| span.start));
        Err(self.files)
    }
}

impl Preflight {
    /// Everything that is not there. Looks at the contexts' directories: blocks.
    ///
    /// Tells each context which of its paths are read: it offers no others from now on.
    pub fn missing(&self) -> Missing {
        // of all files first: they give the hints
        let missing = self.missing_now();
        if !missing.files.is_empty() {
            return missing;
        }
        self.ask_contexts();
        self.missing_now()
    }

    fn ask_contexts(&self) {
        for (name, paths) in &self.plan.context_uses {
            if let Some(context) = self.contexts.get(name) {
                // the step whose path is no pattern says so, at its place
                let _ = context.ask_for(paths.iter().map(String::as_str));
            }
        }
    }

    fn missing_now(&self) -> Missing {
        let files = self.secrets.iter().filter_map(unreadable_secret).collect();
        let mut missing = Missing { files, credentials: Vec::new() };
        for index in &self.plan.steps {
            let step = self.plan.graph.step(*index);
            match &step.op {
                Op::Copy(op) => missing.files.extend(self.missing_sources(*index, step, op)),
                Op::Exec(op) => {
                    let wanting = self.missing_for_mounts(step, op).into_iter();
                    missing.credentials.extend(wanting.map(|diagnostic| (*index, diagnostic)));
                }
                _ => {}
            }
        }
        missing
    }

    fn missing_sources(&self, index: StepIndex, step: &Step, op: &CopyOp) -> Vec<Diagnostic> {
        let inputs = self.plan.graph.inputs(index);
        let context = |number: usize| match &self.plan.graph.step(*inputs.get(number)?).op {
            Op::Context(context) => self.contexts.get(&context.name),
            _ => None,
        };
        let hidden: Vec<_> =
            (0..inputs.len()).map(|number| context(number).map(|context| |path: &_| context.hidden_by(path))).collect();
        let tree = |number: usize| {
            let context = context(number)?;
            let hidden = hidden[number].as_ref().map(|hidden| hidden as &HiddenBy<'_>);
            Some(TreeInput { tree: &**context, digests: &**context, hidden })
        };
        missing_sources(op, tree).iter().map(|error| report::copy_diagnostic(error, &step.origin)).collect()
    }

    fn missing_for_mounts(&self, step: &Step, op: &ExecOp) -> Vec<Diagnostic> {
        let not_given = |(number, mount): (usize, &Mount)| {
            let (what, id) = match &mount.kind {
                MountKind::Secret { id, required: true, .. } if !self.secrets.iter().any(|secret| secret.id == *id) => {
                    ("secret", id)
                }
                MountKind::Ssh { id, required: true, .. } if !self.ssh.iter().any(|agent| agent.id == *id) => ("ssh agent", id),
                _ => return None,
            };
            let error = WorkError::NotGiven { what, id: id.clone() };
            Some(report::mount_diagnostic(&error, &step.origin, number))
        };
        op.mounts.iter().enumerate().filter_map(not_given).collect()
    }
}

/// A secret's file that cannot be read is told at once, whoever uses it later.
fn unreadable_secret(secret: &Secret) -> Option<Diagnostic> {
    let SecretSource::File(path) = &secret.source else { return None };
    let error = std::fs::metadata(path).err()?;
    let message = format!("cannot read the file `{}` of secret `{}`", path.display(), secret.id);
    Some(Diagnostic::error_without_place("secret-file", message).note(with_causes(&error)))
}
