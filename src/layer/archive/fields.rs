//! What headers of a tar say: numbers, names, PAX records.

use std::io;

use tar::Header;

use crate::layer::header::BLOCK;
use crate::snapshot::{Time, Xattrs};

/// What the headers in front of an entry say of it.
#[derive(Default)]
pub(super) struct LongFields {
    pub(super) name: Option<Vec<u8>>,
    pub(super) target: Option<Vec<u8>>,
    pub(super) pax: Vec<(Vec<u8>, Vec<u8>)>,
}

impl LongFields {
    pub(super) fn is_empty(&self) -> bool {
        self.name.is_none() && self.target.is_none() && self.pax.is_empty()
    }

    /// The last record of a key; an empty value takes former ones back.
    pub(super) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let (_, value) = self.pax.iter().rev().find(|(found, _)| found == key)?;
        (!value.is_empty()).then_some(value)
    }

    pub(super) fn number(&self, key: &[u8]) -> io::Result<Option<i64>> {
        let parse = |text: &[u8]| std::str::from_utf8(text).ok()?.parse().ok();
        self.get(key).map(|text| parse(text).ok_or_else(bad_number)).transpose()
    }

    pub(super) fn xattrs(&self) -> Xattrs {
        let mut xattrs = Xattrs::new();
        for (key, value) in &self.pax {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                xattrs.retain(|(known, _)| known != name);
                xattrs.push((name.to_vec(), value.clone()));
            }
        }
        xattrs.sort_unstable();
        xattrs
    }
}

/// The records of a PAX header: length, blank, key, `=`, value, line feed. The length alone says where a value ends.
pub(super) fn parse_pax(mut data: &[u8]) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut records = Vec::new();
    while !data.is_empty() {
        let record = pax_record(data).ok_or_else(|| bad("a PAX record is malformed"))?;
        let (length, key, value) = record;
        records.push((key.to_vec(), value.to_vec()));
        data = &data[length..];
    }
    Ok(records)
}

fn pax_record(data: &[u8]) -> Option<(usize, &[u8], &[u8])> {
    let blank = data.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&data[..blank]).ok()?.parse().ok()?;
    let record = data.get(blank + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((length, &record[..equals], &record[equals + 1..]))
}

/// Decimal seconds with an optional fraction; nanoseconds count up from the second below.
pub(super) fn parse_time(text: &[u8]) -> io::Result<Time> {
    let parse = || {
        let text = std::str::from_utf8(text).ok()?;
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let seconds: i64 = whole.parse().ok()?;
        let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
        let nanoseconds: u32 = digits.parse().ok()?;
        if whole.starts_with('-') && nanoseconds > 0 {
            return Some(Time { seconds: seconds.checked_sub(1)?, nanoseconds: 1_000_000_000 - nanoseconds });
        }
        Some(Time { seconds, nanoseconds })
    };
    parse().ok_or_else(bad_number)
}

/// The name in the header itself.
pub(super) fn header_name(header: &Header) -> Vec<u8> {
    let name = until_nul(&header.as_old().name);
    match header.as_ustar().map(|ustar| until_nul(&ustar.prefix)) {
        Some(prefix) if !prefix.is_empty() => [prefix, b"/", name].concat(),
        _ => name.to_vec(),
    }
}

/// The sum of all bytes with the checksum's own field as blanks; some old writers added signed bytes.
pub(super) fn verify_checksum(block: &[u8; BLOCK]) -> io::Result<()> {
    let stated = number(&block[148..156])?;
    let bytes = || block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { b' ' } else { *byte });
    let as_unsigned: i64 = bytes().map(i64::from).sum();
    let as_signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
    if stated == as_unsigned || stated == as_signed { Ok(()) } else { Err(bad("a header's checksum is wrong")) }
}

/// A numeric field: octal digits between blanks and NULs, or base-256 (GNU) where the first bit is set. Empty is 0.
pub(in crate::layer) fn number(field: &[u8]) -> io::Result<i64> {
    if field[0] & 0x80 != 0 {
        // Two's complement, of which the first bit only marks the form and the second is the sign.
        let sign = if field[0] & 0x40 != 0 { -1 } else { 0 };
        let first = i128::from(field[0] & 0x3f) | (sign << 6);
        let value = field[1..].iter().try_fold(first, |value, byte| value.checked_mul(256)?.checked_add(i128::from(*byte)));
        return value.and_then(|value| i64::try_from(value).ok()).ok_or_else(bad_number);
    }
    let digits = until_nul(field).trim_ascii();
    let text = std::str::from_utf8(digits).map_err(|_| bad_number())?;
    if text.is_empty() { Ok(0) } else { i64::from_str_radix(text, 8).map_err(|_| bad_number()) }
}

pub(super) fn unsigned(field: &[u8]) -> io::Result<u64> {
    u64::try_from(number(field)?).map_err(|_| bad_number())
}

pub(super) fn small(number: u64) -> io::Result<u32> {
    u32::try_from(number).map_err(|_| bad_number())
}

pub(super) fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

pub(in crate::layer) fn bad(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

pub(super) fn bad_number() -> io::Error {
    bad("a number in a header is malformed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_values_may_hold_line_feeds() {
        let records = parse_pax(b"12 a=\n\n\n\nx\n\n9 path=y\n").unwrap();
        assert_eq!(records, [(b"a".to_vec(), b"\n\n\n\nx\n".to_vec()), (b"path".to_vec(), b"y".to_vec())]);
    }

    #[test]
    fn malformed_pax_is_refused() {
        for data in [&b"9 path=y"[..], b"8 path=y\n", b"path=y\n", b"99999999999999999999 a=b\n", b"3 \n", b"0 a=b\n"] {
            assert!(parse_pax(data).is_err(), "{}", data.escape_ascii());
        }
    }

    #[test]
    fn numbers_have_two_forms() {
        assert_eq!(number(b"0000644\0").unwrap(), 0o644);
        assert_eq!(number(b"   644 \0").unwrap(), 0o644);
        assert_eq!(number(b"\0\0\0\0\0\0\0\0").unwrap(), 0);
        assert_eq!(number(b"\x80\0\0\0\x01\0\0\0").unwrap(), 1 << 24);
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xfe").unwrap(), -2);
        assert!(number(b"8\0\0\0\0\0\0\0").is_err());
        assert!(number(&[0xbf; 12]).is_err());
    }

    #[test]
    fn times_have_fractions() {
        assert_eq!(parse_time(b"1.5").unwrap(), Time { seconds: 1, nanoseconds: 500_000_000 });
        assert_eq!(parse_time(b"-1.25").unwrap(), Time { seconds: -2, nanoseconds: 750_000_000 });
        assert_eq!(parse_time(b"7.0000000019").unwrap(), Time { seconds: 7, nanoseconds: 1 });
        assert!(parse_time(b"1.x").is_err());
    }
}
