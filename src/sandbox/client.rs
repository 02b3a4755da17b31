//! The builder's side: starts the launcher, sends it plans, and holds what runs.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, memfd_create, openat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::net::{AddressFamily, RecvFlags, Shutdown, SocketFlags, SocketType, shutdown, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::thread::CapabilitySet;

use super::LAUNCHER_NAME;
use super::cgroup::{self, Resources};
use super::error::SandboxError;
use super::mounts::{Marks, clone_tree};
use super::network::SharedNetwork;
use super::plan::{Network, Plan, Streams};
use super::sys::{self, Reach};
use super::wire::{self, Ask, Report, Request};
use super::{launcher, rights};

/// A running launcher process. Dropping it ends the process and every step that still runs.
#[derive(Debug)]
pub struct Launcher {
    socket: OwnedFd,
    process: Mutex<Child>,
    id: u32,
    null: OwnedFd,
    isolation: Isolation,
    network: OnceLock<SharedNetwork>,
    group: OnceLock<cgroup::Group>,
}

/// What steps of a launcher are kept apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Namespaces, mounts and the rest.
    Namespaces(Marks),
    /// A root directory of their own: no namespaces, no mounts, the container's own system call filter.
    Root,
}

impl Launcher {
    /// Starts a launcher from the current program, which must call [`super::is_launcher`] first thing; its overlays keep their
    /// marks as `marks` says.
    ///
    /// # Errors
    /// `SandboxError::NotAllowed`; `SandboxError::Start` says what could not be done.
    pub fn start(marks: Marks) -> Result<Launcher, SandboxError> {
        // the kernel would say "not permitted", at the first of many calls
        let may_mount = rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
        let isolation = match may_mount {
            true => Isolation::Namespaces(marks),
            false if rights::can_change_root() => Isolation::Root,
            false => return Err(SandboxError::NotAllowed),
        };
        Launcher::start_isolating(Path::new("/proc/self/exe"), isolation)
    }

    /// Starts a launcher from another program that has our launcher in it, as a test has to.
    ///
    /// # Errors
    /// As for [`Launcher::start`].
    pub fn start_with(program: &Path, marks: Marks) -> Result<Launcher, SandboxError> {
        Launcher::start_isolating(program, Isolation::Namespaces(marks))
    }

