//! A blob on its way from the network into blocking code.

use std::io::{self, Read};

use hyper::body::Bytes;
use tokio::sync::mpsc;

use crate::digest::{Digest, Hasher};
use crate::task;

/// Reads a blob while it is downloaded. Its end is reached only by the right number of the right bytes; anything else is
/// an error at the place where the end should be.
pub struct BlobReader {
    chunks: mpsc::Receiver<Bytes>,
    current: Bytes,
    hasher: Hasher,
    left_bytes: u64,
    expected: Digest,
    verdict: Option<Digest>,
}

impl BlobReader {
    pub(in crate::registry) fn new(chunks: mpsc::Receiver<Bytes>, expected: Digest, size_bytes: u64) -> BlobReader {
        BlobReader { chunks, current: Bytes::new(), hasher: Hasher::new(), left_bytes: size_bytes, expected, verdict: None }
    }

    /// Reads what its user left over, so that the verdict is known.
    pub(super) fn drain(&mut self) -> io::Result<()> {
        io::copy(self, &mut io::sink()).map(drop)
    }

    /// What the bytes hash to, when all came and it is not what was asked for.
    pub(super) fn mismatch(&self) -> Option<Digest> {
        self.verdict.filter(|found| *found != self.expected)
    }

    fn end(&mut self) -> io::Result<usize> {
        let hasher = &mut self.hasher;
        let found = *self.verdict.get_or_insert_with(|| std::mem::take(hasher).finish());
        if found == self.expected {
            return Ok(0);
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, format!("{found} came for {}", self.expected)))
    }
}

/// Chunks of a blob that wait for their reader: enough to bridge a pause on either side. Each has as much as the transport
/// reads at once, at most.
const CHUNKS_AHEAD: usize = 16;

/// Runs `consume` where it may block on what `send` sends: what became of sending, of consuming, and what the bytes hash to if
/// all came and were others.
pub(in crate::registry) async fn consumed<T, E, S, Sending>(
    digest: Digest,
    size_bytes: u64,
    send: impl FnOnce(mpsc::Sender<Bytes>) -> Sending,
    consume: impl FnOnce(&mut BlobReader) -> Result<T, E> + Send + 'static,
) -> (S, Result<T, E>, Option<Digest>)
where
    T: Send + 'static,
    E: Send + 'static,
    Sending: Future<Output = S>,
{
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let mut reader = BlobReader::new(receiver, digest, size_bytes);
    let consumed = task::blocking(move || {
        let result = consume(&mut reader);
        if result.is_ok() {
            // its failures are the verdict below and the sender's error
            let _ = reader.drain();
        }
        (result, reader.mismatch())
    });
    let (sent, (result, mismatch)) = tokio::join!(send(sender), consumed);
    (sent, result, mismatch)
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left_bytes == 0 {
            return self.end();
        }
        if self.current.is_empty() {
            self.current = match self.chunks.blocking_recv() {
                Some(chunk) => chunk,
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the download broke off")),
            };
        }
        let count = buffer.len().min(self.current.len());
        let piece = self.current.split_to(count);
        buffer[..count].copy_from_slice(&piece);
        self.hasher.update(&piece);
        self.left_bytes -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `chunks` as a blob that should be `expected`.
    fn read(chunks: &[&'static str], expected: &str) -> io::Result<String> {
        let (sender, receiver) = mpsc::channel(chunks.len().max(1));
        for chunk in chunks {
            sender.try_send(Bytes::from_static(chunk.as_bytes())).expect("there is room");
        }
        drop(sender);
        let mut reader = BlobReader::new(receiver, Digest::of(expected.as_bytes()), expected.len() as u64);
        let mut text = String::new();
        reader.read_to_string(&mut text).map(|_| text)
    }

    #[test]
    fn the_right_bytes_end_well() {
        assert_eq!(read(&["ab", "c"], "abc").expect("right"), "abc");
        assert_eq!(read(&[], "").expect("right"), "");
    }

    #[test]
    fn wrong_bytes_have_no_end() {
        assert_eq!(read(&["abd"], "abc").expect_err("wrong").kind(), io::ErrorKind::InvalidData);
        assert_eq!(read(&["ab"], "abc").expect_err("short").kind(), io::ErrorKind::UnexpectedEof);
    }
}
