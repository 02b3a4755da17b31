//! Real input, spoiled at random: whatever the text, reading it ends in a value or in diagnostics, never in a panic.
//!
//! The input is `testdata` and, if `CROZE_FUZZ_CORPUS` names a directory, every file below it. `CROZE_FUZZ_SECONDS=600`
//! searches that long with new random numbers (all four parts together); without it a fixed sequence of some hundred cases is
//! tried, the same in every run. A failure prints the smallest text that still shows it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseResult, TestRng, TestRunner};

use croze::diagnostic::render::{Color, render_all};
use croze::diagnostic::{Source, Span};
use croze::dockerfile::ignore::Patterns;
use croze::dockerfile::{expand, mount, parse};
use croze::plan::{self, Bases, Options, Wish};
use croze::reference::Platform;

const PARTS: u32 = 4;
const CASES: u32 = 150;

#[test]
fn a_spoiled_dockerfile_is_parsed_and_planned() {
    let corpus = corpus("ockerfile");
    search(&spoiled(corpus), |text| {
        let source = Source::new("Dockerfile", text);
        let (dockerfile, mut diagnostics) = parse(&source);
        let options = Options { stages: Wish::Every, ..Options::new(Platform::host()) };
        if let Err(errors) = plan::wanted_images(&dockerfile, &options, &Bases::new()) {
            diagnostics.extend(errors);
        }
        diagnostics.extend(plan::mistakes(&dockerfile, &options, &diagnostics));
        plan::epoch(&dockerfile, &options);
        let (_, more) = plan::lower(&dockerfile, &options, &Bases::new());
        diagnostics.extend(more);
        prop_assert!(diagnostics.iter().all(|diagnostic| points_into_its_source(diagnostic.place.as_ref())));
        render_all(&diagnostics, Color::Never);
        Ok(())
    });
}

#[test]
fn a_spoiled_ignore_file_judges_any_path() {
    let mut lines = corpus("dockerignore");
    lines.extend(["*\n!a/b\n**/c?[a-z]\n# x\n/d/\n", "a/**/b\n!**\n\\!x\n[^a-]]\n"].map(str::to_owned));
    let input = (spoiled(lines), "[a-c./\\[\\]*!é-]{0,12}");
    search(&input, |(text, path)| {
        let Ok(patterns) = Patterns::parse(&Source::new(".dockerignore", text)) else { return Ok(()) };
        let ignored = patterns.is_ignored(path.as_bytes());
        // a walk that enters each directory on the way comes to the same verdict
        let mut state = patterns.root();
        let mut verdict = None;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let entry = state.enter(&patterns, name.as_bytes());
            state.may_contain_exceptions(&patterns);
            verdict = Some(entry.ignored);
            state = entry.below;
        }
        // names that a directory cannot hold are no part of a walk
        if path.split('/').all(|name| !matches!(name, "" | "." | "..")) {
            prop_assert_eq!(verdict, Some(ignored));
        }
        Ok(())
    });
}

#[test]
fn a_spoiled_word_is_expanded() {
    let words = ["a$b${c}", "${a:-'x y'}\"$b\"", "${a#*/}${b%%.*}${c//x/y}", "${a:?no \\$b}`", "'é'${a:+${b:-c}}"];
    let input = (spoiled(words.map(str::to_owned).to_vec()), prop_oneof![Just('\\'), Just('`')]);
    search(&input, |(text, escape)| {
        for result in [expand::word(&text, escape, &Vowels), expand::heredoc(&text, escape, &Vowels)] {
            if let Err(error) = result {
                prop_assert!(text.get(error.range.clone()).is_some(), "{:?} of {:?}", error.range, text);
            }
        }
        // what cannot be split cannot be expanded either: they fail alike
        let split = expand::words(&text, escape, &Vowels);
        prop_assert_eq!(split.is_ok(), expand::word(&text, escape, &Vowels).is_ok());
        Ok(())
    });
}

#[test]
fn spoiled_mount_options_are_read() {
    let options = [
        "type=bind,from=build,source=/a,target=/b,rw",
        "type=cache,id=x,target=/c,sharing=locked,mode=0755,uid=1,gid=2",
        "type=secret,id=$s,env=A,required=true",
        "\"type=tmpfs\",size=10m,dst=/t",
        "type=ssh,required",
    ];
    search(&spoiled(options.map(str::to_owned).to_vec()), |text| {
        let line = format!("FROM a\nRUN --mount={text} x\n");
        parse(&Source::new("Dockerfile", line.as_str()));
        let span = Span::new("FROM a\nRUN --mount=".len(), "FROM a\nRUN --mount=".len() + text.len());
        let source = Source::new("Dockerfile", line);
        let value = croze::diagnostic::Spanned::new(text, span);
        let _ = mount::parse(&value, &source, &mut |text| expand::word(text, '\\', &Vowels).map(|expanded| expanded.text));
        Ok(())
    });
}

/// A scope in which the variables named by a vowel are set.
struct Vowels;

impl expand::Environment for Vowels {
    fn get(&self, name: &str) -> Option<String> {
        matches!(name, "a" | "e" | "i").then(|| format!("{name}/x.y z"))
    }
}

fn points_into_its_source(place: Option<&(Source, Span)>) -> bool {
    place.is_none_or(|(source, span)| source.text().get(span.range()).is_some())
}

