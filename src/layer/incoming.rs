//! A layer blob that comes in: it is kept while it is unpacked.
//!
//! One thread receives and keeps, so that the one that decompresses, which has the most to do, does nothing else.

use std::io::{self, Read, Write};
use std::thread;

use super::LayerError;
use super::chunks::{Filler, chunks};
use super::compress::Compression;
use super::unpack::{LayerLimits, Lower, unpack};
use crate::digest::{DiffId, Digest};
use crate::store::{Store, StoreError, StoredLayer, VerifiedBlob};

/// About as much as comes at once.
const CHUNK_BYTES: usize = 128 << 10;

/// Unpacks the layer `expected` out of `blob` into the store, and keeps the blob as `digest`: its reader reaches the end only with the
/// bytes of that name. `None` when the layer cannot be understood without those below it; the blob is kept then too.
///
/// # Errors
/// As [`unpack`]. Where the content is at fault, `blob` was read to its end all the same: whoever sends it knows then whether it is what
/// was asked for.
pub fn keep_and_unpack(
    store: &Store,
    blob: &mut (dyn Read + Send),
    digest: &Digest,
    compression: Compression,
    expected: DiffId,
    lower: Lower<'_>,
    limits: LayerLimits,
) -> Result<Option<StoredLayer>, LayerError> {
    let mut kept = store.verified_blob()?;
    let stored = thread::scope(|scope| {
        let (filler, incoming) = chunks(CHUNK_BYTES);
        let kept = &mut kept;
        scope.spawn(move || keep(blob, kept, &filler));
        // dropped at the end of this closure, which ends the other thread
        let mut incoming = incoming;
        let stored = match unpack(store, &mut incoming, compression, Some(expected), lower, limits) {
            Err(error) if error.needs_lower() => None,
            Err(error) if error.is_about_content() => {
                let _failure_is_known_to_the_sender = io::copy(&mut incoming, &mut io::sink());
                return Err(error);
            }
            unpacked => Some(unpacked?),
        };
        let failed = |source| StoreError::Io { action: "write", path: store.blob_path(digest), source };
        io::copy(&mut incoming, &mut io::sink()).map_err(failed)?;
        Ok(stored)
    })?;
    // its end was reached, so these are the right bytes
    kept.finish(digest)?;
    Ok(stored)
}

fn keep(blob: &mut dyn Read, kept: &mut VerifiedBlob, filler: &Filler) {
    loop {
        let mut buffer = filler.buffer();
        let read = blob.read(&mut buffer).and_then(|count| kept.write_all(&buffer[..count]).map(|()| count));
        let is_last = !matches!(read, Ok(1..));
        if matches!(read, Ok(0)) || filler.send(read.map(|count| (buffer, count))).is_break() || is_last {
            return;
        }
    }
}
