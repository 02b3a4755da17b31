//! What happens between the fork and the first instruction of the command, in the order that security asks for.
//!
//! The launcher has one thread, so this copy of it may use its heap. Nothing here panics, and whatever fails is reported as
//! data over the step's control socket.

use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, fchown, fstat, fstatfs, mkdirat, openat2};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::process::{
    Rlimit, Signal, chdir, chroot, fchdir, getrlimit, ioctl_tiocsctty, pivot_root, set_parent_process_death_signal, setrlimit,
    setsid, umask,
};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use rustix::thread::{
    CapabilitySet, CapabilitySets, LinkNameSpaceType, move_into_link_name_space, remove_capability_from_bounding_set,
    set_capabilities, set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::emulation::Emulation;
use super::error::Stage;
use super::mounts::{Overlays, find_inside};
use super::plan::{Network, Plan, Resource, Root, Security, Streams};
use super::processes;
use super::rights::Ids;
use super::rootfs;
use super::sys::{self, ExecImage};
use super::wire::{self, Report};

/// A failed step of the set-up and what it was about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failure<'a> {
    pub(super) stage: Stage,
    pub(super) errno: Errno,
    pub(super) subject: &'a OsStr,
}

impl<'a> Failure<'a> {
    pub(super) fn new(stage: Stage, errno: Errno, subject: &'a (impl AsRef<OsStr> + ?Sized)) -> Failure<'a> {
        Failure { stage, errno, subject: subject.as_ref() }
    }

    /// Tells the builder, if it still listens.
    pub(super) fn report(&self, control: impl AsFd) {
        let report = Report::Failed { stage: self.stage, errno: self.errno, subject: self.subject.as_bytes() };
        // An error means that nobody waits for this step any more.
        let _ = report.send(control);
    }
}

/// Says at which step an error happened.
pub(super) trait AtStage<T> {
    /// Wraps the error with `stage` and what it was about.
    fn at<'a>(self, stage: Stage, subject: &'a (impl AsRef<OsStr> + ?Sized)) -> Result<T, Failure<'a>>;
}

impl<T> AtStage<T> for Result<T, Errno> {
    fn at<'a>(self, stage: Stage, subject: &'a (impl AsRef<OsStr> + ?Sized)) -> Result<T, Failure<'a>> {
        self.map_err(|errno| Failure::new(stage, errno, subject))
    }
}

/// The command in the form that `execve` takes, made before the fork so that the parent learns of bad strings.
pub(super) struct Command {
    image: ExecImage,
    /// Where the program may be, best first.
    candidates: Vec<CString>,
}

impl Command {
    /// Refuses a plan without arguments, a string with a NUL in it, and ids that mean "unchanged" to the kernel.
    pub(super) fn prepare(plan: &Plan) -> Result<Command, Failure<'_>> {
        let program = plan.args.first().ok_or(Failure::new(Stage::ReadPlan, Errno::INVAL, ""))?;
        if plan.groups.iter().chain([&plan.uid, &plan.gid]).any(|id| *id == u32::MAX) {
            return Err(Failure::new(Stage::BecomeUser, Errno::INVAL, program));
        }
        let image = ExecImage::new(&plan.args, &plan.env).at(Stage::ReadPlan, program)?;
        let candidates: Result<Vec<CString>, _> = candidates(program, &plan.env).into_iter().map(CString::new).collect();
        Ok(Command { image, candidates: candidates.map_err(|_| Failure::new(Stage::ReadPlan, Errno::INVAL, program))? })
    }
}

/// The descriptors that the child works with.
pub(super) struct Inherited<'a> {
    /// The launcher's pidfd.
    pub(super) launcher: &'a OwnedFd,
    /// Which users there are.
    pub(super) ids: Ids,
    /// How many processes the step may have.
    pub(super) most_processes: Option<u32>,
    /// Where the builder is told of a terminal.
    pub(super) control: &'a OwnedFd,
    /// The namespace of a plan's shared network.
    pub(super) network: Option<&'a OwnedFd>,
    pub(super) stdin: &'a OwnedFd,
    pub(super) stdout: &'a OwnedFd,
    pub(super) stderr: &'a OwnedFd,
    /// Where the programs of another processor run, if the plan asks for it.
    pub(super) emulation: Option<&'a Emulation>,
}

