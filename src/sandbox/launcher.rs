//! The launcher: a small process with one thread that forks steps, watches them, and takes them along when it ends.
//!
//! Forking the builder itself would copy the page tables of a large process and be unsafe beside its threads. The launcher is
//! the same program, started anew from a mount that nobody can write to, and it has its own, private mount namespace: nothing
//! that happens for a step is ever seen in the host's.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::process::{
    DumpableBehavior, PidfdFlags, Resource, Rlimit, Signal, WaitId, WaitIdOptions, getpid, getrlimit, pidfd_open,
    pidfd_send_signal, set_child_subreaper, set_dumpable_behavior, setrlimit, setsid, waitid,
};
use rustix::thread::{LinkNameSpaceType, disable_transparent_huge_pages, move_into_link_name_space};

use super::child::{self, AtStage, Command, Failure, Inherited};
use super::client::Isolation;
use super::emulation::Emulation;
use super::error::Stage;
use super::mounts::{Marks, OverlayDialect, Overlays};
use super::plan::{Emulator, Network, Plan};
use super::rights::Ids;
use super::sys::{self, Fork, Namespaces};
use super::wire::{Ask, Incoming, Report, Request};
use super::{LAUNCHER_NAME, leftovers, processes, seccomp};

/// Whether this process was started to be a launcher. Ask it first thing in `main`.
pub fn is_launcher() -> bool {
    std::env::args_os().next().is_some_and(|name| name == LAUNCHER_NAME)
}

/// The launcher's command line: its name, and the marks of its overlays, or that there are none.
pub(super) fn arguments(isolation: Isolation) -> [&'static str; 2] {
    match isolation {
        Isolation::Namespaces(marks) => [LAUNCHER_NAME, marks.word()],
        Isolation::Root => [LAUNCHER_NAME, ROOT_ALONE],
    }
}

/// The second argument of a launcher that makes no namespaces.
const ROOT_ALONE: &str = "root-alone";

/// Serves requests until the builder's side goes away; the rest of `main` when [`is_launcher`] says so.
pub fn launcher_main() -> ExitCode {
    match Launcher::set_up().and_then(Launcher::serve) {
        Ok(()) => ExitCode::SUCCESS,
        // The builder reads it as the reason, see `Launcher::why_gone`.
        Err(errno) => ExitCode::from(u8::try_from(errno.raw_os_error()).unwrap_or(u8::MAX)),
    }
}

/// All that steps have in common, ready before the first one.
struct Launcher {
    socket: OwnedFd,
    own_pidfd: OwnedFd,
    isolation: Isolation,
    filter: Vec<libc::sock_filter>,
    ids: Ids,
    overlays: Overlays,
    steps: Vec<Step>,
    /// One per emulator that a step has asked for.
    emulations: Vec<Emulation>,
    /// Closed at the end.
    held: Vec<OwnedFd>,
    /// How many processes a step may have.
    most_processes: Option<u32>,
    /// The builder's mount namespace, for the way back.
    home: Option<OwnedFd>,
}

/// A step that runs.
struct Step {
    pidfd: OwnedFd,
    pid: u32,
    control: OwnedFd,
    state: State,
    /// How often the kernel had killed for lack of memory when it began.
    oom_kills: Option<u64>,
}

/// What has become of a step's command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    /// Killed, not yet gone. Its control socket has nothing more to say.
    Dying,
}

