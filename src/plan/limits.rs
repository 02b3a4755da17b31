//! How long a `RUN` may take and how often it is tried: flags for all, comments above an instruction for one.

use std::num::ParseIntError;
use std::time::Duration;

use super::lowering::StageLowering;
use crate::diagnostic::{Diagnostic, Source, Spanned};
use crate::dockerfile::Run;
use crate::duration;
use crate::graph::{Limits, Retry, RetryWhen};

/// Why a limit cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLimit {
    /// No duration.
    #[error("`{0}` is no duration such as `90s` or `1h30m`")]
    Duration(String),
    /// No number of attempts.
    #[error("`{value}` is not of the form `N` or `N:any`")]
    Retry {
        /// As written.
        value: String,
        /// What is wrong with the number, if anything.
        source: Option<ParseIntError>,
    },
}

/// A time limit as Go writes durations; zero means none.
///
/// # Errors
/// `BadLimit::Duration`, for negative ones too.
pub fn time_limit(text: &str) -> Result<Option<Duration>, BadLimit> {
    match duration::parse(text) {
        Some((limit, false)) => Ok((!limit.is_zero()).then_some(limit)),
        _ => Err(BadLimit::Duration(text.to_owned())),
    }
}

/// `N` further attempts after failures of the network, or `N:any` after any failure; zero means none.
///
/// # Errors
/// `BadLimit::Retry`.
pub fn retry(text: &str) -> Result<Option<Retry>, BadLimit> {
    let bad = |source| BadLimit::Retry { value: text.to_owned(), source };
    let (times, when) = match text.split_once(':') {
        None => (text, RetryWhen::NetworkFailed),
        Some((times, "network")) => (times, RetryWhen::NetworkFailed),
        Some((times, "any")) => (times, RetryWhen::AnyFailure),
        Some(_) => return Err(bad(None)),
    };
    let times: u32 = times.parse().map_err(|error| bad(Some(error)))?;
    Ok((times > 0).then_some(Retry { times, when }))
}

/// The comments' words.
const NAMES: &str = "`croze:timeout`, `croze:no-output-timeout` and `croze:retry`";

impl StageLowering<'_, '_> {
    /// The limits of a command: the flags', and instead of each what a comment above the instruction says.
    pub(super) fn limits(&mut self, run: &Run, source: &Source) -> Limits {
        let mut limits = self.lowering.options.limits;
        for comment in &run.comments {
            if let Err(diagnostic) = apply(comment, source, &mut limits) {
                self.lowering.diagnostics.push(*diagnostic);
            }
        }
        limits
    }
}

/// Reads one comment, such as `croze:timeout=30s`.
fn apply(comment: &Spanned<String>, source: &Source, limits: &mut Limits) -> Result<(), Box<Diagnostic>> {
    let (name, value) = comment.value.split_once('=').unwrap_or((&comment.value, ""));
    let (name, value) = (name.trim(), value.trim());
    let read = match name {
        "croze:timeout" => time_limit(value).map(|limit| limits.time = limit),
        "croze:no-output-timeout" => time_limit(value).map(|limit| limits.silence = limit),
        "croze:retry" => retry(value).map(|retry| limits.retry = retry),
        _ => {
            let warning = Diagnostic::warning("unknown-comment", format!("`{name}` means nothing"), source, comment.span);
            return Err(Box::new(warning.help(format!("comments that say something are {NAMES}"))));
        }
    };
    read.map_err(|bad| {
        Box::new(Diagnostic::error("bad-comment", format!("invalid value for `{name}`: {bad}"), source, comment.span))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_durations() {
        assert_eq!(time_limit("1m30s"), Ok(Some(Duration::from_secs(90))));
        assert_eq!(time_limit("0"), Ok(None));
        for bad in ["", "5", "-5s", "soon"] {
            assert_eq!(time_limit(bad), Err(BadLimit::Duration(bad.to_owned())));
        }
    }

    #[test]
    fn attempts_are_numbers() {
        let times = |times, when| Ok(Some(Retry { times, when }));
        assert_eq!(retry("3"), times(3, RetryWhen::NetworkFailed));
        assert_eq!(retry("3:network"), times(3, RetryWhen::NetworkFailed));
        assert_eq!(retry("1:any"), times(1, RetryWhen::AnyFailure));
        assert_eq!(retry("0"), Ok(None));
        for bad in ["", "x", "-1", "1:all", "99999999999", ":any"] {
            assert!(retry(bad).is_err(), "{bad}");
        }
    }
}
