use super::*;

/// `ignored` and `kept` are paths separated by blanks.
#[track_caller]
fn check(text: &str, ignored: &str, kept: &str) {
    let patterns = Patterns::parse(&Source::new(".dockerignore", text)).expect("patterns");
    for (paths, expected) in [(ignored, true), (kept, false)] {
        for path in paths.split_whitespace() {
            assert_eq!(patterns.is_ignored(path.as_bytes()), expected, "{path}");
        }
    }
}

#[test]
fn patterns_are_rooted_and_take_what_is_below() {
    check("dir\n*.md\n", "dir dir/a dir/b/c x.md", "direct sub/dir sub/x.md");
}

#[test]
fn lines_are_cleaned() {
    check("/a/\n  b//c/../d  \n./e\r\n", "a a/x b/d e", "b b/c");
    check(".\n/\n\n \n", "", "a .");
}

#[test]
fn comments_begin_at_the_first_column() {
    check("\u{feff}#a\n #b\n\\#c\n\\!d\n", "#b #c !d", "#a a");
}

#[test]
fn wildcards_stay_in_their_component() {
    check("a/*/c\n?x\n[a-c]1\n[^a-c]2\n", "a/b/c ax a1 d2", "a/b/d a/b/b/c /x d1 a2");
}

#[test]
fn double_stars_cross_components() {
    check("**/x", "x a/x a/b/x a/x/y", "ax a/bx");
    check("a/**/z", "a/z a/b/z a/b/c/z", "a z b/z");
    check("a/**", "a/b a/b/c", "a ab b");
    check("**", "a a/b", "");
    check("**/*.go", "a.go b/a.go", "a.c go");
    check("a**b", "ab a/b ax/b", "axb");
    check("**foo", "foo barfoo a/barfoo", "foobar");
    check("**foo*", "foo foox a/foo", "barfoo");
}

#[test]
fn brackets_mean_what_the_turn_into_a_regular_expression_makes_of_them() {
    check("st[*]r\n", "st[]r st^/]r st]r", "st*r star");
    check("a[^b]c\n", "axc a/c", "abc");
    check("x\\d\ny\\.z\n", "x1 y.z", "xd y1z");
    check("e^*\n^f*\n", "fx", "e^ e^f ^f");
    check("k^l\n", "k^l", "kl");
    check("[[:digit:]]x\n[^\\W_]y\n", "1x ay", "ax _y");
}

#[test]
fn the_last_match_wins() {
    check("*\n!a\n!b/c\n", "b x b/d", "a a/x b/c b/c/d");
    check("*.md\n!README*\nREADME-secret.md\n", "a.md README-secret.md", "README.md");
    check("a\n!a/b\na/b/c\n", "a a/x a/b/c", "a/b a/b/d");
}

#[test]
fn an_exception_must_follow_what_it_takes_back() {
    check("!a\na\n", "a a/b", "b");
    check("a/b\n!a\n", "a/b a/b/c", "a a/c");
}

#[test]
fn characters_count_not_bytes() {
    check("?\n[ä-ü]x\n", "ä öx", "ab zx");
}

#[test]
fn names_that_are_not_text() {
    let patterns = Patterns::parse(&Source::new("x", "a?b")).expect("patterns");
    assert!(patterns.is_ignored(b"a\xffb") && !patterns.is_ignored(b"a\xff\xffb"));
}

#[test]
fn long_patterns() {
    let name = "x".repeat(200);
    check(&format!("{name}*/y"), &format!("{name}/y {name}z/y"), &format!("{name} x/y"));
}

#[track_caller]
fn check_error(text: &str, message: &str, line_column: (usize, usize), marked: &str) {
    let diagnostic = Patterns::parse(&Source::new(".dockerignore", text)).expect_err("refused");
    assert_eq!(diagnostic.message, message);
    let (source, span) = diagnostic.place.expect("has a place");
    assert_eq!(source.line_column(span.start), line_column);
    assert_eq!(&source.text()[span.range()], marked);
}

#[test]
fn bad_patterns_are_pointed_at() {
    check_error("a\n  b[c  \nd", "syntax error in pattern `b[c`", (2, 4), "[c");
    check_error("!/x/[\r\n", "syntax error in pattern `!x/[`", (1, 1), "!/x/[");
    check_error("a\n!\n", "illegal exclusion pattern `!`", (2, 1), "!");
    check_error("[z-a]", "syntax error in pattern `[z-a]`", (1, 1), "[z-a]");
}

#[test]
fn lines_from_flags_are_taken_as_they_are() {
    let patterns = Patterns::from_lines(&["#a".to_owned(), "/b".to_owned(), "c/".to_owned()]).expect("patterns");
    assert!(patterns.is_ignored(b"#a") && patterns.is_ignored(b"c") && !patterns.is_ignored(b"b"));
    let error = Patterns::from_lines(&["a".to_owned(), "[".to_owned()]).expect_err("refused");
    assert_eq!(error, PatternError::Syntax { line: 1, pattern: "[".to_owned(), range: 0..1 });
}

#[test]
fn directories_are_entered_for_exceptions_only() {
    let patterns = Patterns::parse(&Source::new("x", "*\n!a/b/*.c\n")).expect("patterns");
    let a = patterns.root().enter(&patterns, b"a");
    assert!(a.ignored && a.below.may_contain_exceptions(&patterns));
    let other = a.below.enter(&patterns, b"other");
    assert!(other.ignored && !other.below.may_contain_exceptions(&patterns));
    let b = a.below.enter(&patterns, b"b");
    assert!(b.below.may_contain_exceptions(&patterns));
    assert!(!b.below.enter(&patterns, b"x.c").ignored);
    assert!(!patterns.root().enter(&patterns, b"z").below.may_contain_exceptions(&patterns));
}

/// What a pattern means, said again: as a search over components instead of an automaton over characters.
fn component_match(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, _) => path.is_empty(),
        (Some((&"**", [])), _) => !path.is_empty(),
        (Some((&"**", rest)), _) => (0..=path.len()).any(|skip| component_match(rest, &path[skip..])),
        (Some((one, rest)), Some((name, below))) => {
            glob::glob_match(one.as_bytes(), name.as_bytes()) == Ok(true) && component_match(rest, below)
        }
        (Some(_), None) => false,
    }
}

proptest::proptest! {
    #[test]
    fn a_single_pattern_matches_by_component(
        pattern in proptest::collection::vec("\\*\\*|[ab]{1,2}|a?\\*|\\?b?", 1..4),
        path in proptest::collection::vec("[ab]{1,3}", 1..5),
    ) {
        let text = pattern.join("/");
        let patterns = Patterns::from_lines(&[text]).expect("patterns");
        let pattern: Vec<&str> = pattern.iter().map(String::as_str).collect();
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let expected = (1..=path.len()).any(|end| component_match(&pattern, &path[..end]));
        proptest::prop_assert_eq!(patterns.is_ignored(path.join("/").as_bytes()), expected);
    }

    #[test]
    fn any_text_is_answered(text in "[-ab/*?!#\\[\\]^\\\\ \n.]{0,30}", path in "[ab]{1,2}(/[ab]{1,2}){0,3}") {
        if let Ok(patterns) = Patterns::parse(&Source::new("x", text)) {
            patterns.is_ignored(path.as_bytes());
        }
    }
}