    fn start_isolating(program: &Path, isolation: Isolation) -> Result<Launcher, SandboxError> {
        let failed = |action| move |source| SandboxError::Start { action, source };
        let (ours, theirs) = control_pair().map_err(io::Error::from).map_err(failed("create the sandbox launcher's socket"))?;
        let [name, marks] = launcher::arguments(isolation);
        let null = openat(CWD, c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        let null = null.map_err(io::Error::from).map_err(failed("open `/dev/null`"))?;
        let image = protected_copy(program).map_err(failed("protect the program of the sandbox launcher"))?;
        let process = Command::new(format!("/proc/self/fd/{}", image.as_raw_fd()))
            .arg0(name)
            .arg(marks)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .map_err(failed("start the sandbox launcher"))?;
        Ok(Launcher {
            socket: ours,
            id: process.id(),
            process: Mutex::new(process),
            null,
            isolation,
            network: OnceLock::new(),
            group: OnceLock::new(),
        })
    }

    /// Starts a step and returns at once; failures of its set-up come out of [`Running::wait`]. May be called from any thread.
    ///
    /// Its output comes through pipes, its standard input is empty: for plans with [`Streams::Own`].
    ///
    /// # Errors
    /// `SandboxError::LauncherGone`, or `SandboxError::Send` if this process is out of descriptors or memory.
    pub fn spawn(&self, plan: &Plan) -> Result<Running, SandboxError> {
        let failed = |action| move |errno: Errno| SandboxError::Send { action, source: errno.into() };
        let (stdout, stdout_theirs) = pipe_with(PipeFlags::CLOEXEC).map_err(failed("create a step's output pipe"))?;
        let (stderr, stderr_theirs) = pipe_with(PipeFlags::CLOEXEC).map_err(failed("create a step's output pipe"))?;
        let stdin = rustix::io::fcntl_dupfd_cloexec(&self.null, 3).map_err(failed("give a step its input"))?;
        let process = self.send(plan, [stdin, stdout_theirs, stderr_theirs])?;
        Ok(Running { stdout, stderr, process })
    }

    /// Starts a step that reads and writes what this process does, or that has a terminal: for plans with [`Streams::Lent`] or
    /// [`Streams::Terminal`]. To be waited for by [`attend`](super::attend).
    ///
    /// # Errors
    /// As for [`Launcher::spawn`].
    pub fn spawn_attached(&self, plan: &Plan, streams: StandardStreams) -> Result<Process, SandboxError> {
        let failed = |source| SandboxError::Send { action: "give a step its streams", source };
        let null = || self.null.try_clone();
        let ours = |fd: BorrowedFd<'_>| fd.try_clone_to_owned();
        let stdin = match streams {
            StandardStreams::All | StandardStreams::OutputOnStderr => ours(io::stdin().as_fd()),
            StandardStreams::Output => null(),
        };
        let stdout = match streams {
            StandardStreams::All | StandardStreams::Output => ours(io::stdout().as_fd()),
            StandardStreams::OutputOnStderr => ours(io::stderr().as_fd()),
        };
        let stderr = ours(io::stderr().as_fd());
        self.send(plan, [stdin.map_err(failed)?, stdout.map_err(failed)?, stderr.map_err(failed)?])
    }

    fn send(&self, plan: &Plan, streams: [OwnedFd; 3]) -> Result<Process, SandboxError> {
        let failed = |action| move |errno: Errno| SandboxError::Send { action, source: errno.into() };
        let (control, control_theirs) = control_pair().map_err(failed("create a step's socket"))?;
        let kind = plan.streams;
        let network = match plan.network {
            Network::Shared => self.network.get().map(|network| network.namespace().try_clone_to_owned()).transpose(),
            Network::Host | Network::None => Ok(None),
        };
        let network = network.map_err(|source| SandboxError::Send { action: "give a step its network", source })?;
        let plan = write_plan(plan).map_err(|source| SandboxError::Send { action: "write a step's plan", source })?;
        let request = Request { plan, control: control_theirs, streams, network };
        match request.send(&self.socket) {
            Ok(()) => Ok(Process { control, streams: kind, exit: None, pid: None, terminal: None }),
            Err(Errno::PIPE | Errno::CONNRESET) => Err(self.why_gone()),
            Err(errno) => Err(failed("send a step's plan")(errno)),
        }
    }

    /// Why a step ended with [`SandboxError::LauncherGone`]: the launcher's own reason if it had one. Waits for its end.
    pub fn why_gone(&self) -> SandboxError {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        match process.wait().map(|status| status.code()) {
            Ok(Some(errno)) if errno != 0 => {
                SandboxError::Start { action: "set up the sandbox launcher", source: io::Error::from_raw_os_error(errno) }
            }
            _ => SandboxError::LauncherGone,
        }
    }

    /// Moves the launcher, and with it all steps to come, into a control group: a path below the root of the hierarchies.
    ///
    /// # Errors
    /// In words, what could not be done.
    pub fn join_cgroup(&self, parent: &str) -> Result<(), String> {
        cgroup::join(parent, self.id)
    }

    /// Limits what all steps to come may use together, by a control group below `parent`, or below the root; to be called once.
    ///
    /// Gives what cannot be had, one line each.
    pub fn limit(&self, resources: &Resources, parent: Option<&str>) -> Vec<String> {
        let (group, missing) = cgroup::limit(resources, parent, self.id);
        // a second group would be removed at once, and its limits with it
        let _ = self.group.set(group);
        missing
    }

    /// Takes the network for plans with [`Network::Shared`], and keeps the first one.
    ///
    /// # Errors
    /// `SandboxError::Send` if the launcher is gone.
    pub fn share(&self, mut network: SharedNetwork) -> Result<(), SandboxError> {
        if let Some(filter) = network.take_filter() {
            let failed =
                |errno: Errno| SandboxError::Send { action: "hand a packet filter to the launcher", source: errno.into() };
            wire::send_to_hold(&self.socket, &filter).map_err(failed)?;
        }
        // a second one is not kept, and its steps go to the first
        let _ = self.network.set(network);
        Ok(())
    }

    /// What its steps are kept apart by. With [`Isolation::Root`] a plan's root is a plain directory without mounts.
    pub fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// The launcher's process id, for messages and tests.
    pub fn pid(&self) -> u32 {
        self.id
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        // Either call fails only when the launcher is gone, which is what they are for.
        let _ = shutdown(&self.socket, Shutdown::Write);
        // a control group cannot be removed before
        let ends_late = self.group.get().is_none() && self.network.get().is_some_and(SharedNetwork::is_filtered);
        match ends_late {
            // the end of its messages: it has ended all steps, and then it closes what it holds, which takes long
            true => drop(rustix::io::retry_on_intr(|| rustix::net::recv(&self.socket, &mut [0_u8; 1][..], RecvFlags::empty()))),
            false => drop(self.process.get_mut().unwrap_or_else(PoisonError::into_inner).wait()),
        }
    }
}

/// Which of this process's standard streams an attached step gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StandardStreams {
    /// All three.
    All,
    /// Output and error; its input is empty.
    Output,
    /// Input and error, and error again in place of output.
    OutputOnStderr,
}

