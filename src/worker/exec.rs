//! `RUN`: a command in a sandbox, and the layer it leaves.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::attend::{Canceling, Ending, Output, Tail, attend};
use super::copies::Files;
use super::emulation;
use super::error::WorkError;
use super::fittings::Fittings;
use super::identity::{Identity, identify};
use super::mounts::{self, Mounted};
use super::network::DefaultNetwork;
use super::processes::Details;
use super::program;
use super::{Shared, Stack};
use crate::cache::key;
use crate::digest::{CacheKey, Digest, Hasher};
use crate::event::StepNumber;
use crate::graph::{ExecOp, Limits, MountKind, Security};
use crate::layer;
use crate::sandbox::{self, Exit, Launcher, Plan, Resources, SandboxError, Stage};
use crate::schedule::Novelty;
use crate::snapshot::builder::{Attributes, LayerBuilder};
use crate::snapshot::{FileKind, FileTree, Last, Time, TreePath, View, owners_are_notes, resolve, upper};
use crate::store::{Record, TempDir};

/// What [`run`] needs beside the step itself.
pub struct Surroundings<'a> {
    /// Of the build.
    pub shared: &'a Shared,
    /// Forks the command.
    pub launcher: &'a Launcher,
    /// What a command finds that asks for no network in particular; `None` as long as none has.
    pub network: Option<&'a DefaultNetwork>,
    /// What it shares with other commands.
    pub fittings: &'a Fittings,
    /// Tells when to stop.
    pub canceling: &'a Canceling,
    /// The step's number, if people see it.
    pub number: Option<StepNumber>,
    /// How long it may take.
    pub limits: Limits,
    /// What outputs will make of the layer.
    pub forms: Vec<layer::Form>,
    /// The stack that the command starts from.
    pub parent: &'a Stack,
    /// Its layer directories, bottom first.
    pub trees: Vec<PathBuf>,
}

