//! Logical lines to words: the instruction's name, its flags, and the ways in which arguments are split.

use super::lines::Text;
use crate::diagnostic::{Span, Spanned};

/// An instruction before its arguments are understood.
#[derive(Debug)]
pub(super) struct Statement<'a> {
    /// The instruction's name in its original spelling.
    pub(super) name: Text<'a>,
    /// Words with leading dashes directly after the name, quotes and escapes processed.
    pub(super) flags: Vec<FlagWord>,
    /// The rest, without blanks around it.
    pub(super) args: Text<'a>,
    /// All of it.
    pub(super) text: Text<'a>,
}

/// `--name` or `--name=value`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FlagWord {
    /// Without its dashes; the span has them.
    pub(super) name: Spanned<String>,
    /// `None` without a `=`.
    pub(super) value: Option<Spanned<String>>,
    /// The whole word.
    pub(super) span: Span,
}

/// Splits an instruction into name, flags and arguments.
pub(super) fn statement(text: Text<'_>, escape: char) -> Statement<'_> {
    let text = text.trim();
    let (name, rest) = text.split_blank();
    let (flags, args) = flags(rest.unwrap_or(text.rest(text.as_str().len())), escape);
    Statement { name, flags, args: args.trim(), text }
}

/// Words at blanks, quotes not regarded.
pub(super) fn blank_separated(text: Text<'_>) -> Vec<Text<'_>> {
    let mut words = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (word, after) = rest.split_blank();
        words.push(word);
        match after {
            Some(after) => rest = after,
            None => break,
        }
    }
    words
}

/// A word whose quotes and escapes are still in it.
#[derive(Clone, Debug)]
pub(super) struct QuotedWord<'a> {
    /// As it is taken on; differs from `written` only when an escape character at the very end was dropped.
    pub(super) text: String,
    pub(super) written: Text<'a>,
}

/// Words at white space outside of quotes; quotes and escapes stay, except for an escape character that ends the text.
pub(super) fn quoted_words<'a>(text: Text<'a>, escape: char) -> Vec<QuotedWord<'a>> {
    let whole = text.as_str();
    let mut words = Vec::new();
    let mut start = None;
    let mut word = String::new();
    let mut quote = None;
    let mut chars = whole.char_indices();
    while let Some((at, c)) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            if let Some(start) = start.take() {
                words.push(QuotedWord { text: std::mem::take(&mut word), written: text.slice(start, at) });
            }
            continue;
        }
        start.get_or_insert(at);
        if c == escape && quote != Some('\'') {
            let Some((_, escaped)) = chars.next() else { break };
            word.push(c);
            word.push(escaped);
            continue;
        }
        match quote {
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ => {}
        }
        word.push(c);
    }
    if let Some(start) = start
        && !word.is_empty()
    {
        words.push(QuotedWord { text: word, written: text.slice(start, whole.len()) });
    }
    words
}

/// Flag words at the start of `text`, and what follows them.
fn flags<'a>(text: Text<'a>, escape: char) -> (Vec<FlagWord>, Text<'a>) {
    let mut flags = Vec::new();
    let mut rest = text;
    loop {
        let skipped = rest.as_str().len() - rest.as_str().trim_start().len();
        rest = rest.rest(skipped);
        if !rest.as_str().starts_with("--") {
            return (flags, rest);
        }
        let word = FlagText::read(rest, escape);
        rest = rest.rest(word.length);
        if word.text == "--" {
            return (flags, rest);
        }
        flags.push(word.into_flag());
    }
}

/// A flag word with its quotes taken out, and where each byte came from.
struct FlagText<'a> {
    text: String,
    /// For each byte of `text`, its offset in `written`.
    offsets: Vec<usize>,
    written: Text<'a>,
    length: usize,
}

