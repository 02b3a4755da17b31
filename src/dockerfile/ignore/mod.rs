//! `.dockerignore` files and `--exclude` patterns: which paths of a tree are left out.
//!
//! A path is ignored when the last pattern that matches it, or a directory above it, does not begin with `!`. Patterns
//! are rooted: `*.md` speaks of the top level only, `**/*.md` of all. `*` and `?` stay within a component, `**` does not.
//! Turned around, the same patterns select: what a context is asked for, and what `COPY --parents` takes.
//!
//! Matching goes component by component, so that a walk over a tree looks at each name once ([`Patterns::root`],
//! [`DirState::enter`]). [`Patterns::is_ignored`] walks down one path the same way.
//!
//! Source: moby/patternmatcher, as the context transfer of BuildKit uses it (`MatchesUsingParentResults`).

use std::ops::Range;

use super::glob::{self, BadPattern};
use crate::diagnostic::{Diagnostic, Source, Span};

mod pattern;
mod translate;

use pattern::{Pattern, States};

/// The patterns of one ignore file, in order.
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    patterns: Vec<Pattern>,
    /// The file, and where each pattern stands in it; nothing for lines that come from elsewhere.
    places: Option<(Source, Vec<Span>)>,
}

/// What is known about the entries of one directory before their names are seen.
///
/// Belongs to the [`Patterns`] it came from.
#[derive(Clone, Debug)]
pub struct DirState {
    states: Vec<PatternState>,
}

/// One pattern at one directory.
#[derive(Clone, Debug)]
struct PatternState {
    /// Where the pattern can go on behind the directory's slash.
    states: States,
    /// Whether the directory itself was matched, which then holds for all below it.
    matched: bool,
}

/// The verdict on one entry of a directory.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Whether the entry is left out.
    pub ignored: bool,
    /// What to go on with when the entry is a directory.
    pub below: DirState,
}

/// Why lines are no patterns.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A pattern with a syntax error.
    #[error("syntax error in pattern `{pattern}`")]
    Syntax {
        /// The number of the line, from 0.
        line: usize,
        /// The pattern, as written.
        pattern: String,
        /// The bytes of the pattern from the broken part on.
        range: Range<usize>,
    },
    /// A `!` with nothing behind it.
    #[error("illegal exclusion pattern `!`")]
    LoneExclamation {
        /// The number of the line, from 0.
        line: usize,
    },
}

impl Patterns {
    /// Reads an ignore file: one pattern per line, lines that begin with `#` are comments.
    ///
    /// # Errors
    /// The first bad pattern, pointed at.
    pub fn parse(source: &Source) -> Result<Patterns, Diagnostic> {
        let mut patterns = Vec::new();
        let mut places = Vec::new();
        let mut start = 0;
        for (number, written) in source.text().split('\n').enumerate() {
            let line = if number == 0 { written.strip_prefix('\u{feff}').unwrap_or(written) } else { written };
            let pattern = if line.starts_with('#') { Ok(None) } else { read_line(number, &normalize(line)) };
            let end = start + written.trim_end().len();
            let place = Span::new((end - line.trim().len()).min(end), end);
            match pattern {
                Ok(Some(pattern)) => {
                    patterns.push(pattern);
                    places.push(place);
                }
                Ok(None) => {}
                Err(error) => return Err(diagnostic(&error, source, place)),
            }
            start += written.len() + 1;
        }
        Ok(Patterns { patterns, places: Some((source.clone(), places)) })
    }

    /// Takes each line as a pattern; there are no comments, and a leading `/` matches nothing.
    ///
    /// # Errors
    /// The first bad pattern.
    pub fn from_lines(lines: &[String]) -> Result<Patterns, PatternError> {
        let mut patterns = Vec::new();
        for (number, line) in lines.iter().enumerate() {
            patterns.extend(read_line(number, line)?);
        }
        Ok(Patterns { patterns, places: None })
    }

    /// What people call the file that the patterns were read from.
    pub fn file_name(&self) -> Option<&str> {
        self.places.as_ref().map(|(source, _)| source.name())
    }

    /// The patterns as the file has them, in order, without a `/` in front.
    pub fn texts(&self) -> Vec<String> {
        let Some((source, spans)) = &self.places else { return Vec::new() };
        let texts = spans.iter().filter_map(|span| source.text().get(span.start..span.end));
        texts.map(|text| text.strip_prefix('/').unwrap_or(text).to_owned()).collect()
    }

