//! Cuts a stream where its content says so: what is inserted or removed moves the cuts around it and no others, so that most
//! chunks of a changed stream are those of the former one.
//!
//! A gear hash, as in FastCDC (Xia and others, "FastCDC: a Fast and Efficient Content-Defined Chunking Approach", USENIX ATC
//! 2016), with a stricter mask before the wanted size and a laxer one behind it.

use std::io::{self, Write};
use std::sync::OnceLock;

use crate::digest::Digest;

/// No chunk but the last is smaller, none is larger.
const LEAST_BYTES: usize = 256 << 10;
const WANTED_BYTES: usize = 1 << 20;
/// The largest chunk.
pub const MOST_BYTES: usize = 4 << 20;

/// On average a cut in 4 MiB before the wanted size and in 256 KiB behind it. The hash's upper bits know of the most bytes.
const STRICT: u64 = !0 << (64 - 22);
const LAX: u64 = !0 << (64 - 18);

/// Hands chunks of what is written to `take`.
pub struct Chunker<F> {
    chunk: Vec<u8>,
    hash: u64,
    take: F,
}

impl<F: FnMut(Vec<u8>) -> io::Result<()>> Chunker<F> {
    /// Nothing is written yet.
    pub fn new(take: F) -> Chunker<F> {
        Chunker { chunk: Vec::new(), hash: 0, take }
    }

    /// Hands over the rest, if there is any.
    ///
    /// # Errors
    /// What `take` says.
    pub fn finish(mut self) -> io::Result<()> {
        if self.chunk.is_empty() { Ok(()) } else { (self.take)(std::mem::take(&mut self.chunk)) }
    }
}

impl<F: FnMut(Vec<u8>) -> io::Result<()>> Write for Chunker<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let gear = gear();
        for (count, byte) in bytes.iter().enumerate() {
            self.hash = (self.hash << 1).wrapping_add(gear[usize::from(*byte)]);
            let size = self.chunk.len() + count + 1;
            let mask = if size < WANTED_BYTES { STRICT } else { LAX };
            if (size >= LEAST_BYTES && self.hash & mask == 0) || size >= MOST_BYTES {
                self.chunk.extend_from_slice(&bytes[..=count]);
                self.hash = 0;
                (self.take)(std::mem::take(&mut self.chunk))?;
                return Ok(count + 1);
            }
        }
        self.chunk.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A random number for each byte, the same on all machines.
fn gear() -> &'static [u64; 256] {
    static GEAR: OnceLock<[u64; 256]> = OnceLock::new();
    GEAR.get_or_init(|| {
        std::array::from_fn(|number| {
            let digest = Digest::of(&[b'g', u8::try_from(number).unwrap_or_default()]);
            let (start, _) = digest.as_bytes().split_first_chunk::<8>().expect("digests have 32 bytes");
            u64::from_le_bytes(*start)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut chunks = Vec::new();
        let mut chunker = Chunker::new(|chunk| {
            chunks.push(chunk);
            Ok(())
        });
        // pieces of odd sizes make no difference
        for piece in bytes.chunks(70_001) {
            chunker.write_all(piece).unwrap();
        }
        chunker.finish().unwrap();
        chunks
    }

    fn noise(bytes: usize) -> Vec<u8> {
        let mut state = 7_u64;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        std::iter::repeat_with(next).take(bytes).collect()
    }

    #[test]
    fn chunks_make_up_the_stream() {
        for bytes in [0, 1, LEAST_BYTES, 9 << 20] {
            let bytes = noise(bytes);
            let chunks = chunks(&bytes);
            assert_eq!(chunks.concat(), bytes);
            let (last, others) = chunks.split_last().map_or((0, &[][..]), |(last, others)| (last.len(), others));
            assert!(others.iter().all(|chunk| (LEAST_BYTES..=MOST_BYTES).contains(&chunk.len())) && last <= MOST_BYTES);
        }
        // nothing to cut at
        assert_eq!(chunks(&vec![0; 9 << 20]).len(), 3);
    }

    #[test]
    fn an_insertion_changes_the_chunks_around_it() {
        let former = noise(24 << 20);
        let mut changed = former.clone();
        changed.splice(12 << 20..12 << 20, *b"inserted");
        let known: std::collections::HashSet<Vec<u8>> = chunks(&former).into_iter().collect();
        let fresh = chunks(&changed).into_iter().filter(|chunk| !known.contains(chunk)).count();
        assert!(known.len() > 8 && (1..=2).contains(&fresh), "{fresh} of {}", known.len());
    }
}
