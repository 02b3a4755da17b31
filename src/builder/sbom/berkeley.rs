//! As much of Berkeley DB's hash files as it takes to read the values of rpm's `Packages`, which older systems keep.
//!
//! Source: Berkeley DB, `dbinc/db_page.h`. Numbers are in the byte order of the machine that wrote them.

const HASH_MAGIC: u32 = 0x0006_1561;
const HASH_UNSORTED_PAGE: u8 = 2;
const OVERFLOW_PAGE: u8 = 7;
const HASH_PAGE: u8 = 13;
const PAGE_HEADER_BYTES: usize = 26;
/// A value that lies on pages of its own.
const OFF_PAGE: u8 = 3;

/// The values that lie on pages of their own: those of all packages, as their headers are large. The one short value is a counter of
/// rpm's. Nothing if this is no such file; damaged values are left out.
pub fn values(file: &[u8]) -> Vec<Vec<u8>> {
    let Some(file) = File::open(file) else { return Vec::new() };
    let mut values = Vec::new();
    // sound values do not overlap
    let mut left_bytes = file.bytes.len();
    for page in file.bytes.chunks_exact(file.page_bytes).skip(1) {
        if ![HASH_PAGE, HASH_UNSORTED_PAGE].contains(&page[25]) {
            continue;
        }
        // keys and values take turns
        let entries = usize::from(file.two(page, 20).unwrap_or(0));
        let offsets = (1..entries).step_by(2).map_while(|entry| file.two(page, PAGE_HEADER_BYTES + 2 * entry));
        for value in offsets.filter_map(|offset| file.value(page.get(usize::from(offset)..)?)) {
            let Some(fewer) = left_bytes.checked_sub(value.len()) else { return values };
            left_bytes = fewer;
            values.push(value);
        }
    }
    values
}

struct File<'a> {
    bytes: &'a [u8],
    page_bytes: usize,
    is_big_endian: bool,
}

impl<'a> File<'a> {
    fn open(bytes: &'a [u8]) -> Option<File<'a>> {
        let file = |is_big_endian| File { bytes, page_bytes: 0, is_big_endian };
        let file = [file(false), file(true)].into_iter().find(|file| file.four(bytes, 12) == Some(HASH_MAGIC))?;
        let page_bytes = file.four(bytes, 20)? as usize;
        (page_bytes.is_power_of_two() && (512..=65_536).contains(&page_bytes)).then_some(File { page_bytes, ..file })
    }

    /// The value of an entry, if that says on which pages it lies.
    fn value(&self, entry: &[u8]) -> Option<Vec<u8>> {
        if *entry.first()? != OFF_PAGE {
            return None;
        }
        let (mut number, length) = (self.four(entry, 4)? as usize, self.four(entry, 8)? as usize);
        if length > self.bytes.len() {
            return None;
        }
        let mut value = Vec::with_capacity(length);
        while value.len() < length {
            let start = number.checked_mul(self.page_bytes)?;
            let page = self.bytes.get(start..start.checked_add(self.page_bytes)?)?;
            let here = usize::from(self.two(page, 22)?);
            // a page without anything would lead on and on
            if page[25] != OVERFLOW_PAGE || here == 0 {
                return None;
            }
            let part = page.get(PAGE_HEADER_BYTES..PAGE_HEADER_BYTES + here)?;
            value.extend_from_slice(&part[..part.len().min(length - value.len())]);
            number = self.four(page, 16)? as usize;
        }
        Some(value)
    }

    fn two(&self, bytes: &[u8], at: usize) -> Option<u16> {
        let bytes = *bytes.get(at..)?.first_chunk()?;
        Some(if self.is_big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn four(&self, bytes: &[u8], at: usize) -> Option<u32> {
        let bytes = *bytes.get(at..)?.first_chunk()?;
        Some(if self.is_big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of one hash page, with a short value, and one that takes two pages.
    fn made(long: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 4 * 512];
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(12, &HASH_MAGIC.to_le_bytes());
        put(20, &512_u32.to_le_bytes());
        put(512 + 20, &4_u16.to_le_bytes());
        put(512 + 25, &[HASH_PAGE]);
        for (entry, offset) in [500_u16, 490, 480, 468].iter().enumerate() {
            put(512 + PAGE_HEADER_BYTES + 2 * entry, &offset.to_le_bytes());
        }
        put(512 + 490, &[1, 9, 9, 9, 9]);
        put(512 + 468, &[OFF_PAGE, 0, 0, 0, 2, 0, 0, 0]);
        put(512 + 476, &(long.len() as u32).to_le_bytes());
        for (number, (part, next)) in long.chunks(486).zip([3_u32, 0]).enumerate() {
            let page = 512 * (2 + number);
            put(page + 16, &next.to_le_bytes());
            put(page + 22, &(part.len() as u16).to_le_bytes());
            put(page + 25, &[OVERFLOW_PAGE]);
            put(page + PAGE_HEADER_BYTES, part);
        }
        file
    }

    #[test]
    fn values_on_pages_of_their_own_are_read() {
        let long: Vec<u8> = (0..700_u32).map(|number| (number % 251) as u8).collect();
        let file = made(&long);
        assert_eq!(values(&file), [long]);
        assert!(values(b"other").is_empty());
    }

    #[test]
    fn a_damaged_file_is_read_without_harm() {
        let whole = made(&[7; 700]);
        for position in 0..whole.len() {
            for byte in [0, 1, 3, 0xff] {
                let mut damaged = whole.clone();
                damaged[position] = byte;
                // there are two entries, whatever they say
                assert!(values(&damaged).len() <= 2, "{position}");
            }
            assert!(values(&whole[..position]).len() <= 2);
        }
    }
}
