//! Heredoc words: `<<EOF`, `<<-EOF`, `<<"EOF"`, `3<<EOF`.

use super::expand::{self, ExpandError};
use super::lines::Text;
use crate::diagnostic::Span;

/// A heredoc operator and its delimiter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Operator {
    /// The delimiter, quotes taken out.
    pub(super) name: String,
    /// No quotes around any part of the delimiter.
    pub(super) expand: bool,
    pub(super) strip_tabs: bool,
    pub(super) descriptor: String,
}

/// The operator that a whole word is, if it is one.
///
/// # Errors
/// A delimiter with an open quote or a broken substitution.
pub(super) fn operator(word: &str) -> Result<Option<Operator>, ExpandError> {
    let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (descriptor, rest) = word.split_at(digits);
    let Some(rest) = rest.strip_prefix("<<") else { return Ok(None) };
    let (strip_tabs, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace());
    if rest.is_empty() || rest.contains('<') {
        return Ok(None);
    }
    let words = expand::delimiter_words(rest, false)?;
    let [name] = words.as_slice() else { return Ok(None) };
    let raw = expand::delimiter_words(rest, true)?;
    let count = |text: &str| text.matches(['\'', '"']).count();
    let expand = raw.first().is_some_and(|raw| count(raw) == count(name));
    Ok(Some(Operator { name: name.clone(), expand, strip_tabs, descriptor: descriptor.to_owned() }))
}

/// The operators of a command line, in order, each with its place. A line that a shell could not split has none.
///
/// # Errors
/// The first delimiter that cannot be read, and its place.
pub(super) fn operators(line: Text<'_>) -> Result<Vec<(Operator, Span)>, (ExpandError, Span)> {
    let Ok(words) = expand::raw_words(line.as_str()) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for word in words {
        let span = line.slice(word.range.start, word.range.end).span();
        if let Some(operator) = operator(&word.text).map_err(|error| (error, span))? {
            found.push((operator, span));
        }
    }
    Ok(found)
}

/// The body without the tabs at the start of each line.
pub(super) fn without_tabs(body: &str) -> String {
    body.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(word: &str, expected: Option<(&str, bool, bool, &str)>) {
        let expected = expected.map(|(name, expand, strip_tabs, descriptor)| Operator {
            name: name.to_owned(),
            expand,
            strip_tabs,
            descriptor: descriptor.to_owned(),
        });
        assert_eq!(operator(word), Ok(expected));
    }

    #[test]
    fn operators_are_whole_words() {
        check("<<EOF", Some(("EOF", true, false, "")));
        check("<<-EOF", Some(("EOF", true, true, "")));
        check("3<<EOF", Some(("EOF", true, false, "3")));
        check("<< EOF", Some(("EOF", true, false, "")));
        check("<<a.txt", Some(("a.txt", true, false, "")));
    }

    #[test]
    fn quotes_switch_expansion_off_and_backslashes_do_not() {
        check("<<\"EOF\"", Some(("EOF", false, false, "")));
        check("<<E'O'F", Some(("EOF", false, false, "")));
        check("<<E\\OF", Some(("EOF", true, false, "")));
    }

    #[test]
    fn other_words_are_not() {
        check("<<<x", None);
        check("<<", None);
        check("<<-", None);
        check("a<<EOF", None);
        check("<<a b", None);
        check("<<''", None);
        check("<EOF", None);
    }

    #[test]
    fn open_quotes_are_errors() {
        assert!(operator("<<'EOF").is_err());
    }

    #[test]
    fn tabs_go_and_blanks_stay() {
        assert_eq!(without_tabs("\t\ta\n b\n\t\n"), "a\n b\n\n");
    }
}
