//! Small files that tell whether they are whole: text, and behind it a line of a digest of it.
//!
//! Nothing else would: a bit that flips in a number of a JSON document leaves a JSON document.

use crate::digest::Digest;

/// Hex digits of the line: those of half a digest's half, as nobody has to be kept from making another text with the same.
const DIGITS: usize = 16;

/// `text`, and its sum on a line of its own.
pub(super) fn with_sum(mut text: Vec<u8>) -> Vec<u8> {
    let sum = sum_of(&text);
    text.push(b'\n');
    text.extend_from_slice(sum.as_bytes());
    text
}

/// The text without its sum, if that is right. JSON without any is what earlier versions wrote, and is believed.
pub(super) fn without_sum(bytes: &[u8]) -> Option<&[u8]> {
    if bytes.last() == Some(&b'}') {
        return Some(bytes);
    }
    let (text, sum) = bytes.split_at_checked(bytes.len().checked_sub(DIGITS)?)?;
    let text = text.strip_suffix(b"\n")?;
    (sum_of(text).as_bytes() == sum).then_some(text)
}

/// The sum of `text`.
pub(super) fn sum_of(text: &[u8]) -> String {
    let mut hex = Digest::of(text).hex();
    hex.truncate(DIGITS);
    hex
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_noticed() {
        let whole = with_sum(br#"{"size":7}"#.to_vec());
        assert_eq!(without_sum(&whole), Some(&br#"{"size":7}"#[..]));
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(without_sum(&flipped), None, "bit {bit}");
        }
    }

    #[test]
    fn what_has_no_sum_yet_is_believed() {
        assert_eq!(without_sum(b"{}"), Some(&b"{}"[..]));
        for text in ["", "{", "{\"size\":", "0123456789abcdef"] {
            assert_eq!(without_sum(text.as_bytes()), None, "{text}");
        }
    }
}
