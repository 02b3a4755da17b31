//! What the builder's side and the launcher say to each other. Both are the same program, so there is no version.
//!
//! A request is one message on the launcher's socket with five descriptors: the plan (a memory file of JSON), the step's end of
//! its control socket, and what becomes its standard streams; a sixth is the network that it joins. Another
//! message hands over a descriptor to be held until the launcher ends. All else about that step goes over its control socket:
//! the builder closing its writing half means "kill", and it may send an [`Ask`]; in the other direction go [`Report`]s, of which
//! one that tells the end is the last.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

use super::error::{SandboxError, Stage};

/// The descriptors that come with a request.
pub(super) struct Request {
    pub(super) plan: OwnedFd,
    pub(super) control: OwnedFd,
    /// Standard input, output, error.
    pub(super) streams: [OwnedFd; 3],
    /// The namespace of a shared network.
    pub(super) network: Option<OwnedFd>,
}

/// How many descriptors come with a request at most.
const REQUEST_FDS: usize = 6;

impl Request {
    /// Hands the descriptors over as one message.
    pub(super) fn send(&self, socket: impl AsFd) -> Result<(), Errno> {
        let [stdin, stdout, stderr] = &self.streams;
        let mut fds: Vec<BorrowedFd<'_>> =
            vec![self.plan.as_fd(), self.control.as_fd(), stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        fds.extend(self.network.as_ref().map(AsFd::as_fd));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(REQUEST_FDS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fits = ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        debug_assert!(fits, "the buffer is sized for these descriptors");
        rustix::io::retry_on_intr(|| sendmsg(&socket, &[IoSlice::new(&[RUN])], &mut ancillary, SendFlags::NOSIGNAL))?;
        Ok(())
    }

    /// The next message, or `None` when the builder's side has closed the socket.
    pub(super) fn receive(socket: impl AsFd) -> Result<Option<Incoming>, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(REQUEST_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0; 1];
        let received = rustix::io::retry_on_intr(|| {
            recvmsg(&socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        })?;
        if received.bytes == 0 {
            return Ok(None);
        }
        let fds = ancillary
            .drain()
            .filter_map(|message| if let RecvAncillaryMessage::ScmRights(fds) = message { Some(fds) } else { None })
            .flatten();
        let mut fds: Vec<OwnedFd> = fds.collect();
        if let ([HOLD], 1) = (byte, fds.len()) {
            return Ok(fds.pop().map(Incoming::Hold));
        }
        let network = if fds.len() == REQUEST_FDS { fds.pop() } else { None };
        match <[OwnedFd; 5]>::try_from(fds) {
            Ok([plan, control, stdin, stdout, stderr]) if !received.flags.contains(ReturnFlags::CTRUNC) => {
                Ok(Some(Incoming::Run(Request { plan, control, streams: [stdin, stdout, stderr], network })))
            }
            // The kernel drops descriptors when this process may not open more.
            _ => Err(Errno::MFILE),
        }
    }
}

/// A message on the launcher's socket.
pub(super) enum Incoming {
    /// A step to start.
    Run(Request),
    /// What is to be closed when the launcher ends.
    Hold(OwnedFd),
}

/// First bytes of messages.
const RUN: u8 = b'r';
const HOLD: u8 = b'h';

/// Hands a descriptor over to the launcher, to be closed when it ends.
pub(super) fn send_to_hold(socket: impl AsFd, held: impl AsFd) -> Result<(), Errno> {
    let fds = [held.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fits = ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    debug_assert!(fits, "the buffer is sized for one descriptor");
    rustix::io::retry_on_intr(|| sendmsg(&socket, &[IoSlice::new(&[HOLD])], &mut ancillary, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// What the builder asks about a running step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// Its process id, answered by [`Report::Runs`].
    Pid,
    /// To send a signal to the command.
    Signal(i32),
}

impl Ask {
    /// Sends the question. An error means that the step has ended.
    pub(super) fn send(self, control: impl AsFd) -> Result<(), Errno> {
        let number = match self {
            Ask::Pid => 0,
            Ask::Signal(number) => number,
        };
        let number = number.to_le_bytes();
        let parts = [IoSlice::new(&number)];
        sendmsg(control, &parts, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
        Ok(())
    }

    /// The next question; `None` when the builder wants the step no more.
    pub(super) fn receive(control: impl AsFd) -> Option<Ask> {
        let mut number = [0; 4];
        match rustix::net::recv(control, &mut number[..], RecvFlags::DONTWAIT) {
            Ok((_, 4)) => Some(match i32::from_le_bytes(number) {
                0 => Ask::Pid,
                number => Ask::Signal(number),
            }),
            _ => None,
        }
    }
}

/// What becomes of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Report<'a> {
    /// It runs, as this process of the launcher's.
    Runs(i32),
    /// It has a terminal, whose other side comes with this.
    Terminal,
    /// It never came to run the command.
    Failed { stage: Stage, errno: Errno, subject: &'a [u8] },
    /// The command returned.
    Exited(i32),
    /// The command was ended by a signal.
    Signaled(i32),
    /// It ended as if killed, and the kernel has killed for lack of memory meanwhile.
    OutOfMemory,
}

/// Longest report: its head and a path.
const REPORT_BYTES: usize = HEAD_BYTES + 4096;
/// Kind, stage, number.
const HEAD_BYTES: usize = 6;

impl<'a> Report<'a> {
    /// Sends the report; allocates nothing. An error means that nobody waits for it any more.
    pub(super) fn send(&self, control: impl AsFd) -> Result<(), Errno> {
        let (kind, stage, number, subject) = match *self {
            Report::Failed { stage, errno, subject } => (0, stage as u8, errno.raw_os_error(), subject),
            Report::Exited(code) => (1, 0, code, &b""[..]),
            Report::Signaled(signal) => (2, 0, signal, &b""[..]),
            Report::Runs(pid) => (3, 0, pid, &b""[..]),
            Report::OutOfMemory => (4, 0, 0, &b""[..]),
            Report::Terminal => (5, 0, 0, &b""[..]),
        };
        let number = number.to_le_bytes();
        let head: [u8; HEAD_BYTES] = [kind, stage, number[0], number[1], number[2], number[3]];
        let subject = &subject[..subject.len().min(REPORT_BYTES - HEAD_BYTES)];
        let parts = [IoSlice::new(&head), IoSlice::new(subject)];
        sendmsg(control, &parts, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
        Ok(())
    }

    fn parse(message: &'a [u8]) -> Option<Report<'a>> {
        let (head, subject) = message.split_at_checked(HEAD_BYTES)?;
        let number = i32::from_le_bytes([head[2], head[3], head[4], head[5]]);
        match head[0] {
            0 => Some(Report::Failed { stage: Stage::from_byte(head[1])?, errno: Errno::from_raw_os_error(number), subject }),
            1 => Some(Report::Exited(number)),
            2 => Some(Report::Signaled(number)),
            3 => Some(Report::Runs(number)),
            4 => Some(Report::OutOfMemory),
            5 => Some(Report::Terminal),
            _ => None,
        }
    }
}

/// Reports a terminal and hands its other side over.
pub(super) fn send_terminal(control: impl AsFd, other_side: impl AsFd) -> Result<(), Errno> {
    let head: [u8; HEAD_BYTES] = [5, 0, 0, 0, 0, 0];
    let fds = [other_side.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fits = ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    debug_assert!(fits, "the buffer is sized for one descriptor");
    sendmsg(control, &[IoSlice::new(&head)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Reads a step's report and passes it to `then`, with the descriptor that came with it; `EAGAIN` if there is none yet and `flags` say not to wait.
pub(super) fn receive_report<T>(
    control: impl AsFd,
    flags: RecvFlags,
    then: impl FnOnce(Report<'_>, Option<OwnedFd>) -> Result<T, SandboxError>,
) -> Result<Option<T>, SandboxError> {
    let mut buffer = [0; REPORT_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(&control, &mut [IoSliceMut::new(&mut buffer)], &mut ancillary, flags | RecvFlags::CMSG_CLOEXEC)
    });
    let length = match received {
        Ok(received) => received.bytes,
        Err(Errno::AGAIN) => return Ok(None),
        Err(errno) => return Err(SandboxError::Send { action: "receive from the sandbox launcher", source: errno.into() }),
    };
    let fds = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let descriptor = fds.flatten().next();
    // An empty message is the end of the stream: the launcher is no more.
    let report = Report::parse(&buffer[..length]).ok_or(SandboxError::LauncherGone)?;
    then(report, descriptor).map(Some)
}

/// The error that a failure at `stage` means to the caller.
pub(super) fn explain(stage: Stage, errno: Errno, subject: &[u8]) -> SandboxError {
    let subject = String::from_utf8_lossy(subject).into_owned();
    match (stage, errno) {
        (Stage::FindProgram, Errno::NOENT) if !subject.contains('/') => SandboxError::NotInPath { program: subject },
        (Stage::FindProgram | Stage::Execute, Errno::NOENT | Errno::NOTDIR) => SandboxError::NotFound { program: subject },
        (Stage::FindProgram | Stage::Execute, _) => {
            let reason = match errno {
                Errno::ACCESS | Errno::PERM => "permission denied",
                Errno::ISDIR => "is a directory",
                Errno::NOEXEC => "exec format error",
                Errno::LOOP => "too many levels of symbolic links",
                Errno::TOOBIG => "argument list too long",
                Errno::TXTBSY => "text file busy",
                _ => "cannot be executed",
            };
            SandboxError::NotExecutable { program: subject, reason }
        }
        _ => SandboxError::Setup { stage, subject, source: io::Error::from(errno) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a socket pair")
    }

    #[track_caller]
    fn check(report: Report<'_>) {
        let (ours, theirs) = pair();
        report.send(&theirs).expect("sent");
        let found = receive_report(&ours, RecvFlags::empty(), |found, _| {
            assert_eq!(found, report);
            Ok(())
        });
        assert!(matches!(found, Ok(Some(()))), "{found:?}");
    }

    #[test]
    fn reports_arrive_as_sent() {
        check(Report::Exited(3));
        check(Report::Signaled(9));
        check(Report::OutOfMemory);
        check(Report::Runs(7));
        check(Report::Failed { stage: Stage::FindTarget, errno: Errno::NOENT, subject: b"/a" });
    }

    #[test]
    fn a_terminal_comes_with_its_other_side() {
        let (ours, theirs) = pair();
        send_terminal(&theirs, &ours).expect("sent");
        let found = receive_report(&ours, RecvFlags::empty(), |report, descriptor| {
            assert_eq!(report, Report::Terminal);
            Ok(descriptor.is_some())
        });
        assert_eq!(found.expect("received"), Some(true));
    }

    #[test]
    fn questions_arrive_as_sent() {
        let (ours, theirs) = pair();
        for ask in [Ask::Pid, Ask::Signal(15)] {
            ask.send(&ours).expect("sent");
            assert_eq!(Ask::receive(&theirs), Some(ask));
        }
        drop(ours);
        assert_eq!(Ask::receive(&theirs), None);
    }

    #[test]
    fn a_long_subject_is_cut() {
        let (ours, theirs) = pair();
        Report::Failed { stage: Stage::OpenTree, errno: Errno::IO, subject: &[b'x'; 9000] }.send(&theirs).expect("sent");
        let length = receive_report(&ours, RecvFlags::empty(), |report, _| match report {
            Report::Failed { subject, .. } => Ok(subject.len()),
            other => panic!("{other:?}"),
        });
        assert_eq!(length.expect("received"), Some(4096));
    }

    #[test]
    fn a_closed_socket_means_that_the_launcher_is_gone() {
        let (ours, theirs) = pair();
        drop(theirs);
        let found = receive_report(&ours, RecvFlags::empty(), |_, _| Ok(()));
        assert!(matches!(found, Err(SandboxError::LauncherGone)), "{found:?}");
    }

    #[test]
    fn no_report_yet_is_not_an_error() {
        let (ours, _theirs) = pair();
        assert!(matches!(receive_report(&ours, RecvFlags::DONTWAIT, |_, _| Ok(())), Ok(None)));
    }

    #[test]
    fn a_missing_program_is_told_from_a_missing_path() {
        assert_eq!(
            explain(Stage::FindProgram, Errno::NOENT, b"foo").to_string(),
            r#"exec: "foo": executable file not found in $PATH"#
        );
        let found = explain(Stage::FindProgram, Errno::NOENT, b"/x/foo");
        assert_eq!((found.to_string().as_str(), found.exit_code()), (r#"exec: "/x/foo": no such file or directory"#, Some(127)));
        let found = explain(Stage::Execute, Errno::ACCESS, b"/etc/passwd");
        assert_eq!((found.to_string().as_str(), found.exit_code()), (r#"exec: "/etc/passwd": permission denied"#, Some(126)));
    }
}
