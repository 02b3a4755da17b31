//! Programs of other processors: a user namespace in which the kernel hands them to an emulator.
//!
//! The kernel keeps the table of such programs (`binfmt_misc`) per user namespace since Linux 6.7. So a step gets a namespace in
//! which every id is itself and the table has one line; nothing changes for the rest of the machine. The emulator is opened
//! when the line is written: the image need not have it. Inside, a step lacks what only the machine's own root may do, such as
//! making devices.
//!
//! Source: Linux, `Documentation/admin-guide/binfmt-misc.rst`, and `fs/binfmt_misc.c` for the namespaces.

use std::fs;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketFlags, SocketType, recvmsg, send, sendmsg, socketpair,
};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::plan::Emulator;
use super::sys::{self, Fork, Namespaces};

/// A user namespace whose programs of one other processor run in an emulator.
#[derive(Debug)]
pub(super) struct Emulation {
    emulator: Emulator,
    namespace: OwnedFd,
    /// The lines of a table go with the last mount of it.
    _table: OwnedFd,
}

impl Emulation {
    /// Makes the namespace. Like every fork of the launcher, from its one thread.
    ///
    /// Kernels before 6.7 answer `EPERM`.
    pub(super) fn prepare(emulator: &Emulator) -> Result<Emulation, Errno> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        match sys::fork_into(Namespaces::USERS_AND_MOUNTS)? {
            Fork::Child => {
                drop(ours);
                if let Err(errno) = fill(emulator, &theirs) {
                    // an error here means that nobody waits for the other one
                    let _ = send(&theirs, &errno.raw_os_error().to_le_bytes(), SendFlags::NOSIGNAL);
                }
                sys::exit_now(0)
            }
            Fork::Parent { pidfd, pid } => {
                drop(theirs);
                let handed = map_ids(pid).and_then(|()| send(&ours, b"mapped", SendFlags::NOSIGNAL)).and_then(|_| receive(&ours));
                drop(ours);
                rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED))?;
                let (namespace, table) = handed?;
                Ok(Emulation { emulator: emulator.clone(), namespace, _table: table })
            }
        }
    }

    /// Whether it is the one for `emulator`.
    pub(super) fn is_of(&self, emulator: &Emulator) -> bool {
        self.emulator == *emulator
    }

    /// Moves this process into the namespace, as its root.
    pub(super) fn enter(&self) -> Result<(), Errno> {
        move_into_link_name_space(self.namespace.as_fd(), Some(LinkNameSpaceType::User))
    }
}

/// Gives every id of ours the same number in the namespace of the process.
fn map_ids(pid: u32) -> Result<(), Errno> {
    let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    for map in ["uid_map", "gid_map"] {
        let own = fs::read_to_string(format!("/proc/self/{map}")).map_err(failed)?;
        fs::write(format!("/proc/{pid}/{map}"), identity(&own)).map_err(failed)?;
    }
    Ok(())
}

/// The lines of a map with the numbers inside on both sides.
fn identity(own: &str) -> String {
    let mut text = String::new();
    for line in own.lines() {
        if let [inside, _, count] = line.split_whitespace().collect::<Vec<_>>()[..] {
            text.push_str(&format!("{inside} {inside} {count}\n"));
        }
    }
    text
}

/// In the new namespace: waits for the ids, writes the table, hands the namespace and the table over.
fn fill(emulator: &Emulator, socket: &OwnedFd) -> Result<(), Errno> {
    let mut word = [0; 16];
    let (_, length) = rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut word[..], RecvFlags::empty()))?;
    if length == 0 {
        return Err(Errno::SRCH);
    }
    let context = fsopen(c"binfmt_misc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let table = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let register = openat(&table, c"register", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&register, &line(emulator))?;
    let namespace = openat(CWD, c"/proc/self/ns/user", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let fds = [namespace.as_fd(), table.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fits = ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    debug_assert!(fits, "the buffer is sized for these descriptors");
    sendmsg(socket, &[IoSlice::new(b"f")], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The line of the table: the program's own name stays its first argument, set-user-ID bits count, and the emulator is opened
/// now.
fn line(emulator: &Emulator) -> Vec<u8> {
    let escaped = |bytes: &[u8]| bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
    let (magic, mask) = (escaped(&emulator.magic), escaped(&emulator.mask));
    let mut line = format!(":croze:M:0:{magic}:{mask}:").into_bytes();
    line.extend_from_slice(emulator.interpreter.as_os_str().as_bytes());
    line.extend_from_slice(b":POCF");
    line
}

fn receive(socket: &OwnedFd) -> Result<(OwnedFd, OwnedFd), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 4];
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    let fds = ancillary
        .drain()
        .filter_map(|message| if let RecvAncillaryMessage::ScmRights(fds) = message { Some(fds) } else { None })
        .flatten();
    match (<[OwnedFd; 2]>::try_from(fds.collect::<Vec<_>>()), received.bytes) {
        (Ok([namespace, table]), _) => Ok((namespace, table)),
        (Err(_), 4) => Err(Errno::from_raw_os_error(i32::from_le_bytes(bytes))),
        (Err(_), _) => Err(Errno::CHILD),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_stay_what_they_are() {
        assert_eq!(identity("         0          0 4294967295\n"), "0 0 4294967295\n");
        assert_eq!(identity("0 1000 1\n1 100000 65536\n"), "0 0 1\n1 1 65536\n");
    }

    #[test]
    fn the_line_is_as_the_kernel_reads_it() {
        let emulator = Emulator { interpreter: "/usr/bin/qemu".into(), magic: vec![0x7f, b'E'], mask: vec![0xff, 0] };
        assert_eq!(line(&emulator), br":croze:M:0:\x7f\x45:\xff\x00:/usr/bin/qemu:POCF");
    }
}
