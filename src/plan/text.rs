//! Texts that others compare byte for byte: Go's ways of printing lists and durations, and names of steps.

use crate::diagnostic::quoted;
use crate::image::Healthcheck;

/// A list as Go's `%q` prints it: `["/bin/sh" "-c"]`.
pub(super) fn quoted_list(items: &[String]) -> String {
    let quoted: Vec<String> = items.iter().map(|item| quoted(item)).collect();
    format!("[{}]", quoted.join(" "))
}

/// A list as Go's `%v` prints it: `[/bin/sh -c]`.
pub(super) fn plain_list(items: &[String]) -> String {
    format!("[{}]", items.join(" "))
}

/// A health check as Go's `%+v` prints it.
pub(super) fn healthcheck(check: &Healthcheck) -> String {
    format!(
        "{{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        plain_list(&check.test),
        duration(check.interval),
        duration(check.timeout),
        duration(check.start_period),
        duration(check.start_interval),
        check.retries
    )
}

/// Nanoseconds as Go prints a `time.Duration`: `1h0m30s`, `1.5s`, `100ms`, `0s`.
fn duration(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let total = nanoseconds.unsigned_abs();
    let decimal = |value: u64, unit: u64| {
        let fraction = format!("{:0width$}", value % unit, width = unit.ilog10() as usize);
        match fraction.trim_end_matches('0') {
            "" => format!("{}", value / unit),
            digits => format!("{}.{digits}", value / unit),
        }
    };
    let text = match total {
        0 => "0s".to_owned(),
        1..1_000 => format!("{total}ns"),
        1_000..1_000_000 => format!("{}µs", decimal(total, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", decimal(total, 1_000_000)),
        _ => {
            let minutes = total / 60_000_000_000;
            let seconds = decimal(total % 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    };
    format!("{sign}{text}")
}

/// An instruction's text with its first word in capitals, for the name of its step.
pub(super) fn with_upper_keyword(text: &str) -> String {
    match text.split_once([' ', '\t']) {
        Some((keyword, rest)) => format!("{} {rest}", keyword.to_uppercase()),
        None => text.to_uppercase(),
    }
}

/// `text` with `$NAME` and `${NAME}` replaced where `value_of` knows the name, outside single quotes; quotes stay.
pub(super) fn with_known_variables(text: &str, value_of: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut single_quoted = false;
    let mut double_quoted = false;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        match c {
            '\'' if !double_quoted => single_quoted = !single_quoted,
            '"' if !single_quoted => double_quoted = !double_quoted,
            '\\' if !single_quoted => {
                let kept = 1 + after.chars().next().map_or(0, char::len_utf8);
                out.push_str(&rest[..kept]);
                rest = &rest[kept..];
                continue;
            }
            '$' if !single_quoted => {
                if let Some((name, end)) = variable_name(after)
                    && let Some(value) = value_of(name)
                {
                    out.push_str(&value);
                    rest = &after[end..];
                    continue;
                }
            }
            _ => {}
        }
        out.push(c);
        rest = after;
    }
    out
}

/// The name at the start of the text behind a `$`, and where the reference ends.
fn variable_name(text: &str) -> Option<(&str, usize)> {
    let (inner, brace) = match text.strip_prefix('{') {
        Some(inner) => (inner, 1),
        None => (text, 0),
    };
    let length = inner.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
    let name = &inner[..length];
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    match brace {
        0 => Some((name, length)),
        _ => inner[length..].starts_with('}').then_some((name, length + 2)),
    }
}

/// The first line of a heredoc's body, with dots when there is more.
pub(super) fn heredoc_summary(body: &str) -> String {
    let mut lines = body.trim().lines();
    let first = lines.next().unwrap_or_default();
    if lines.next().is_some() { format!("{first}...") } else { first.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_quotes() {
        let list: Vec<String> = ["a\"b\\", "é 中😀", "\t\u{1}\u{7f}", "\u{a0}\u{200b}"].map(str::to_owned).to_vec();
        assert_eq!(quoted_list(&list), r#"["a\"b\\" "é 中😀" "\t\x01\x7f" "\u00a0\u200b"]"#);
        assert_eq!(quoted_list(&[]), "[]");
    }

    #[test]
    fn go_durations() {
        for (nanoseconds, expected) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (100_000_000, "100ms"),
            (1_500_000_000, "1.5s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (3_630_500_000_000, "1h0m30.5s"),
        ] {
            assert_eq!(duration(nanoseconds), expected);
        }
    }

    #[test]
    fn names_show_known_variables() {
        let value_of = |name: &str| (name == "A").then(|| "1".to_owned());
        assert_eq!(
            with_known_variables(r#"RUN "$A" '$A' \$A ${A}x $B ${A:-2} $"#, value_of),
            r#"RUN "1" '$A' \$A 1x $B ${A:-2} $"#
        );
        assert_eq!(with_upper_keyword("run x"), "RUN x");
        assert_eq!(heredoc_summary("\na\nb\n"), "a...");
    }
}
