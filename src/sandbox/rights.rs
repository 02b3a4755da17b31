//! The rights that building takes: root of the machine has them, anybody else gets them inside a user namespace.
//!
//! [`acquire`] moves the whole process there, once and before it has threads. From then on it is root among the ids that its
//! user was given (`/etc/subuid`, `/etc/subgid`), and everything else works as for root of the machine: files on disk belong to
//! the ids that stand for an image's, and are read back as the image's own. So layers come out the same.
//!
//! A user without ranges gets its own id alone, as root: files keep other owners as a note (`snapshot`), and commands are told
//! that giving files away and changing users worked.
//!
//! `newuidmap` and `newgidmap` are asked for the ranges, as only they may give them. They act on a child that waits in the new
//! namespace; the process itself enters when the maps are there.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions, getegid, geteuid, waitid};
use rustix::thread::{CapabilitySet, LinkNameSpaceType, move_into_link_name_space};

use super::sys::{self, Fork, Namespaces};

/// Where the process's rights come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// It had them: root of the machine, or of a namespace that somebody else made.
    Own,
    /// It is root of a user namespace that holds the ids given to its user.
    SubordinateIds,
    /// It is root of a user namespace of its user's own id: there are no ranges for it.
    OneId,
    /// It is root of a container that lets it make no namespaces and mounts: steps work on copies, by `chroot`.
    Contained,
}

/// How many users this process may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ids {
    /// Those that images have.
    Many,
    /// Root, which is the user outside.
    One,
}

impl Ids {
    /// Asks the kernel (`user_namespaces(7)`): a user's own id alone is given only where groups cannot be dropped.
    pub(super) fn of_process() -> Ids {
        match fs::read_to_string("/proc/self/setgroups") {
            Ok(text) if text.trim() == "deny" => Ids::One,
            _ => Ids::Many,
        }
    }
}

