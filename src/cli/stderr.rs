//! Writing to stderr when nobody may be reading: a pager that shows its first page, a terminal after Ctrl-S.
//!
//! What waits for such a reader must not be the thread that answers signals, nor hold what that thread needs. So text is
//! written in pieces that fit, after asking whether they do.

use std::io::{self, Write};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A pipe that can be written to takes this much without waiting (`PIPE_BUF`).
const PIECE_BYTES: usize = 4096;

/// Whether a piece can be written, waiting up to `patience` for it; forever without one. Errors count: writing tells more.
pub fn is_ready(patience: Option<Duration>) -> bool {
    let stderr = io::stderr();
    let mut fds = [PollFd::new(&stderr, PollFlags::OUT)];
    let patience = patience.and_then(|patience| Timespec::try_from(patience).ok());
    // a signal is as good as a time that has passed
    !matches!(poll(&mut fds, patience.as_ref()), Ok(0) | Err(rustix::io::Errno::INTR))
}

/// Writes the beginning of `text`, as much as goes without waiting, and takes it out. What nobody can read any more is lost:
/// a closed stderr must not stop a build.
pub fn write_ready(text: &mut Vec<u8>) {
    let mut written = 0;
    while written < text.len() && is_ready(Some(Duration::ZERO)) {
        let end = text.len().min(written + PIECE_BYTES);
        match io::stderr().lock().write(&text[written..end]) {
            Ok(count) if count > 0 => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => written = text.len(),
        }
    }
    text.drain(..written);
}

/// Writes all of `text`, but gives up on a reader who takes nothing for `patience`; without one, waits for ever.
pub fn write_all(mut text: Vec<u8>, patience: Option<Duration>) {
    loop {
        write_ready(&mut text);
        if text.is_empty() || (!is_ready(patience) && patience.is_some()) {
            return;
        }
    }
}
