//! `RUN`: a command in a sandbox, and the layer it leaves.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::watch;

use super::error::WorkError;
use super::fittings::Fittings;
use super::identity::{Identity, identify};
use super::mounts::Mounted;
use super::program::{self, NotStarted};
use super::{Shared, Stack};
use crate::digest::{Digest, Hasher};
use crate::event::{Event, StepNumber, Stream};
use crate::graph::{ExecOp, Network, Security};
use crate::layer;
use crate::sandbox::{self, Exit, Launcher, Plan, Running, SandboxError};
use crate::snapshot::builder::{Attributes, LayerBuilder};
use crate::snapshot::{FileKind, FileTree, Last, Time, TreePath, View, resolve, upper};
use crate::store::{Record, TempDir};

/// How many lines of a failing command the error message shows.
const TAIL_LINES: usize = 20;

/// What [`run`] needs beside the step itself.
pub struct Surroundings<'a> {
    /// Of the build.
    pub shared: &'a Shared,
    /// Forks the command.
    pub launcher: &'a Launcher,
    /// What it shares with other commands.
    pub fittings: &'a Fittings,
    /// Tells when to stop.
    pub canceling: &'a Canceling,
    /// The step's number, if people see it.
    pub number: Option<StepNumber>,
    /// The stack that the command starts from.
    pub parent: &'a Stack,
    /// Its layer directories, bottom first.
    pub trees: Vec<PathBuf>,
}

/// Runs the command to its end and commits what it changed. Blocks.
pub fn run(op: &ExecOp, mounted: Mounted, surroundings: &Surroundings<'_>) -> Result<Record, WorkError> {
    let shared = surroundings.shared;
    let started = now();
    let temp = shared.store.temp_dir()?;
    let view = View::new(surroundings.trees.clone())?;
    let identity = identify(&op.user, &view)?;
    let Mounted { mounts, env, held } = mounted;
    let plan = plan(op, &identity, &view, (mounts, env), &temp, surroundings)?;
    let mut output = Output { shared, number: surroundings.number, tail: Tail::default() };
    let ended = surroundings.launcher.spawn(&plan).map_err(WorkError::from);
    let ended = ended.and_then(|mut running| attend(&mut running, &mut output, surroundings.canceling));
    let exit = ended.map_err(|error| match error {
        WorkError::Sandbox(SandboxError::LauncherGone) => surroundings.launcher.why_gone().into(),
        error => explained(error, op, &view),
    })?;
    drop(held);
    if exit != Exit::Code(0) {
        return Err(match failure(op, exit, output.tail, &view) {
            WorkError::Command { how, tail, .. } if ran_out_of_space(&tail, shared)? => WorkError::DiskFilled { how, tail },
            failure => failure,
        });
    }
    let upper_dir = temp.path.join("upper");
    let changes = upper::keep_changes(&upper_dir, &view, shared.family())?;
    for path in changes.reserved {
        output.note(format!("`{path}` stays out of the layer: names that begin with `.wh.` mean deletions there"));
    }
    let times = settled_times(&upper_dir, started)?;
    let stored = layer::commit(&shared.store, upper_dir)?;
    let record = Record { diff_id: stored.record.diff_id, created_secs: shared.now_secs };
    // a command that left what it had left before keeps its former layer, and with it the image's digest
    let mut content = stored.record.content.0.as_bytes().to_vec();
    content.extend_from_slice(times.as_bytes());
    let parents = surroundings.parent.diff_ids();
    match shared.cache.adopt(&parents, &content)? {
        Some(former) => Ok(former),
        None => {
            shared.cache.offer(&parents, &content, &record)?;
            Ok(record)
        }
    }
}

