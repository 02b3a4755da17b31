//! Options of build checks: `# check=skip=A,B;error=true`, for a file or above one instruction.

use super::ast::Dockerfile;
use crate::diagnostic::{Diagnostic, Severity, Source, Span, Spanned};

/// How options are written, as advice.
pub const HELP: &str = "it reads `skip=Rule,Rule;error=true;experimental=Rule`";

/// Which rules are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Skipped {
    /// None of them.
    #[default]
    Nothing,
    /// These.
    Rules(Vec<String>),
    /// All of them.
    All,
}

impl Skipped {
    /// Whether the rule is left out.
    pub fn contains(&self, rule: &str) -> bool {
        match self {
            Skipped::Nothing => false,
            Skipped::Rules(rules) => rules.iter().any(|skipped| skipped == rule),
            Skipped::All => true,
        }
    }

    /// What the comments above one instruction leave out for it; a broken option is no option.
    pub(super) fn from_comments(comments: &[Spanned<String>]) -> Skipped {
        let value = comments.iter().find_map(|comment| {
            let (key, value) = comment.value.split_once('=')?;
            key.trim().eq_ignore_ascii_case("check").then(|| value.trim().split(' ').next().unwrap_or_default())
        });
        value.and_then(|value| Options::from_text(value).ok()).unwrap_or_default().skipped
    }

    fn parse(value: &str) -> Skipped {
        match value {
            "all" => Skipped::All,
            rules => Skipped::Rules(rules.split(',').map(|rule| rule.trim().to_owned()).collect()),
        }
    }
}

/// What `# check=` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Rules that are not reported.
    pub skipped: Skipped,
    /// Experimental rules that are.
    pub experimental: Skipped,
    /// Whether a violation fails the build.
    pub error: bool,
}

/// The part of an option text that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid check option `{option}`")]
pub struct BadOption {
    /// As written.
    pub option: String,
}

impl Options {
    /// Reads `skip=A,B;error=true;experimental=all`; empty text has no options.
    ///
    /// # Errors
    /// The first part that is not one of the three.
    pub fn from_text(text: &str) -> Result<Options, BadOption> {
        let mut options = Options::default();
        let text = text.trim();
        if text.is_empty() {
            return Ok(options);
        }
        for part in text.splitn(3, ';') {
            let bad = || BadOption { option: part.to_owned() };
            let (key, value) = part.split_once('=').ok_or_else(bad)?;
            let value = value.trim();
            match key.trim() {
                "skip" => options.skipped = Skipped::parse(value),
                "experimental" => options.experimental = Skipped::parse(value),
                "error" => options.error = parse_bool(value).ok_or_else(bad)?,
                _ => return Err(bad()),
            }
        }
        Ok(options)
    }

    /// Reads the value of a file's `# check=` directive.
    ///
    /// # Errors
    /// As [`from_text`](Options::from_text), as a diagnostic that points at the part.
    pub fn from_directive(value: &Spanned<String>, source: &Source) -> Result<Options, Diagnostic> {
        Options::from_text(&value.value).map_err(|bad| {
            let start = value.span.start + value.value.find(&bad.option).unwrap_or(0);
            let span = Span::new(start, start + bad.option.len());
            Diagnostic::error("check-option", bad.to_string(), source, span).help(HELP)
        })
    }
}

impl Dockerfile {
    /// Whether people want to read this: errors always, warnings unless `options` or a comment above their instruction skip
    /// them.
    pub fn reports(&self, diagnostic: &Diagnostic, options: &Options) -> bool {
        let is_skipped_here = || {
            let (source, span) = diagnostic.place.as_ref()?;
            let covers = |(instruction, _): &&(Span, Skipped)| instruction.start <= span.start && span.start <= instruction.end;
            let (_, skipped) = self.skips.iter().filter(|_| *source == self.source).find(covers)?;
            Some(skipped.contains(diagnostic.code))
        };
        diagnostic.severity == Severity::Error
            || !(options.skipped.contains(diagnostic.code) || is_skipped_here().unwrap_or(false))
    }
}

/// The spellings that Go takes for a truth value.
pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let options = Options::from_text("skip=A, B;error=true;experimental=all").expect("valid");
        assert!(options.error && options.skipped.contains("B") && !options.skipped.contains("C"));
        assert!(options.experimental.contains("C"));
        assert!(Options::from_text("skip=all").expect("valid").skipped.contains("A"));
    }

    #[test]
    fn broken_options_are_named() {
        for (text, option) in [("skip", "skip"), ("a=b", "a=b"), ("skip=A;error=maybe", "error=maybe")] {
            assert_eq!(Options::from_text(text), Err(BadOption { option: option.to_owned() }));
        }
    }

    #[test]
    fn a_comment_speaks_for_its_instruction() {
        let comments = |text: &str| Skipped::from_comments(&[Spanned::new(text.to_owned(), Span::new(0, 0))]);
        assert!(comments("check=skip=A").contains("A"));
        assert_eq!(comments("check=skop=A"), Skipped::Nothing);
        assert_eq!(comments("check this"), Skipped::Nothing);
    }
}
