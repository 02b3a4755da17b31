//! Names of signals, as `STOPSIGNAL` takes them.

use crate::diagnostic::nearest;

/// Whether `text` is a signal: a number other than 0, or a name of Linux in any case, with or without `SIG`.
pub(super) fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    NAMES.contains(&name) || is_realtime(name)
}

/// What `text` was probably meant to be.
pub(super) fn nearest_signal(text: &str) -> Option<String> {
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    nearest(name, NAMES).map(|name| format!("SIG{name}"))
}

const NAMES: [&str; 35] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL", "PROF", "PWR",
    "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH",
    "XCPU", "XFSZ", "UNUSED",
];

/// `RTMIN`, `RTMIN+1` to `RTMIN+15`, `RTMAX-14` to `RTMAX-1`, `RTMAX`.
fn is_realtime(name: &str) -> bool {
    let offset = |prefix: &str, last: u32| {
        name.strip_prefix(prefix).is_some_and(|digits| {
            !digits.starts_with(['0', '+']) && digits.parse::<u32>().is_ok_and(|offset| (1..=last).contains(&offset))
        })
    };
    name == "RTMIN" || name == "RTMAX" || offset("RTMIN+", 15) || offset("RTMAX-", 14)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for text in ["SIGTERM", "term", "sigkill", "9", "SIGRTMIN+3", "RTMAX-14", "RTMIN", "99"] {
            assert!(is_signal(text), "{text}");
        }
        for text in ["", "0", "NOTASIGNAL", "SIG", "RTMIN+16", "RTMIN+0", "RTMAX-15", "TERM "] {
            assert!(!is_signal(text), "{text}");
        }
    }
}
