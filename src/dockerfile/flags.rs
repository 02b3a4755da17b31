//! Which flags each instruction has, and what was given.

use super::keyword::Keyword;
use super::words::FlagWord;
use crate::diagnostic::{Diagnostic, Source, Span, Spanned, nearest};

#[derive(Clone, Copy, PartialEq, Eq)]
enum FlagKind {
    /// `--link`, `--link=true`, `--link=false`.
    Switch,
    /// `--from=x`, once.
    One,
    /// `--mount=x`, any number.
    Many,
}

/// The flags that an instruction knows.
fn known(keyword: Keyword) -> &'static [(&'static str, FlagKind)] {
    use FlagKind::{Many, One, Switch};
    match keyword {
        Keyword::Add => &[
            ("chown", One),
            ("chmod", One),
            ("link", Switch),
            ("keep-git-dir", Switch),
            ("checksum", One),
            ("unpack", Switch),
            ("exclude", Many),
        ],
        Keyword::Copy => {
            &[("chown", One), ("from", One), ("chmod", One), ("link", Switch), ("exclude", Many), ("parents", Switch)]
        }
        Keyword::From => &[("platform", One)],
        Keyword::Healthcheck => {
            &[("interval", One), ("timeout", One), ("start-period", One), ("start-interval", One), ("retries", One)]
        }
        Keyword::Run => &[("mount", Many), ("network", One), ("security", One), ("device", Many)],
        _ => &[],
    }
}

/// The flags of one instruction, checked against what it knows.
#[derive(Debug, Default)]
pub(super) struct Flags {
    given: Vec<Given>,
}

#[derive(Debug)]
struct Given {
    name: &'static str,
    value: Spanned<String>,
}

impl Flags {
    /// Sorts out `words`; what `keyword` does not know is reported and left out.
    pub(super) fn check(words: Vec<FlagWord>, keyword: Keyword, source: &Source, diagnostics: &mut Vec<Diagnostic>) -> Flags {
        let mut flags = Flags::default();
        let mut first_use: Vec<(&str, Span)> = Vec::new();
        for word in words {
            let Some((name, kind)) = known(keyword).iter().find(|(name, _)| *name == word.name.value).copied() else {
                diagnostics.push(unknown(&word, keyword, source));
                continue;
            };
            if let Some((_, first)) = first_use.iter().find(|(used, _)| *used == name)
                && kind != FlagKind::Many
            {
                let diagnostic =
                    Diagnostic::error("duplicate-flag", format!("duplicate flag specified: `--{name}`"), source, word.span)
                        .also(*first, "first given here");
                diagnostics.push(diagnostic);
                continue;
            }
            first_use.push((name, word.span));
            match value(&word, kind) {
                Ok(value) => flags.given.push(Given { name, value }),
                Err(message) => {
                    let help = match kind {
                        FlagKind::Switch => format!("it reads `--{name}`, `--{name}=true` or `--{name}=false`"),
                        FlagKind::One | FlagKind::Many => format!("it reads `--{name}=VALUE`, without blanks"),
                    };
                    diagnostics.push(Diagnostic::error("flag-value", message, source, word.span).help(help));
                }
            }
        }
        flags
    }

    /// A warning of a word that was probably meant as a flag of `keyword`, and is none: it has one dash, or stands too late.
    pub(super) fn overlooked(word: &Spanned<String>, keyword: Keyword, source: &Source) -> Option<Diagnostic> {
        let name = word.value.strip_prefix('-')?;
        let (dashes, name) = name.strip_prefix('-').map_or((1, name), |name| (2, name));
        let name = name.split('=').next().unwrap_or_default();
        let (name, _) = known(keyword).iter().find(|(known, _)| *known == name)?;
        let message = format!("`{}` is no flag here, but an argument like others", word.value);
        let warning = Diagnostic::warning("overlooked-flag", message, source, word.span);
        Some(warning.help(match dashes {
            1 => format!("flags have two dashes: `--{name}`"),
            _ => format!("flags stand directly behind `{keyword}`"),
        }))
    }

    /// A flag's value as given.
    pub(super) fn one(&mut self, name: &str) -> Option<Spanned<String>> {
        let index = self.given.iter().position(|given| given.name == name)?;
        Some(self.given.remove(index).value)
    }

    /// A flag's value; an empty one counts as not given.
    pub(super) fn text(&mut self, name: &str) -> Option<Spanned<String>> {
        self.one(name).filter(|value| !value.value.is_empty())
    }

    /// All values of a flag, in order.
    pub(super) fn many(&mut self, name: &str) -> Vec<Spanned<String>> {
        self.given.extract_if(.., |given| given.name == name).map(|given| given.value).collect()
    }

    /// A switch; `None` when it was not given.
    pub(super) fn switch(&mut self, name: &str) -> Option<bool> {
        self.one(name).map(|value| value.value == "true")
    }
}

/// The word's value; switches become `true` or `false`.
fn value(word: &FlagWord, kind: FlagKind) -> Result<Spanned<String>, String> {
    let name = &word.name.value;
    match (kind, &word.value) {
        (FlagKind::Switch, None) => Ok(Spanned::new("true".to_owned(), word.span)),
        (FlagKind::Switch, Some(value)) => match value.value.to_lowercase().as_str() {
            "" => Err(format!("missing a value on flag: `--{name}`")),
            lower @ ("true" | "false") => Ok(Spanned::new(lower.to_owned(), value.span)),
            _ => Err(format!("expecting boolean value for flag `--{name}`, not: `{}`", value.value)),
        },
        (_, Some(value)) => Ok(value.clone()),
        (_, None) => Err(format!("missing a value on flag: `--{name}`")),
    }
}

fn unknown(word: &FlagWord, keyword: Keyword, source: &Source) -> Diagnostic {
    let name = &word.name.value;
    let diagnostic =
        Diagnostic::error("unknown-flag", format!("unknown flag `--{name}` for `{keyword}`"), source, word.name.span);
    if let Some(name) = nearest(name, known(keyword).iter().map(|(name, _)| *name)) {
        return diagnostic.help(format!("did you mean `--{name}`?"));
    }
    let others: Vec<String> = Keyword::ALL
        .iter()
        .filter(|other| known(**other).iter().any(|(known, _)| known == name))
        .map(|other| format!("`{other}`"))
        .collect();
    if !others.is_empty() {
        return diagnostic.help(format!("`--{name}` is for {}, not `{keyword}`", others.join(" and ")));
    }
    if known(keyword).is_empty() {
        return diagnostic.note(format!("`{keyword}` takes no flags"));
    }
    diagnostic
}