/// The texts of all files below `testdata` and the directory of the environment whose name ends in `ending` (in
/// `testdata`, that of a recorded case counts too); those that are no text are left out.
fn corpus(ending: &str) -> Vec<String> {
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut paths = Vec::new();
    files(&testdata, &mut paths);
    paths.retain(|path| path.to_string_lossy().ends_with(ending));
    if let Some(folder) = std::env::var_os("CROZE_FUZZ_CORPUS") {
        let mut own = Vec::new();
        files(Path::new(&folder), &mut own);
        let is_ignore_file = |path: &PathBuf| path.to_string_lossy().ends_with("dockerignore");
        own.retain(|path| is_ignore_file(path) == (ending == "dockerignore"));
        paths.extend(own);
    }
    // files come in the order of their directory: the fixed sequence must not depend on it
    paths.sort();
    let texts: Vec<String> = paths.iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
    texts
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a directory") {
        let entry = entry.expect("an entry");
        match entry.file_type().expect("a type").is_dir() {
            true => files(&entry.path(), found),
            false => found.push(entry.path()),
        }
    }
}

/// One thing done to a text; positions are fractions of its length.
#[derive(Clone, Debug)]
enum Spoil {
    Delete(Index, usize),
    Repeat(Index, usize),
    Insert(Index, String),
    Truncate(Index),
    SwapLines(Index, Index),
    JoinLines(Index),
}

/// What the grammar makes something of.
const TOKENS: [&str; 44] = [
    "\\\n",
    "\n",
    "\r\n",
    "`\n",
    "#",
    "# escape=`\n",
    "# check=skip=all;error=true\n",
    "\"",
    "'",
    "$",
    "${",
    "}",
    ":-",
    "//",
    "<<EOF",
    "<<-'E'\n",
    "EOF\n",
    "[",
    "]",
    ",",
    "[\"a\"]",
    "--",
    "--from=",
    "--mount=type=",
    "--link ",
    "--chmod=u+x ",
    "=",
    " ",
    "\t",
    "FROM ",
    "ONBUILD ",
    "RUN ",
    "COPY ",
    "ARG ",
    "HEALTHCHECK --interval=9999999h CMD ",
    "\u{feff}",
    "\u{a0}",
    "é",
    "\u{0}",
    "99999999999999999999",
    "*",
    "!",
    "..",
    "/./",
];

fn spoil() -> impl Strategy<Value = Spoil> {
    let at = any::<Index>;
    let token = prop_oneof![proptest::sample::select(TOKENS.as_slice()).prop_map(str::to_owned), "\\PC{1,3}"];
    prop_oneof![
        1 => (at(), 1..20_usize).prop_map(|(at, length)| Spoil::Delete(at, length)),
        1 => (at(), 1..40_usize).prop_map(|(at, length)| Spoil::Repeat(at, length)),
        4 => (at(), token).prop_map(|(at, text)| Spoil::Insert(at, text)),
        1 => at().prop_map(Spoil::Truncate),
        1 => (at(), at()).prop_map(|(first, second)| Spoil::SwapLines(first, second)),
        1 => at().prop_map(Spoil::JoinLines),
    ]
}

/// One of the texts with up to eight things done to it.
fn spoiled(texts: Vec<String>) -> impl Strategy<Value = String> {
    assert!(!texts.is_empty(), "there is nothing to spoil");
    (proptest::sample::select(texts), proptest::collection::vec(spoil(), 0..8))
        .prop_map(|(text, spoils)| spoils.iter().fold(text, |text, spoil| apply(&text, spoil)))
}

fn apply(text: &str, spoil: &Spoil) -> String {
    let boundary = |at: usize| (at..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    let position = |at: &Index| boundary(at.index(text.len() + 1));
    let range = |at: &Index, length: usize| {
        let start = position(at);
        (start, boundary((start + length).min(text.len())))
    };
    match spoil {
        Spoil::Delete(at, length) => {
            let (start, end) = range(at, *length);
            format!("{}{}", &text[..start], &text[end..])
        }
        Spoil::Repeat(at, length) => {
            let (start, end) = range(at, *length);
            format!("{}{}", &text[..end], &text[start..])
        }
        Spoil::Insert(at, token) => {
            let at = position(at);
            format!("{}{token}{}", &text[..at], &text[at..])
        }
        Spoil::Truncate(at) => text[..position(at)].to_owned(),
        Spoil::SwapLines(first, second) => {
            let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
            if !lines.is_empty() {
                let (first, second) = (first.index(lines.len()), second.index(lines.len()));
                lines.swap(first, second);
            }
            lines.concat()
        }
        Spoil::JoinLines(at) => {
            let at = position(at);
            match text[at..].find('\n') {
                Some(newline) => format!("{}{}", &text[..at + newline], &text[at + newline + 1..]),
                None => text.to_owned(),
            }
        }
    }
}

/// Tries `property` on many values: a fixed sequence, or new ones for as long as the environment says.
fn search<S: Strategy>(input: &S, property: impl Fn(S::Value) -> TestCaseResult) {
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let run = |mut runner: TestRunner| {
        if let Err(error) = runner.run(input, &property) {
            panic!("{error}");
        }
    };
    let seconds = std::env::var("CROZE_FUZZ_SECONDS").ok().and_then(|text| text.parse::<u32>().ok());
    let Some(seconds) = seconds else {
        return run(TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha)));
    };
    let (began, time) = (Instant::now(), Duration::from_secs(seconds.into()) / PARTS);
    let mut cases = 0_u64;
    while began.elapsed() < time {
        run(TestRunner::new(config.clone()));
        cases += u64::from(CASES);
    }
    println!("{cases} cases in {:?}", began.elapsed());
}
