//! Durations as Go writes them: `300ms`, `1.5h`, `2h45m`.

use std::time::Duration;

/// Reads a duration. `None` for text that is not one, or one of more than about 292 years.
///
/// A sign may stand in front; the answer to `-5s` is its size and `true`.
pub fn parse(text: &str) -> Option<(Duration, bool)> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some((Duration::ZERO, false));
    }
    if rest.is_empty() {
        return None;
    }
    let mut total_nanos: u64 = 0;
    while !rest.is_empty() {
        let whole = digits(&mut rest);
        let fraction = match rest.strip_prefix('.') {
            Some(after) => {
                rest = after;
                digits(&mut rest)
            }
            None => "",
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let unit_end = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
        let (unit, after) = rest.split_at(unit_end);
        rest = after;
        let unit_nanos = nanos(unit)?;
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total_nanos = total_nanos.checked_add(whole.checked_mul(unit_nanos)?)?.checked_add(fraction_of(fraction, unit_nanos))?;
    }
    (total_nanos <= i64::MAX.unsigned_abs()).then(|| (Duration::from_nanos(total_nanos), negative))
}

fn digits<'a>(rest: &mut &'a str) -> &'a str {
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (digits, after) = rest.split_at(end);
    *rest = after;
    digits
}

fn nanos(unit: &str) -> Option<u64> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// `0.digits` of a unit, rounded down to nanoseconds; digits past the eighteenth cannot matter.
fn fraction_of(digits: &str, unit_nanos: u64) -> u64 {
    let mut scale: u128 = 1;
    let mut value: u128 = 0;
    for digit in digits.bytes().take(18) {
        value = value * 10 + u128::from(digit - b'0');
        scale *= 10;
    }
    u64::try_from(value * u128::from(unit_nanos) / scale).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected_nanos: Option<i128>) {
        let signed = parse(text).map(|(duration, negative)| {
            let nanos = i128::try_from(duration.as_nanos()).expect("fits");
            if negative { -nanos } else { nanos }
        });
        assert_eq!(signed, expected_nanos, "{text}");
    }

    #[test]
    fn go_durations() {
        check("0", Some(0));
        check("5s", Some(5_000_000_000));
        check("1h2m3s", Some(3_723_000_000_000));
        check("1.5h", Some(5_400_000_000_000));
        check(".5s", Some(500_000_000));
        check("2.s", Some(2_000_000_000));
        check("10µs", Some(10_000));
        check("-5s", Some(-5_000_000_000));
        check("+1ns", Some(1));
        check("0.0000000001s", Some(0));
    }

    #[test]
    fn what_is_not_one() {
        for text in ["", "5", "s", ".s", "-", "5 s", "1d", "5s3", "9223372036854775808ns", "99999999999h", "ß"] {
            check(text, None);
        }
    }
}
