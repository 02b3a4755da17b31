//! The system calls that rustix lacks, one typed wrapper each. The only file of the crate with `unsafe`.
#![allow(unsafe_code)]

use std::convert::Infallible;
use std::ffi::{CStr, CString, c_char, c_int, c_long, c_uint};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

/// The namespaces of a step, as `clone3` takes them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Namespaces(u64);

impl Namespaces {
    /// Mounts, processes, System V and POSIX queues, host name, cgroup view; the network stays the caller's.
    pub(super) const HOST_NETWORK: Namespaces = Namespaces(
        (libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP) as u64,
    );
    /// Users and mounts alone: where a table of emulators can be written.
    pub(super) const USERS_AND_MOUNTS: Namespaces = Namespaces((libc::CLONE_NEWUSER | libc::CLONE_NEWNS) as u64);
    /// The same as `HOST_NETWORK` with a network of its own.
    pub(super) const OWN_NETWORK: Namespaces = Namespaces(Self::HOST_NETWORK.0 | libc::CLONE_NEWNET as u64);
    /// Users and groups alone: a namespace to enter before there are steps.
    pub(super) const USERS: Namespaces = Namespaces(libc::CLONE_NEWUSER as u64);
}

/// Which side of [`fork_into`] this is.
pub(super) enum Fork {
    /// The new process, PID 1 of its namespace.
    Child,
    /// The caller.
    Parent {
        /// Names the child, and reads as ready when it has ended.
        pidfd: OwnedFd,
        /// The child's number in the caller's namespace.
        pid: u32,
    },
}

/// Splits off a copy of this process in new namespaces (`clone3`).
///
/// The caller must have one thread; that is what makes the child's heap usable.
pub(super) fn fork_into(namespaces: Namespaces) -> Result<Fork, Errno> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all-zero is a valid `clone_args`: no stack, no thread id array, no flags.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = namespaces.0 | libc::CLONE_PIDFD as u64;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: `args` lives across the call and its size is passed; without CLONE_VM the child runs on its own copy of this
    // stack, as after fork(2). `pidfd` outlives the call, which writes it in the parent.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) })?;
    if pid == 0 {
        return Ok(Fork::Child);
    }
    // SAFETY: the call succeeded with CLONE_PIDFD, so `pidfd` is a fresh descriptor that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Fork::Parent { pidfd, pid: u32::try_from(pid).map_err(|_| Errno::OVERFLOW)? })
}

/// Splits off a copy of this process that shares all namespaces: for where none can be made.
///
/// The caller must have one thread, as for [`fork_into`].
pub(super) fn fork_plainly() -> Result<Fork, Errno> {
    // SAFETY: with one thread the child's copy of this process is whole.
    let pid = check(c_long::from(unsafe { libc::fork() }))?;
    if pid == 0 {
        return Ok(Fork::Child);
    }
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).ok_or(Errno::OVERFLOW)?;
    // nobody else reaps our children, so the number still is this child's
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    Ok(Fork::Parent { pidfd, pid: pid.as_raw_nonzero().get().unsigned_abs() })
}

/// Whether a change of mount attributes reaches the mounts below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// This mount alone.
    One,
    /// All mounts below, too.
    Tree,
}

/// Sets attributes of the mount that `mount` is the root of (`mount_setattr`).
pub(super) fn mount_setattr(mount: impl AsFd, set: MountAttrFlags, reach: Reach) -> Result<(), Errno> {
    /// `struct mount_attr` of `linux/mount.h`.
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        userns_fd: u64,
    }
    let attr = MountAttr { set: u64::from(set.bits()), clear: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if reach == Reach::Tree { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a constant C string and `attr` is passed with its size; the call only reads both.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })?;
    Ok(())
}

/// Marks every descriptor from `first` on to be closed by `execve`.
pub(super) fn close_on_exec_from(first: c_uint) -> Result<(), Errno> {
    // SAFETY: takes three integers; marking changes nothing that a Rust value relies on.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) })?;
    Ok(())
}

/// Makes `number` another name of `fd` and keeps it open across `execve`; for the standard streams only.
pub(super) fn dup_to_stdio(fd: impl AsFd, number: RawFd) -> Result<(), Errno> {
    debug_assert!((0..=2).contains(&number));
    // SAFETY: 0 to 2 are owned by no Rust value; the standard library treats them as always open, which they stay.
    check(c_long::from(unsafe { libc::dup2(fd.as_fd().as_raw_fd(), number) }))?;
    Ok(())
}

