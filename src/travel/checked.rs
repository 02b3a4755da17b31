//! Bytes of a cache, held against their names.

use std::io::{self, Read};

use super::TravelError;
use crate::digest::{Digest, HashingReader};
use crate::registry::BlobReader;

/// A small blob that came whole.
///
/// # Errors
/// `WrongBytes` if its bytes are others than `expected` names.
pub(super) fn named(place: String, expected: &Digest, bytes: Vec<u8>) -> Result<Vec<u8>, TravelError> {
    match Digest::of(&bytes) {
        found if found == *expected => Ok(bytes),
        found => Err(TravelError::WrongBytes { place, expected: *expected, found }),
    }
}

/// Gives a blob that is on its way to `consume`, and reads what that leaves when it fails: whether other bytes came takes all of
/// them to know, and then that is the error.
pub(super) fn to_the_end<T>(
    reader: &mut BlobReader,
    consume: impl FnOnce(&mut (dyn Read + Send)) -> Result<T, TravelError>,
) -> Result<T, TravelError> {
    let result = consume(reader);
    if result.is_err() {
        let _failure_is_known_to_the_reader = io::copy(reader, &mut io::sink());
    }
    result
}

/// Gives a blob to `consume` by a reader that reaches its end only with the bytes of its name.
pub(super) fn verified<T>(
    place: &str,
    expected: Digest,
    source: impl Read + Send,
    consume: impl FnOnce(&mut (dyn Read + Send)) -> Result<T, TravelError>,
) -> Result<T, TravelError> {
    let mut reader = Named { source: Some(HashingReader::new(source)), expected, wrong: None };
    let result = consume(&mut reader);
    let rest = io::copy(&mut reader, &mut io::sink());
    match (reader.wrong, rest) {
        (Some(found), _) => Err(TravelError::WrongBytes { place: place.to_owned(), expected, found }),
        // what could not be read to its end was told by who read it, or is told here
        (None, Err(source)) if result.is_ok() => Err(TravelError::Io { action: "read", path: place.into(), source }),
        (None, _) => result,
    }
}

/// Fails in the place of the end if that was not the right one.
struct Named<R> {
    /// Until its end.
    source: Option<HashingReader<R>>,
    expected: Digest,
    /// What came instead.
    wrong: Option<Digest>,
}

impl<R: Read> Read for Named<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(source) = &mut self.source {
            let count = source.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
        }
        let found = self.source.take().map(|source| source.finish().1);
        self.wrong = self.wrong.or(found.filter(|found| *found != self.expected));
        match self.wrong {
            Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "other bytes than its name says")),
            None => Ok(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_reached_with_the_right_bytes_only() {
        let read = |expected: &[u8], source: &'static [u8]| {
            verified("place", Digest::of(expected), source, |reader| {
                let mut bytes = Vec::new();
                let end = reader.read_to_end(&mut bytes);
                Ok((bytes, end.is_ok(), reader.read(&mut [0]).is_ok()))
            })
        };
        assert_eq!(read(b"abc", b"abc").expect("right"), (b"abc".to_vec(), true, true));
        for source in [&b"abd"[..], b"ab", b"abcd", b""] {
            assert!(matches!(read(b"abc", source), Err(TravelError::WrongBytes { .. })), "{source:?}");
        }
        let unread = verified("place", Digest::of(b"abc"), &b"abd"[..], |_| Ok(()));
        assert!(matches!(unread, Err(TravelError::WrongBytes { .. })), "what nobody reads is held against its name too");
    }
}