/// Becomes the command of `plan`.
pub(super) fn become_command<'a>(
    plan: &'a Plan,
    command: &Command,
    inherited: &Inherited<'_>,
    filter: &[libc::sock_filter],
    overlays: Overlays,
) -> Result<Infallible, Failure<'a>> {
    let program = plan.args.first().map_or("", String::as_str);
    die_with(inherited.launcher).at(Stage::JoinParent, program)?;
    if let Some(most) = inherited.most_processes {
        processes::limit(most);
    }
    if plan.network == Network::Shared {
        // first of all: `/sys` is mounted for the network of the process that mounts it
        join_network(inherited.network).at(Stage::JoinNetwork, program)?;
    }
    let root = rootfs::assemble(plan, overlays, inherited.ids)?;
    enter_root(&root).at(Stage::EnterRoot, program)?;
    rustix::system::sethostname(plan.hostname.as_bytes()).at(Stage::SetHostname, &plan.hostname)?;
    if plan.network == Network::None {
        raise_loopback().at(Stage::RaiseLoopback, program)?;
    }
    set_limits(&plan.rlimits)?;
    umask(Mode::from_raw_mode(0o022));
    join_keyring().at(Stage::JoinKeyring, program)?;
    setsid().at(Stage::JoinParent, program)?;
    connect(inherited, plan).at(Stage::ConnectStreams, program)?;

    // From here on no descriptor of ours can reach the command, whatever its working directory names.
    sys::close_on_exec_from(3).at(Stage::ConnectStreams, program)?;
    enter_directory(&plan.cwd).at(Stage::EnterDirectory, &plan.cwd)?;

    if let Some(emulation) = inherited.emulation {
        // Last of what takes the machine's own rights; what follows takes those that the namespace gives.
        emulation.enter().at(Stage::EnterEmulation, program)?;
    }
    let capabilities = match plan.security {
        Security::Sandbox => DOCKER_CAPABILITIES,
        Security::Insecure(_) => permitted().at(Stage::DropCapabilities, program)?,
    };
    limit_bounding_set(capabilities).at(Stage::DropCapabilities, program)?;
    if plan.security == Security::Sandbox {
        // Before the user changes: as root the filter needs no `no_new_privs`, so sudo and su work inside.
        sys::load_seccomp(filter).at(Stage::LoadFilter, program)?;
    }
    become_user(plan, capabilities).at(Stage::BecomeUser, program)?;
    // Changing the user has forgotten the first request.
    die_with(inherited.launcher).at(Stage::JoinParent, program)?;
    execute(command, program)
}

/// Becomes the command of `plan` where neither namespaces nor mounts can be made: its root is a plain directory, and what else
/// it sees is the container's that croze runs in, whose system call filter holds for it as well.
pub(super) fn become_command_by_root_alone<'a>(
    plan: &'a Plan,
    command: &Command,
    inherited: &Inherited<'_>,
    _filter: &[libc::sock_filter],
    _overlays: Overlays,
) -> Result<Infallible, Failure<'a>> {
    let program = plan.args.first().map_or("", String::as_str);
    die_with(inherited.launcher).at(Stage::JoinParent, program)?;
    let Root::Bind { source } = &plan.root else { return Err(Failure::new(Stage::MountRoot, Errno::NOSYS, program)) };
    set_limits(&plan.rlimits)?;
    umask(Mode::from_raw_mode(0o022));
    setsid().at(Stage::JoinParent, program)?;
    connect(inherited, plan).at(Stage::ConnectStreams, program)?;
    sys::close_on_exec_from(3).at(Stage::ConnectStreams, program)?;
    chdir(source).and_then(|()| chroot(c".")).and_then(|()| chdir(c"/")).at(Stage::EnterRoot, source)?;
    enter_directory(&plan.cwd).at(Stage::EnterDirectory, &plan.cwd)?;

    let capabilities = permitted().at(Stage::DropCapabilities, program)?.intersection(DOCKER_CAPABILITIES);
    match limit_bounding_set(capabilities) {
        // without CAP_SETPCAP the set stays as small as the container's is
        Ok(()) | Err(Errno::PERM) => {}
        Err(errno) => return Err(Failure::new(Stage::DropCapabilities, errno, program)),
    }
    become_user(plan, capabilities).at(Stage::BecomeUser, program)?;
    die_with(inherited.launcher).at(Stage::JoinParent, program)?;
    execute(command, program)
}

/// Docker's default capabilities.
const DOCKER_CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::AUDIT_WRITE)
    .union(CapabilitySet::SETFCAP);

/// Asks to be killed with the launcher, and makes sure that it did not end before the question.
fn die_with(launcher: &OwnedFd) -> Result<(), Errno> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut ended = [PollFd::new(launcher, PollFlags::IN)];
    match poll(&mut ended, Some(&Timespec::default()))? {
        0 => Ok(()),
        _ => Err(Errno::SRCH),
    }
}

/// Makes `root` the root of everything and forgets the host's tree.
fn enter_root(root: &OwnedFd) -> Result<(), Errno> {
    fchdir(root)?;
    // Stacks the old root on top of the new one, where it can be taken off without needing a directory for it.
    pivot_root(c".", c".")?;
    unmount(c".", UnmountFlags::DETACH)?;
    chdir(c"/")
}

