//! What is told to people about their input: where, what, and what to try.
//!
//! Owns: source texts, spans, the [`Diagnostic`] value, the words for an error's [`causes()`] and (in [`render`]) the one place
//! that draws a diagnostic.
//! Elsewhere: who finds the problems (`dockerfile`, `plan`, run-time failures in `schedule`), who prints them (`cli`).

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

mod causes;
mod quote;
pub mod render;

pub use causes::{causes, with_causes};
pub use quote::quoted;

/// A text with a name, shared by all that points into it.
#[derive(Clone, PartialEq, Eq)]
pub struct Source(Arc<SourceText>);

#[derive(PartialEq, Eq)]
struct SourceText {
    name: String,
    text: String,
}

impl Source {
    /// `name` is what people call the text (`Dockerfile`, `docker/app.Dockerfile`, `-`).
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Source {
        Source(Arc::new(SourceText { name: name.into(), text: text.into() }))
    }

    /// What people call the text.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// Line and column of a byte offset, both counted from 1; columns count characters.
    pub fn line_column(&self, offset: usize) -> (usize, usize) {
        let mut offset = offset.min(self.text().len());
        while !self.text().is_char_boundary(offset) {
            offset -= 1;
        }
        let before = &self.text()[..offset];
        let line_start = before.rfind('\n').map_or(0, |index| index + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({:?}, {} bytes)", self.name(), self.text().len())
    }
}

/// A range of bytes in a [`Source`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

impl Span {
    /// From `start` up to but not including `end`.
    pub fn new(start: usize, end: usize) -> Span {
        Span { start, end }
    }

    /// The smallest span that holds both.
    pub fn join(self, other: Span) -> Span {
        Span { start: self.start.min(other.start), end: self.end.max(other.end) }
    }

    /// As a range of byte offsets.
    pub fn range(self) -> Range<usize> {
        self.start..self.end
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

/// A value and where it was written.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it was written.
    pub span: Span,
}

impl<T> Spanned<T> {
    /// `value`, written at `span`.
    pub fn new(value: T, span: Span) -> Spanned<T> {
        Spanned { value, span }
    }
}

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Severity {
    /// The build cannot go on.
    Error,
    /// The build goes on; somebody should look.
    Warning,
}

/// A build check: what all its findings have in common.
#[derive(PartialEq, Eq, Debug)]
pub struct Rule {
    /// `StageNameCasing`: what `# check=skip=` names.
    pub name: &'static str,
    /// What it asks for, in a sentence.
    pub description: &'static str,
    /// Its page in Docker's documentation, where there is one.
    pub url: Option<&'static str>,
    /// When BuildKit looks for it, which decides the order of its findings.
    pub pass: Pass,
    /// Whether it is silent until `# check=experimental=` names it.
    pub experimental: bool,
}

/// The passes over a file in which BuildKit looks for findings, in its order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Pass {
    /// Lines are joined.
    Lines,
    /// Each instruction is read.
    Instructions,
    /// The names of all stages are compared.
    Names,
    /// The spelling of all keywords is compared.
    Casing,
    /// Names of base images are tried with the defaults of their arguments alone.
    Defaults,
    /// `FROM` lines get the values of arguments.
    Froms,
    /// Base images are looked up.
    Bases,
    /// Instructions of the stages that count are carried out.
    Steps,
}

impl Pass {
    /// Whether a `# check=` comment above an instruction has a say; the other passes look at the whole file.
    pub fn heeds_comments(self) -> bool {
        matches!(self, Pass::Instructions | Pass::Froms | Pass::Steps)
    }
}

/// A second place that a diagnostic points at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Label {
    /// Where.
    pub span: Span,
    /// A few words beside the underline.
    pub text: String,
}

/// One problem, with its place and what to try.
///
/// `message` is lower case, names in backticks, no full stop; that of a build check is BuildKit's own text. The rule name of a
/// build check (`StageNameCasing`) or a short kebab-case word (`unknown-flag`) is the `code`: stable, for tests and tools.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// Stable name of the kind of problem.
    pub code: &'static str,
    /// What happened.
    pub message: String,
    /// The text it speaks of and the exact place; `None` for problems without one (a command-line flag).
    pub place: Option<(Source, Span)>,
    /// Words beside the primary underline; may be empty.
    pub label: String,
    /// Further places in the same source.
    pub labels: Vec<Label>,
    /// Facts (`= note: …`).
    pub notes: Vec<String>,
    /// What to try (`= help: …`).
    pub helps: Vec<String>,
    /// The build check that this is a finding of; `None` for all else.
    pub rule: Option<&'static Rule>,
    /// The lines that BuildKit reports, where they are not those of the instruction that `place` is in.
    pub lines: Option<Span>,
}

