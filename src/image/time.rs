//! Times as image documents write them: RFC 3339 in UTC, whole seconds.

use jiff::Timestamp;

/// `2026-01-02T03:04:05Z`. Seconds beyond the years that RFC 3339 can write become the last or first second it can.
pub fn rfc3339(seconds: i64) -> String {
    let limited = seconds.clamp(Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
    Timestamp::from_second(limited).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

/// Whether the time in `text` is later than `seconds`; what is no time is not later.
pub(super) fn is_later(text: &str, seconds: i64) -> bool {
    text.parse::<Timestamp>().is_ok_and(|time| (time.as_second(), time.subsec_nanosecond()) > (seconds, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_written_as_go_writes_them() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(1_767_323_045), "2026-01-02T03:04:05Z");
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59Z");
        assert!(rfc3339(i64::MAX).starts_with("9999-"));
    }

    #[test]
    fn fractions_and_offsets_count() {
        assert!(is_later("1970-01-01T00:00:05.000000001Z", 5));
        assert!(!is_later("1970-01-01T00:00:05Z", 5));
        assert!(!is_later("1970-01-01T02:00:05+02:00", 5));
        assert!(!is_later("yesterday", 5));
    }
}