fn join_network(namespace: Option<&OwnedFd>) -> Result<(), Errno> {
    move_into_link_name_space(namespace.ok_or(Errno::NOTCONN)?.as_fd(), Some(LinkNameSpaceType::Network))
}

fn raise_loopback() -> Result<(), Errno> {
    sys::bring_loopback_up(socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?)
}

/// Limits that do not depend on how the builder was started.
const DEFAULT_LIMITS: [(Resource, u64, u64); 2] = [(Resource::Nofile, 1024, 524_288), (Resource::Core, 0, 0)];

fn set_limits<'a>(wanted: &[(Resource, u64, u64)]) -> Result<(), Failure<'a>> {
    let defaults = DEFAULT_LIMITS.iter().filter(|(resource, ..)| wanted.iter().all(|(other, ..)| other != resource));
    for (resource, soft, hard) in defaults.chain(wanted) {
        set_limit(kernel_resource(*resource), *soft, *hard).at(Stage::SetLimit, resource.name())?;
    }
    Ok(())
}

fn set_limit(resource: rustix::process::Resource, soft: u64, hard: u64) -> Result<(), Errno> {
    /// rustix says "unlimited" with `None`.
    fn known(value: u64) -> Option<u64> {
        (value != u64::MAX).then_some(value)
    }
    match setrlimit(resource, Rlimit { current: known(soft), maximum: known(hard) }) {
        Err(Errno::PERM) => {
            // Raising a hard limit takes a privilege; without it the old one is the most that there is.
            let most = getrlimit(resource).maximum;
            setrlimit(resource, Rlimit { current: known(soft.min(most.unwrap_or(u64::MAX))), maximum: most })
        }
        set => set,
    }
}

fn kernel_resource(resource: Resource) -> rustix::process::Resource {
    use rustix::process::Resource as Kernel;
    match resource {
        Resource::As => Kernel::As,
        Resource::Core => Kernel::Core,
        Resource::Cpu => Kernel::Cpu,
        Resource::Data => Kernel::Data,
        Resource::Fsize => Kernel::Fsize,
        Resource::Locks => Kernel::Locks,
        Resource::Memlock => Kernel::Memlock,
        Resource::Msgqueue => Kernel::Msgqueue,
        Resource::Nice => Kernel::Nice,
        Resource::Nofile => Kernel::Nofile,
        Resource::Nproc => Kernel::Nproc,
        Resource::Rss => Kernel::Rss,
        Resource::Rtprio => Kernel::Rtprio,
        Resource::Rttime => Kernel::Rttime,
        Resource::Sigpending => Kernel::Sigpending,
        Resource::Stack => Kernel::Stack,
    }
}

fn join_keyring() -> Result<(), Errno> {
    match sys::join_new_keyring() {
        // A kernel without keyrings has none to leave.
        Err(Errno::NOSYS) => Ok(()),
        joined => joined,
    }
}

fn connect(inherited: &Inherited<'_>, plan: &Plan) -> Result<(), Errno> {
    let user = Some(Uid::from_raw(plan.uid));
    let terminal;
    let [stdin, stdout, stderr] = match plan.streams {
        Streams::Own => {
            // `/dev/stdout` is opened anew by its owner's rights, so the command's user must own the pipes.
            if inherited.ids == Ids::Many {
                fchown(inherited.stdout, user, None)?;
                fchown(inherited.stderr, user, None)?;
            }
            [inherited.stdin, inherited.stdout, inherited.stderr]
        }
        Streams::Lent => [inherited.stdin, inherited.stdout, inherited.stderr],
        Streams::Terminal { rows, columns } => {
            terminal = open_terminal(inherited.control)?;
            tcsetwinsize(&terminal, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?;
            if inherited.ids == Ids::Many {
                fchown(&terminal, user, None)?;
            }
            ioctl_tiocsctty(&terminal)?;
            [&terminal; 3]
        }
    };
    sys::dup_to_stdio(stdin, 0)?;
    sys::dup_to_stdio(stdout, 1)?;
    sys::dup_to_stdio(stderr, 2)
}

/// A new terminal of the step's own `/dev/pts`, whose other side goes to the builder. The command's side is opened through the
/// other one: its name might lead elsewhere.
fn open_terminal(control: &OwnedFd) -> Result<OwnedFd, Errno> {
    const DEVPTS_MAGIC: libc::c_long = 0x1cd1;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    let other_side = openat2(CWD, c"/dev/pts/ptmx", flags, Mode::empty(), resolve)?;
    if fstatfs(&other_side)?.f_type != DEVPTS_MAGIC {
        return Err(Errno::NODEV);
    }
    unlockpt(&other_side)?;
    let terminal = ioctl_tiocgptpeer(&other_side, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    wire::send_terminal(control, &other_side)?;
    Ok(terminal)
}

/// Changes to `path`, making the directories that are missing. The root is the image's by now, so links end inside.
fn enter_directory(path: &str) -> Result<(), Errno> {
    let root = find_inside(CWD, "/")?;
    let directory = match find_inside(&root, path) {
        Err(Errno::NOENT) => {
            let ends = path.char_indices().filter(|(at, byte)| *byte == '/' && *at > 0).map(|(at, _)| at).chain([path.len()]);
            for end in ends {
                match mkdirat(CWD, &path[..end], Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno),
                }
            }
            find_inside(&root, path)?
        }
        found => found?,
    };
    fchdir(directory)?;
    // A directory that is not below the root has no absolute name: such a place would be a way out.
    let name = rustix::process::getcwd(Vec::new())?;
    if name.as_bytes().starts_with(b"/") { Ok(()) } else { Err(Errno::NOENT) }
}

fn permitted() -> Result<CapabilitySet, Errno> {
    Ok(rustix::thread::capabilities(None)?.permitted)
}

fn limit_bounding_set(allowed: CapabilitySet) -> Result<(), Errno> {
    for number in 0..63 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if allowed.contains(capability) {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            // Past the last one that this kernel knows.
            Err(Errno::INVAL) => break,
            removed => removed?,
        }
    }
    Ok(())
}

