//! rpm's own database, `ndb`: a list of slots that say where the blob of each package lies.
//!
//! Source: rpm, `lib/backend/ndb/rpmpkg.c`. Numbers are little-endian.

const MAGIC: u32 = u32::from_le_bytes(*b"RpmP");
const SLOT_MAGIC: u32 = u32::from_le_bytes(*b"Slot");
const BLOB_MAGIC: u32 = u32::from_le_bytes(*b"BlbS");
const PAGE_BYTES: usize = 4096;
const SLOT_BYTES: usize = 16;
/// The file's header takes the place of the first two slots.
const HEADER_SLOTS: usize = 2;
const BLOB_HEADER_BYTES: usize = 16;
/// What places of blobs are counted in.
const BLOCK_BYTES: usize = 16;

/// The blobs of all packages, in the order of the slots; nothing if this is no such database. Damaged ones are left out.
pub fn blobs(database: &[u8]) -> Vec<Vec<u8>> {
    if number(database, 0) != Some(MAGIC) {
        return Vec::new();
    }
    let pages = number(database, 12).map_or(0, |pages| pages as usize);
    let slots = &database[..pages.saturating_mul(PAGE_BYTES).min(database.len())];
    // sound blobs do not overlap
    let mut left_bytes = database.len();
    let fits = |blob: &&[u8]| match left_bytes.checked_sub(blob.len()) {
        Some(fewer) => {
            left_bytes = fewer;
            true
        }
        None => false,
    };
    let blobs = slots.chunks_exact(SLOT_BYTES).skip(HEADER_SLOTS).filter_map(|slot| blob(database, slot));
    blobs.filter(fits).map(<[u8]>::to_vec).collect()
}

fn blob<'a>(database: &'a [u8], slot: &[u8]) -> Option<&'a [u8]> {
    let (package, block) = (number(slot, 4)?, number(slot, 8)? as usize);
    if number(slot, 0)? != SLOT_MAGIC || package == 0 {
        return None;
    }
    let blob = database.get(block.checked_mul(BLOCK_BYTES)?..)?;
    if number(blob, 0)? != BLOB_MAGIC || number(blob, 4)? != package {
        return None;
    }
    let length = number(blob, 12)? as usize;
    blob.get(BLOB_HEADER_BYTES..BLOB_HEADER_BYTES.checked_add(length)?)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_lie_where_their_slots_say() {
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        let mut database =
            words(&[MAGIC, 0, 1, 1, 3, 0, 0, 0, SLOT_MAGIC, 1, 256, 2, SLOT_MAGIC, 0, 0, 0, SLOT_MAGIC, 2, 258, 2]);
        database.resize(PAGE_BYTES, 0);
        for (package, text) in [(1, b"one"), (2, b"two")] {
            database.extend(words(&[BLOB_MAGIC, package, 1, 3]));
            database.extend(text);
            database.resize(database.len().next_multiple_of(BLOCK_BYTES), 0);
        }
        assert_eq!(blobs(&database), [b"one", b"two"]);
        for length in 0..database.len() {
            assert!(blobs(&database[..length]).len() <= 2);
        }
        assert!(blobs(b"other").is_empty());
    }
}
