//! The patterns of `${x#…}`, `${x%…}` and `${x/…}`: `*` and `?` only, neither matching a newline.

use std::fmt;

/// A parsed pattern.
pub(super) struct Pattern(Vec<Token>);

#[derive(Clone, Copy, PartialEq)]
enum Token {
    Char(char),
    /// `?`
    Any,
    /// `*`
    Star,
}

/// An escape before a character that has no special meaning.
#[derive(Debug)]
pub(super) struct BadEscape(Option<char>);

impl fmt::Display for BadEscape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(c) => write!(f, "invalid escape '\\{c}'"),
            None => write!(f, "escape at the end"),
        }
    }
}

impl Pattern {
    /// `\*`, `\?` and `\\` stand for themselves; `\}` and `\/` only kept the pattern from ending there.
    pub(super) fn parse(text: &str) -> Result<Pattern, BadEscape> {
        let mut tokens = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' => Token::Star,
                '?' => Token::Any,
                '\\' => match chars.next() {
                    Some(escaped @ ('*' | '?' | '\\' | '}' | '/')) => Token::Char(escaped),
                    other => return Err(BadEscape(other)),
                },
                c => Token::Char(c),
            });
        }
        Ok(Pattern(tokens))
    }

    /// `value` without the shortest or longest prefix that matches.
    pub(super) fn trim_start(&self, value: &str, greedy: bool) -> String {
        let value: Vec<char> = value.chars().collect();
        let end = Table::new(&self.0, &value).match_at(0, greedy).unwrap_or(0);
        value[end..].iter().collect()
    }

    /// `value` without the shortest or longest suffix that matches.
    pub(super) fn trim_end(&self, value: &str, greedy: bool) -> String {
        let tokens: Vec<Token> = self.0.iter().rev().copied().collect();
        let value: Vec<char> = value.chars().rev().collect();
        let end = Table::new(&tokens, &value).match_at(0, greedy).unwrap_or(0);
        value[end..].iter().rev().collect()
    }

    /// The first, longest match replaced by `replacement` as it is.
    pub(super) fn replace_first(&self, value: &str, replacement: &str) -> String {
        let value: Vec<char> = value.chars().collect();
        match Table::new(&self.0, &value).find(0) {
            Some((start, end)) => {
                let mut result: String = value[..start].iter().collect();
                result.push_str(replacement);
                result.extend(&value[end..]);
                result
            }
            None => value.into_iter().collect(),
        }
    }

    /// Every match replaced, where `replacement` is a template: `$0` is the match, other `$names` are empty, `$$` a dollar.
    ///
    /// BuildKit hands the replacement to Go's regexp package, so that values with dollars lose them here and keep them in
    /// [`replace_first`](Pattern::replace_first).
    pub(super) fn replace_all(&self, value: &str, replacement: &str) -> String {
        let value: Vec<char> = value.chars().collect();
        let table = Table::new(&self.0, &value);
        let mut result = String::new();
        let mut copied = 0;
        let mut search = 0;
        while search <= value.len() {
            let Some((start, end)) = table.find(search) else { break };
            result.extend(&value[copied..start]);
            // An empty match right behind another match does not count.
            if end > copied || start == 0 {
                let matched: String = value[start..end].iter().collect();
                expand_template(replacement, &matched, &mut result);
            }
            copied = end;
            search = end.max(search + 1);
        }
        result.extend(&value[copied.min(value.len())..]);
        result
    }
}

/// For each token and position, whether the tokens from there on match some text from there on.
struct Table<'a> {
    tokens: &'a [Token],
    value: &'a [char],
    matches: Vec<bool>,
}

impl<'a> Table<'a> {
    fn new(tokens: &'a [Token], value: &'a [char]) -> Table<'a> {
        let width = value.len() + 1;
        let mut matches = vec![true; width * (tokens.len() + 1)];
        for (number, token) in tokens.iter().enumerate().rev() {
            for at in (0..width).rev() {
                let c = value.get(at).copied();
                let advance = |by_token: usize| matches[(number + by_token) * width + at + 1];
                matches[number * width + at] = match token {
                    Token::Char(wanted) => c == Some(*wanted) && advance(1),
                    Token::Any => c.is_some_and(|c| c != '\n') && advance(1),
                    Token::Star => matches[(number + 1) * width + at] || (c.is_some_and(|c| c != '\n') && advance(0)),
                };
            }
        }
        Table { tokens, value, matches }
    }

    fn can_match(&self, token: usize, at: usize) -> bool {
        self.matches[token * (self.value.len() + 1) + at]
    }

    /// Where a match that starts at `start` ends; each star in turn takes as much (`greedy`) or as little as it can.
    fn match_at(&self, start: usize, greedy: bool) -> Option<usize> {
        if !self.can_match(0, start) {
            return None;
        }
        let mut at = start;
        for (number, token) in self.tokens.iter().enumerate() {
            if *token != Token::Star {
                at += 1;
                continue;
            }
            let line = self.value[at..].iter().position(|c| *c == '\n').unwrap_or(self.value.len() - at);
            let mut ends = at..=at + line;
            let fits = |end: &usize| self.can_match(number + 1, *end);
            at = if greedy { ends.rfind(fits)? } else { ends.find(fits)? };
        }
        Some(at)
    }

    fn find(&self, from: usize) -> Option<(usize, usize)> {
        (from..=self.value.len()).find_map(|start| self.match_at(start, true).map(|end| (start, end)))
    }
}

fn expand_template(template: &str, matched: &str, out: &mut String) {
    let mut rest = template;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = template_name(rest) {
            if name == "0" {
                out.push_str(matched);
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
}

/// `name` or `{name}` at the start of the text, and what follows it.
fn template_name(text: &str) -> Option<(&str, &str)> {
    let (braced, inner) = match text.strip_prefix('{') {
        Some(inner) => (true, inner),
        None => (false, text),
    };
    let end = inner.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(inner.len());
    let (name, after) = inner.split_at(end);
    let after = if braced { after.strip_prefix('}')? } else { after };
    (!name.is_empty()).then_some((name, after))
}