impl Diagnostic {
    /// An error at `span` of `source`.
    pub fn error(code: &'static str, message: impl Into<String>, source: &Source, span: Span) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            code,
            message: message.into(),
            place: Some((source.clone(), span)),
            label: String::new(),
            labels: Vec::new(),
            notes: Vec::new(),
            helps: Vec::new(),
            rule: None,
            lines: None,
        }
    }

    /// What a build check found; `message` is BuildKit's text for it.
    pub fn finding(rule: &'static Rule, message: impl Into<String>, source: &Source, span: Span) -> Diagnostic {
        Diagnostic { rule: Some(rule), ..Diagnostic::warning(rule.name, message, source, span) }
    }

    /// A warning at `span` of `source`.
    pub fn warning(code: &'static str, message: impl Into<String>, source: &Source, span: Span) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(code, message, source, span) }
    }

    /// An error that no place in a text belongs to.
    pub fn error_without_place(code: &'static str, message: impl Into<String>) -> Diagnostic {
        Diagnostic { place: None, ..Diagnostic::error(code, message, &Source::new("", ""), Span::default()) }
    }

    /// Puts words beside the primary underline.
    #[must_use]
    pub fn label(mut self, text: impl Into<String>) -> Diagnostic {
        self.label = text.into();
        self
    }

    /// Points at a second place of the same source.
    #[must_use]
    pub fn also(mut self, span: Span, text: impl Into<String>) -> Diagnostic {
        self.labels.push(Label { span, text: text.into() });
        self
    }

    /// Adds a fact.
    #[must_use]
    pub fn note(mut self, text: impl Into<String>) -> Diagnostic {
        self.notes.push(text.into());
        self
    }

    /// Adds the causes behind an error, one note each.
    #[must_use]
    pub fn because(mut self, error: &dyn std::error::Error) -> Diagnostic {
        self.notes.extend(causes(error));
        self
    }

    /// Adds advice.
    #[must_use]
    pub fn help(mut self, text: impl Into<String>) -> Diagnostic {
        self.helps.push(text.into());
        self
    }
}

/// The candidate nearest to `word` by edit distance, if it is near enough to be a slip (distance below 3 and below the
/// word's length).
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (edit_distance(&word.to_lowercase(), &candidate.to_lowercase(), Swaps::AreOne), candidate))
        .filter(|(distance, candidate)| *distance < 3 && *distance < word.len().max(1) && *distance < candidate.len().max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The candidate that BuildKit suggests for `word`: the first of the nearest that are at most two insertions, deletions or
/// substitutions away. An exact match means that the word was not the trouble.
pub fn suggestion<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut best = None;
    let mut least = 3;
    for candidate in candidates {
        if candidate == word {
            return None;
        }
        let distance = edit_distance(word, candidate, Swaps::AreTwo);
        if distance < least {
            (best, least) = (Some(candidate), distance);
        }
    }
    best
}

/// What a swap of neighbours costs.
#[derive(Clone, Copy, PartialEq)]
enum Swaps {
    /// As much as one insertion: people think of it as one slip.
    AreOne,
    /// A deletion and an insertion.
    AreTwo,
}

/// Insertions, deletions, substitutions and swaps of neighbours (optimal string alignment).
fn edit_distance(left: &str, right: &str, swaps: Swaps) -> usize {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    let mut rows = vec![vec![0; right.len() + 1]; left.len() + 1];
    for (index, row) in rows.iter_mut().enumerate() {
        row[0] = index;
    }
    rows[0] = (0..=right.len()).collect();
    for i in 1..=left.len() {
        for j in 1..=right.len() {
            let same = left[i - 1] == right[j - 1];
            let mut best = (rows[i - 1][j - 1] + usize::from(!same)).min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if swaps == Swaps::AreOne && i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[left.len()][right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_and_column_count_from_one() {
        let source = Source::new("Dockerfile", "FROM a\nRÜN b\n");
        assert_eq!(source.line_column(0), (1, 1));
        assert_eq!(source.line_column(7), (2, 1));
        assert_eq!(source.line_column(10), (2, 3));
        assert_eq!(source.line_column(999), (3, 1));
    }

    #[test]
    fn nearest_finds_slips_only() {
        assert_eq!(nearest("RUNN", ["RUN", "ENV"]), Some("RUN"));
        assert_eq!(nearest("chwon", ["chmod", "chown"]), Some("chown"));
        assert_eq!(nearest("x", ["y"]), None);
        assert_eq!(nearest("frobnicate", ["RUN"]), None);
    }

    #[test]
    fn suggestions_are_buildkits() {
        assert_eq!(suggestion("foo", ["bar", "fob", "fo"]), Some("fob"));
        assert_eq!(suggestion("PTAH", ["PATH"]), Some("PATH"));
        assert_eq!(suggestion("path", ["PATH"]), None);
        assert_eq!(suggestion("foo", ["fob", "foo"]), None);
        assert_eq!(suggestion("a", ["b"]), Some("b"));
    }
}