impl<'a> FlagText<'a> {
    fn read(text: Text<'a>, escape: char) -> FlagText<'a> {
        let mut word = FlagText { text: String::new(), offsets: Vec::new(), written: text, length: text.as_str().len() };
        let mut quote = None;
        let mut chars = text.as_str().char_indices();
        while let Some((at, c)) = chars.next() {
            match quote {
                None if c.is_whitespace() => {
                    word.length = at;
                    break;
                }
                None if c == '\'' || c == '"' => quote = Some(c),
                Some(open) if c == open => quote = None,
                _ if c == escape => {
                    if let Some((at, escaped)) = chars.next() {
                        word.push(at, escaped);
                    }
                }
                _ => word.push(at, c),
            }
        }
        word.written = text.slice(0, word.length);
        word
    }

    fn push(&mut self, at: usize, c: char) {
        self.text.push(c);
        self.offsets.extend(at..at + c.len_utf8());
    }

    fn into_flag(self) -> FlagWord {
        let span = self.written.span();
        let (name, value) = match self.text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (self.text.as_str(), None),
        };
        let name_end = self.offsets.get(name.len()).copied().unwrap_or(self.length);
        let value = value.map(|value| {
            let start = name_end + 1;
            // A value that is quoted as a whole is pointed at inside of its quotes.
            let first = self.offsets.get(name.len() + 1).copied().unwrap_or(start);
            let last = self.offsets.last().map_or(start, |last| last + 1).max(first);
            let range = if value.is_empty() { start.min(self.length)..self.length } else { first..last };
            Spanned::new(value.to_owned(), self.written.slice(range.start, range.end).span())
        });
        let name_span = self.written.slice(0, name_end).span();
        let name = name.strip_prefix("--").unwrap_or(name).to_owned();
        FlagWord { name: Spanned::new(name, name_span), value, span }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Source;
    use crate::dockerfile::lines::{Line, LineReader};

    fn line(text: &str) -> (Source, Line) {
        let source = Source::new("Dockerfile", text);
        let line = LineReader::new(&source, 0, '\\').next_logical().expect("one line").line;
        (source, line)
    }

    #[track_caller]
    fn check_flags(text: &str, expected: &[(&str, Option<&str>)], args: &str) {
        let (_, line) = line(text);
        let statement = statement(line.text(), '\\');
        let flags: Vec<_> = statement
            .flags
            .iter()
            .map(|flag| (flag.name.value.as_str(), flag.value.as_ref().map(|v| v.value.as_str())))
            .collect();
        assert_eq!(flags, expected);
        assert_eq!(statement.args.as_str(), args);
    }

    #[test]
    fn flags_stand_before_the_arguments() {
        check_flags("COPY --link --from=a b --c", &[("link", None), ("from", Some("a"))], "b --c");
    }

    #[test]
    fn two_dashes_end_the_flags() {
        check_flags("RUN --network=none -- --x", &[("network", Some("none"))], "--x");
    }

    #[test]
    fn quotes_and_escapes_in_flags_are_processed() {
        check_flags(
            "RUN --mount='type=bind, x' --a\"b c\"=d\\ e f",
            &[("mount", Some("type=bind, x")), ("ab c", Some("d e"))],
            "f",
        );
    }

    #[test]
    fn flag_values_are_pointed_at() {
        let (source, line) = line("COPY --chown=\"a:b\" --chmod= x y");
        let statement = statement(line.text(), '\\');
        let value = statement.flags[0].value.as_ref().expect("has a value");
        assert_eq!(&source.text()[value.span.range()], "a:b");
        assert_eq!(&source.text()[statement.flags[0].name.span.range()], "--chown");
        assert_eq!(&source.text()[statement.flags[1].span.range()], "--chmod=");
    }

    #[track_caller]
    fn check_words(text: &str, expected: &[&str]) {
        let (_, line) = line(text);
        let words: Vec<_> = quoted_words(line.text(), '\\').into_iter().map(|word| word.text).collect();
        assert_eq!(words, expected);
    }

    #[test]
    fn quotes_hold_words_together_and_stay() {
        check_words("a=\"b c\" d='e f' g\\ h i=\"\\\" j\"", &["a=\"b c\"", "d='e f'", "g\\ h", "i=\"\\\" j\""]);
    }

    #[test]
    fn an_escape_character_at_the_end_is_dropped() {
        check_words("a b\\\\ \\", &["a", "b\\\\"]);
    }

    #[test]
    fn an_open_quote_reaches_to_the_end() {
        check_words("a 'b c", &["a", "'b c"]);
    }
}