/// Runs the command with this key to its end and commits what it changed. Blocks.
pub fn run(
    (op, key): (&ExecOp, &CacheKey),
    mounted: Mounted,
    surroundings: &Surroundings<'_>,
) -> Result<(Record, Novelty), WorkError> {
    let shared = surroundings.shared;
    let started = now();
    let temp = shared.store.temp_dir()?;
    let view = View::new(surroundings.trees.clone())?;
    let identity = identify(&op.user, &view)?;
    let Mounted { mounts, env, held } = mounted;
    let mut plan = plan(op, &identity, &view, (mounts, env), &temp, surroundings)?;
    let mut output = Output::new(shared, surroundings.number);
    let details = if knows_secrets(op) { Details::Program } else { Details::Arguments };
    let files = Files { identity: &identity, view: &view, temp: &temp, surroundings };
    let ended = files.work_on(&mut plan, |plan| {
        let mut running = surroundings.launcher.spawn(plan)?;
        attend(&mut running, &mut output, surroundings.canceling, &surroundings.limits, details)
    });
    let (ending, workplace) = ended.map_err(|error| match error {
        WorkError::Sandbox(SandboxError::LauncherGone) => surroundings.launcher.why_gone().into(),
        error => explained(error, op, &view),
    })?;
    if let (Some(shells), true) = (&shared.shells, !matches!(ending, Ending::Exit(Exit::Code(0)))) {
        shells.open(plan, &view, &temp.path, &output, surroundings)?;
    }
    if let Some(workplace) = workplace {
        let trash = temp.path.join("trash");
        std::fs::create_dir(&trash).map_err(WorkError::system("create a directory for the step"))?;
        workplace.finish(&view, &trash)?;
    }
    drop(held);
    let exit = match ending {
        Ending::Exit(exit) => exit,
        Ending::Expired { limit, processes } => {
            return Err(WorkError::Expired { limit, processes, tail: output.tail.lines.into() });
        }
    };
    if exit != Exit::Code(0) {
        return Err(match failure(op, exit, output.tail, &view, &shared.resources) {
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
    let stored = layer::commit_ahead(&shared.store, upper_dir, &surroundings.forms)?;
    let record = Record { diff_id: stored.record.diff_id, created_secs: shared.now_secs };
    // a command that left what it had left before keeps its former layer, and with it the image's digest
    let mut content = stored.record.content.0.as_bytes().to_vec();
    content.extend_from_slice(times.as_bytes());
    let adopted_by = key::adoption(&surroundings.parent.diff_ids(), &content);
    shared.remember(&key::adoption_of(key), &adopted_by.0)?;
    match shared.cache.adopt(&adopted_by)? {
        Some(former) if layer::is_untouched(&shared.store, &former.diff_id)? => Ok((former, Novelty::Adopted)),
        _ => {
            shared.cache.insert(&adopted_by, &record)?;
            Ok((record, Novelty::New))
        }
    }
}

/// Whether arguments of the command may hold what no log must hold.
fn knows_secrets(op: &ExecOp) -> bool {
    op.mounts.iter().any(|mount| matches!(mount.kind, MountKind::Secret { .. }))
}

/// What the sandbox is to do for `op`, with directories for its changes in `temp`.
pub(super) fn plan(
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
    let of_machine = DefaultNetwork::of_machine();
    let seen = surroundings.network.unwrap_or(&of_machine).seen_by(op, &of_machine);
    if let Some(note) = &seen.note {
        Output::new(surroundings.shared, surroundings.number).note(note.clone());
    }
    super::mounts::arrange(&mut mounts, view)?;
    let mut stubs = Vec::new();
    for (name, content) in
        [("resolv.conf", seen.resolv_conf.to_vec()), ("hosts", hosts(&hostname, &op.extra_hosts, seen.gateway).into_bytes())]
    {
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
    // runc takes an empty `HOME` for none
    if !env.iter().any(|variable| variable.starts_with("HOME=") && variable != "HOME=") {
        env.retain(|variable| variable != "HOME=");
        env.push(format!("HOME={}", identity.home));
    }
    if owners_are_notes() && !env.iter().any(|variable| variable.starts_with("APT_CONFIG=")) {
        // apt would become another user for its downloads, and checks that it has
        env.push(format!("APT_CONFIG={APT_CONFIG}"));
        let content = b"APT::Sandbox::User \"root\";\n".to_vec();
        let kind = sandbox::MountKind::File { content, uid: 0, gid: 0, mode: 0o444 };
        mounts.push(sandbox::Mount { target: APT_CONFIG.to_owned(), kind });
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
    make_missing(&op.cwd, identity, view, &upper, surroundings.shared.now_secs)?;
    Ok(Plan {
        root: sandbox::Root::Overlay { lowers, upper, work: directory("work")? },
        mounts,
        args: op.args.clone(),
        env,
        cwd: op.cwd.clone(),
        uid: identity.uid,
        gid: identity.gid,
        groups: identity.groups.clone(),
        network: seen.network,
        security: match op.security {
            Security::Sandbox => sandbox::Security::Sandbox,
            Security::Insecure => surroundings.shared.entitled.map_or(sandbox::Security::Sandbox, sandbox::Security::Insecure),
        },
        hostname,
        shm_size_bytes: op.shm_size_bytes.unwrap_or(64 << 20),
        rlimits,
        emulator: emulation::needed(&op.platform),
        streams: sandbox::Streams::Own,
    })
}

/// Where apt finds what it needs in a user namespace of one id.
const APT_CONFIG: &str = "/dev/croze/apt.conf";

/// What every command finds mounted.
const SYSTEM_DIRECTORIES: [&str; 3] = ["dev", "proc", "sys"];

/// Makes directories that the image lacks, in the step's own layer. They stay there, as in BuildKit: the command's directory,
/// which a base image may only name and which belongs to the command's user, and in an image made from nothing the places of
/// the system's own mounts. Other mount points go again.
fn make_missing(cwd: &str, identity: &Identity, view: &View, upper: &Path, now_secs: i64) -> Result<(), WorkError> {
    let system = SYSTEM_DIRECTORIES.map(|name| (name, 0, 0));
    let mut missing = Vec::new();
    for (path, uid, gid) in system.into_iter().chain([(cwd, identity.uid, identity.gid)]) {
        let found = resolve(view, &TreePath::clean(path.as_bytes()), Last::Follow)?;
        if found.meta.is_none() {
            missing.push((found.path, uid, gid));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let mtime = Time { seconds: now_secs, nanoseconds: 0 };
    let builder = LayerBuilder::new(view, upper, mtime)?;
    for (path, uid, gid) in missing {
        builder.ensure_dir(&path, &Attributes { mode: 0o755, uid, gid, mtime, xattrs: Vec::new() })?;
    }
    Ok(builder.finish()?)
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
    if let SandboxError::Setup { stage: Stage::FindTarget | Stage::ForbiddenTarget, subject, .. } = sandbox
        && op.mounts.iter().any(|mount| mount.target == *subject)
    {
        return mounts::no_mount_point(subject, op);
    }
    match program::not_started(sandbox, &op.args, &op.cwd, view) {
        Some(ended) if matches!(sandbox, SandboxError::NotExecutable { reason: "exec format error", .. }) => {
            WorkError::Command { how: ended.how(), tail: Vec::new(), hint: emulation::advice(&op.platform).or(ended.hint) }
        }
        Some(ended) => WorkError::Command { how: ended.how(), tail: Vec::new(), hint: ended.hint },
        None => error,
    }
}

fn failure(op: &ExecOp, exit: Exit, tail: Tail, view: &View, resources: &Resources) -> WorkError {
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
            Some(match resources.memory_bytes {
                Some(bytes) => format!("all commands of the build may use {bytes} bytes together (`--memory`)"),
                None => "run fewer steps at once with `--max-parallelism`".to_owned(),
            }),
        ),
    };
    let hint = hint.or_else(|| too_many_processes(&tail.lines, resources)).or_else(|| full_tmpfs(op, &tail.lines));
    WorkError::Command { how, tail: tail.lines.into(), hint }
}

/// What to say of a command that may have filled one of its file systems in memory.
fn full_tmpfs(op: &ExecOp, tail: &VecDeque<String>) -> Option<String> {
    let small = op.mounts.iter().find_map(|mount| match mount.kind {
        MountKind::Tmpfs { size_bytes: Some(bytes) } => Some((&mount.target, bytes)),
        _ => None,
    });
    let (target, bytes) = small.filter(|_| tail.iter().any(|line| line.contains("No space left on device")))?;
    Some(format!("the file system in memory at `{target}` holds {bytes} bytes (`size=`)"))
}

/// What to say of a command that could not fork.
fn too_many_processes(tail: &VecDeque<String>, resources: &Resources) -> Option<String> {
    let said = ["can't fork", "Cannot fork", "fork: retry", "fork: Resource temporarily unavailable", "unable to fork"];
    if !tail.iter().any(|line| said.iter().any(|words| line.contains(words))) {
        return None;
    }
    match (resources.pids, sandbox::most_processes()) {
        (Some(most), _) => Some(format!("all commands of the build may have {most} processes at once (`--pids-limit`)")),
        (None, Some(most)) => Some(format!("a command may have {most} processes at once, threads included")),
        (None, None) => None,
    }
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

/// The text of `/etc/hosts`; `gateway` is what `host-gateway` stands for.
fn hosts(hostname: &str, extra_hosts: &[(String, String)], gateway: Ipv4Addr) -> String {
    let mut text = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (host, address) in extra_hosts {
        match address.as_str() {
            "host-gateway" => text.push_str(&format!("{gateway}\t{host}\n")),
            address => text.push_str(&format!("{address}\t{host}\n")),
        }
    }
    text
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_name_the_sandbox() {
        assert_eq!(
            hosts("box", &[("db".into(), "10.0.0.1".into()), ("up".into(), "host-gateway".into())], Ipv4Addr::new(172, 29, 0, 1)),
            "127.0.0.1\tlocalhost box\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.1\tdb\n172.29.0.1\tup\n"
        );
    }
}
