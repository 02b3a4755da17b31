//! A step whose standard streams are this process's own, or that has a terminal which is shown on this process's.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use super::client::{Exit, Process};
use super::error::SandboxError;
use super::plan::Streams;

/// The signal that says that a terminal's size has changed.
const WINDOW_CHANGED: u8 = 28;
/// SIGINT and SIGTERM.
const ENDING: [u8; 2] = [2, 15];
/// Bytes that are on their way in one direction; a pipe or terminal that can be written to takes as much without waiting.
const PIECE_BYTES: usize = 4096;

/// Waits for the end of a step that [`Launcher::spawn_attached`](super::Launcher::spawn_attached) has started, and says how it
/// ended. Blocks.
///
/// Each byte that comes from `signals` is the number of a signal for the command; when it has been closed, the step is killed.
/// As process 1 of its namespace the command would not notice a signal that it has made no plans for; here it ends by it, as
/// it would elsewhere. A shell may catch SIGINT and go on waiting for its child: the second SIGINT or SIGTERM is not left to it.
///
/// # Errors
/// What kept the command from running; `SandboxError::LauncherGone`; `SandboxError::Terminal`.
pub fn attend(mut process: Process, signals: BorrowedFd<'_>) -> Result<Exit, SandboxError> {
    let mut session = process.terminal()?.map(Session::open).transpose()?;
    let mut stopped_by = None;
    let mut stopped = false;
    let mut passed_on = [false; 256];
    let exit = loop {
        let (ended, signaled) = wait(&process, (!stopped).then_some(signals), session.as_mut())?;
        if signaled {
            let mut numbers = [0; 16];
            match rustix::io::read(signals, &mut numbers) {
                Ok(0) => {
                    process.kill();
                    stopped = true;
                }
                Ok(count) => {
                    for number in &numbers[..count] {
                        match (number, &session) {
                            (&WINDOW_CHANGED, Some(session)) => session.resize(),
                            _ => {
                                let again = std::mem::replace(&mut passed_on[usize::from(*number)], true);
                                stopped_by = pass_on(&mut process, *number, again)?.or(stopped_by);
                            }
                        }
                    }
                }
                Err(_) => {}
            }
        }
        if ended && let Some(exit) = process.try_exit()? {
            break exit;
        }
    };
    if let Some(session) = session {
        session.finish();
    }
    Ok(stopped_by.unwrap_or(exit))
}

/// A terminal of the size that ours has; of the usual one if ours tells none.
pub fn terminal_like_ours() -> Streams {
    match tcgetwinsize(io::stdin()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => Streams::Terminal { rows: size.ws_row, columns: size.ws_col },
        _ => Streams::Terminal { rows: 24, columns: 80 },
    }
}

/// Waits until something can be done, does what concerns the terminal, and tells whether the step has news and whether
/// `signals` has.
fn wait(process: &Process, signals: Option<BorrowedFd<'_>>, session: Option<&mut Session>) -> Result<(bool, bool), SandboxError> {
    let exit_fd = process.exit_fd();
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let mut asked = vec![(exit_fd, PollFlags::IN), (signals.unwrap_or(exit_fd), PollFlags::IN)];
    if let Some(session) = session.as_deref() {
        let Wanted { terminal, stdin: typed, stdout: shown } = session.wanted();
        asked.extend([(session.terminal.as_fd(), terminal), (stdin.as_fd(), typed), (stdout.as_fd(), shown)]);
    }
    // one that was closed tells so at each turn, wanted or not
    for (fd, _) in asked.iter_mut().filter(|(_, wanted)| wanted.is_empty()) {
        *fd = exit_fd;
    }
    let mut fds: Vec<PollFd<'_>> = asked.iter().map(|(fd, wanted)| PollFd::new(fd, *wanted)).collect();
    match poll(&mut fds, None) {
        Ok(_) => {}
        Err(Errno::INTR) => return Ok((false, false)),
        Err(errno) => return Err(SandboxError::Terminal { action: "wait for the command", source: errno.into() }),
    }
    let ready: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
    drop(fds);
    if let (Some(session), [_, _, terminal, stdin, stdout]) = (session, ready.as_slice()) {
        session.relay(*terminal, *stdin, *stdout);
    }
    Ok((!ready[0].is_empty(), signals.is_some() && !ready[1].is_empty()))
}

/// Sends a signal on, or kills a command that would be ended by it anywhere else; tells how it then ended.
fn pass_on(process: &mut Process, number: u8, again: bool) -> Result<Option<Exit>, SandboxError> {
    let Some(pid) = process.pid()? else { return Ok(None) };
    let insists = again && ENDING.contains(&number);
    if has_plans_for(pid, number) && !insists {
        process.signal(i32::from(number));
        return Ok(None);
    }
    process.kill();
    Ok(Some(Exit::Signal(i32::from(number))))
}