/// Why a process cannot have the rights that building takes.
#[derive(Debug, thiserror::Error)]
pub enum RightsError {
    /// The kernel makes no user namespaces, or not for this user.
    #[error("no user namespace can be made for user {uid}, and building without root takes one")]
    NoNamespace {
        /// Who asked.
        uid: u32,
        /// What would change that.
        remedy: Remedy,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A security module lets the namespace exist and takes its rights away.
    #[error("user {uid} has no rights in a user namespace, and building without root takes them")]
    Confined {
        /// Who asked.
        uid: u32,
        /// What would change that.
        remedy: Remedy,
        /// The kernel's answer.
        source: io::Error,
    },
    /// There are ranges, and no program that may hand them out.
    #[error("`{program}` is not installed, which gives a user the ids of `{file}`")]
    NoMapper {
        /// `newuidmap` or `newgidmap`.
        program: &'static str,
        /// Where the ranges are.
        file: &'static str,
    },
    /// The program refused.
    #[error("`{program}` does not give user {uid} the ids of `{file}`: {reason}")]
    Refused {
        /// `newuidmap` or `newgidmap`.
        program: &'static str,
        /// Who asked.
        uid: u32,
        /// Where the ranges are.
        file: &'static str,
        /// Its words.
        reason: String,
    },
    /// A call failed that should not.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// What to do about a kernel that refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// `user.max_user_namespaces` is too small.
    RaiseLimit,
    /// `kernel.unprivileged_userns_clone` is 0 (Debian's and Arch's kernels).
    AllowClone,
    /// AppArmor restricts user namespaces (`kernel.apparmor_restrict_unprivileged_userns`, Ubuntu).
    AllowInAppArmor,
    /// Something else: a container's system call filter, a kernel without them.
    Elsewhere,
}

impl RightsError {
    /// What would help, for people.
    pub fn help(&self) -> String {
        match self {
            RightsError::NoNamespace { remedy, .. } | RightsError::Confined { remedy, .. } => match remedy {
                Remedy::RaiseLimit => "`user.max_user_namespaces` is used up or 0: `sudo sysctl -w user.max_user_namespaces=15000`",
                Remedy::AllowClone => "the kernel keeps them for root: `sudo sysctl -w kernel.unprivileged_userns_clone=1`",
                Remedy::AllowInAppArmor => {
                    "AppArmor keeps them for programs with a profile: `sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, \
                     or give croze a profile with `userns,`"
                }
                Remedy::Elsewhere => {
                    "run croze as root; in a container, allow user namespaces (the runtime's system call filter refuses them by default)"
                }
            }
            .to_owned(),
            RightsError::NoMapper { .. } => "install the package `uidmap` (`shadow-utils` on Fedora)".to_owned(),
            RightsError::Refused { program, .. } => {
                format!("`{program}` must be set-uid root or have its file capability, and the range must be the user's own")
            }
            RightsError::System { .. } => "run croze as root".to_owned(),
        }
    }
}

/// One kind of ids.
struct Kind {
    program: &'static str,
    file: &'static str,
}

const USERS: Kind = Kind { program: "newuidmap", file: "/etc/subuid" };
const GROUPS: Kind = Kind { program: "newgidmap", file: "/etc/subgid" };

/// Gives this process what building takes, by moving it into a user and a mount namespace of its own if need be.
///
/// To be called before the process has a second thread: the kernel refuses to move one of several.
///
/// # Errors
/// See [`RightsError`]; the process is then where it was.
pub fn acquire() -> Result<Rights, RightsError> {
    if rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN)) {
        return Ok(Rights::Own);
    }
    let uid = geteuid().as_raw();
    if uid == 0 && can_change_root() {
        return Ok(Rights::Contained);
    }
    let name = user_name(&read("/etc/passwd")?, uid);
    let users = ranges(&read(USERS.file)?, uid, name.as_deref());
    let groups = ranges(&read(GROUPS.file)?, uid, name.as_deref());
    if users.is_empty() || groups.is_empty() {
        enter(uid, |pid| map_one(pid, uid, getegid().as_raw()))?;
        return Ok(Rights::OneId);
    }
    enter(uid, |pid| {
        // both at once: they take a few milliseconds each
        let users = Mapper::start(&USERS, pid, uid, &users)?;
        let groups = Mapper::start(&GROUPS, pid, getegid().as_raw(), &groups)?;
        users.finish(uid)?;
        groups.finish(uid)
    })?;
    Ok(Rights::SubordinateIds)
}

/// Whether this process could at least work by `chroot`: root of an ordinary container has that right.
pub(super) fn can_change_root() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_CHROOT))
}

/// Makes a user namespace, has `map` fill its maps, given the number of a process in it, and moves there.
fn enter(uid: u32, map: impl FnOnce(u32) -> Result<(), RightsError>) -> Result<(), RightsError> {
    let system = |action| move |errno: Errno| RightsError::System { action, source: errno.into() };
    let (waiting, done) = pipe_with(PipeFlags::CLOEXEC).map_err(system("make a pipe"))?;
    let fork = sys::fork_into(Namespaces::USERS);
    let refused = |errno: Errno| RightsError::NoNamespace { uid, remedy: remedy(errno), source: errno.into() };
    let Fork::Parent { pidfd, pid } = fork.map_err(refused)? else {
        // The namespace lives as long as this process does: until the other side closes the pipe, or ends.
        drop(done);
        let _end = rustix::io::read(&waiting, &mut [0; 1]);
        sys::exit_now(0)
    };
    let entered = map(pid).and_then(|()| {
        let path = format!("/proc/{pid}/ns/user");
        let namespace = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let namespace = namespace.map_err(system("open a user namespace"))?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::User)).map_err(system("enter a user namespace"))?;
        // Mounts can be made in a mount namespace that belongs to the user namespace only.
        let confined = |errno: Errno| RightsError::Confined { uid, remedy: remedy(errno), source: errno.into() };
        sys::unshare_mounts().map_err(confined)
    });
    drop(done);
    // It ends by itself; who does not wait for it keeps a dead child.
    let _reaped = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
    entered
}

