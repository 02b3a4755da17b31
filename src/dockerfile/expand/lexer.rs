//! The walk over a word.

use std::ops::Range;

use super::pattern::Pattern;
use super::{Environment, ExpandError, Expanded, RawWord, follows_heredoc_operator};

/// Substitutions inside substitutions that are followed; more is refused, so that no text can exhaust the stack.
const MAX_DEPTH: usize = 100;

/// What stays in the result.
#[derive(Clone, Copy, Default)]
pub(super) struct Mode {
    /// Quotes are processed and still written.
    pub(super) keep_quotes: bool,
    /// Escape characters are processed and still written.
    pub(super) keep_escapes: bool,
    /// A variable that is not set is written as it stands.
    pub(super) keep_unset: bool,
    /// Quotes are ordinary characters.
    pub(super) plain_quotes: bool,
}

/// What an unset or empty variable means to a modifier.
#[derive(Clone, Copy, PartialEq)]
enum Empty {
    Counts,
    CountsAsUnset,
}

pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    escape: char,
    env: &'a dyn Environment,
    mode: Mode,
    unset: Vec<String>,
    depth: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str, escape: char, env: &'a dyn Environment, mode: Mode) -> Lexer<'a> {
        Lexer { text, at: 0, escape, env, mode, unset: Vec::new(), depth: 0 }
    }

    pub(super) fn expand(mut self) -> Result<Expanded, ExpandError> {
        let text = self.run(None, &mut Words::default())?;
        Ok(Expanded { text, unset: self.unset })
    }

    /// The words, and the names that were not set.
    pub(super) fn split(mut self) -> Result<(Vec<RawWord>, Vec<String>), ExpandError> {
        let mut words = Words::default();
        self.run(None, &mut words)?;
        Ok((words.finish(), self.unset))
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn error<T>(&self, message: impl Into<String>, start: usize) -> Result<T, ExpandError> {
        Err(ExpandError { message: message.into(), range: start..self.at.max(start) })
    }

    /// Up to and without `stop`, or to the end. Running out of text before `stop` leaves the position at the end.
    fn run(&mut self, stop: Option<Stop>, words: &mut Words) -> Result<String, ExpandError> {
        let mut result = String::new();
        while let Some(c) = self.peek() {
            let start = self.at;
            match c {
                c if stop.is_some_and(|stop| stop.character == c) => {
                    self.next();
                    return Ok(result);
                }
                '$' => {
                    let value = self.dollar()?;
                    words.push_splitting(&value, start..self.at);
                    result.push_str(&value);
                }
                '<' => {
                    let operator = self.heredoc_operator();
                    words.push(operator, start..self.at);
                    result.push_str(operator);
                }
                '\'' | '"' if !self.mode.plain_quotes => {
                    let quoted = if c == '\'' { self.single_quoted()? } else { self.double_quoted()? };
                    words.push(&quoted, start..self.at);
                    result.push_str(&quoted);
                }
                c if c == self.escape => {
                    self.next();
                    let mut kept = String::new();
                    if self.mode.keep_escapes {
                        kept.push(c);
                    }
                    kept.extend(self.next());
                    words.push(&kept, start..self.at);
                    result.push_str(&kept);
                }
                c => {
                    self.next();
                    words.push_splitting(c.encode_utf8(&mut [0; 4]), start..self.at);
                    result.push(c);
                }
            }
        }
        match stop {
            Some(stop) => self.error(stop.missing, stop.opened_at),
            None => Ok(result),
        }
    }

    /// Up to `stop`, escapes kept or not; what is split there does not matter.
    fn operand(&mut self, stop: Stop, keep_escapes: bool) -> Result<String, ExpandError> {
        let outer = std::mem::replace(&mut self.mode.keep_escapes, keep_escapes);
        let result = self.run(Some(stop), &mut Words::default());
        self.mode.keep_escapes = outer;
        result
    }

    fn heredoc_operator(&mut self) -> &'a str {
        let start = self.at;
        self.next();
        if self.peek() == Some('<') {
            self.next();
            while self.peek().is_some_and(follows_heredoc_operator) {
                self.next();
            }
        }
        &self.text[start..self.at]
    }

    fn single_quoted(&mut self) -> Result<String, ExpandError> {
        let start = self.at;
        let inside = start + 1;
        let Some(length) = self.text[inside..].find('\'') else {
            self.at = self.text.len();
            return self.error("unexpected end of statement while looking for matching single-quote", start);
        };
        self.at = inside + length + 1;
        let range = if self.mode.keep_quotes { start..self.at } else { inside..inside + length };
        Ok(self.text[range].to_owned())
    }

    fn double_quoted(&mut self) -> Result<String, ExpandError> {
        let start = self.at;
        let mut result = String::new();
        self.next();
        if self.mode.keep_quotes {
            result.push('"');
        }
        loop {
            match self.peek() {
                None => return self.error("unexpected end of statement while looking for matching double-quote", start),
                Some('"') => {
                    self.next();
                    if self.mode.keep_quotes {
                        result.push('"');
                    }
                    return Ok(result);
                }
                Some('$') => result.push_str(&self.dollar()?),
                Some(c) if c == self.escape => {
                    self.next();
                    if self.mode.keep_escapes {
                        result.push(c);
                    }
                    match self.peek() {
                        None => {}
                        Some(escaped) if escaped == '"' || escaped == '$' || escaped == self.escape => {
                            self.next();
                            result.push(escaped);
                        }
                        // Before anything else the escape character is text; kept ones stand there twice, as in BuildKit.
                        Some(_) => result.push(c),
                    }
                }
                Some(c) => {
                    self.next();
                    result.push(c);
                }
            }
        }
    }

    fn dollar(&mut self) -> Result<String, ExpandError> {
        let start = self.at;
        self.next();
        if self.peek() == Some('{') {
            self.depth += 1;
            let value = if self.depth > MAX_DEPTH {
                self.error("substitutions are nested too deeply", start)
            } else {
                self.braces(start)
            };
            self.depth -= 1;
            return value;
        }
        let name = self.name();
        if name.is_empty() {
            return Ok("$".to_owned());
        }
        Ok(match self.look_up(name) {
            Some(value) => value,
            None if self.mode.keep_unset => self.text[start..self.at].to_owned(),
            None => String::new(),
        })
    }

    /// `${…}`, from the opening brace on; `start` is where the dollar stands.
    fn braces(&mut self, start: usize) -> Result<String, ExpandError> {
        self.next();
        match self.peek() {
            None => return self.error("syntax error: missing '}'", start),
            Some('{' | '}' | ':') => {
                self.next();
                return self.error("syntax error: bad substitution", start);
            }
            Some(_) => {}
        }
        let name = self.name();
        let modifier_at = self.at;
        match self.next() {
            None => self.error("syntax error: missing '}'", start),
            Some('}') => Ok(match self.look_up(name) {
                Some(value) => value,
                None if self.mode.keep_unset => self.text[start..self.at].to_owned(),
                None => String::new(),
            }),
            Some(':') => match self.next() {
                None => self.error("syntax error: missing '}'", start),
                Some(modifier @ ('-' | '+' | '?')) => self.conditional(start, name, modifier, Empty::CountsAsUnset),
                Some(_) => self.unsupported(modifier_at),
            },
            Some(modifier @ ('-' | '+' | '?')) => self.conditional(start, name, modifier, Empty::Counts),
            Some(modifier @ ('#' | '%')) => self.trim(start, name, modifier),
            Some('/') => self.replace(start, name),
            Some(_) => self.unsupported(modifier_at),
        }
    }

    fn unsupported<T>(&self, modifier_at: usize) -> Result<T, ExpandError> {
        self.error(
            format!("unsupported modifier ({}) in substitution", self.text[modifier_at..self.at].escape_debug()),
            modifier_at,
        )
    }

    /// `${x-word}`, `${x+word}`, `${x?message}` and their forms with a colon.
    fn conditional(&mut self, start: usize, name: &str, modifier: char, empty: Empty) -> Result<String, ExpandError> {
        let word = self.operand(Stop::brace(start), false)?;
        let value = self.look_up(name);
        if value.is_none() && self.mode.keep_unset {
            return Ok(self.text[start..self.at].to_owned());
        }
        let is_unset = value.is_none();
        let usable = value.filter(|value| !(value.is_empty() && empty == Empty::CountsAsUnset));
        match (modifier, usable) {
            ('-', Some(value)) | ('?', Some(value)) => Ok(value),
            ('-', None) | ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            (_, _) if !word.is_empty() => self.error(format!("`{name}`: {word}"), start),
            (_, _) if is_unset => self.error(format!("`{name}` is not allowed to be unset"), start),
            (_, _) => self.error(format!("`{name}` is not allowed to be empty"), start),
        }
    }

    /// `${x#pattern}`, `${x%pattern}`; a doubled sign takes the longest match away.
    fn trim(&mut self, start: usize, name: &str, modifier: char) -> Result<String, ExpandError> {
        let word_at = self.at;
        let word = self.operand(Stop::brace(start), true)?;
        let value = self.look_up(name);
        if value.is_none() && self.mode.keep_unset {
            return Ok(self.text[start..self.at].to_owned());
        }
        let value = value.unwrap_or_default();
        let (greedy, pattern) = match word.strip_prefix(modifier) {
            Some(pattern) => (true, pattern),
            None => (false, word.as_str()),
        };
        let pattern = self.pattern(pattern, word_at)?;
        Ok(if modifier == '#' { pattern.trim_start(&value, greedy) } else { pattern.trim_end(&value, greedy) })
    }

    /// `${x/pattern/replacement}`; a doubled first slash replaces all.
    fn replace(&mut self, start: usize, name: &str) -> Result<String, ExpandError> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let pattern_at = self.at;
        let separator = Stop { character: '/', missing: "syntax error: missing '/' in ${}", opened_at: start };
        let pattern = self.operand(separator, true)?;
        let replacement = self.operand(Stop::brace(start), true)?;
        let value = self.look_up(name);
        if value.is_none() && self.mode.keep_unset {
            return Ok(self.text[start..self.at].to_owned());
        }
        let value = value.unwrap_or_default();
        let pattern = self.pattern(&pattern, pattern_at)?;
        Ok(if all { pattern.replace_all(&value, &replacement) } else { pattern.replace_first(&value, &replacement) })
    }

    fn pattern(&self, text: &str, start: usize) -> Result<Pattern, ExpandError> {
        Pattern::parse(text).or_else(|bad| self.error(format!("invalid pattern ({text}) in substitution: {bad}"), start))
    }

    /// A variable's name: a word, a run of digits, one special character, or nothing.
    fn name(&mut self) -> &'a str {
        let start = self.at;
        match self.peek() {
            Some(c) if is_digit(c) => {
                while self.peek().is_some_and(is_digit) {
                    self.next();
                }
            }
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => {
                self.next();
            }
            _ => {
                while self.peek().is_some_and(|c| c.is_alphabetic() || is_digit(c) || c == '_') {
                    self.next();
                }
            }
        }
        &self.text[start..self.at]
    }

    fn look_up(&mut self, name: &str) -> Option<String> {
        let value = self.env.get(name);
        if value.is_none() && !self.unset.iter().any(|known| known == name) {
            self.unset.push(name.to_owned());
        }
        value
    }
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit() || (!c.is_ascii() && c.is_numeric())
}