/// Whether a process catches, ignores or blocks a signal, or the signal ends nobody.
fn has_plans_for(pid: u32, number: u8) -> bool {
    const HARMLESS: [u8; 5] = [17, 18, 20, 23, WINDOW_CHANGED];
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { return true };
    let has = |field: &str| {
        let mask = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
        u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask >> (number.max(1) - 1) & 1 == 1)
    };
    HARMLESS.contains(&number) || ["SigCgt:", "SigIgn:", "SigBlk:"].into_iter().any(has)
}

/// The terminal of a step, shown on this process's standard input and output.
struct Session {
    /// The side that is not the step's.
    terminal: OwnedFd,
    is_open: bool,
    /// How our own terminal was; restored at the end.
    saved: Option<Termios>,
    typed: VecDeque<u8>,
    typing: bool,
    printed: VecDeque<u8>,
}

/// What to wait for.
#[derive(Clone, Copy)]
struct Wanted {
    terminal: PollFlags,
    stdin: PollFlags,
    stdout: PollFlags,
}

impl Session {
    fn open(terminal: OwnedFd) -> Result<Session, SandboxError> {
        let failed = |action| move |errno: Errno| SandboxError::Terminal { action, source: errno.into() };
        rustix::io::ioctl_fionbio(&terminal, true).map_err(failed("use the command's terminal"))?;
        let saved = match tcgetattr(io::stdin()) {
            Ok(saved) => Some(saved),
            Err(Errno::NOTTY | Errno::BADF) => None,
            Err(errno) => return Err(failed("read the settings of the terminal")(errno)),
        };
        if let Some(saved) = &saved {
            let mut raw = saved.clone();
            raw.make_raw();
            tcsetattr(io::stdin(), OptionalActions::Drain, &raw).map_err(failed("change the settings of the terminal"))?;
        }
        Ok(Session { terminal, is_open: true, saved, typed: VecDeque::new(), typing: true, printed: VecDeque::new() })
    }

    /// Gives the step's terminal the size of ours.
    fn resize(&self) {
        if let Ok(size) = tcgetwinsize(io::stdin()) {
            // a command that has closed its terminal sees none
            let _lost = tcsetwinsize(&self.terminal, size);
        }
    }

    fn wanted(&self) -> Wanted {
        let when = |wanted: bool, flags| if wanted { flags } else { PollFlags::empty() };
        Wanted {
            terminal: when(self.is_open && self.printed.is_empty(), PollFlags::IN)
                | when(self.is_open && !self.typed.is_empty(), PollFlags::OUT),
            stdin: when(self.is_open && self.typing && self.typed.is_empty(), PollFlags::IN),
            stdout: when(!self.printed.is_empty(), PollFlags::OUT),
        }
    }

    /// Moves what can be moved without waiting.
    fn relay(&mut self, terminal: PollFlags, stdin: PollFlags, stdout: PollFlags) {
        let wanted = self.wanted();
        if !stdout.is_empty() && !wanted.stdout.is_empty() {
            send(&mut self.printed, io::stdout().as_fd());
        }
        if !stdin.is_empty() && !wanted.stdin.is_empty() {
            self.typing = receive(io::stdin().as_fd(), &mut self.typed);
        }
        if terminal.contains(PollFlags::OUT) && !self.typed.is_empty() {
            send(&mut self.typed, self.terminal.as_fd());
        }
        if terminal.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) && wanted.terminal.contains(PollFlags::IN) {
            self.is_open = receive(self.terminal.as_fd(), &mut self.printed);
        }
    }

    /// Shows the last of what the step printed.
    fn finish(mut self) {
        loop {
            while !self.printed.is_empty() {
                send(&mut self.printed, io::stdout().as_fd());
            }
            let before = self.is_open;
            self.is_open = before && receive(self.terminal.as_fd(), &mut self.printed);
            if self.printed.is_empty() {
                return;
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(saved) = &self.saved {
            // a terminal that has gone needs no settings
            let _lost = tcsetattr(io::stdin(), OptionalActions::Drain, saved);
        }
    }
}

/// Reads a piece; whether there may be more some time.
fn receive(from: BorrowedFd<'_>, into: &mut VecDeque<u8>) -> bool {
    let mut piece = [0; PIECE_BYTES];
    match rustix::io::read(from, &mut piece) {
        Ok(0) => false,
        Ok(count) => {
            into.extend(&piece[..count]);
            true
        }
        Err(Errno::AGAIN | Errno::INTR) => true,
        // the other side of a terminal ends with an error
        Err(_) => false,
    }
}

/// Writes a piece; what nobody can read any more is lost.
fn send(bytes: &mut VecDeque<u8>, to: BorrowedFd<'_>) {
    let count = match rustix::io::write(to, bytes.as_slices().0) {
        Ok(count) => count,
        Err(Errno::AGAIN | Errno::INTR) => 0,
        Err(_) => bytes.len(),
    };
    bytes.drain(..count);
}
