//! Commands that people talk to: an image's own, and a shell where a step has failed.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::attend::{Canceling, Output};
use super::copies::Files;
use super::error::WorkError;
use super::exec::{self, Surroundings};
use super::identity::identify;
use super::program::{self, NotStarted};
use super::{LocalWorker, base_stack};
use crate::event::{Event, StepNumber};
use crate::graph::{ExecOp, Limits};
use crate::sandbox::{self, Exit, Isolation, MountKind, Plan, Root, StandardStreams, Streams};
use crate::snapshot::{Last, TreePath, View, resolve};
use crate::source::image::ResolvedImage;
use crate::task;

/// The number of a command that is no step, in what is noted about it.
const THE_COMMAND: StepNumber = 1;

/// How a command is wired to this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wiring {
    /// It reads and writes what this process does.
    Streams(StandardStreams),
    /// It has a terminal, shown on this process's.
    Terminal,
}

/// What became of a command that people talked to.
#[derive(Debug)]
pub enum Ended {
    /// It ran.
    Exit(Exit),
    /// It could not be started, through its own fault.
    NotStarted(NotStarted),
}

impl LocalWorker {
    /// Runs `op` on `image`, with `volumes` beside its own mounts, and forgets what it writes to the image's files. `signals`
    /// has a byte for each signal to pass on; closing its other side ends the command.
    ///
    /// # Errors
    /// As for steps.
    pub async fn attach(
        &self,
        op: ExecOp,
        image: &Arc<ResolvedImage>,
        volumes: Vec<sandbox::Mount>,
        wiring: Wiring,
        signals: OwnedFd,
    ) -> Result<Ended, WorkError> {
        let stack = Arc::new(base_stack(image));
        let trees = self.trees(&stack).await?;
        let number = Some(THE_COMMAND);
        self.start(&op, number).await?;
        let (shared, launcher) = (self.shared.clone(), self.launcher.clone());
        let (fittings, canceling, network) = (self.fittings.clone(), self.canceling.clone(), self.network.clone());
        task::blocking(move || {
            let launcher = launcher.get().expect("the launcher was started above");
            if let (Isolation::Root, Some(volume)) = (launcher.isolation(), volumes.first()) {
                let reason = "nothing can be mounted here".to_owned();
                return Err(WorkError::Mount { target: volume.target.clone(), reason });
            }
            let temp = shared.store.temp_dir()?;
            let view = View::new(trees.clone())?;
            let identity = identify(&op.user, &view)?;
            let (shared, fittings, canceling, parent) = (&*shared, &*fittings, &*canceling, &*stack);
            let (limits, forms) = (Limits::default(), Vec::new());
            let network = network.get();
            let surroundings =
                Surroundings { shared, launcher, network, fittings, canceling, number, limits, parent, trees, forms };
            let mut plan = exec::plan(&op, &identity, &view, (volumes, Vec::new()), &temp, &surroundings)?;
            let streams = wire(&mut plan, wiring);
            let files = Files { identity: &identity, view: &view, temp: &temp, surroundings: &surroundings };
            // copies are never finished: what is written is forgotten
            let ended = files.work_on(&mut plan, |plan| {
                let process = launcher.spawn_attached(plan, streams)?;
                Ok(sandbox::attend(process, signals.as_fd())?)
            });
            match ended {
                Ok((exit, _)) => Ok(Ended::Exit(exit)),
                Err(WorkError::Sandbox(error)) => match program::not_started(&error, &op.args, &op.cwd, &view) {
                    Some(not_started) => Ok(Ended::NotStarted(not_started)),
                    None => Err(error.into()),
                },
                Err(error) => Err(error),
            }
        })
        .await
    }
}

fn wire(plan: &mut Plan, wiring: Wiring) -> StandardStreams {
    let (streams, standard) = match wiring {
        Wiring::Streams(standard) => (Streams::Lent, standard),
        Wiring::Terminal => (sandbox::terminal_like_ours(), StandardStreams::All),
    };
    plan.streams = streams;
    standard
}

/// Shells for steps that fail, one at a time.
#[derive(Debug)]
pub struct Shells {
    wiring: Wiring,
    turn: Mutex<()>,
}

impl Shells {
    /// Wired like this.
    pub fn new(wiring: Wiring) -> Shells {
        Shells { wiring, turn: Mutex::new(()) }
    }

    /// Opens a shell in the sandbox that the failed command of `plan` has left: its files, mounts, user, directory,
    /// environment and network, without its processes. Blocks until it has ended.
    pub fn open(
        &self,
        mut plan: Plan,
        view: &View,
        scratch: &Path,
        output: &Output<'_>,
        surroundings: &Surroundings<'_>,
    ) -> Result<(), WorkError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if is_canceled(surroundings.canceling)? {
            return Err(WorkError::Canceled);
        }
        let Some(shell) = shell_of(&plan, view) else {
            output.note("the image has no shell to look around with".to_owned());
            return Ok(());
        };
        plan.args = vec![shell];
        renew_work_directories(&mut plan, scratch)?;
        let streams = wire(&mut plan, self.wiring);
        let events = &surroundings.shared.events;
        output.note("it failed; here is a shell in its sandbox, `exit` goes on".to_owned());
        events.event(Event::ShellBegins);
        let launched = surroundings.launcher.spawn_attached(&plan, streams);
        let ended = launched.and_then(|process| sandbox::attend(process, surroundings.canceling.as_fd()));
        events.event(Event::ShellEnds);
        if let Err(error) = ended {
            output.note(format!("the shell could not be started: {}", crate::diagnostic::with_causes(&error)));
        }
        Ok(())
    }
}

fn is_canceled(canceling: &Canceling) -> Result<bool, WorkError> {
    match canceling.pause(std::time::Duration::ZERO) {
        Ok(()) => Ok(false),
        Err(WorkError::Canceled) => Ok(true),
        Err(error) => Err(error),
    }
}

/// The shell that the command was given to, else the first usual one that the image has.
fn shell_of(plan: &Plan, view: &View) -> Option<String> {
    let is_there =
        |path: &str| resolve(view, &TreePath::clean(path.as_bytes()), Last::Follow).is_ok_and(|found| found.meta.is_some());
    let usual = ["/bin/bash", "/bin/sh", "/bin/ash", "/busybox/sh"].into_iter().find(|path| is_there(path)).map(str::to_owned);
    let own = plan.args.first().filter(|_| program::is_shell_form(&plan.args)).cloned();
    own.filter(|own| own != "/bin/sh").or(usual)
}

/// Overlays take an empty working directory once; what was written to them stays.
fn renew_work_directories(plan: &mut Plan, scratch: &Path) -> Result<(), WorkError> {
    let root = match &mut plan.root {
        Root::Overlay { work, .. } => Some(work),
        Root::Bind { .. } => None,
    };
    let mounts = plan.mounts.iter_mut().filter_map(|mount| match &mut mount.kind {
        MountKind::Overlay { writes: Some(writes), .. } => Some(&mut writes.work),
        _ => None,
    });
    for (number, work) in root.into_iter().chain(mounts).enumerate() {
        *work = fresh(work, scratch, number)?;
    }
    Ok(())
}

/// A new directory in place of `work`, on the same file system.
fn fresh(work: &Path, scratch: &Path, number: usize) -> Result<PathBuf, WorkError> {
    let directory = work.parent().unwrap_or(scratch).join(format!("shell-{number}"));
    std::fs::create_dir(&directory).map_err(WorkError::system("create a directory for the shell"))?;
    Ok(directory)
}