fn plan(
    op: &ExecOp,
    identity: &Identity,
    view: &View,
    (mut mounts, mount_env): (Vec<sandbox::Mount>, Vec<String>),
    temp: &TempDir,
    surroundings: &Surroundings<'_>,
) -> Result<Plan, WorkError> {
    let directory = |name: &str| -> Result<PathBuf, WorkError> {
        let path = temp.path.join(name);
        std::fs::create_dir(&path).map_err(WorkError::system("create a directory for the step"))?;
        Ok(path)
    };
    let mut rlimits = Vec::new();
    for (name, soft, hard) in &op.ulimits {
        let resource = sandbox::Resource::from_name(name).ok_or_else(|| WorkError::UnknownLimit(name.clone()))?;
        rlimits.push((resource, *soft, *hard));
    }
    let hostname = op.hostname.clone().unwrap_or_else(|| "buildkitsandbox".to_owned());
    let network = match op.network {
        Network::Default => surroundings.shared.default_network,
        Network::None => sandbox::Network::None,
        Network::Host => sandbox::Network::Host,
    };
    let mut stubs: Vec<(TreePath, FileKind)> =
        ["proc", "sys", "dev"].iter().map(|name| (TreePath::clean(name.as_bytes()), FileKind::Directory)).collect();
    for (name, content) in [("resolv.conf", resolv_conf()), ("hosts", hosts(&hostname, &op.extra_hosts).into_bytes())] {
        let source = surroundings.fittings.file(content)?;
        let target = format!("/etc/{name}");
        mounts.insert(
            0,
            sandbox::Mount { target, kind: sandbox::MountKind::Bind { source, subpath: String::new(), writable: false } },
        );
    }
    let mut env = op.env.clone();
    env.extend(op.proxy_env.iter().cloned());
    env.extend(mount_env);
    if !env.iter().any(|variable| variable.starts_with("HOME=")) {
        env.push(format!("HOME={}", identity.home));
    }
    for (mount, kind) in mounts.iter().map(|mount| (mount, super::mounts::target_kind(mount))) {
        stubs.push((TreePath::clean(mount.target.as_bytes()), kind));
    }
    let mut lowers = surroundings.trees.clone();
    if let Some(stub_layer) = surroundings.fittings.stub_layer(view, &stubs)? {
        lowers.push(stub_layer);
    }
    if lowers.is_empty() {
        lowers.push(directory("empty")?);
    }
    let upper = directory("upper")?;
    make_cwd(&op.cwd, identity, view, &upper, surroundings.shared.now_secs)?;
    Ok(Plan {
        root: sandbox::Root::Overlay { lowers, upper, work: directory("work")? },
        mounts,
        args: op.args.clone(),
        env,
        cwd: op.cwd.clone(),
        uid: identity.uid,
        gid: identity.gid,
        groups: identity.groups.clone(),
        network,
        security: match op.security {
            Security::Sandbox => sandbox::Security::Sandbox,
            Security::Insecure => surroundings.shared.entitled.map_or(sandbox::Security::Sandbox, sandbox::Security::Insecure),
        },
        hostname,
        shm_size_bytes: op.shm_size_bytes.unwrap_or(64 << 20),
        rlimits,
    })
}

/// Makes the command's directory where the image lacks it, in the step's own layer: a base image may only name it. It belongs to
/// the command's user, as BuildKit has it.
fn make_cwd(cwd: &str, identity: &Identity, view: &View, upper: &Path, now_secs: i64) -> Result<(), WorkError> {
    let found = resolve(view, &TreePath::clean(cwd.as_bytes()), Last::Follow)?;
    if found.meta.is_some() {
        return Ok(());
    }
    let mtime = Time { seconds: now_secs, nanoseconds: 0 };
    let missing = Attributes { mode: 0o755, uid: identity.uid, gid: identity.gid, mtime, xattrs: Vec::new() };
    let builder = LayerBuilder::new(view, upper, mtime)?;
    builder.ensure_dir(&found.path, &missing)?;
    Ok(builder.finish()?)
}

