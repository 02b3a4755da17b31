//! Patterns of file names as Go's `filepath.Match` reads them: `*`, `?`, `[a-z]`, `[^a]`, `\` before anything.

/// A pattern that cannot be read: an open `[`, an empty or broken class, a `\` at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct BadPattern {
    /// The byte of the pattern where the broken part begins.
    pub offset: usize,
}

/// Whether `pattern` matches the whole of `name`. `*` and `?` do not match `/`.
///
/// Characters count, not bytes; bytes that are not UTF-8 count one by one and are alike.
///
/// # Errors
/// A pattern that cannot be read, whatever the name.
pub fn glob_match(pattern: &[u8], name: &[u8]) -> Result<bool, BadPattern> {
    let tokens = tokens(pattern)?;
    let name: Vec<char> = characters(name).collect();
    let (mut token, mut at) = (0, 0);
    // Where to go on when the text behind the last star does not fit: one character later.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let stuck = match tokens.get(token) {
            None if at == name.len() => return Ok(true),
            None => true,
            Some(Token::Star) => {
                token += 1;
                retry = Some((token, at));
                false
            }
            Some(one) => match name.get(at) {
                Some(c) if one.matches(*c) => {
                    token += 1;
                    at += 1;
                    false
                }
                _ => true,
            },
        };
        if stuck {
            match retry {
                Some((after_star, from)) if name.get(from).is_some_and(|c| *c != '/') => {
                    token = after_star;
                    at = from + 1;
                    retry = Some((after_star, at));
                }
                _ => return Ok(false),
            }
        }
    }
}

/// Whether a pattern can be read.
///
/// # Errors
/// The same as those of [`glob_match`].
pub fn check(pattern: &[u8]) -> Result<(), BadPattern> {
    tokens(pattern).map(drop)
}

/// Whether `name` holds a wildcard that is not escaped.
pub fn has_wildcards(name: &[u8]) -> bool {
    let mut bytes = name.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// A piece of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Char(char),
    /// `?`: any character but `/`.
    Any,
    /// `*`: any number of characters but `/`.
    Star,
    Class {
        negated: bool,
        /// Both ends belong to the range.
        ranges: Vec<(char, char)>,
    },
}

impl Token {
    /// Whether it matches this one character; a star does not match as one.
    fn matches(&self, c: char) -> bool {
        match self {
            Token::Char(wanted) => *wanted == c,
            Token::Any => c != '/',
            Token::Star => false,
            Token::Class { negated, ranges } => ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated,
        }
    }
}

/// The pieces of a pattern.
fn tokens(pattern: &[u8]) -> Result<Vec<Token>, BadPattern> {
    let mut reader = Reader { text: characters_at(pattern), position: 0, length: pattern.len() };
    let mut tokens = Vec::new();
    while let Some((offset, c)) = reader.next() {
        tokens.push(match c {
            '*' => Token::Star,
            '?' => Token::Any,
            '\\' => Token::Char(reader.next().ok_or(BadPattern { offset })?.1),
            '[' => reader.class(offset)?,
            c => Token::Char(c),
        });
    }
    Ok(tokens)
}

struct Reader {
    text: Vec<(usize, char)>,
    position: usize,
    length: usize,
}

impl Reader {
    fn next(&mut self) -> Option<(usize, char)> {
        let found = self.text.get(self.position).copied();
        self.position += 1;
        found
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.text.get(self.position).is_some_and(|(_, c)| *c == wanted);
        self.position += usize::from(found);
        found
    }

    /// From behind the opening bracket, which stands at `open`, to behind the closing one.
    fn class(&mut self, open: usize) -> Result<Token, BadPattern> {
        let negated = self.take('^');
        let mut ranges = Vec::new();
        while ranges.is_empty() || !self.take(']') {
            let low = self.class_character(open)?;
            let high = if self.take('-') { self.class_character(open)? } else { low };
            ranges.push((low, high));
        }
        Ok(Token::Class { negated, ranges })
    }

