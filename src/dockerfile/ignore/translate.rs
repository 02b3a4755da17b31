//! What a pattern means: moby/patternmatcher turns it into a text for Go's `regexp` package, and so do we.
//!
//! The turn is what gives some patterns a meaning of their own. `*` becomes `[^/]*` inside of brackets too, so that `st[*]r`
//! is the class `[[^/`, any number of times, in front of `]r`; `[^a]` matches a slash; `\d` is a digit; a `^` behind the
//! beginning matches nothing. The same patterns say which files of a context are sent at all.

use super::super::glob::BadPattern;

/// One thing that a pattern asks of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// One character of a set.
    One(Set),
    /// Any number of characters of a set.
    Many(Set),
    /// Any number of whole components with their slashes: `(.*/)?`.
    Components,
    /// The beginning of the path.
    Begin,
}

/// A set of characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Set {
    negated: bool,
    /// Both ends belong to the range.
    ranges: Vec<(char, char)>,
}

impl Set {
    pub(super) fn contains(&self, c: char) -> bool {
        self.ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != self.negated
    }

    fn char(c: char) -> Set {
        Set { negated: false, ranges: vec![(c, c)] }
    }

    fn all() -> Set {
        Set { negated: true, ranges: Vec::new() }
    }
}

/// The steps of a cleaned pattern.
///
/// # Errors
/// What Go's `regexp` refuses: a reversed range, an unknown escape, an unknown `[:class:]`; and the escapes that nobody means
/// in a path (`\x`, `\p`, `\Q` and the like).
pub(super) fn steps(pattern: &str) -> Result<Vec<Step>, BadPattern> {
    let chars = |text: &str| text.chars().map(|c| Step::One(Set::char(c))).collect::<Vec<_>>();
    let (kind, text) = regex_text(pattern);
    Ok(match kind {
        Kind::Exact => chars(pattern),
        Kind::Prefix => {
            let mut steps = chars(&pattern[..pattern.len() - 2]);
            steps.push(Step::Many(Set::all()));
            steps
        }
        Kind::Suffix => {
            let suffix = &pattern[2..];
            let (first, rest) = match suffix.strip_prefix('/') {
                Some(rest) => (Step::Components, rest),
                None => (Step::Many(Set::all()), suffix),
            };
            [vec![first], chars(rest)].concat()
        }
        Kind::Regex => Reader { text: text.chars().collect(), at: 0 }
            .steps()
            .ok_or(BadPattern { offset: pattern.find(['[', '\\']).unwrap_or(0) })?,
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The text itself.
    Exact,
    /// The text in front of its `**`.
    Prefix,
    /// The text behind its `**`.
    Suffix,
    Regex,
}

/// The regular expression without the anchors that stand around it. Nothing is known of brackets here.
fn regex_text(pattern: &str) -> (Kind, String) {
    let mut text = String::new();
    let mut kind = Kind::Exact;
    let mut chars = pattern.chars().peekable();
    let mut is_first = true;
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.next_if_eq(&'*').is_some() => {
                chars.next_if_eq(&'/');
                match (chars.peek(), kind) {
                    (None, Kind::Exact) => kind = Kind::Prefix,
                    (None, _) => {
                        text.push_str(".*");
                        kind = Kind::Regex;
                    }
                    (Some(_), _) => {
                        text.push_str("(.*/)?");
                        kind = Kind::Regex;
                    }
                }
                if is_first {
                    kind = Kind::Suffix;
                }
            }
            '*' => {
                text.push_str("[^/]*");
                kind = Kind::Regex;
            }
            '?' => {
                text.push_str("[^/]");
                kind = Kind::Regex;
            }
            '.' | '+' | '(' | ')' | '|' | '{' | '}' | '$' => text.extend(['\\', c]),
            '\\' => {
                text.push('\\');
                if let Some(next) = chars.next() {
                    text.push(next);
                    kind = Kind::Regex;
                }
            }
            '[' | ']' => {
                text.push(c);
                kind = Kind::Regex;
            }
            c => text.push(c),
        }
        is_first = false;
    }
    (kind, text)
}

/// Reads the part of Go's syntax that [`regex_text`] writes. `None` everywhere for what Go refuses.
struct Reader {
    text: Vec<char>,
    at: usize,
}