impl Launcher {
    fn set_up() -> Result<Launcher, Errno> {
        let argument = std::env::args().nth(1).unwrap_or_default();
        let isolation = match Marks::from_word(&argument) {
            Some(marks) => Isolation::Namespaces(marks),
            None if argument == ROOT_ALONE => Isolation::Root,
            None => return Err(Errno::INVAL),
        };
        let ids = Ids::of_process();
        let socket = sys::take_stdin();
        // A terminal's Ctrl-C is for the builder, which ends us in good order.
        setsid()?;
        sys::reset_signals();
        // The builder does without, and that is inherited; steps are to have what others have. Kernels that cannot: no harm.
        let _ = disable_transparent_huge_pages(false);
        // Nobody may trace us or read our memory, root in a step's namespaces included.
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        let files = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum })?;
        let mut home = None;
        let marks = match isolation {
            Isolation::Namespaces(marks) => {
                home = open("/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok();
                sys::unshare_mounts()?;
                mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
                shed_mounts();
                marks
            }
            Isolation::Root => {
                // what a step leaves running becomes our child, and is found and ended as such
                set_child_subreaper(Some(getpid()))?;
                Marks::User
            }
        };
        Ok(Launcher {
            socket,
            own_pidfd: pidfd_open(getpid(), PidfdFlags::empty())?,
            isolation,
            filter: seccomp::compile(ids),
            ids,
            overlays: Overlays { dialect: OverlayDialect::probe(), marks },
            steps: Vec::new(),
            emulations: Vec::new(),
            held: Vec::new(),
            most_processes: processes::most_processes(),
            home,
        })
    }

    fn serve(mut self) -> Result<(), Errno> {
        loop {
            let ready = self.wait_for_events()?;
            for (step, events) in self.steps.iter_mut().zip(&ready.steps) {
                if *events == StepEvents::Asked {
                    step.answer();
                }
            }
            if self.isolation == Isolation::Root {
                self.end_leftovers(&ready.steps);
            }
            let mut events = ready.steps.iter();
            self.steps.retain(|step| {
                let ended = events.next() == Some(&StepEvents::Ended);
                if ended {
                    step.report_end();
                }
                !ended
            });
            if ready.request {
                match Request::receive(&self.socket) {
                    Ok(Some(Incoming::Run(request))) => self.start(request),
                    Ok(Some(Incoming::Hold(descriptor))) => self.held.push(descriptor),
                    Ok(None) => break,
                    // Its descriptors are lost, and by the end of its control socket the builder learns that the step is, too.
                    Err(Errno::MFILE) => {}
                    Err(errno) => return Err(errno),
                }
            }
        }
        self.kill_all();
        self.leave()
    }

    /// Lets the builder go on. What is held takes long to close: the kernel waits until no packet is on its way through the
    /// filters. So the builder does not wait for the end of this process, and by then the machine's file systems are not held
    /// by this process's mounts any more.
    fn leave(self) -> Result<(), Errno> {
        if let (false, Some(home)) = (self.held.is_empty(), &self.home) {
            move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Mount))?;
        }
        drop(self.socket);
        Ok(())
    }

    /// Ends what ended steps have left, before anybody learns that they have ended.
    fn end_leftovers(&self, events: &[StepEvents]) {
        let of = |wanted: bool| {
            let steps = self.steps.iter().zip(events);
            steps.filter(move |(_, events)| (**events == StepEvents::Ended) == wanted).map(|(step, _)| step.pid)
        };
        let running: Vec<u32> = of(false).collect();
        for ended in of(true) {
            leftovers::end(ended, &running);
        }
    }

    fn wait_for_events(&self) -> Result<Ready, Errno> {
        let mut fds = Vec::with_capacity(1 + 2 * self.steps.len());
        fds.push(PollFd::new(&self.socket, PollFlags::IN));
        for step in &self.steps {
            fds.push(PollFd::new(&step.pidfd, PollFlags::IN));
            let watched = if step.state == State::Running { PollFlags::IN } else { PollFlags::empty() };
            fds.push(PollFd::new(&step.control, watched));
        }
        rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
        let steps = fds[1..].chunks_exact(2).zip(&self.steps).map(|(fds, step)| {
            if !fds[0].revents().is_empty() {
                StepEvents::Ended
            } else if !fds[1].revents().is_empty() && step.state == State::Running {
                StepEvents::Asked
            } else {
                StepEvents::Nothing
            }
        });
        Ok(Ready { request: !fds[0].revents().is_empty(), steps: steps.collect() })
    }

    /// Forks a step. Whatever goes wrong is told to whoever waits for that step.
    fn start(&mut self, request: Request) {
        let Request { plan, control, streams, network } = request;
        let outcome = read_plan(plan).map_err(|errno| Failure::new(Stage::ReadPlan, errno, "").report(&control));
        let Ok(plan) = outcome else { return };
        let oom_kills = oom_kills();
        match self.fork(&plan, &control, &streams, network.as_ref()) {
            Ok((pidfd, pid)) => self.steps.push(Step { pidfd, pid, control, state: State::Running, oom_kills }),
            Err(failure) => failure.report(&control),
        }
    }

    fn fork<'a>(
        &mut self,
        plan: &'a Plan,
        control: &OwnedFd,
        [stdin, stdout, stderr]: &[OwnedFd; 3],
        network: Option<&OwnedFd>,
    ) -> Result<(OwnedFd, u32), Failure<'a>> {
        let command = Command::prepare(plan)?;
        let program = plan.args.first().map_or("", String::as_str);
        let emulation = match &plan.emulator {
            Some(emulator) => Some(self.emulation(emulator).at(Stage::PrepareEmulator, &emulator.interpreter)?),
            None => None,
        };
        let namespaces = match plan.network {
            Network::Host | Network::Shared => Namespaces::HOST_NETWORK,
            Network::None => Namespaces::OWN_NETWORK,
        };
        let forked = match self.isolation {
            Isolation::Namespaces(_) => sys::fork_into(namespaces),
            Isolation::Root => sys::fork_plainly(),
        };
        match forked.at(Stage::CreateNamespaces, program)? {
            Fork::Parent { pidfd, pid } => Ok((pidfd, pid)),
            Fork::Child => {
                let inherited = Inherited {
                    launcher: &self.own_pidfd,
                    ids: self.ids,
                    most_processes: self.most_processes,
                    control,
                    network,
                    stdin,
                    stdout,
                    stderr,
                    emulation: emulation.map(|at| &self.emulations[at]),
                };
                let become_command = match self.isolation {
                    Isolation::Namespaces(_) => child::become_command,
                    Isolation::Root => child::become_command_by_root_alone,
                };
                let Err(failure) = become_command(plan, &command, &inherited, &self.filter, self.overlays);
                failure.report(control);
                sys::exit_now(1)
            }
        }
    }

    /// The number of the emulation with `emulator`, which is prepared when it is first asked for.
    fn emulation(&mut self, emulator: &Emulator) -> Result<usize, Errno> {
        match self.emulations.iter().position(|emulation| emulation.is_of(emulator)) {
            Some(at) => Ok(at),
            None => {
                self.emulations.push(Emulation::prepare(emulator)?);
                Ok(self.emulations.len() - 1)
            }
        }
    }

    /// Ends every step and waits until their namespaces are gone, so that nothing outlives this process.
    fn kill_all(&mut self) {
        for step in &mut self.steps {
            step.kill();
        }
        for step in self.steps.drain(..) {
            step.report_end();
        }
    }
}