/// A step that was started, with its output. Dropping it kills what still runs of it.
#[derive(Debug)]
pub struct Running {
    /// What the command writes to its standard output. Ends when the step has ended.
    pub stdout: OwnedFd,
    /// What the command writes to its standard error. Ends when the step has ended.
    pub stderr: OwnedFd,
    process: Process,
}

impl Running {
    /// See [`Process::wait`]. The output must be read meanwhile: a full pipe makes the command wait.
    ///
    /// # Errors
    /// As there.
    pub fn wait(&mut self) -> Result<Exit, SandboxError> {
        self.process.wait()
    }

    /// See [`Process::try_exit`].
    ///
    /// # Errors
    /// As there.
    pub fn try_exit(&mut self) -> Result<Option<Exit>, SandboxError> {
        self.process.try_exit()
    }

    /// See [`Process::exit_fd`].
    pub fn exit_fd(&self) -> BorrowedFd<'_> {
        self.process.exit_fd()
    }

    /// See [`Process::kill`].
    pub fn kill(&self) {
        self.process.kill();
    }

    /// See [`Process::pid`].
    ///
    /// # Errors
    /// As there.
    pub fn pid(&mut self) -> Result<Option<u32>, SandboxError> {
        self.process.pid()
    }
}

/// A step that was started. Dropping it kills what still runs of it.
#[derive(Debug)]
pub struct Process {
    control: OwnedFd,
    streams: Streams,
    exit: Option<Exit>,
    pid: Option<i32>,
    terminal: Option<OwnedFd>,
}

impl Process {
    /// Waits for the end of the step.
    ///
    /// # Errors
    /// What kept the command from running, once; or `SandboxError::LauncherGone`.
    pub fn wait(&mut self) -> Result<Exit, SandboxError> {
        loop {
            if let Some(exit) = self.receive(RecvFlags::empty())? {
                return Ok(exit);
            }
        }
    }

    /// The end of the step if it has come; for use when [`Process::exit_fd`] is readable.
    ///
    /// # Errors
    /// As for [`Process::wait`].
    pub fn try_exit(&mut self) -> Result<Option<Exit>, SandboxError> {
        self.receive(RecvFlags::DONTWAIT)
    }

    /// A descriptor to poll, readable when the step may have ended. Not to be read.
    pub fn exit_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// Kills the whole process tree of the step. Its end is still to be waited for.
    pub fn kill(&self) {
        // Fails only when the launcher is gone, and then so is the step.
        let _ = shutdown(&self.control, Shutdown::Write);
    }

    /// The other side of the step's terminal, once it has one; `None` for a step without, or one that has ended.
    ///
    /// # Errors
    /// As for [`Process::wait`].
    pub fn terminal(&mut self) -> Result<Option<OwnedFd>, SandboxError> {
        while matches!(self.streams, Streams::Terminal { .. }) && self.terminal.is_none() {
            if self.receive(RecvFlags::empty())?.is_some() {
                break;
            }
        }
        Ok(self.terminal.take())
    }

