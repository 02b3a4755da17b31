//! Path patterns of sources: wildcards in names, `**` of `--parents`, and the lists of `--exclude`.

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

/// A pattern that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadPattern;

/// Whether the whole of `name`, one path component, matches `pattern`: Go's `filepath.Match`.
pub fn match_name(pattern: &[u8], name: &[u8]) -> Result<bool, BadPattern> {
    check_name_pattern(pattern)?;
    Ok(matches(pattern, name))
}

/// One path pattern, component by component; `**` stands for any number of components.
#[derive(Clone, Debug)]
pub struct PathPattern {
    components: Vec<Vec<u8>>,
}

/// How a pattern looks at a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fit {
    /// The pattern matches the path or a directory above it.
    Whole,
    /// Something below the path may match.
    Start,
    /// Neither.
    None,
}

impl PathPattern {
    /// Splits and checks a pattern; empty and `.` components do not count, `..` climbs.
    pub fn parse(text: &[u8]) -> Result<PathPattern, BadPattern> {
        let mut components: Vec<Vec<u8>> = Vec::new();
        for component in text.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => drop(components.pop()),
                name => {
                    check_name_pattern(name)?;
                    components.push(name.to_vec());
                }
            }
        }
        Ok(PathPattern { components })
    }

    /// Whether there is any wildcard in it.
    pub fn has_wildcards(&self) -> bool {
        self.components.iter().any(|component| has_wildcards(component))
    }

    /// How the pattern looks at `path` (components separated by `/`).
    pub fn fit(&self, path: &[u8]) -> Fit {
        // the set of pattern positions that can be reached, as in a small automaton: no pattern makes it slow
        let mut reached = vec![false; self.components.len() + 1];
        reached[0] = true;
        self.skip_stars(&mut reached);
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            if reached[self.components.len()] {
                return Fit::Whole;
            }
            let mut next = vec![false; reached.len()];
            for (index, component) in self.components.iter().enumerate().filter(|(index, _)| reached[*index]) {
                if component == b"**" {
                    next[index] = true;
                } else if matches(component, name) {
                    next[index + 1] = true;
                }
            }
            self.skip_stars(&mut next);
            reached = next;
        }
        match (reached[self.components.len()], reached.contains(&true)) {
            (true, _) => Fit::Whole,
            (false, true) => Fit::Start,
            (false, false) => Fit::None,
        }
    }

    /// `**` may stand for no component at all.
    fn skip_stars(&self, reached: &mut [bool]) {
        for index in 0..self.components.len() {
            if reached[index] && self.components[index] == b"**" {
                reached[index + 1] = true;
            }
        }
    }
}

/// The patterns of `--exclude`, in order: the last one that matches decides, `!` takes back.
#[derive(Clone, Debug, Default)]
pub struct Excludes {
    patterns: Vec<(PathPattern, Verdict)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Exclude,
    Keep,
}

impl Excludes {
    /// Reads the patterns; the error carries the number of the bad one.
    pub fn parse(patterns: &[String]) -> Result<Excludes, usize> {
        let mut excludes = Excludes::default();
        for (number, text) in patterns.iter().enumerate() {
            let (text, verdict) = match text.trim().strip_prefix('!') {
                Some(rest) => (rest.trim(), Verdict::Keep),
                None => (text.trim(), Verdict::Exclude),
            };
            let pattern = PathPattern::parse(text.as_bytes()).map_err(|BadPattern| number)?;
            match (pattern.components.is_empty(), verdict) {
                (false, verdict) => excludes.patterns.push((pattern, verdict)),
                (true, Verdict::Keep) => return Err(number),
                (true, Verdict::Exclude) => {}
            }
        }
        Ok(excludes)
    }

    /// How the list looks at `path`: `Whole` is excluded with all below it, `Start` is excluded but something below may be
    /// kept, `None` is not excluded.
    pub fn fit(&self, path: &[u8]) -> Fit {
        let mut excluded = false;
        let mut keeps_below = false;
        for (pattern, verdict) in &self.patterns {
            match (pattern.fit(path), verdict) {
                (Fit::Whole, verdict) => {
                    excluded = *verdict == Verdict::Exclude;
                    keeps_below = false;
                }
                (Fit::Start, Verdict::Keep) => keeps_below = true,
                (Fit::Start | Fit::None, _) => {}
            }
        }
        match (excluded, keeps_below) {
            (false, _) => Fit::None,
            (true, true) => Fit::Start,
            (true, false) => Fit::Whole,
        }
    }
}

/// Matches without checking: a pattern that [`check_name_pattern`] refuses matches nothing sensible, but ends.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    // where the last `*` stood, and how much of the name it has taken
    let mut star: Option<(usize, usize)> = None;
    loop {
        if at == pattern.len() && seen == name.len() {
            return true;
        }
        if pattern.get(at) == Some(&b'*') {
            star = Some((at, seen));
            at += 1;
            continue;
        }
        match name.get(seen).and_then(|_| match_one(&pattern[at..], &name[seen..])) {
            Some((pattern_bytes, name_bytes)) => {
                at += pattern_bytes;
                seen += name_bytes;
            }
            None => match star {
                Some((star_at, taken)) if taken < name.len() => {
                    let taken = taken + char_len(&name[taken..]);
                    star = Some((star_at, taken));
                    at = star_at + 1;
                    seen = taken;
                }
                _ => return false,
            },
        }
    }
}

