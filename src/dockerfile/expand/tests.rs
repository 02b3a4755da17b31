use super::*;

struct Env;

impl Environment for Env {
    fn get(&self, name: &str) -> Option<String> {
        let value = match name {
            "x" => "val",
            "empty" => "",
            "two" => "a b",
            "path" => "/usr/local/lib.tar.gz",
            "star" => "a*b",
            "dollar" => "$1x",
            "lines" => "a\nb",
            _ => return None,
        };
        Some(value.to_owned())
    }
}

#[track_caller]
fn check(text: &str, expected: &str) {
    assert_eq!(word(text, '\\', &Env).map(|expanded| expanded.text).as_deref(), Ok(expected));
}

#[track_caller]
fn check_error(text: &str, message: &str, range: Range<usize>) {
    assert_eq!(word(text, '\\', &Env), Err(ExpandError { message: message.to_owned(), range }));
}

#[test]
fn variables_are_replaced() {
    check("$x", "val");
    check("a${x}b", "avalb");
    check("$x_y", "");
    check("[$nope]", "[]");
    check("$", "$");
    check("$ a", "$ a");
    check("a$.", "a$.");
    check("$$", "");
    check("$1$@", "");
    check("$12x", "x");
}

#[test]
fn unset_names_are_told_once() {
    let expanded = word("$b${a:-1}$b$x", '\\', &Env).expect("expands");
    assert_eq!(expanded.unset, ["b", "a"]);
}

#[test]
fn defaults_and_alternatives() {
    check("${x:-w}${empty:-w}${nope:-w}", "valww");
    check("${x-w}|${empty-w}|${nope-w}", "val||w");
    check("${x:+w}|${empty:+w}|${nope:+w}", "w||");
    check("${x+w}|${empty+w}|${nope+w}", "w|w|");
}

#[test]
fn demanded_variables() {
    check("${x:?no}${empty?no}", "val");
    check_error("${nope:?give it}", "`nope`: give it", 0..16);
    check_error("a${nope?}", "`nope` is not allowed to be unset", 1..9);
    check_error("${empty:?}", "`empty` is not allowed to be empty", 0..10);
}

#[test]
fn prefixes_and_suffixes() {
    check("${path#*/}", "usr/local/lib.tar.gz");
    check("${path##*/}", "lib.tar.gz");
    check("${path%.*}", "/usr/local/lib.tar");
    check("${path%%.*}", "/usr/local/lib");
    check("${path#/?s}", "r/local/lib.tar.gz");
    check("${path#[u]}", "/usr/local/lib.tar.gz");
    check("${star#a\\*}", "b");
    check("${star%\\*b}", "a");
    check("${path#\\/usr}", "/local/lib.tar.gz");
    check("${nope#a}", "");
    check("${lines#*}", "a\nb");
    check("${lines##*}", "\nb");
}

#[test]
fn replacements() {
    check("${x/a/A}", "vAl");
    check("${path/l*r/}", "/usr/.gz");
    check("${path//l/L}", "/usr/LocaL/Lib.tar.gz");
    check("${path/\\/usr/}", "/local/lib.tar.gz");
    check("${x/a/\\/}", "v\\/l");
    check("${star/./-}", "a*b");
    check("${x///-}", "-v-a-l-");
    check("${x/a/${empty:-e}}", "vel");
}

#[test]
fn replacing_all_treats_dollars_as_a_template() {
    check("${x/a/$dollar}", "v$1xl");
    check("${x//a/$dollar}", "vl");
    check("${x//a/'$0$0'}", "vaal");
    check("${x//a/'$$.'}", "v$.l");
}

#[test]
fn nesting() {
    check("${nope:-${nope:-c}}", "c");
    check("${nope:-$x}", "val");
    check("${nope:-'$x'}", "$x");
    check("${nope:-\"$x y\"}", "val y");
    check("${nope:-a\\}b}", "a}b");
    check("${x:+${x}${x}}", "valval");
}

#[test]
fn quotes_and_escapes() {
    check("'$x'", "$x");
    check("\"$x\"", "val");
    check("\"x\\y\"", "x\\y");
    check("\"\\\"\\$x\\\\\"", "\"$x\\");
    check("x\\y", "xy");
    check("\\$x", "$x");
    check("a\"b\"'c'", "abc");
    check("a\\", "a");
    check("\"it's\"", "it's");
}

#[test]
fn the_escape_character_is_chosen() {
    assert_eq!(word("c:\\dir`$x", '`', &Env).expect("expands").text, "c:\\dir$x");
}

#[test]
fn what_cannot_be_read_is_pointed_at() {
    check_error("a${b", "syntax error: missing '}'", 1..4);
    check_error("${", "syntax error: missing '}'", 0..2);
    check_error("${}", "syntax error: bad substitution", 0..3);
    check_error("${b:-c", "syntax error: missing '}'", 0..6);
    check_error("${x/a}", "syntax error: missing '/' in ${}", 0..6);
    check_error("${x:0:2}", "unsupported modifier (:0) in substitution", 3..5);
    check_error("${x:#a}", "unsupported modifier (:#) in substitution", 3..5);
    check_error("${x^^}", "unsupported modifier (^) in substitution", 3..4);
    check_error("${a.b}", "unsupported modifier (.) in substitution", 3..4);
    check_error("${#v}", "unsupported modifier (v) in substitution", 3..4);
    check_error("a'b", "unexpected end of statement while looking for matching single-quote", 1..3);
    check_error("a\"b", "unexpected end of statement while looking for matching double-quote", 1..3);
    check_error("${x#\\y}", "invalid pattern (\\y) in substitution: invalid escape '\\y'", 4..7);
}

#[test]
fn deep_nesting_is_refused() {
    assert!(word(&"${a:-".repeat(10_000), '\\', &Env).is_err());
}

#[track_caller]
fn check_words(text: &str, expected: &[&str]) {
    assert_eq!(words(text, '\\', &Env).expect("splits").0, expected);
}

#[test]
fn words_are_split_after_expansion() {
    check_words("  a  b ", &["a", "b"]);
    check_words("$two", &["a", "b"]);
    check_words("\"$two\" '' c\\ d", &["a b", "c d"]);
    check_words("a<< b", &["a<< b"]);
    check_words("$empty", &[]);
}

#[test]
fn heredoc_bodies_keep_their_quotes() {
    let body = heredoc("'$x' \"${nope:-y}\" \\$x\n", '\\', &Env).expect("expands");
    assert_eq!(body.text, "'val' \"y\" $x\n");
}

proptest::proptest! {
    #[test]
    fn any_word_expands_without_a_panic(text in "[-$ {}a:+?#%/*\\\\'\"`<\n]{0,40}") {
        let _ = word(&text, '\\', &Env);
        let _ = words(&text, '`', &Env);
        let _ = heredoc(&text, '\\', &Env);
        let _ = raw_words(&text);
    }

    #[test]
    fn any_unicode_expands_without_a_panic(text in "\\PC{0,40}") {
        let _ = word(&text, '\\', &Env);
        let _ = delimiter_words(&text, true);
    }
}
