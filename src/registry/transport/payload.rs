//! What a request carries: bytes at hand, or a file that is read while it is sent.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::sync::mpsc;

use crate::task;

/// Pieces of a file that wait for the network: one is being sent, one is being read.
const PIECES_AHEAD: usize = 2;
const PIECE_BYTES: usize = 256 << 10;

/// The body of a request; can be sent any number of times.
#[derive(Clone, Debug)]
pub enum Payload {
    /// These bytes.
    Bytes(Bytes),
    /// A part of a file.
    File {
        /// Where it is.
        path: PathBuf,
        /// Where the part begins.
        start_bytes: u64,
        /// How much of it.
        size_bytes: u64,
    },
}

impl Default for Payload {
    fn default() -> Payload {
        Payload::Bytes(Bytes::new())
    }
}

impl Payload {
    /// How many bytes it has.
    pub fn size_bytes(&self) -> u64 {
        match self {
            Payload::Bytes(bytes) => bytes.len() as u64,
            Payload::File { size_bytes, .. } => *size_bytes,
        }
    }

    /// The body for one sending, and how far it came.
    pub(super) fn send(&self) -> (Sending, Progress) {
        let progress = Progress::default();
        let (pieces, left_bytes) = match self {
            Payload::Bytes(bytes) => (Pieces::One(Some(bytes.clone()).filter(|bytes| !bytes.is_empty())), bytes.len() as u64),
            Payload::File { path, start_bytes, size_bytes } => {
                let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
                let (path, start_bytes, size_bytes) = (path.clone(), *start_bytes, *size_bytes);
                // it ends when the file does, or when nobody takes its pieces any more
                tokio::spawn(task::blocking(move || {
                    if let Err(error) = read_pieces(&path, start_bytes, size_bytes, &sender) {
                        // with nobody left to tell, nobody waits for the file either
                        let _gone = sender.blocking_send(Err(error));
                    }
                }));
                (Pieces::Read(receiver), size_bytes)
            }
        };
        (Sending { pieces, left_bytes, progress: progress.clone() }, progress)
    }
}

fn read_pieces(path: &Path, start_bytes: u64, size_bytes: u64, sender: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(start_bytes))?;
    let mut left_bytes = size_bytes;
    while left_bytes > 0 {
        let mut piece = vec![0; left_bytes.min(PIECE_BYTES as u64) as usize];
        file.read_exact(&mut piece)?;
        left_bytes -= piece.len() as u64;
        if sender.blocking_send(Ok(Bytes::from(piece))).is_err() {
            break;
        }
    }
    Ok(())
}

/// How much of a body the network has taken.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress(Arc<AtomicU64>);

impl Progress {
    /// Bytes so far.
    pub fn taken_bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A payload on its way.
pub(super) struct Sending {
    pieces: Pieces,
    left_bytes: u64,
    progress: Progress,
}

enum Pieces {
    One(Option<Bytes>),
    Read(mpsc::Receiver<io::Result<Bytes>>),
}

impl Body for Sending {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let piece = match &mut self.pieces {
            Pieces::One(bytes) => bytes.take().map(Ok),
            Pieces::Read(pieces) => ready!(pieces.poll_recv(context)),
        };
        let Some(piece) = piece else { return Poll::Ready(None) };
        let piece = piece?;
        self.left_bytes = self.left_bytes.saturating_sub(piece.len() as u64);
        self.progress.0.fetch_add(piece.len() as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left_bytes == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left_bytes)
    }
}