/// Changes user and groups. As under runc the capabilities stay until `execve`, which leaves them to root alone; so a user may
/// start a program in a directory that is closed to it.
fn become_user(plan: &Plan, capabilities: CapabilitySet) -> Result<(), Errno> {
    let groups: Vec<Gid> = plan.groups.iter().map(|group| Gid::from_raw(*group)).collect();
    let (uid, gid) = (Uid::from_raw(plan.uid), Gid::from_raw(plan.gid));
    set_keep_capabilities(true)?;
    set_thread_groups(&groups)?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    set_keep_capabilities(false)?;
    let sets = CapabilitySets { effective: capabilities, permitted: capabilities, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets)
}

/// Where `program` may be: itself if it has a slash, else in each directory of the last `PATH`.
fn candidates(program: &str, env: &[String]) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    let path = env.iter().rev().find_map(|variable| variable.strip_prefix("PATH="));
    // An empty entry has always meant the working directory.
    let join = |directory: &str| format!("{}/{program}", if directory.is_empty() { "." } else { directory });
    path.filter(|path| !path.is_empty()).map_or_else(Vec::new, |path| path.split(':').map(join).collect())
}

fn execute<'a>(command: &Command, program: &'a str) -> Result<Infallible, Failure<'a>> {
    let mut why = Errno::NOENT;
    for candidate in &command.candidates {
        match check_program(candidate) {
            Ok(()) => return command.image.exec(candidate).at(Stage::Execute, program),
            Err(errno) => why = errno,
        }
    }
    // In a search, only finding nothing counts, as in Go's LookPath.
    let why = if program.contains('/') { why } else { Errno::NOENT };
    Err(Failure::new(Stage::FindProgram, why, program))
}

/// Whether a path names a program of the image. Not one of `/proc`: `/proc/self/exe` is still ours.
fn check_program(path: &CString) -> Result<(), Errno> {
    let program = openat2(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_MAGICLINKS)?;
    let stat = fstat(&program)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Err(Errno::ISDIR),
        FileType::RegularFile if stat.st_mode & 0o111 != 0 && fstatfs(&program)?.f_type != libc::PROC_SUPER_MAGIC => Ok(()),
        _ => Err(Errno::ACCESS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(program: &str, env: &[&str], expected: &[&str]) {
        let env: Vec<String> = env.iter().map(|text| (*text).to_owned()).collect();
        assert_eq!(candidates(program, &env), expected);
    }

    #[test]
    fn a_name_is_searched_in_the_path() {
        check("sh", &["PATH=/usr/bin:/bin"], &["/usr/bin/sh", "/bin/sh"]);
        check("sh", &["PATH=:/bin"], &["./sh", "/bin/sh"]);
        check("sh", &["PATH="], &[]);
        check("sh", &["HOME=/"], &[]);
    }

    #[test]
    fn a_path_is_taken_as_it_is() {
        check("./run", &["PATH=/bin"], &["./run"]);
        check("/bin/sh", &[], &["/bin/sh"]);
    }

    #[test]
    fn the_capabilities_are_dockers() {
        assert_eq!(DOCKER_CAPABILITIES.bits(), 0xa804_25fb);
    }
}