    /// Whether nothing is ever ignored.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether a pattern begins with `!`.
    pub fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.exception)
    }

    /// Whether a pattern stands for all of the top level: `*`, `**` or `**/*`.
    pub fn ignores_everything(&self) -> bool {
        self.patterns.iter().any(|pattern| !pattern.exception && matches!(pattern.text.as_str(), "*" | "**" | "**/*"))
    }

    /// Whether a path is left out. `path` is relative, its components separated by single slashes, without `.` and `..`.
    ///
    /// The root itself, an empty path or `.`, never is.
    pub fn is_ignored(&self, path: &[u8]) -> bool {
        self.deciding(path).is_some()
    }

    /// The pattern that leaves a path out, as people find it: `.dockerignore:3: *.md`. `None` if none does.
    pub fn ignored_by(&self, path: &[u8]) -> Option<String> {
        let number = self.deciding(path)?;
        match &self.places {
            Some((source, places)) => {
                let span = *places.get(number)?;
                let (line, _) = source.line_column(span.start);
                Some(format!("{}:{line}: {}", source.name(), source.text().get(span.range())?))
            }
            None => self.patterns.get(number).map(|pattern| pattern.text.clone()),
        }
    }

    /// The number of the pattern that leaves `path` out.
    fn deciding(&self, path: &[u8]) -> Option<usize> {
        if path.is_empty() || path == b"." {
            return None;
        }
        let mut state = self.root();
        let mut deciding = None;
        for name in path.split(|byte| *byte == b'/') {
            let entry = state.enter(self, name);
            deciding = entry.ignored.then(|| entry.below.states.iter().rposition(|state| state.matched)).flatten();
            state = entry.below;
        }
        deciding
    }

    /// Where a walk begins: what is known about the entries of the tree's root.
    pub fn root(&self) -> DirState {
        let states = self.patterns.iter().map(|pattern| PatternState { states: pattern.start(), matched: false }).collect();
        DirState { states }
    }
}

impl DirState {
    /// Judges the entry `name` of this directory.
    pub fn enter(&self, patterns: &Patterns, name: &[u8]) -> Entry {
        let mut ignored = false;
        let mut states = Vec::with_capacity(self.states.len());
        for (pattern, state) in patterns.patterns.iter().zip(&self.states) {
            let mut matched = state.matched;
            let mut below = States::none();
            if !matched && !state.states.is_none() {
                let at_end = pattern.step_all(&state.states, glob::characters(name));
                // A pattern that could not change the verdict is not asked, and its match is not handed down. So of the
                // lines `a/b` and `!a`, `a/b` stays ignored, in BuildKit too.
                matched = pattern.exception == ignored && pattern.accepts(&at_end);
                below = pattern.step_all(&at_end, std::iter::once('/'));
            }
            if matched {
                ignored = !pattern.exception;
            }
            states.push(PatternState { states: below, matched });
        }
        Entry { ignored, below: DirState { states } }
    }

    /// Whether a pattern without `!` has matched this directory, or may match an entry somewhere below it.
    pub fn may_match(&self, patterns: &Patterns) -> bool {
        let states = patterns.patterns.iter().zip(&self.states);
        states.into_iter().any(|(pattern, state)| !pattern.exception && (state.matched || !state.states.is_none()))
    }

    /// Whether an entry somewhere below this directory may be taken back in by a `!` pattern, so that the directory must be
    /// walked even when it is ignored itself.
    pub fn may_contain_exceptions(&self, patterns: &Patterns) -> bool {
        patterns.patterns.iter().zip(&self.states).any(|(pattern, state)| pattern.exception && !state.states.is_none())
    }
}

/// A line of an ignore file in the shape that patterns have: clean, relative, the `!` in front.
fn normalize(line: &str) -> String {
    let line = line.trim();
    let (exception, path) = match line.strip_prefix('!') {
        Some(path) => ("!", path.trim()),
        None => ("", line),
    };
    if path.is_empty() {
        return exception.to_owned();
    }
    let clean = clean(path);
    let relative = if clean.len() > 1 { clean.strip_prefix('/').unwrap_or(&clean) } else { &clean };
    format!("{exception}{relative}")
}

fn read_line(line: usize, text: &str) -> Result<Option<Pattern>, PatternError> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let clean = clean(text);
    let (exception, path) = match clean.strip_prefix('!') {
        Some("") => return Err(PatternError::LoneExclamation { line }),
        Some(path) => (true, path),
        None => (false, clean.as_str()),
    };
    match Pattern::parse(path, exception) {
        Ok(pattern) => Ok(Some(pattern)),
        Err(BadPattern { offset }) => {
            let offset = offset + usize::from(exception);
            Err(PatternError::Syntax { line, range: offset..clean.len(), pattern: clean })
        }
    }
}

/// `line` is where the pattern was written, without blanks around it.
fn diagnostic(error: &PatternError, source: &Source, line: Span) -> Diagnostic {
    let (span, help) = match error {
        PatternError::Syntax { pattern, range, .. } => {
            // The pattern is cleaned and stands at the end of the line; where cleaning changed more, all of it is marked.
            let written = &source.text()[line.range()];
            let start = if written.ends_with(pattern.as_str()) { line.end - pattern.len() + range.start } else { line.start };
            (Span::new(start, line.end), "a `[` needs its `]`; put `\\` before a character that has no special meaning")
        }
        PatternError::LoneExclamation { .. } => (line, "a path follows the `!`"),
    };
    Diagnostic::error("ignore-pattern", error.to_string(), source, span).help(help)
}

/// The shortest equal path, as Go's `path.Clean` has it: no `.`, no doubled or trailing slashes, `a/..` removed.
fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut components: Vec<&str> = Vec::new();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." if components.last().is_some_and(|last| *last != "..") => {
                components.pop();
            }
            ".." if rooted => {}
            component => components.push(component),
        }
    }
    let joined = components.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

#[cfg(test)]
mod tests;