/// Installs a filter for this thread and all that it becomes; needs `CAP_SYS_ADMIN`, so that `no_new_privs` may stay off.
pub(super) fn load_seccomp(program: &[libc::sock_filter]) -> Result<(), Errno> {
    let program =
        libc::sock_fprog { len: u16::try_from(program.len()).map_err(|_| Errno::INVAL)?, filter: program.as_ptr().cast_mut() };
    // SAFETY: `program` points at `len` instructions that outlive the call; the kernel copies and checks them.
    check(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW, &raw const program)
    })?;
    Ok(())
}

/// Leaves the builder's session keyring for a new, empty one.
pub(super) fn join_new_keyring() -> Result<(), Errno> {
    const KEYCTL_JOIN_SESSION_KEYRING: c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring; nothing is read or written.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, ptr::null::<c_char>()) })?;
    Ok(())
}

/// Brings up the loopback device of the current network namespace.
pub(super) fn bring_loopback_up(socket: impl AsFd) -> Result<(), Errno> {
    // SAFETY: all-zero is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as c_char;
    request.ifr_name[1] = b'o' as c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`, which lives across the call.
    check(c_long::from(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) }))?;
    Ok(())
}

/// Gives every signal its default action and blocks none: what a new program expects to find.
pub(super) fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: installing SIG_DFL runs no code of ours. Signals that cannot be changed (KILL, STOP, the C library's own two)
        // answer EINVAL, which is as good.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: `none` is initialised by sigemptyset before it is read; the old mask is not asked for.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}

/// Gives this process a mount namespace of its own, a copy of the one that it leaves.
pub(super) fn unshare_mounts() -> Result<(), Errno> {
    // SAFETY: concerns kernel state only. With one thread there is nobody who could rely on the shared file system state.
    check(c_long::from(unsafe { libc::unshare(libc::CLONE_NEWNS) }))?;
    Ok(())
}

/// Gives this thread a network namespace of its own, a new one.
pub(super) fn unshare_network() -> Result<(), Errno> {
    // SAFETY: changes which sockets this thread may open from now on; nothing that exists relies on it.
    check(c_long::from(unsafe { libc::unshare(libc::CLONE_NEWNET) }))?;
    Ok(())
}

/// Has the kernel kill what `command` starts when the thread that starts it ends.
pub(super) fn end_with_this_thread(command: &mut std::process::Command) {
    let ask = || {
        // SAFETY: takes integers and concerns the new process alone.
        check(c_long::from(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })).map(drop).map_err(io::Error::from)
    };
    // SAFETY: between fork and exec there is one system call, which allocates nothing and takes no lock.
    unsafe { std::os::unix::process::CommandExt::pre_exec(command, ask) };
}

/// Arguments and environment in the form that `execve` takes, built before the fork.
pub(super) struct ExecImage {
    argv: StringArray,
    envp: StringArray,
}

/// A null-terminated array of pointers, and the strings they point at.
struct StringArray {
    pointers: Vec<*const c_char>,
    /// Owns what `pointers` names: the heap blocks stay where they are when this struct moves.
    _strings: Vec<CString>,
}

impl StringArray {
    fn new(strings: &[String]) -> Result<StringArray, Errno> {
        let strings: Vec<CString> =
            strings.iter().map(|text| CString::new(text.as_str())).collect::<Result<_, _>>().map_err(|_| Errno::INVAL)?;
        let pointers = strings.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect();
        Ok(StringArray { pointers, _strings: strings })
    }
}

impl ExecImage {
    /// Refuses strings with a NUL in them (`EINVAL`).
    pub(super) fn new(args: &[String], env: &[String]) -> Result<ExecImage, Errno> {
        Ok(ExecImage { argv: StringArray::new(args)?, envp: StringArray::new(env)? })
    }

    /// Becomes the program at `path`, or says why not.
    pub(super) fn exec(&self, path: &CStr) -> Result<Infallible, Errno> {
        // SAFETY: both arrays end with a null pointer and point at strings that `self` keeps alive.
        unsafe { libc::execve(path.as_ptr(), self.argv.pointers.as_ptr(), self.envp.pointers.as_ptr()) };
        Err(last_errno())
    }
}

/// Ends this process without running destructors or exit handlers, which belong to the process it was forked from.
pub(super) fn exit_now(code: c_int) -> ! {
    // SAFETY: _exit does not return and runs no code of this program.
    unsafe { libc::_exit(code) }
}

/// Takes over descriptor 0, by which the launcher is given its socket.
pub(super) fn take_stdin() -> OwnedFd {
    // SAFETY: the launcher never uses standard input; after this call nothing else refers to descriptor 0.
    unsafe { OwnedFd::from_raw_fd(0) }
}

fn check(result: c_long) -> Result<c_long, Errno> {
    if result == -1 { Err(last_errno()) } else { Ok(result) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}
