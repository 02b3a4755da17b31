//! Watching over a command: its output, its end, the limits of its time, and the client who wants to stop.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::watch;

use super::Shared;
use super::error::{Expired, WorkError};
use super::processes;
use crate::event::{Event, StepNumber, Stream};
use crate::graph::Limits;
use crate::sandbox::{Exit, Running};

/// How many lines of a failing command the error message shows.
pub const TAIL_LINES: usize = 20;

/// How a command ended that was watched over.
pub enum Ending {
    /// By itself.
    Exit(Exit),
    /// It was killed when its time was over.
    Expired {
        /// Which limit.
        limit: Expired,
        /// The processes that were there, as a tree, one line each.
        processes: Vec<String>,
    },
}

/// Reads what the command prints until it has ended, and says how.
///
/// The end is the end of process 1: when it is gone the kernel has killed the rest, and what is left in the pipes is read.
///
/// # Errors
/// `Canceled` if `canceling` said so; what kept the command from starting.
pub fn attend(
    running: &mut Running,
    output: &mut Output<'_>,
    canceling: &Canceling,
    limits: &Limits,
    details: processes::Details,
) -> Result<Ending, WorkError> {
    let mut buffer = vec![0; 64 << 10];
    let mut stdout = Pipe::new(&running.stdout, Stream::Stdout)?;
    let mut stderr = Pipe::new(&running.stderr, Stream::Stderr)?;
    let mut time = Time::new(limits);
    let mut canceled = false;
    let mut expired = None;
    let exit = loop {
        let (out_ready, err_ready, ended, cancel) = {
            let exit_fd = running.exit_fd();
            let stop_fd = if canceled { exit_fd } else { canceling.as_fd() };
            let mut fds = vec![PollFd::new(&exit_fd, PollFlags::IN), PollFd::new(&stop_fd, PollFlags::IN)];
            let open: Vec<&Pipe> = [&stdout, &stderr].into_iter().filter(|pipe| pipe.open).collect();
            fds.extend(open.iter().map(|pipe| PollFd::new(&pipe.file, PollFlags::IN)));
            let patience = if expired.is_some() { None } else { time.left().map(timespec) };
            match poll(&mut fds, patience.as_ref()) {
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
        if out_ready || err_ready {
            // after it was passed on: a reader who is slow makes no command silent
            time.heard();
        }
        if ended && let Some(exit) = running.try_exit()? {
            break exit;
        }
        if expired.is_none()
            && !canceled
            && let Some(limit) = time.expired()
        {
            let processes = running.pid()?.map(|pid| processes::tree(pid, details)).unwrap_or_default();
            running.kill();
            expired = Some((limit, processes));
        }
    };
    for pipe in [&mut stdout, &mut stderr] {
        while pipe.open && pipe.read(&mut buffer, output)? {}
    }
    output.tail.finish();
    match expired {
        _ if canceled => Err(WorkError::Canceled),
        Some((limit, processes)) => Ok(Ending::Expired { limit, processes }),
        None => Ok(Ending::Exit(exit)),
    }
}

/// When a command's time is over.
struct Time<'a> {
    limits: &'a Limits,
    began: Instant,
    heard: Instant,
}

impl Time<'_> {
    fn new(limits: &Limits) -> Time<'_> {
        let now = Instant::now();
        Time { limits, began: now, heard: now }
    }

    fn heard(&mut self) {
        if self.limits.silence.is_some() {
            self.heard = Instant::now();
        }
    }

    /// The limits with what is left of them.
    fn remaining(&self) -> impl Iterator<Item = (Expired, Duration)> + use<> {
        let time = self.limits.time.map(|limit| (Expired::Time(limit), limit.saturating_sub(self.began.elapsed())));
        let silence = self.limits.silence.map(|limit| (Expired::Silence(limit), limit.saturating_sub(self.heard.elapsed())));
        [time, silence].into_iter().flatten()
    }

    fn left(&self) -> Option<Duration> {
        self.remaining().map(|(_, left)| left).min()
    }

    fn expired(&self) -> Option<Expired> {
        self.remaining().find(|(_, left)| left.is_zero()).map(|(limit, _)| limit)
    }
}

/// For `poll`; a time that is too long for it is a time without end.
fn timespec(left: Duration) -> Timespec {
    Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::from(i32::MAX), tv_nsec: 0 })
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
pub struct Output<'a> {
    shared: &'a Shared,
    number: Option<StepNumber>,
    /// The end of it.
    pub tail: Tail,
}

impl<'a> Output<'a> {
    /// Of the step with this number.
    pub fn new(shared: &'a Shared, number: Option<StepNumber>) -> Output<'a> {
        Output { shared, number, tail: Tail::default() }
    }

    fn bytes(&mut self, stream: Stream, bytes: &[u8]) {
        self.tail.push(bytes);
        if let Some(step) = self.number {
            self.shared.events.event(Event::Output { step, stream, bytes: bytes.to_vec() });
        }
    }

    /// A line about the step.
    pub fn note(&self, text: String) {
        if let Some(step) = self.number {
            self.shared.events.event(Event::Note { step, text });
        }
    }
}

/// The last lines of a stream of bytes, in bounded memory.
#[derive(Default)]
pub struct Tail {
    /// At most [`TAIL_LINES`].
    pub lines: VecDeque<String>,
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

/// A descriptor that becomes readable when everything has to stop, for code that waits in `poll`.
pub struct Canceling {
    stop: OwnedFd,
    _writer: Arc<Mutex<Option<OwnedFd>>>,
}

impl Canceling {
    /// Follows `cancel`, which turns true once. Must be called inside the runtime.
    pub fn new(mut cancel: watch::Receiver<bool>) -> Result<Canceling, WorkError> {
        let (stop, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| WorkError::system("make a pipe")(error.into()))?;
        let writer = Arc::new(Mutex::new(Some(writer)));
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

    /// Waits for `time`.
    ///
    /// # Errors
    /// `Canceled` if everything has to stop meanwhile.
    pub fn pause(&self, time: Duration) -> Result<(), WorkError> {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(&self.stop, PollFlags::IN)];
            match poll(&mut fds, Some(&timespec(left))) {
                Ok(0) => return Ok(()),
                Ok(_) => return Err(WorkError::Canceled),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(WorkError::system("wait")(error.into())),
            }
        }
    }
}

impl AsFd for Canceling {
    fn as_fd(&self) -> BorrowedFd<'_> {
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
    fn the_limit_that_is_reached_first_counts() {
        let limits = |time, silence| Limits { time, silence, retry: None };
        let (none, hour) = (Some(Duration::ZERO), Some(Duration::from_secs(3600)));
        let expired = |limits: &Limits| Time::new(limits).expired();
        assert_eq!(expired(&limits(None, None)), None);
        assert_eq!(expired(&limits(hour, hour)), None);
        assert_eq!(expired(&limits(hour, none)), Some(Expired::Silence(Duration::ZERO)));
        assert_eq!(expired(&limits(none, none)), Some(Expired::Time(Duration::ZERO)));
        assert_eq!(Time::new(&limits(None, None)).left(), None);
    }
}
