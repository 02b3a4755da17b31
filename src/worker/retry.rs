//! Trying a command again when it has failed, where the client asked for it.

use std::time::Duration;

use super::attend::Canceling;
use super::error::WorkError;
use crate::graph::{Retry, RetryWhen};

/// The pause before the second attempt; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Calls `attempt` until it succeeds, or fails in a way that `retry` does not forgive, or too often. `note` is told of every
/// further attempt. Blocks.
///
/// # Errors
/// Those of the last attempt; `Canceled`.
pub fn repeat<T>(
    retry: Option<Retry>,
    canceling: &Canceling,
    note: impl Fn(String),
    mut attempt: impl FnMut() -> Result<T, WorkError>,
) -> Result<T, WorkError> {
    let Some(Retry { times, when }) = retry else { return attempt() };
    let mut pause = FIRST_PAUSE;
    for number in 1..=times {
        let error = match attempt() {
            Err(error) => error,
            done => return done,
        };
        let Some(reason) = forgiven(&error, when) else { return Err(error) };
        note(format!("attempt {number} of {} failed ({error}{reason}); trying again", u64::from(times) + 1));
        canceling.pause(pause)?;
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
    attempt()
}

/// What to add to a failure that another attempt may mend; `None` if none can.
fn forgiven(error: &WorkError, when: RetryWhen) -> Option<String> {
    let tail = match error {
        WorkError::Command { tail, .. } | WorkError::Expired { tail, .. } => tail,
        _ => return None,
    };
    let line = tail.iter().rev().find(|line| speaks_of_network(line));
    match (when, line) {
        (_, Some(line)) => Some(format!(": `{}`", line.trim())),
        (RetryWhen::AnyFailure, None) => Some(String::new()),
        (RetryWhen::NetworkFailed, None) => None,
    }
}

/// Words of programs that fetch something and could not, in lower case: the C library's, busybox's, curl's, git's, apt's, and
/// those of the package managers of languages.
const NETWORK_WORDS: [&str; 34] = [
    "bad address",
    "bad gateway",
    "connection aborted",
    "connection closed by",
    "connection refused",
    "connection reset",
    "connection timed out",
    "connection was closed",
    "could not connect",
    "could not resolve",
    "couldn't connect",
    "couldn't resolve",
    "dns lookup failed",
    "eai_again",
    "econnrefused",
    "econnreset",
    "enetunreach",
    "etimedout",
    "failed to connect",
    "gateway time-out",
    "gateway timeout",
    "hung up unexpectedly",
    "i/o timeout",
    "name or service not known",
    "network is unreachable",
    "network unreachable",
    "no route to host",
    "operation timed out",
    "read timed out",
    "service unavailable",
    "temporary failure",
    "tls handshake timeout",
    "too many requests",
    "unable to connect",
];

fn speaks_of_network(line: &str) -> bool {
    let line = line.to_lowercase();
    NETWORK_WORDS.iter().any(|words| line.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: bool) {
        assert_eq!(speaks_of_network(line), expected, "{line}");
    }

    #[test]
    fn programs_say_that_the_network_failed() {
        check("curl: (6) Could not resolve host: deb.example", true);
        check("wget: bad address 'example'", true);
        check("  Temporary failure resolving 'deb.debian.org'", true);
        check("fatal: unable to access 'https://x/': Failed to connect to x port 443", true);
        check("npm ERR! code ECONNRESET", true);
        check("W: Failed to fetch http://x/InRelease  503  Service Unavailable", true);
        check("make: *** [all] Error 2", false);
        check("E: Unable to locate package gcx", false);
        check("ModuleNotFoundError: No module named 'network'", false);
    }
}
