//! The exec form: a JSON array of strings, each with its place.

use serde_json::value::RawValue;

use super::lines::Text;
use crate::diagnostic::{Span, Spanned};

/// What an argument that may be a JSON array turned out to be.
#[derive(Debug)]
pub(super) enum JsonForm {
    /// An array of strings.
    Array(Vec<Spanned<String>>),
    /// An array with something else in it, and where that stands.
    NotStrings(Span),
    /// Not valid JSON, or not an array: plain text.
    No,
}

/// Reads `text` as a JSON array, if it is one.
pub(super) fn array(text: Text<'_>) -> JsonForm {
    let whole = text.as_str();
    if !whole.starts_with('[') {
        return JsonForm::No;
    }
    let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(whole) else { return JsonForm::No };
    let mut strings = Vec::with_capacity(elements.len());
    for element in elements {
        let raw = element.get();
        // The element borrows from `whole`, so the difference of the addresses is its offset.
        let start = raw.as_ptr().addr() - whole.as_ptr().addr();
        let written = text.slice(start, start + raw.len());
        match raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"')) {
            Some(inner) => strings.push(Spanned::new(unescape(inner), written.span())),
            None => return JsonForm::NotStrings(written.span()),
        }
    }
    JsonForm::Array(strings)
}

/// The inside of a valid JSON string without its escapes; half of a surrogate pair becomes U+FFFD, as in Go.
fn unescape(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut chars = text.chars();
    let mut high: Option<u32> = None;
    while let Some(c) = chars.next() {
        let unit = match c {
            '\\' => match chars.next() {
                Some('u') => {
                    let digits: String = chars.by_ref().take(4).collect();
                    u32::from_str_radix(&digits, 16).unwrap_or(0xfffd)
                }
                Some('b') => 0x8,
                Some('f') => 0xc,
                Some('n') => 0xa,
                Some('r') => 0xd,
                Some('t') => 0x9,
                Some(other) => u32::from(other),
                None => 0xfffd,
            },
            c => u32::from(c),
        };
        if let Some(high) = high.take() {
            if (0xdc00..0xe000).contains(&unit) {
                result.extend(char::from_u32(0x10000 + ((high - 0xd800) << 10) + (unit - 0xdc00)));
                continue;
            }
            result.push(char::REPLACEMENT_CHARACTER);
        }
        if (0xd800..0xdc00).contains(&unit) {
            high = Some(unit);
        } else {
            result.push(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
    }
    if high.is_some() {
        result.push(char::REPLACEMENT_CHARACTER);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Source;
    use crate::dockerfile::lines::LineReader;

    #[track_caller]
    fn check(text: &str, expected: Option<&[&str]>) {
        let source = Source::new("Dockerfile", text);
        let line = LineReader::new(&source, 0, '`').next_logical().expect("one line").line;
        let strings = match array(line.text()) {
            JsonForm::Array(strings) => Some(strings.into_iter().map(|string| string.value).collect::<Vec<_>>()),
            JsonForm::NotStrings(_) | JsonForm::No => None,
        };
        assert_eq!(strings, expected.map(|strings| strings.iter().map(|string| (*string).to_owned()).collect()));
    }

    #[test]
    fn arrays_of_strings() {
        check("[]", Some(&[]));
        check("[ \"a\" ,\"b c\"]", Some(&["a", "b c"]));
        check(r#"["\u00e9\u4e2d", "tab\tq\"b\\s\/", "\ud83d\ude00"]"#, Some(&["é中", "tab\tq\"b\\s/", "😀"]));
    }

    #[test]
    fn halves_of_surrogate_pairs_are_replaced() {
        check(r#"["\ud83dx", "\ude00", "\ud83d"]"#, Some(&["\u{fffd}x", "\u{fffd}", "\u{fffd}"]));
    }

    #[test]
    fn text_that_only_looks_like_it() {
        check("['a']", None);
        check("[\"a\",]", None);
        check("[\"a\"] b", None);
        check("{\"a\": 1}", None);
    }

    #[test]
    fn other_elements_are_pointed_at() {
        let source = Source::new("Dockerfile", "[\"a\", {\"b\": [1]}]");
        let line = LineReader::new(&source, 0, '\\').next_logical().expect("one line").line;
        let JsonForm::NotStrings(span) = array(line.text()) else { panic!("an object is not a string") };
        assert_eq!(&source.text()[span.range()], "{\"b\": [1]}");
    }
}
