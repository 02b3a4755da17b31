//! Physical lines to logical ones: continuations joined, comments dropped, every byte still knowing where it was written.

use crate::diagnostic::{Source, Span, Spanned};

/// The longest physical line that is accepted, in bytes without its newline.
pub(super) const MAX_LINE_BYTES: usize = 65_535;

/// One instruction's text, put together from its physical lines.
#[derive(Debug)]
pub(super) struct Line {
    text: String,
    pieces: Vec<Piece>,
}

/// Where a run of a logical line's bytes begins, there and in the source.
#[derive(Debug)]
struct Piece {
    at: usize,
    source: usize,
}

impl Line {
    fn new() -> Line {
        Line { text: String::new(), pieces: Vec::new() }
    }

    fn push(&mut self, text: &str, source: usize) {
        self.pieces.push(Piece { at: self.text.len(), source });
        self.text.push_str(text);
    }

    /// All of it, blanks around it removed.
    pub(super) fn text(&self) -> Text<'_> {
        Text { line: self, start: 0, end: self.text.len() }.trim()
    }

    fn source_offset(&self, at: usize) -> usize {
        let piece = self.pieces.partition_point(|piece| piece.at <= at).saturating_sub(1);
        self.pieces.get(piece).map_or(0, |piece| piece.source + (at - piece.at))
    }
}

/// A part of a logical line that knows where it was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<'a> {
    line: &'a Line,
    start: usize,
    end: usize,
}

impl<'a> Text<'a> {
    pub(super) fn as_str(self) -> &'a str {
        &self.line.text[self.start..self.end]
    }

    pub(super) fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Bytes `start..end` of this text, which must lie on character boundaries.
    pub(super) fn slice(self, start: usize, end: usize) -> Text<'a> {
        Text { line: self.line, start: self.start + start, end: self.start + end }
    }

    /// This and what is behind it in its logical line, blanks at its end included.
    pub(super) fn to_line_end(self) -> Text<'a> {
        Text { end: self.line.text.len(), ..self }
    }

    pub(super) fn rest(self, start: usize) -> Text<'a> {
        self.slice(start, self.end - self.start)
    }

    pub(super) fn trim(self) -> Text<'a> {
        let text = self.as_str();
        let start = text.len() - text.trim_start().len();
        self.slice(start, start + text.trim().len())
    }

    /// The smallest range of the source that holds it.
    pub(super) fn span(self) -> Span {
        let start = self.line.source_offset(self.start);
        let end = if self.is_empty() { start } else { self.line.source_offset(self.end - 1) + 1 };
        Span::new(start, end)
    }

    pub(super) fn spanned(self) -> Spanned<String> {
        Spanned::new(self.as_str().to_owned(), self.span())
    }

    /// What comes before the first run of blanks, and what comes after it.
    pub(super) fn split_blank(self) -> (Text<'a>, Option<Text<'a>>) {
        let text = self.as_str();
        let Some(end) = text.find(is_blank) else { return (self, None) };
        let rest = text[end..].find(|c| !is_blank(c)).map_or(text.len(), |skip| end + skip);
        (self.slice(0, end), Some(self.rest(rest)))
    }
}

/// The separators of words. Wider notions of white space (such as the no-break space) are part of a word.
pub(super) fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{b}' | '\u{c}' | '\r')
}

/// A logical line and what was noticed while joining it.
#[derive(Debug)]
pub(super) struct Logical {
    pub(super) line: Line,
    /// All its lines, comments and empty ones inside it included, without the last newline.
    pub(super) lines: Span,
    /// The last of them.
    pub(super) last_line: Span,
    /// The first line of blanks inside the continuation, without its newline.
    pub(super) empty_continuation: Option<Span>,
    /// Comments of the lines above that belong to it, `#` removed, blanks around them removed.
    pub(super) comments: Vec<Spanned<String>>,
}

/// A heredoc's lines as they stand in the source.
#[derive(Debug)]
pub(super) struct Body<'a> {
    pub(super) text: &'a str,
    /// End of the terminator's line.
    pub(super) end: usize,
}

/// Walks over a file's lines.
pub(super) struct LineReader<'a> {
    text: &'a str,
    position: usize,
    escape: char,
}

/// A physical line, without its line ending.
#[derive(Clone, Copy)]
struct Physical<'a> {
    start: usize,
    text: &'a str,
}

impl<'a> Physical<'a> {
    fn is_comment(self) -> bool {
        self.text.trim_start().starts_with('#')
    }

    /// The words of a comment. BuildKit drops the line's first character: the `#`, or the first blank of an indented one.
    fn comment(self) -> Option<&'a str> {
        self.is_comment().then(|| {
            let mut chars = self.text.chars();
            chars.next();
            chars.as_str().trim()
        })
    }

    fn is_empty(self) -> bool {
        self.text.trim_start().is_empty()
    }

    /// `part`, a slice of this line, with its place.
    fn part(self, part: &str) -> Spanned<String> {
        let start = self.start + (part.as_ptr().addr() - self.text.as_ptr().addr());
        Spanned::new(part.to_owned(), Span::new(start, start + part.len()))
    }

    fn span(self) -> Span {
        Span::new(self.start, self.start + self.text.len())
    }
}