/// Reads what the command prints until it has ended, and says how.
///
/// The end is the end of process 1: when it is gone the kernel has killed the rest, and what is left in the pipes is read.
fn attend(running: &mut Running, output: &mut Output<'_>, canceling: &Canceling) -> Result<Exit, WorkError> {
    let mut buffer = vec![0; 64 << 10];
    let mut stdout = Pipe::new(&running.stdout, Stream::Stdout)?;
    let mut stderr = Pipe::new(&running.stderr, Stream::Stderr)?;
    let mut canceled = false;
    let exit = loop {
        let (out_ready, err_ready, ended, cancel) = {
            let exit_fd = running.exit_fd();
            let stop_fd = if canceled { exit_fd } else { canceling.as_fd() };
            let mut fds = vec![PollFd::new(&exit_fd, PollFlags::IN), PollFd::new(&stop_fd, PollFlags::IN)];
            let open: Vec<&Pipe> = [&stdout, &stderr].into_iter().filter(|pipe| pipe.open).collect();
            fds.extend(open.iter().map(|pipe| PollFd::new(&pipe.file, PollFlags::IN)));
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(WorkError::system("wait for the command")(error.into())),
            }
            let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
            let mut pipes = fds[2..].iter().map(ready);
            let out_ready = stdout.open && pipes.next().unwrap_or(false);
            let err_ready = stderr.open && pipes.next().unwrap_or(false);
            (out_ready, err_ready, ready(&fds[0]), !canceled && ready(&fds[1]))
        };
        if cancel {
            running.kill();
            canceled = true;
        }
        if out_ready {
            stdout.read(&mut buffer, output)?;
        }
        if err_ready {
            stderr.read(&mut buffer, output)?;
        }
        if ended && let Some(exit) = running.try_exit()? {
            break exit;
        }
    };
    for pipe in [&mut stdout, &mut stderr] {
        while pipe.open && pipe.read(&mut buffer, output)? {}
    }
    output.tail.finish();
    if canceled { Err(WorkError::Canceled) } else { Ok(exit) }
}

/// A pipe that the command writes to, read without blocking.
struct Pipe {
    file: File,
    stream: Stream,
    open: bool,
}

impl Pipe {
    fn new(fd: &OwnedFd, stream: Stream) -> Result<Pipe, WorkError> {
        let file = File::from(fd.try_clone().map_err(WorkError::system("read the command's output"))?);
        rustix::io::ioctl_fionbio(&file, true).map_err(|error| WorkError::system("read the command's output")(error.into()))?;
        Ok(Pipe { file, stream, open: true })
    }

    /// Reads once; whether there may be more at once.
    fn read(&mut self, buffer: &mut [u8], output: &mut Output<'_>) -> Result<bool, WorkError> {
        match self.file.read(buffer) {
            Ok(0) => {
                self.open = false;
                Ok(false)
            }
            Ok(count) => {
                output.bytes(self.stream, &buffer[..count]);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(WorkError::system("read the command's output")(error)),
        }
    }
}

/// Where the command's output goes.
struct Output<'a> {
    shared: &'a Shared,
    number: Option<StepNumber>,
    tail: Tail,
}

impl Output<'_> {
    fn bytes(&mut self, stream: Stream, bytes: &[u8]) {
        self.tail.push(bytes);
        if let Some(step) = self.number {
            self.shared.events.event(Event::Output { step, stream, bytes: bytes.to_vec() });
        }
    }

    fn note(&self, text: String) {
        if let Some(step) = self.number {
            self.shared.events.event(Event::Note { step, text });
        }
    }
}

/// The last lines of a stream of bytes, in bounded memory.
#[derive(Default)]
struct Tail {
    lines: VecDeque<String>,
    current: Vec<u8>,
}

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = 4096_usize.saturating_sub(self.current.len());
            self.current.extend_from_slice(&part[..part.len().min(room)]);
            if part.ends_with(b"\n") {
                self.finish();
            }
        }
    }

    fn finish(&mut self) {
        if !self.current.is_empty() {
            self.lines.push_back(String::from_utf8_lossy(&self.current).trim_end().to_owned());
            self.current.clear();
        }
        while self.lines.len() > TAIL_LINES {
            self.lines.pop_front();
        }
    }
}

/// A store with less space than this counts as full if a command says so: what it could not write may have been megabytes.
const NEARLY_FULL_BYTES: u64 = 16 << 20;
/// With less than this, no command that fails needs to say why.
const FULL_BYTES: u64 = 64 << 10;

/// Whether a command that printed `tail` failed because the store's disk is full, and not one of its own.
fn ran_out_of_space(tail: &[String], shared: &Shared) -> Result<bool, WorkError> {
    let said = ["No space left on device", "Disk quota exceeded"];
    let complains = tail.iter().any(|line| said.iter().any(|words| line.contains(words)));
    Ok(shared.store.free_bytes()? < if complains { NEARLY_FULL_BYTES } else { FULL_BYTES })
}