/// The character that ends an operand, and what to say when the text ends first.
#[derive(Clone, Copy)]
struct Stop {
    character: char,
    missing: &'static str,
    opened_at: usize,
}

impl Stop {
    fn brace(opened_at: usize) -> Stop {
        Stop { character: '}', missing: "syntax error: missing '}'", opened_at }
    }
}

/// Collects words while a text is walked over.
#[derive(Default)]
struct Words {
    done: Vec<RawWord>,
    text: String,
    range: Range<usize>,
}

impl Words {
    /// Adds text whose blanks do not split.
    fn push(&mut self, text: &str, range: Range<usize>) {
        if self.text.is_empty() {
            self.range.start = range.start;
        }
        self.range.end = range.end;
        self.text.push_str(text);
    }

    /// Adds text that white space splits; all of it was written at `range`.
    fn push_splitting(&mut self, text: &str, range: Range<usize>) {
        for c in text.chars() {
            if c.is_whitespace() {
                self.end_word();
            } else {
                self.push(c.encode_utf8(&mut [0; 4]), range.clone());
            }
        }
    }

    fn end_word(&mut self) {
        if !self.text.is_empty() {
            self.done.push(RawWord { text: std::mem::take(&mut self.text), range: self.range.clone() });
        }
    }

    fn finish(mut self) -> Vec<RawWord> {
        self.end_word();
        self.done
    }
}