impl<'a> LineReader<'a> {
    /// Reads `source` from byte `start`; `escape` at the end of a line continues it.
    pub(super) fn new(source: &'a Source, start: usize, escape: char) -> LineReader<'a> {
        LineReader { text: source.text(), position: start, escape }
    }

    /// The next instruction's text; `None` at the end of the file.
    pub(super) fn next_logical(&mut self) -> Option<Logical> {
        let mut comments = Vec::new();
        let first = loop {
            let line = self.next_physical()?;
            match line.comment() {
                Some("") => comments.clear(),
                Some(comment) => comments.push(line.part(comment)),
                None if line.is_empty() => {}
                None => break line,
            }
        };
        let lines = first.span();
        let mut logical = Logical { line: Line::new(), lines, last_line: lines, empty_continuation: None, comments };
        let indent = first.text.len() - first.text.trim_start().len();
        let (mut text, mut continues) = self.strip_continuation(&first.text[indent..]);
        logical.line.push(text, first.start + indent);
        while continues {
            let Some(next) = self.next_physical() else { break };
            logical.last_line = next.span();
            if next.is_comment() {
                continue;
            }
            if next.is_empty() {
                logical.empty_continuation.get_or_insert(next.span());
                continue;
            }
            (text, continues) = self.strip_continuation(next.text);
            logical.line.push(text, next.start);
        }
        logical.lines.end = logical.last_line.end;
        Some(logical)
    }

    /// The lines up to `terminator` alone on its line; `None` when the file ends before it, which leaves the reader where
    /// it was.
    pub(super) fn heredoc_body(&mut self, terminator: &str, strip_tabs: bool) -> Option<Body<'a>> {
        let start = self.position;
        while let Some(line) = self.next_physical() {
            let candidate = if strip_tabs { line.text.trim_start_matches('\t') } else { line.text };
            if candidate == terminator {
                return Some(Body { text: &self.text[start..line.start], end: line.start + line.text.len() });
            }
        }
        self.position = start;
        None
    }

    /// Goes behind the next line that is `terminator` with blanks around it, and says where that stands.
    pub(super) fn skip_past_indented(&mut self, terminator: &str) -> Option<Span> {
        let start = self.position;
        while let Some(line) = self.next_physical() {
            if line.text.trim() == terminator {
                let at = line.start + line.text.len() - line.text.trim_start().len();
                return Some(Span::new(at, at + terminator.len()));
            }
        }
        self.position = start;
        None
    }

    fn next_physical(&mut self) -> Option<Physical<'a>> {
        let start = self.position;
        let rest = &self.text[start..];
        if rest.is_empty() {
            return None;
        }
        let length = rest.find('\n').map_or(rest.len(), |newline| newline + 1);
        self.position += length;
        Some(Physical { start, text: rest[..length].trim_end_matches(['\r', '\n']) })
    }

    /// The line without the escape character that continues it. A doubled escape character is data.
    fn strip_continuation<'t>(&self, line: &'t str) -> (&'t str, bool) {
        let trimmed = line.trim_end_matches([' ', '\t']);
        match trimmed.strip_suffix(self.escape) {
            Some(before) if !before.ends_with(self.escape) => (before, true),
            _ => (line, false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let source = Source::new("Dockerfile", text);
        let mut reader = LineReader::new(&source, 0, '\\');
        let mut lines = Vec::new();
        while let Some(logical) = reader.next_logical() {
            lines.push(logical.line.text().as_str().to_owned());
        }
        assert_eq!(lines, expected);
    }

    #[test]
    fn continuations_are_joined_and_keep_their_indent() {
        check("  RUN a \\\n  b\nRUN c", &["RUN a   b", "RUN c"]);
    }

    #[test]
    fn blanks_may_follow_the_escape_character() {
        check("RUN a \\ \t\nb", &["RUN a b"]);
    }

    #[test]
    fn a_doubled_escape_character_does_not_continue() {
        check("RUN a\\\\\nRUN b", &["RUN a\\\\", "RUN b"]);
    }

    #[test]
    fn comments_and_empty_lines_inside_a_continuation_vanish() {
        check("RUN a \\\n# no\n\n  # no\nb # yes", &["RUN a b # yes"]);
    }

    #[test]
    fn carriage_returns_end_lines() {
        check("RUN a \\\r\nb\r\n\r\nRUN c\r\n", &["RUN a b", "RUN c"]);
    }

    #[test]
    fn spans_reach_through_continuations() {
        let source = Source::new("Dockerfile", "RUN a \\\n  bcd");
        let logical = LineReader::new(&source, 0, '\\').next_logical().expect("one line");
        let text = logical.line.text();
        let word = text.rest(text.as_str().find("cd").expect("written"));
        assert_eq!(&source.text()[word.span().range()], "cd");
    }

    #[test]
    fn comments_above_belong_to_the_instruction() {
        let source = Source::new("Dockerfile", "# old\n#\n# one\n\n#two\n  # three\nRUN a");
        let logical = LineReader::new(&source, 0, '\\').next_logical().expect("one line");
        let comments: Vec<&str> = logical.comments.iter().map(|comment| comment.value.as_str()).collect();
        assert_eq!(comments, ["one", "two", "# three"]);
        assert!(logical.comments.iter().all(|comment| source.text()[comment.span.range()] == comment.value));
    }

    #[test]
    fn a_body_ends_at_its_terminator_alone() {
        let source = Source::new("Dockerfile", "a\n EOF\n\tEOF\nEOF\nrest");
        let body = |strip| LineReader::new(&source, 0, '\\').heredoc_body("EOF", strip).map(|body| body.text);
        assert_eq!(body(false), Some("a\n EOF\n\tEOF\n"));
        assert_eq!(body(true), Some("a\n EOF\n"));
        assert!(LineReader::new(&source, 0, '\\').heredoc_body("END", false).is_none());
    }
}