    fn class_character(&mut self, open: usize) -> Result<char, BadPattern> {
        let bad = BadPattern { offset: open.min(self.length) };
        match self.next().ok_or(bad)?.1 {
            '-' | ']' => Err(bad),
            '\\' => Ok(self.next().ok_or(bad)?.1),
            c => Ok(c),
        }
    }
}

/// The text's characters; each byte that is not UTF-8 becomes U+FFFD.
pub(super) fn characters(text: &[u8]) -> impl Iterator<Item = char> + '_ {
    text.utf8_chunks()
        .flat_map(|chunk| chunk.valid().chars().chain(std::iter::repeat_n(char::REPLACEMENT_CHARACTER, chunk.invalid().len())))
}

fn characters_at(text: &[u8]) -> Vec<(usize, char)> {
    let mut result = Vec::new();
    let mut offset = 0;
    for chunk in text.utf8_chunks() {
        result.extend(chunk.valid().char_indices().map(|(at, c)| (offset + at, c)));
        offset += chunk.valid().len();
        for _ in chunk.invalid() {
            result.push((offset, char::REPLACEMENT_CHARACTER));
            offset += 1;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, name: &str, expected: bool) {
        assert_eq!(glob_match(pattern.as_bytes(), name.as_bytes()), Ok(expected), "{pattern} {name}");
    }

    #[test]
    fn stars_stay_in_their_component() {
        check("*", "abc", true);
        check("*c", "abc", true);
        check("a*", "a", true);
        check("a*", "ab/c", false);
        check("a*/b", "abc/b", true);
        check("a*b*c*d*e*/f", "axbxcxdxe/f", true);
        check("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", false);
        check("*.go*", "a.g.go", true);
        check("", "", true);
        check("*", "", true);
    }

    #[test]
    fn single_characters() {
        check("a?b", "a☺b", true);
        check("a???b", "a☺b", false);
        check("a?b", "a/b", false);
        check("a\\*b", "a*b", true);
        check("a\\*b", "axb", false);
    }

    #[test]
    fn classes() {
        check("ab[c]", "abc", true);
        check("ab[b-d]", "abc", true);
        check("ab[^b-d]", "abc", false);
        check("a[^a]b", "a☺b", true);
        check("[[]x]", "[x]", true);
        check("[\\]a]", "]", true);
        check("[\\-x]", "-", true);
        check("[!a]", "!", true);
        check("[z-a]", "m", false);
    }

    #[test]
    fn broken_patterns_are_errors_whatever_the_name() {
        for (pattern, offset) in
            [("[", 0), ("a[", 1), ("[]a]", 0), ("[-]", 0), ("[x-]", 0), ("[a-b-c]", 0), ("[^]", 0), ("b\\", 1), ("ab[c", 2)]
        {
            assert_eq!(glob_match(pattern.as_bytes(), b"zzz"), Err(BadPattern { offset }), "{pattern}");
        }
    }

    #[test]
    fn bytes_that_are_not_text_count_one_by_one() {
        assert_eq!(glob_match(b"a??b", b"a\xff\xfeb"), Ok(true));
        assert_eq!(glob_match(b"a?b", b"a\xff\xfeb"), Ok(false));
    }

    proptest::proptest! {
        #[test]
        fn any_pattern_is_answered(pattern in "[-ab/*?\\[\\]^\\\\]{0,12}", name in "[ab/]{0,12}") {
            let _ = glob_match(pattern.as_bytes(), name.as_bytes());
        }

        #[test]
        fn an_escaped_name_matches_itself(name in "\\PC{0,12}") {
            let escaped: String = name.chars().flat_map(|c| ['\\', c]).collect();
            proptest::prop_assert_eq!(glob_match(escaped.as_bytes(), name.as_bytes()), Ok(true));
        }
    }
}
