//! Words of the Dockerfile with their variables replaced, and the diagnostics of doing so.

use crate::diagnostic::{Diagnostic, Source, Span, nearest};
use crate::dockerfile::Word;
use crate::dockerfile::expand::{self, Environment, ExpandError, Expanded};

/// Replaces the variables and takes the quotes out of one word.
pub(super) fn expand<E: Environment>(
    word: &Word,
    source: &Source,
    escape: char,
    environment: &E,
) -> Result<Expanded, Box<Diagnostic>> {
    expand::word(&word.value, escape, environment).map_err(|error| Box::new(failure(word, source, &error)))
}

/// The diagnostic of a failed expansion, at the part of the word that failed where the word is written in one piece.
pub(super) fn failure(word: &Word, source: &Source, error: &ExpandError) -> Diagnostic {
    let written_plainly = source.text().get(word.span.range()) == Some(word.value.as_str());
    let inside = Span::new(word.span.start + error.range.start, word.span.start + error.range.end);
    let span = if written_plainly && inside.end <= word.span.end && inside.start < inside.end { inside } else { word.span };
    Diagnostic::error("bad-substitution", error.message.clone(), source, span)
}

/// The place of `$name` or `${name` in `span`, or else all of `span`.
pub(super) fn variable_span(name: &str, source: &Source, span: Span) -> Span {
    let Some(text) = source.text().get(span.range()) else { return span };
    for (start, _) in text.match_indices('$') {
        let after = &text[start + 1..];
        let (inner, brace) = after.strip_prefix('{').map_or((after, 0), |inner| (inner, 1));
        let Some(rest) = inner.strip_prefix(name) else { continue };
        if rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
            continue;
        }
        let closing = if brace == 1 { rest.find('}').map_or(0, |index| index + 1) } else { 0 };
        let start = span.start + start;
        return Span::new(start, start + 1 + brace + name.len() + closing);
    }
    span
}

/// ` (did you mean `x`?)` material: advice with the nearest of the candidates.
pub(super) fn did_you_mean<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(name, candidates).map(|candidate| format!("did you mean `{candidate}`?"))
}

/// Adds advice when there is some.
pub(super) fn with_help(diagnostic: Diagnostic, help: Option<String>) -> Diagnostic {
    match help {
        Some(help) => diagnostic.help(help),
        None => diagnostic,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_found_in_its_word() {
        let source = Source::new("Dockerfile", "ENV A=$AB${A:-x}-$A");
        let text = |name: &str| {
            let span = variable_span(name, &source, Span::new(4, 19));
            source.text()[span.range()].to_owned()
        };
        assert_eq!(text("AB"), "$AB");
        assert_eq!(text("A"), "${A:-x}");
        assert_eq!(text("B"), "A=$AB${A:-x}-$A");
    }
}
