//! Options of build checks: `# check=skip=A,B;error=true`, for a file or above one instruction.

use crate::diagnostic::{Diagnostic, Rule, Source, Span, Spanned};

/// How options are written, as advice.
pub const HELP: &str = "it reads `skip=Rule,Rule;error=true;experimental=Rule`";

/// Which rules are spoken of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Rules {
    /// None of them.
    #[default]
    Nothing,
    /// These.
    These(Vec<String>),
    /// All of them.
    All,
}

impl Rules {
    /// Whether the rule is among them.
    pub fn contains(&self, rule: &str) -> bool {
        match self {
            Rules::Nothing => false,
            Rules::These(rules) => rules.iter().any(|named| named == rule),
            Rules::All => true,
        }
    }

    fn parse(value: &str) -> Rules {
        match value {
            "all" => Rules::All,
            rules => Rules::These(rules.split(',').map(|rule| rule.trim().to_owned()).collect()),
        }
    }
}

/// What `# check=` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Rules that are not reported.
    pub skipped: Rules,
    /// Experimental rules that are.
    pub experimental: Rules,
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
    /// What the comments above one instruction say; a broken option is no option.
    pub(super) fn from_comments(comments: &[Spanned<String>]) -> Options {
        let value = comments.iter().find_map(|comment| {
            let (key, value) = comment.value.split_once('=')?;
            key.trim().eq_ignore_ascii_case("check").then(|| value.trim().split(' ').next().unwrap_or_default())
        });
        value.and_then(|value| Options::from_text(value).ok()).unwrap_or_default()
    }

    /// Whether findings of the rule are wanted, by these options alone.
    pub(super) fn wants(&self, rule: &Rule) -> bool {
        if rule.experimental { self.experimental.contains(rule.name) } else { !self.skipped.contains(rule.name) }
    }

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
                "skip" => options.skipped = Rules::parse(value),
                "experimental" => options.experimental = Rules::parse(value),
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

/// The spellings that Go takes for a truth value.
pub fn parse_bool(text: &str) -> Option<bool> {
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
        let comments = |text: &str| Options::from_comments(&[Spanned::new(text.to_owned(), Span::new(0, 0))]).skipped;
        assert!(comments("check=skip=A").contains("A"));
        assert_eq!(comments("check=skop=A"), Rules::Nothing);
        assert_eq!(comments("check this"), Rules::Nothing);
    }
}