    /// The command's process id as this process sees it; `None` if the step has ended.
    ///
    /// # Errors
    /// As for [`Process::wait`].
    pub fn pid(&mut self) -> Result<Option<u32>, SandboxError> {
        // It has ended, and then the answer is its end.
        let _ = Ask::Pid.send(&self.control);
        while self.pid.is_none() {
            if self.receive(RecvFlags::empty())?.is_some() {
                return Ok(None);
            }
        }
        Ok(self.pid.and_then(|pid| u32::try_from(pid).ok()))
    }

    /// Sends a signal to the command. As process 1 of its namespace it gets only those that it has a handler for.
    pub fn signal(&self, number: i32) {
        // Fails only when the step has ended.
        let _ = Ask::Signal(number).send(&self.control);
    }

    /// Takes one report in; the end of the step if it has come.
    fn receive(&mut self, flags: RecvFlags) -> Result<Option<Exit>, SandboxError> {
        if self.exit.is_none() {
            let Process { exit, pid, terminal, .. } = self;
            wire::receive_report(&self.control, flags, |report, descriptor| {
                match report {
                    Report::Exited(code) => *exit = Some(Exit::Code(code)),
                    Report::Signaled(signal) => *exit = Some(Exit::Signal(signal)),
                    Report::OutOfMemory => *exit = Some(Exit::OutOfMemory),
                    Report::Runs(number) => *pid = Some(number),
                    Report::Terminal => *terminal = descriptor,
                    Report::Failed { stage, errno, subject } => return Err(wire::explain(stage, errno, subject)),
                }
                Ok(())
            })?;
        }
        Ok(self.exit)
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It returned; 0 is success.
    Code(i32),
    /// It was ended by a signal.
    Signal(i32),
    /// The kernel killed it for using too much memory. Told by the machine's count of
    /// such kills, which another program's may raise at the same time.
    OutOfMemory,
}

impl Exit {
    /// The code that a shell would report: 128 plus the number of a signal.
    pub fn code(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
            Exit::OutOfMemory => 137,
        }
    }
}

fn control_pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

fn write_plan(plan: &Plan) -> io::Result<OwnedFd> {
    let text = serde_json::to_vec(plan)?;
    let file = File::from(memfd_create(c"croze-plan", MemfdFlags::CLOEXEC)?);
    file.write_all_at(&text, 0)?;
    Ok(OwnedFd::from(file))
}

/// Opens `program` in a way that a process which gets hold of `/proc/<launcher>/exe` cannot use to change it: through a
/// read-only mount that is attached nowhere or, where mounting is not allowed, as a sealed copy in memory.
fn protected_copy(program: &Path) -> io::Result<OwnedFd> {
    let original = openat(CWD, program, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let view = clone_tree(&original, Reach::One)
        .and_then(|view| sys::mount_setattr(&view, MountAttrFlags::MOUNT_ATTR_RDONLY, Reach::One).map(|()| view));
    match view {
        Ok(view) => Ok(view),
        Err(_) => sealed_copy(File::from(original)),
    }
}

fn sealed_copy(mut original: File) -> io::Result<OwnedFd> {
    let mut copy = File::from(memfd_create(LAUNCHER_NAME, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    io::copy(&mut original, &mut copy)?;
    fcntl_add_seals(&copy, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(OwnedFd::from(copy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_sealed_copy_cannot_be_changed() {
        let original = File::open("/proc/self/exe").expect("our own program");
        let length = original.metadata().expect("metadata").len();
        let mut copy = File::from(sealed_copy(original).expect("a copy"));
        assert_eq!(copy.metadata().expect("metadata").len(), length);
        assert!(copy.write_all(b"x").is_err());
    }

    #[test]
    fn a_signal_becomes_the_code_of_a_shell() {
        assert_eq!((Exit::Code(3).code(), Exit::Signal(11).code(), Exit::OutOfMemory.code()), (3, 139, 137));
    }
}
