//! Bytes on their way from one thread to another, in chunks that are used again: memory that was touched just now is cheaper than
//! new one.

use std::io::{self, BufRead, Read};
use std::ops::ControlFlow;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender, sync_channel};

/// Chunks that wait for their reader at most.
const AHEAD: usize = 8;

/// The two ends of a way for chunks of this size.
pub fn chunks(chunk_bytes: usize) -> (Filler, Chunks) {
    let (full, received) = sync_channel(AHEAD);
    let (back, spare) = mpsc::channel();
    let chunks = Chunks { received, back, buffer: Vec::new(), at: 0, filled: 0 };
    (Filler { full, spare, chunk_bytes }, chunks)
}

/// Where chunks are filled. The reader's end is where this is dropped.
pub struct Filler {
    full: SyncSender<io::Result<Chunk>>,
    spare: Receiver<Vec<u8>>,
    chunk_bytes: usize,
}

/// So many bytes of the buffer.
type Chunk = (Vec<u8>, usize);

impl Filler {
    /// A buffer to fill.
    pub fn buffer(&self) -> Vec<u8> {
        self.spare.try_recv().unwrap_or_else(|_| vec![0; self.chunk_bytes])
    }

    /// Sends so many bytes of a buffer, or why there are none; waits while too many wait. `Break` when nobody reads any more.
    pub fn send(&self, chunk: io::Result<Chunk>) -> ControlFlow<()> {
        match self.full.send(chunk) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}

/// Where chunks are read, as they lie in memory.
pub struct Chunks {
    received: Receiver<io::Result<Chunk>>,
    back: Sender<Vec<u8>>,
    buffer: Vec<u8>,
    at: usize,
    filled: usize,
}

impl Chunks {
    /// What is left of the present chunk.
    pub fn rest(&self) -> &[u8] {
        &self.buffer[self.at..self.filled]
    }

    /// Takes the next chunk, once nothing is left of the present one; whether there was one.
    ///
    /// # Errors
    /// What the other side sent in place of a chunk.
    pub fn next_chunk(&mut self) -> io::Result<bool> {
        let Ok(chunk) = self.received.recv() else { return Ok(false) };
        let (buffer, filled) = chunk?;
        let former = std::mem::replace(&mut self.buffer, buffer);
        if !former.is_empty() {
            // the other side may have sent its last chunk already
            let _unwanted = self.back.send(former);
        }
        (self.at, self.filled) = (0, filled);
        Ok(true)
    }
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.rest().is_empty() {
            self.next_chunk()?;
        }
        Ok(self.rest())
    }

    fn consume(&mut self, count: usize) {
        self.at = (self.at + count).min(self.filled);
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}
