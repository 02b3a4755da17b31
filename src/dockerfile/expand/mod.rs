//! Variables and quotes in one word: `$x`, `${x}`, the modifiers of `${x…}`, single and double quotes, escapes.
//!
//! The rules are BuildKit's, which look like a shell's and differ in details: there are no bracket patterns, the second
//! `/` of a replacement is mandatory, and an unset variable is empty text.

use std::ops::Range;

use super::lines::is_blank;

mod lexer;
mod pattern;

use lexer::{Lexer, Mode};

/// Where variables are looked up.
pub trait Environment {
    /// The variable's value; `None` when it is not set at all.
    fn get(&self, name: &str) -> Option<String>;
}

/// The environment in which nothing is set.
impl Environment for () {
    fn get(&self, _name: &str) -> Option<String> {
        None
    }
}

/// A word after its variables were replaced.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Expanded {
    /// The text.
    pub text: String,
    /// Names that were looked up and not set, each once, in order of appearance.
    pub unset: Vec<String>,
}

/// Why a word has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExpandError {
    /// What is wrong, in lower case.
    pub message: String,
    /// The bytes of the text that are to blame.
    pub range: Range<usize>,
}

/// Replaces variables and takes quotes and escapes out.
///
/// # Errors
/// An unterminated quote or brace, a substitution of unknown form, a bad pattern, or a variable that `${x:?message}`
/// demands.
pub fn word(text: &str, escape: char, env: &dyn Environment) -> Result<Expanded, ExpandError> {
    Lexer::new(text, escape, env, Mode::default()).expand()
}

/// Like [`word`], then split at blanks that were not quoted; blanks that came out of a variable split too.
///
/// The second list names the variables that were not set.
///
/// # Errors
/// As [`word`].
pub fn words(text: &str, escape: char, env: &dyn Environment) -> Result<(Vec<String>, Vec<String>), ExpandError> {
    let (words, unset) = Lexer::new(text, escape, env, Mode::default()).split()?;
    Ok((words.into_iter().map(|word| word.text).collect(), unset))
}

/// Replaces variables in the body of a COPY or ADD heredoc: quote characters are text there.
///
/// BuildKit always takes `\` as `escape` here, whatever `# escape=` says.
///
/// # Errors
/// As [`word`].
pub fn heredoc(body: &str, escape: char, env: &dyn Environment) -> Result<Expanded, ExpandError> {
    Lexer::new(body, escape, env, Mode { plain_quotes: true, ..Mode::default() }).expand()
}

/// A word that kept its quotes, escapes and variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawWord {
    pub(super) text: String,
    pub(super) range: Range<usize>,
}

/// Splits a command line as a shell would, for finding heredocs: nothing is replaced, `<<` takes blanks behind it along.
pub(super) fn raw_words(text: &str) -> Result<Vec<RawWord>, ExpandError> {
    let mode = Mode { keep_quotes: true, keep_escapes: true, keep_unset: true, plain_quotes: false };
    Ok(Lexer::new(text, '\\', &(), mode).split()?.0)
}

/// The words of a heredoc's delimiter, with quotes taken out or kept; variables stay.
pub(super) fn delimiter_words(text: &str, keep_quotes: bool) -> Result<Vec<String>, ExpandError> {
    let mode = Mode { keep_quotes, keep_unset: true, ..Mode::default() };
    let (words, _) = Lexer::new(text, '\\', &(), mode).split()?;
    Ok(words.into_iter().map(|word| word.text).collect())
}

/// Whether the text would look a variable up or has a quote or escape in it; text without them is its own expansion.
pub fn is_plain(text: &str, escape: char) -> bool {
    !text.contains(['$', '\'', '"', escape])
}

/// Whether a heredoc operator takes this character along as its blank.
fn follows_heredoc_operator(c: char) -> bool {
    is_blank(c) && matches!(c, ' ' | '\t' | '\r')
}

#[cfg(test)]
mod tests;
