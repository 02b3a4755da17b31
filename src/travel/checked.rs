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
    consume: impl FnOnce(&mut dyn Read) -> Result<T, TravelError>,
) -> Result<T, TravelError> {
    let result = consume(reader);
    if result.is_err() {
        let _failure_is_known_to_the_reader = io::copy(reader, &mut io::sink());
    }
    result
}

/// Reads a blob and holds it against its name at its end.
pub(super) fn verified<T>(
    place: &str,
    expected: Digest,
    source: impl Read,
    consume: impl FnOnce(&mut dyn Read) -> Result<T, TravelError>,
) -> Result<T, TravelError> {
    let mut reader = HashingReader::new(source);
    let result = consume(&mut reader);
    let rest = io::copy(&mut reader, &mut io::sink());
    let (_, found, _) = reader.finish();
    match rest {
        Ok(_) if found != expected => Err(TravelError::WrongBytes { place: place.to_owned(), expected, found }),
        // what could not be read to its end was told by who read it, or is told here
        Err(source) if result.is_ok() => Err(TravelError::Io { action: "read", path: place.into(), source }),
        _ => result,
    }
}
