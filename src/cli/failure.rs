//! What a failure looks like and which exit code it has.

use std::io;
use std::path::Path;

use crate::builder::{BuildError, ErrorKind};
use crate::cli::environment::Environment;
use crate::cli::progress::LAST_PATIENCE;
use crate::cli::stderr;
use crate::diagnostic::render::render_all;
use crate::diagnostic::{Diagnostic, Severity, with_causes};

/// The exit code of a bug in croze, as in `sysexits.h`.
pub const BUG: u8 = 70;

/// Why the program does not exit with 0.
#[derive(Debug)]
pub struct Failure {
    cause: Cause,
    diagnostics: Vec<Diagnostic>,
}

/// What decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Kind(ErrorKind),
    /// `--check` found something; printed already.
    CheckFailed,
    /// The command of `croze run` ended with this code.
    Command(u8),
    /// Stopped by this signal.
    Signal(u8),
}

impl Failure {
    /// A wrong flag or argument.
    pub fn usage(diagnostic: Diagnostic) -> Failure {
        Failure { cause: Cause::Kind(ErrorKind::Usage), diagnostics: vec![diagnostic] }
    }

    /// Several wrong flags or arguments; `diagnostics` is not empty.
    pub fn usages(diagnostics: Vec<Diagnostic>) -> Failure {
        Failure { cause: Cause::Kind(ErrorKind::Usage), diagnostics }
    }

    /// A file or stream of the caller's that cannot be used: `cannot write /x/y: permission denied`. One that is not there is
    /// a slip of the caller's, all else is the machine's.
    pub fn file(action: &str, path: &Path, error: &io::Error) -> Failure {
        let message = format!("cannot {action} `{}`: {}", path.display(), with_causes(error));
        let kind = match error.kind() {
            io::ErrorKind::NotFound => ErrorKind::Usage,
            _ => ErrorKind::Environment,
        };
        Failure { cause: Cause::Kind(kind), diagnostics: vec![Diagnostic::error_without_place("file", message)] }
    }

    /// Something of the machine's that failed.
    pub fn environment(code: &'static str, error: &dyn std::error::Error) -> Failure {
        let diagnostic = Diagnostic::error_without_place(code, with_causes(error));
        Failure { cause: Cause::Kind(ErrorKind::Environment), diagnostics: vec![diagnostic] }
    }

    /// `--check` found problems, which are printed already.
    pub fn check_failed() -> Failure {
        Failure { cause: Cause::CheckFailed, diagnostics: Vec::new() }
    }

    /// A command that ended with a code other than 0; `why` if it could not be started.
    pub fn command(code: u8, why: Option<Diagnostic>) -> Failure {
        Failure { cause: Cause::Command(code), diagnostics: why.into_iter().collect() }
    }

    /// A build that failed; `signal` is the number of the signal that arrived meanwhile, if any.
    pub fn build(error: BuildError, signal: Option<u8>) -> Failure {
        let cause = match (error.kind, signal) {
            (ErrorKind::Interrupted, Some(signal)) => Cause::Signal(signal),
            (kind, _) => Cause::Kind(kind),
        };
        Failure { cause, diagnostics: error.diagnostics }
    }

    /// 1 a step failed, 2 usage or Dockerfile, 3 source or network, 4 policy, 5 environment, 70 a bug, 128 + n signal n.
    pub fn exit_code(&self) -> u8 {
        match self.cause {
            Cause::CheckFailed | Cause::Kind(ErrorKind::Step) => 1,
            Cause::Kind(ErrorKind::Usage) => 2,
            Cause::Kind(ErrorKind::Source) => 3,
            Cause::Kind(ErrorKind::Policy) => 4,
            Cause::Kind(ErrorKind::Environment) => 5,
            Cause::Kind(ErrorKind::Internal) => BUG,
            Cause::Kind(ErrorKind::Interrupted) => 130,
            Cause::Command(code) => code,
            Cause::Signal(signal) => 128 + signal,
        }
    }

    /// Prints every diagnostic to stderr, errors after warnings, so that the last thing read is what went wrong.
    pub fn print(&self, environment: &Environment) {
        // who asked to stop does not wait for a reader
        let patience = matches!(self.cause, Cause::Signal(_)).then_some(LAST_PATIENCE);
        stderr::write_all(self.text(environment).into_bytes(), patience);
    }

    fn text(&self, environment: &Environment) -> String {
        let mut ordered: Vec<&Diagnostic> = self.diagnostics.iter().collect();
        ordered.sort_by_key(|diagnostic| diagnostic.severity != Severity::Warning);
        let mut text = render_all(ordered, environment.color);
        match self.cause {
            Cause::Signal(_) => text.push_str("croze: interrupted; finished steps are kept\n"),
            Cause::Kind(ErrorKind::Internal) => text.push_str("croze: this is a bug of croze, please report it\n"),
            _ => {}
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_code(kind: ErrorKind, signal: Option<u8>, expected: u8) {
        assert_eq!(Failure::build(BuildError { kind, diagnostics: Vec::new() }, signal).exit_code(), expected);
    }

    #[test]
    fn exit_codes_say_who_can_mend_it() {
        check_code(ErrorKind::Step, None, 1);
        check_code(ErrorKind::Usage, None, 2);
        check_code(ErrorKind::Source, None, 3);
        check_code(ErrorKind::Policy, None, 4);
        check_code(ErrorKind::Environment, None, 5);
        check_code(ErrorKind::Internal, None, 70);
        check_code(ErrorKind::Interrupted, None, 130);
        check_code(ErrorKind::Interrupted, Some(2), 130);
        check_code(ErrorKind::Interrupted, Some(15), 143);
    }

    #[test]
    fn a_step_that_failed_before_the_signal_counts() {
        check_code(ErrorKind::Step, Some(2), 1);
    }

    #[test]
    fn errors_come_after_warnings() {
        let warning = Diagnostic { severity: Severity::Warning, ..Diagnostic::error_without_place("w", "odd") };
        let failure = Failure::usages(vec![Diagnostic::error_without_place("e", "wrong"), warning]);
        assert_eq!(failure.text(&Environment::with(&[])), "warning: odd\nerror: wrong\n");
    }
}