/// Lets id 0 of the namespace be the user, which takes nobody's help; the kernel wants the right to drop groups given up for it.
fn map_one(pid: u32, uid: u32, gid: u32) -> Result<(), RightsError> {
    let write = |name: &str, text: String| {
        let written = fs::write(format!("/proc/{pid}/{name}"), text);
        written.map_err(|source| RightsError::System { action: "map the user's own id", source })
    };
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("0 {uid} 1"))?;
    write("gid_map", format!("0 {gid} 1"))
}

/// What may stand behind the kernel's refusal.
fn remedy(errno: Errno) -> Remedy {
    let setting =
        |name: &str| fs::read_to_string(format!("/proc/sys/{name}")).ok().and_then(|text| text.trim().parse::<u64>().ok());
    if errno == Errno::NOSPC || errno == Errno::USERS || setting("user/max_user_namespaces") == Some(0) {
        Remedy::RaiseLimit
    } else if setting("kernel/unprivileged_userns_clone") == Some(0) {
        Remedy::AllowClone
    } else if setting("kernel/apparmor_restrict_unprivileged_userns").is_some_and(|value| value > 0) {
        Remedy::AllowInAppArmor
    } else {
        Remedy::Elsewhere
    }
}

/// A run of `newuidmap` or `newgidmap`.
struct Mapper {
    kind: &'static Kind,
    child: std::process::Child,
}

impl Mapper {
    /// Id 0 of the namespace is `own`, and the ranges follow from 1 on.
    fn start(kind: &'static Kind, pid: u32, own: u32, ranges: &[Range]) -> Result<Mapper, RightsError> {
        let mut command = Command::new(kind.program);
        command.arg(pid.to_string()).args(["0".to_owned(), own.to_string(), "1".to_owned()]);
        let mut inside: u64 = 1;
        for range in ranges {
            command.args([inside.to_string(), range.start.to_string(), range.count.to_string()]);
            inside += u64::from(range.count);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => RightsError::NoMapper { program: kind.program, file: kind.file },
            _ => RightsError::System { action: "run a program that maps ids", source },
        })?;
        Ok(Mapper { kind, child })
    }

    fn finish(self, uid: u32) -> Result<(), RightsError> {
        let Kind { program, file } = *self.kind;
        let output = self.child.wait_with_output();
        let output = output.map_err(|source| RightsError::System { action: "wait for a program that maps ids", source })?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let reason = said.lines().next().unwrap_or("it gives no reason").trim().to_owned();
        Err(RightsError::Refused { program, uid, file, reason })
    }
}

/// Ids that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    start: u32,
    count: u32,
}

/// The ranges that `/etc/subuid` or `/etc/subgid` (`subuid(5)`: `NAME-OR-ID:START:COUNT`) gives a user, in the file's order.
fn ranges(text: &str, uid: u32, name: Option<&str>) -> Vec<Range> {
    let line = |line: &str| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        if Some(owner) != name && owner.parse() != Ok(uid) {
            return None;
        }
        let (start, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (count > 0).then_some(Range { start, count })
    };
    text.lines().filter_map(line).collect()
}

fn user_name(passwd: &str, uid: u32) -> Option<String> {
    let mut lines = passwd.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| {
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// The text of a file; none if it is not there.
fn read(path: impl AsRef<OsStr>) -> Result<String, RightsError> {
    match fs::read(path.as_ref()) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(RightsError::System { action: "read which ids the user has", source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBUID: &str = "alice:100000:65536\n1001:200000:1000\n# bob\nbob:x:1\nalice:300000:10\nalice:1:0\n\n";

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        let pairs = |uid, name| ranges(SUBUID, uid, name).iter().map(|range| (range.start, range.count)).collect::<Vec<_>>();
        assert_eq!(pairs(1000, Some("alice")), [(100_000, 65536), (300_000, 10)]);
        assert_eq!(pairs(1001, Some("carol")), [(200_000, 1000)]);
        assert_eq!(pairs(1002, Some("bob")), []);
        assert_eq!(pairs(1003, None), []);
    }

    #[test]
    fn names_of_users_come_from_passwd() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\nbroken\n";
        assert_eq!(user_name(passwd, 1000).as_deref(), Some("alice"));
        assert_eq!(user_name(passwd, 7), None);
    }
}