/// What a wait has found.
struct Ready {
    /// A request, or the end of them.
    request: bool,
    /// For each step in order.
    steps: Vec<StepEvents>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StepEvents {
    Nothing,
    Ended,
    /// The builder has a question, or does not want the step any more.
    Asked,
}

impl Step {
    /// Does what the builder asks.
    fn answer(&mut self) {
        match Ask::receive(&self.control) {
            None => self.kill(),
            // Errors mean that the step has ended, which its report will say.
            Some(Ask::Pid) => {
                if let Some(pid) = pid_of(&self.pidfd) {
                    let _ = Report::Runs(pid).send(&self.control);
                }
            }
            Some(Ask::Signal(number)) => {
                if let Some(signal) = Signal::from_named_raw(number) {
                    let _ = pidfd_send_signal(&self.pidfd, signal);
                }
            }
        }
    }

    /// Kills PID 1 of the step's namespace; the kernel then kills the others.
    fn kill(&mut self) {
        self.state = State::Dying;
        // It can only fail because the process has ended already.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Reaps the step's command, waiting for it if need be, and tells the builder how it ended.
    fn report_end(&self) {
        let status = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED));
        let Ok(Some(status)) = status else { return };
        let killed = status.exit_status() == Some(128 + libc::SIGKILL) || status.terminating_signal() == Some(libc::SIGKILL);
        let report = match (status.exit_status(), status.terminating_signal()) {
            _ if killed && self.state == State::Running && oom_kills() > self.oom_kills => Report::OutOfMemory,
            (Some(code), _) => Report::Exited(code),
            (None, signal) => Report::Signaled(signal.unwrap_or(libc::SIGKILL)),
        };
        // An error means that the builder has dropped the step.
        let _ = report.send(&self.control);
    }
}

/// How many processes the kernel has killed for lack of memory, in whatever control group (`vmstat`, Linux 4.13).
fn oom_kills() -> Option<u64> {
    let counts = std::fs::read_to_string("/proc/vmstat").ok()?;
    counts.lines().find_map(|line| line.strip_prefix("oom_kill "))?.parse().ok()
}

/// The process that a descriptor stands for; `None` once it is gone.
fn pid_of(pidfd: &OwnedFd) -> Option<i32> {
    let facts = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let pid = facts.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    pid.trim().parse().ok().filter(|pid| *pid > 0)
}

fn read_plan(plan: OwnedFd) -> Result<Plan, Errno> {
    let file = File::from(plan);
    let read = || -> io::Result<Vec<u8>> {
        let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        let mut text = vec![0; length];
        file.read_exact_at(&mut text, 0)?;
        Ok(text)
    };
    let text = read().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    serde_json::from_slice(&text).map_err(|_| Errno::INVAL)
}

/// File systems that no step's layers or mounts can lie on.
const SHED: [&str; 18] = [
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "pstore",
    "rpc_pipefs",
    "securityfs",
    "squashfs",
    "tracefs",
];

/// Takes mounts that no step needs out of our own namespace: each of them would be copied for each step.
fn shed_mounts() {
    // Without the list, or with a mount that stays, steps only start more slowly.
    let Ok(list) = std::fs::read_to_string("/proc/self/mountinfo") else { return };
    for line in list.lines().rev() {
        let Some((mount, file_system)) = line.split_once(" - ") else { continue };
        let kind = file_system.split(' ').next().unwrap_or_default();
        if let (true, Some(place)) = (SHED.contains(&kind), mount.split(' ').nth(4)) {
            let _ = unmount(place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        }
    }
}