/// Matches one character of `name` with the first element of `pattern`, no `*`; answers the bytes that both took.
fn match_one(pattern: &[u8], name: &[u8]) -> Option<(usize, usize)> {
    let name_bytes = char_len(name);
    match pattern.first()? {
        b'?' => Some((1, name_bytes)),
        b'[' => {
            let (hit, pattern_bytes) = match_class(pattern, decode(name).0)?;
            hit.then_some((pattern_bytes, name_bytes))
        }
        b'\\' => (pattern.get(1)? == name.first()?).then_some((2, 1)),
        byte => (byte == name.first()?).then_some((1, 1)),
    }
}

/// Whether `wanted` is in the class that `pattern` starts with, and the bytes of the class; `None` for a broken class.
fn match_class(pattern: &[u8], wanted: u32) -> Option<(bool, usize)> {
    let mut at = 1;
    let negated = pattern.get(at) == Some(&b'^');
    at += usize::from(negated);
    let mut hit = false;
    let mut ranges = 0;
    loop {
        if pattern.get(at) == Some(&b']') && ranges > 0 {
            return Some((hit != negated, at + 1));
        }
        let low = class_char(pattern, &mut at)?;
        let mut high = low;
        if pattern.get(at) == Some(&b'-') {
            at += 1;
            high = class_char(pattern, &mut at)?;
        }
        hit |= (low..=high).contains(&wanted);
        ranges += 1;
    }
}

fn class_char(pattern: &[u8], at: &mut usize) -> Option<u32> {
    match pattern.get(*at)? {
        b'-' | b']' => return None,
        b'\\' => *at += 1,
        _ => {}
    }
    let rest = pattern.get(*at..).filter(|rest| !rest.is_empty())?;
    let (decoded, bytes) = decode(rest);
    *at += bytes;
    // a class must be closed: something has to follow
    (*at < pattern.len()).then_some(decoded)
}

fn check_name_pattern(pattern: &[u8]) -> Result<(), BadPattern> {
    let mut at = 0;
    while let Some(byte) = pattern.get(at) {
        at += match byte {
            b'[' => match_class(&pattern[at..], 0).ok_or(BadPattern)?.1,
            b'\\' if at + 1 == pattern.len() => return Err(BadPattern),
            b'\\' => 2,
            _ => 1,
        };
    }
    Ok(())
}

fn char_len(bytes: &[u8]) -> usize {
    decode(bytes).1
}

/// The first character and its length; a byte that is no UTF-8 is a replacement character of one byte, as in Go.
fn decode(bytes: &[u8]) -> (u32, usize) {
    let chunk = bytes.get(..bytes.len().min(4)).and_then(|start| start.utf8_chunks().next());
    match chunk.and_then(|chunk| chunk.valid().chars().next()) {
        Some(char) => (char.into(), char.len_utf8()),
        None => (char::REPLACEMENT_CHARACTER.into(), 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, name: &str, expected: Result<bool, BadPattern>) {
        assert_eq!(match_name(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
    }

    #[test]
    fn names_match_as_in_go() {
        for (pattern, name) in [
            ("*.txt", "a.txt"),
            ("t?p.*", "top.txt"),
            ("[a-o]*.md", "other.md"),
            ("[^a]*", "b"),
            ("arr[[]0].txt", "arr[0].txt"),
            ("st[*]r", "st*r"),
            ("que\\?", "que?"),
            ("*a*b", "xaxxab"),
            ("?", "ü"),
            ("[ä-ü]", "ö"),
            ("[[]x]", "[x]"),
            ("", ""),
            ("*", ""),
        ] {
            check(pattern, name, Ok(true));
        }
        for (pattern, name) in [("*.txt", "a.md"), ("st[*]r", "stAr"), ("a", "ab"), ("a*b", "a"), ("[^a]", "a"), ("?", "")] {
            check(pattern, name, Ok(false));
        }
        for pattern in ["[a", "[", "[]a]", "a\\", "[-]", "[a-]"] {
            check(pattern, "a", Err(BadPattern));
        }
    }

    #[track_caller]
    fn check_fit(pattern: &str, path: &str, expected: Fit) {
        assert_eq!(PathPattern::parse(pattern.as_bytes()).unwrap().fit(path.as_bytes()), expected, "{pattern} {path}");
    }

    #[test]
    fn paths_fit_by_component() {
        check_fit("dir/sub", "dir", Fit::Start);
        check_fit("dir/sub", "dir/sub", Fit::Whole);
        check_fit("dir/sub", "dir/sub/deep/d.txt", Fit::Whole);
        check_fit("dir/sub", "dir/other", Fit::None);
        check_fit("**/*.txt", "a.txt", Fit::Whole);
        check_fit("**/*.txt", "x/y/a.txt", Fit::Whole);
        check_fit("**/*.txt", "x/y", Fit::Start);
        check_fit("dir/*/*.txt", "dir/a.txt", Fit::Start);
        check_fit("**", "x", Fit::Whole);
        check_fit("a/**/b", "a/b", Fit::Whole);
        check_fit("*.md", "x/a.md", Fit::None);
    }

    #[test]
    fn the_last_exclude_that_matches_decides() {
        let excludes = |patterns: &[&str]| Excludes::parse(&patterns.iter().map(ToString::to_string).collect::<Vec<_>>());
        let list = excludes(&["*", "!a.txt"]).unwrap();
        assert_eq!(list.fit(b"a.txt"), Fit::None);
        assert_eq!(list.fit(b"sub"), Fit::Whole);
        let list = excludes(&["sub", "!sub/deep/d.txt"]).unwrap();
        assert_eq!(list.fit(b"sub"), Fit::Start);
        assert_eq!(list.fit(b"sub/deep/d.txt"), Fit::None);
        assert_eq!(list.fit(b"sub/c.txt"), Fit::Whole);
        assert_eq!(excludes(&["a", "!"]).unwrap_err(), 1);
        assert_eq!(excludes(&["[a"]).unwrap_err(), 0);
    }
}