impl Reader {
    fn steps(mut self) -> Option<Vec<Step>> {
        let mut steps = Vec::new();
        while let Some(c) = self.next() {
            steps.push(match c {
                '^' => Step::Begin,
                // `(` and `.` are escaped where they are meant
                '(' => {
                    self.at += "(.*/)?".len() - 1;
                    Step::Components
                }
                '.' => {
                    self.at += 1;
                    Step::Many(Set::all())
                }
                '[' => {
                    let set = self.class()?;
                    if self.take('*') { Step::Many(set) } else { Step::One(set) }
                }
                '\\' => Step::One(match self.shorthand() {
                    Some(set) => set,
                    None => Set::char(self.escaped()?),
                }),
                c => Step::One(Set::char(c)),
            });
        }
        Some(steps)
    }

    /// From behind the opening bracket to behind the closing one.
    fn class(&mut self) -> Option<Set> {
        let mut set = Set { negated: self.take('^'), ranges: Vec::new() };
        let mut is_first = true;
        while is_first || self.peek()? != ']' {
            is_first = false;
            if let Some(ranges) = self.named_class()? {
                set.ranges.extend(ranges);
                continue;
            }
            if self.peek() == Some('\\') {
                self.at += 1;
                if let Some(shorthand) = self.shorthand() {
                    set.ranges.extend(positive(shorthand));
                    continue;
                }
                self.at -= 1;
            }
            let low = self.class_char()?;
            let is_range = self.peek() == Some('-') && self.text.get(self.at + 1).is_some_and(|c| *c != ']');
            let high = if is_range {
                self.at += 1;
                self.class_char()?
            } else {
                low
            };
            if high < low {
                return None;
            }
            set.ranges.push((low, high));
        }
        self.at += 1;
        Some(set)
    }

    fn class_char(&mut self) -> Option<char> {
        match self.next()? {
            '\\' => self.escaped(),
            c => Some(c),
        }
    }

    /// `[:alpha:]` inside of brackets.
    fn named_class(&mut self) -> Option<Option<Vec<(char, char)>>> {
        let rest: String = self.text.get(self.at..)?.iter().collect();
        let Some((name, _)) = rest.strip_prefix("[:").and_then(|rest| rest.split_once(":]")) else { return Some(None) };
        let (name, negated) = name.strip_prefix('^').map_or((name, false), |name| (name, true));
        let ranges: &[(char, char)] = match name {
            "alnum" => &[('0', '9'), ('A', 'Z'), ('a', 'z')],
            "alpha" => &[('A', 'Z'), ('a', 'z')],
            "ascii" => &[('\0', '\x7f')],
            "blank" => &[('\t', '\t'), (' ', ' ')],
            "cntrl" => &[('\0', '\x1f'), ('\x7f', '\x7f')],
            "digit" => &[('0', '9')],
            "graph" => &[('!', '~')],
            "lower" => &[('a', 'z')],
            "print" => &[(' ', '~')],
            "punct" => &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')],
            "space" => &[('\t', '\r'), (' ', ' ')],
            "upper" => &[('A', 'Z')],
            "word" => &[('0', '9'), ('A', 'Z'), ('a', 'z'), ('_', '_')],
            "xdigit" => &[('0', '9'), ('A', 'F'), ('a', 'f')],
            _ => return None,
        };
        self.at += rest.find(":]")? + 2;
        Some(Some(positive(Set { negated, ranges: ranges.to_vec() })))
    }

    /// `\d` and its like; the backslash is behind.
    fn shorthand(&mut self) -> Option<Set> {
        let c = self.peek()?;
        let ranges: &[(char, char)] = match c.to_ascii_lowercase() {
            'd' => &[('0', '9')],
            's' => &[('\t', '\n'), ('\x0c', '\r'), (' ', ' ')],
            'w' => &[('0', '9'), ('A', 'Z'), ('a', 'z'), ('_', '_')],
            _ => return None,
        };
        self.at += 1;
        Some(Set { negated: c.is_ascii_uppercase(), ranges: ranges.to_vec() })
    }

    /// The character that an escape stands for; the backslash is behind.
    fn escaped(&mut self) -> Option<char> {
        Some(match self.next()? {
            'a' => '\x07',
            'f' => '\x0c',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\x0b',
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => c,
            _ => return None,
        })
    }

    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek();
        self.at += 1;
        c
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }
}

/// The ranges of a set, those between them if it is negated.
fn positive(set: Set) -> Vec<(char, char)> {
    if !set.negated {
        return set.ranges;
    }
    let mut ranges = set.ranges;
    ranges.sort_unstable();
    let mut between = Vec::new();
    let mut from = Some('\0');
    for (low, high) in ranges {
        // all bounds are ASCII
        if let Some(from) = from.filter(|from| *from < low) {
            between.push((from, char::from(low as u8 - 1)));
        }
        from = char::from_u32(high as u32 + 1);
    }
    between.extend(from.map(|from| (from, char::MAX)));
    between
}