/// A command that could not be started has failed as one that ran and did not succeed.
fn explained(error: WorkError, op: &ExecOp, view: &View) -> WorkError {
    let WorkError::Sandbox(sandbox) = &error else { return error };
    match program::not_started(sandbox, &op.args, &op.cwd, view) {
        Some(NotStarted { how, hint }) => WorkError::Command { how, tail: Vec::new(), hint },
        None => error,
    }
}

fn failure(op: &ExecOp, exit: Exit, tail: Tail, view: &View) -> WorkError {
    let shell_hint = || program::shell_hint(tail.lines.back()?, &op.cwd, view);
    let (how, hint) = match exit {
        Exit::Code(127) => ("exit code 127: command not found".to_owned(), shell_hint()),
        Exit::Code(126) => ("exit code 126: command cannot be executed".to_owned(), None),
        Exit::Code(137) => (
            "exit code 137".to_owned(),
            Some("137 is 128 + 9: a process of the command was killed, often for lack of memory".to_owned()),
        ),
        Exit::Code(code) => (format!("exit code {code}"), None),
        Exit::Signal(signal) => (format!("exit code {}: killed by signal {signal}", 128 + signal), None),
        Exit::OutOfMemory => (
            "exit code 137: killed by the kernel for lack of memory".to_owned(),
            Some("run fewer steps at once with `--max-parallelism`".to_owned()),
        ),
    };
    WorkError::Command { how, tail: tail.lines.into(), hint }
}

/// Digest of the modification times in `tree` that were not made by the run itself, which began at `started`.
///
/// What a command leaves counts as unchanged when its files are equal; fresh times differ from run to run and do not matter,
/// but a time that was set on purpose (`touch -d`, `tar -x`) does.
fn settled_times(tree: &Path, started: i64) -> Result<Digest, WorkError> {
    let tree = crate::snapshot::DirTree::open(tree)?;
    let mut hasher = Hasher::new();
    let mut todo = vec![TreePath::root()];
    while let Some(path) = todo.pop() {
        for (name, meta) in tree.read_dir(&path)? {
            let child = path.child(&name);
            let settled = meta.mtime.seconds < started - 1 || meta.mtime.seconds > now() + 1;
            if settled && meta.kind != FileKind::Character(0, 0) {
                hasher.field(child.as_bytes());
                hasher.update(&meta.mtime.seconds.to_le_bytes());
            }
            if meta.kind == FileKind::Directory {
                todo.push(child);
            }
        }
    }
    Ok(hasher.finish())
}

/// The host's resolver configuration; the network is the host's or none.
fn resolv_conf() -> Vec<u8> {
    std::fs::read("/etc/resolv.conf").unwrap_or_default()
}

fn hosts(hostname: &str, extra_hosts: &[(String, String)]) -> String {
    let mut text = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (host, address) in extra_hosts {
        text.push_str(&format!("{address}\t{host}\n"));
    }
    text
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// A descriptor that becomes readable when everything has to stop, for code that waits in `poll`.
pub struct Canceling {
    stop: OwnedFd,
    _writer: std::sync::Arc<Mutex<Option<OwnedFd>>>,
}

impl Canceling {
    /// Follows `cancel`, which turns true once. Must be called inside the runtime.
    pub fn new(mut cancel: watch::Receiver<bool>) -> Result<Canceling, WorkError> {
        let (stop, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| WorkError::system("make a pipe")(error.into()))?;
        let writer = std::sync::Arc::new(Mutex::new(Some(writer)));
        tokio::spawn({
            let writer = writer.clone();
            async move {
                if cancel.wait_for(|stop| *stop).await.is_ok() {
                    writer.lock().expect("no holder of this lock panics").take();
                }
            }
        });
        Ok(Canceling { stop, _writer: writer })
    }
}

impl AsFd for Canceling {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.stop.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_keeps_the_last_lines() {
        let mut tail = Tail::default();
        for number in 0..100 {
            tail.push(format!("line {number}\n").as_bytes());
        }
        tail.push(b"half");
        tail.push(b" a line");
        tail.finish();
        assert_eq!(tail.lines.len(), TAIL_LINES);
        assert_eq!(tail.lines.back().map(String::as_str), Some("half a line"));
    }

    #[test]
    fn hosts_name_the_sandbox() {
        assert_eq!(
            hosts("box", &[("db".into(), "10.0.0.1".into())]),
            "127.0.0.1\tlocalhost box\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.1\tdb\n"
        );
    }
}
