//! Checks what a reader of the code relies on: which room imports which, where `async` and `unsafe` appear, which crate is
//! known to which room. A failure says what to move and where. The tables here are the README's Architecture in numbers:
//! a change of either is a change of the design.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A top-level module of `src/`.
struct Room {
    name: &'static str,
    floor: Floor,
    /// Rooms it may import beside the words.
    imports: &'static [&'static str],
    may_wait: Waiting,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Floor {
    Words,
    Meaning,
    World,
    Motion,
    Doors,
}
use Floor::*;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// Blocking code only.
    Blocks,
    /// `async` may appear: the room waits for a network, children or timers.
    Async,
}
use Waiting::*;

const fn room(name: &'static str, floor: Floor, may_wait: Waiting, imports: &'static [&'static str]) -> Room {
    Room { name, floor, imports, may_wait }
}

const ROOMS: &[Room] = &[
    // values that everything speaks
    room("base64", Words, Blocks, &[]),
    room("digest", Words, Blocks, &[]),
    room("reference", Words, Blocks, &[]),
    room("diagnostic", Words, Blocks, &[]),
    room("duration", Words, Blocks, &[]),
    room("event", Words, Blocks, &[]),
    room("fields", Words, Blocks, &[]),
    // pure: text to graph, graph to image
    room("dockerfile", Meaning, Blocks, &[]),
    room("graph", Meaning, Blocks, &[]),
    room("image", Meaning, Blocks, &[]),
    room("plan", Meaning, Blocks, &["dockerfile", "graph", "image"]),
    // one outside thing each
    room("store", World, Blocks, &["image"]),
    room("snapshot", World, Blocks, &[]),
    room("layer", World, Blocks, &["image", "store", "snapshot"]),
    room("sandbox", World, Blocks, &[]),
    room("registry", World, Async, &["image", "store", "task"]),
    // `graph` for the ops whose roots it makes
    room("source", World, Async, &["dockerfile", "graph", "image", "registry", "snapshot", "store", "layer", "task"]),
    room("cache", World, Blocks, &["graph", "store"]),
    room("travel", World, Async, &["cache", "image", "layer", "registry", "snapshot", "store", "task"]),
    // what makes it go
    room("task", Motion, Async, &[]),
    room("schedule", Motion, Async, &["graph", "cache", "store", "task"]),
    room(
        "worker",
        Motion,
        Async,
        &[
            "cache",
            "dockerfile",
            "graph",
            "image",
            "registry",
            "schedule",
            "task",
            "source",
            "snapshot",
            "layer",
            "sandbox",
            "store",
            "travel",
        ],
    ),
    room("export", Motion, Async, &["image", "task", "store", "layer", "snapshot", "registry"]),
    room(
        "builder",
        Motion,
        Async,
        &[
            "cache",
            "dockerfile",
            "export",
            "graph",
            "image",
            "layer",
            "plan",
            "registry",
            "sandbox",
            "schedule",
            "snapshot",
            "source",
            "store",
            "task",
            "travel",
            "worker",
        ],
    ),
    // translate and show; `graph` for `Network`, `store` to open what `builder` is handed
    room("cli", Doors, Async, &["builder", "graph", "store"]),
];

/// Imports against the floors, each with the reason why it is no knot.
const UPWARD: &[(&str, &str, &str)] = &[
    ("registry", "task", "`task` imports nothing: it stands in Motion for what it does, and every room that waits may use it"),
    ("source", "task", "the same"),
    ("travel", "task", "the same"),
];

/// Crates that shape data or reach outside, and the rooms that know them: replacing a crate touches these rooms only.
const CRATES: &[(&str, &[&str])] = &[
    ("annotate_snippets", &["diagnostic"]),
    ("bzip2", &["layer"]),
    ("clap", &["cli"]),
    ("clap_complete", &["cli"]),
    ("flate2", &["layer"]),
    ("http_body_util", &["registry"]),
    // words of HTTP (status, header names) travel to who asks for files
    ("hyper", &["registry", "source", "travel"]),
    ("hyper_rustls", &["registry"]),
    ("hyper_util", &["registry"]),
    // a calendar: text of times for configs, progress and listings
    ("jiff", &["builder", "cache", "cli", "image", "plan", "registry", "source", "travel"]),
    // constants of the kernel; calls go through rustix outside `sandbox`
    ("libc", &["layer", "sandbox", "snapshot", "source"]),
    ("libdeflater", &["layer"]),
    ("lzma_rust2", &["layer"]),
    // the program's allocator, chosen in `main.rs`
    ("mimalloc", &[]),
    ("petgraph", &["graph"]),
    // for bytes and files, inside one blocking call
    ("rayon", &["layer", "snapshot", "source", "worker"]),
    // signatures by ssh keys; rustls brings it anyway
    ("ring", &["worker"]),
    ("rusqlite", &["store"]),
    // typed system calls, for whoever touches files or processes
    ("rustix", &["cli", "export", "layer", "sandbox", "snapshot", "source", "store", "worker"]),
    ("rustls", &["registry"]),
    ("rustls_native_certs", &["registry"]),
    ("sha2", &["digest"]),
    ("tar", &["layer"]),
    ("tokio", &["builder", "cli", "export", "registry", "schedule", "source", "task", "travel", "worker"]),
    // files that people read and write: settings, what names are pinned to
    ("toml", &["builder", "registry"]),
    ("tower_service", &["registry"]),
    // layers, and what is said of them elsewhere
    ("zstd", &["layer", "travel"]),
];

/// Crates that any room may use: they say how a type behaves, not what a room is about.
const EVERYWHERE: &[&str] = &["serde", "serde_json", "thiserror"];

/// The only file with unsafe code.
const UNSAFE_FILE: &str = "src/sandbox/sys.rs";

#[test]
fn rooms_import_only_what_the_table_allows() {
    let mut faults = Vec::new();
    for file in source_files() {
        let Some(room) = file.room() else {
            faults.push(format!("{}: its room is not in the table of tests/rooms.rs; add it with its floor", file.path));
            continue;
        };
        for (line, import) in file.code.imported_rooms() {
            let words = ROOMS.iter().any(|other| other.name == import && other.floor == Words);
            if import != room.name && !words && !room.imports.contains(&import.as_str()) {
                faults.push(format!(
                    "{}:{line}: `{}` imports `{import}`; hand the value in from `builder`, or move the code to a room that may import both",
                    file.path, room.name
                ));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_table_has_no_import_upward() {
    let floor = |name: &str| ROOMS.iter().find(|room| room.name == name).map(|room| room.floor);
    for room in ROOMS {
        for import in room.imports {
            let target = floor(import).unwrap_or_else(|| panic!("`{import}` in the imports of `{}` is no room", room.name));
            let excused = UPWARD.iter().any(|(from, to, _)| *from == room.name && to == import);
            assert!(
                target <= room.floor || excused,
                "`{}` ({:?}) imports `{import}` ({target:?}), upward",
                room.name,
                room.floor
            );
        }
    }
}

#[test]
fn only_rooms_that_wait_are_async() {
    let mut faults = Vec::new();
    for file in source_files() {
        let waits = file.room().is_some_and(|room| room.may_wait == Async);
        for (line, word) in file.code.words() {
            if !waits && matches!(word, "async" | "await") {
                faults.push(format!(
                    "{}:{line}: `{word}`; write it blocking and let the caller enter it through `task::blocking`",
                    file.path
                ));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn unsafe_code_lives_in_one_file() {
    let mut faults = Vec::new();
    for file in source_files() {
        for (line, word) in file.code.words() {
            if word == "unsafe" && file.path != UNSAFE_FILE {
                faults.push(format!("{}:{line}: `unsafe`; put a typed wrapper into {UNSAFE_FILE}", file.path));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn crates_are_known_to_their_rooms_only() {
    let mut faults = Vec::new();
    for file in source_files() {
        let Some(room) = file.room() else { continue };
        for (name, rooms) in CRATES {
            if let Some(line) = file.code.first_use_of_crate(name)
                && !rooms.contains(&room.name)
            {
                faults.push(format!(
                    "{}:{line}: `{name}` is known to {rooms:?} only; ask one of them for what is needed",
                    file.path
                ));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_dependency_has_its_rooms() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml is readable");
    let (_, after) = manifest.split_once("\n[dependencies]\n").expect("Cargo.toml has dependencies");
    let section = after.split("\n[").next().unwrap_or(after);
    let names: BTreeSet<String> =
        section.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.replace('-', "_")).collect();
    let known: BTreeSet<String> =
        CRATES.iter().map(|(name, _)| *name).chain(EVERYWHERE.iter().copied()).map(str::to_owned).collect();
    let strangers: Vec<&String> = names.difference(&known).collect();
    let gone: Vec<&String> = known.difference(&names).collect();
    assert!(
        strangers.is_empty() && gone.is_empty(),
        "in Cargo.toml but not in tests/rooms.rs: {strangers:?}; the reverse: {gone:?}"
    );
}

#[test]
fn the_binary_is_a_door_handle() {
    let text = fs::read_to_string(root().join("src/main.rs")).expect("main.rs is readable");
    assert!(text.lines().count() < 40, "src/main.rs has {} lines; move what it does into a door", text.lines().count());
}

// what the tests above are made of

struct SourceFile {
    /// Relative to the repository, with slashes.
    path: String,
    code: Code,
}

impl SourceFile {
    fn room(&self) -> Option<&'static Room> {
        let name = self.path.strip_prefix("src/")?.split(['/', '.']).next()?;
        ROOMS.iter().find(|room| room.name == name)
    }
}

/// All of `src/` but the two crate roots, in path order.
fn source_files() -> Vec<SourceFile> {
    let mut paths = Vec::new();
    walk(&root().join("src"), &mut paths);
    let files = paths.into_iter().filter_map(|path| {
        let relative = path.strip_prefix(root()).expect("below the root").to_str().expect("our paths are text").to_owned();
        let is_root = matches!(relative.as_str(), "src/lib.rs" | "src/main.rs");
        (!is_root).then(|| SourceFile { code: Code::of(&fs::read_to_string(&path).expect("readable")), path: relative })
    });
    let mut files: Vec<SourceFile> = files.collect();
    files.sort_by(|left, right| left.path.cmp(&right.path));
    assert!(files.len() > 20, "src/ was not found");
    files
}

fn walk(directory: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("readable directory") {
        let path = entry.expect("readable entry").path();
        if path.is_dir() {
            walk(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && path.file_name().is_none_or(|name| name != "tests.rs")
        {
            paths.push(path);
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A source text without comments, literals and unit tests; lines keep their numbers.
struct Code(String);

impl Code {
    fn of(text: &str) -> Code {
        let text = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or(text);
        Code(without_comments_and_literals(text))
    }

    /// Identifiers and keywords with their lines.
    fn words(&self) -> impl Iterator<Item = (usize, &str)> {
        self.0.lines().enumerate().flat_map(|(index, line)| {
            line.split(|c: char| !is_word(c)).filter(|word| !word.is_empty()).map(move |word| (index + 1, word))
        })
    }

    /// The rooms named after `crate::`, also those in `use crate::{a::X, b}`, with their lines.
    fn imported_rooms(&self) -> BTreeSet<(usize, String)> {
        let mut rooms = BTreeSet::new();
        for (at, _) in self.0.match_indices("crate::") {
            if self.0[..at].ends_with(is_word) {
                continue;
            }
            let line = self.0[..at].matches('\n').count() + 1;
            for name in heads(&self.0[at + "crate::".len()..]) {
                rooms.insert((line, name));
            }
        }
        rooms
    }

    fn first_use_of_crate(&self, name: &str) -> Option<usize> {
        let path = format!("{name}::");
        self.0.match_indices(&path).find_map(|(at, _)| {
            let before = &self.0[..at];
            let inside_a_path = before.ends_with(|c: char| is_word(c) || c == ':');
            (!inside_a_path).then(|| before.matches('\n').count() + 1)
        })
    }
}

/// The first names of the paths that `text` begins with: one, or those of a braced list.
fn heads(text: &str) -> Vec<String> {
    let head = |text: &str| text.trim_start().chars().take_while(|c| is_word(*c)).collect::<String>();
    let Some(list) = text.strip_prefix('{') else { return vec![head(text)] };
    let (mut depth, mut start, mut names) = (0_usize, 0, Vec::new());
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                names.push(head(&list[start..at]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.push(head(&list[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Blanks comments, strings and characters; enough of Rust's lexer for code that rustfmt has formatted.
fn without_comments_and_literals(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let after_word = out.ends_with(is_word);
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if !after_word && let Some(end) = raw_string_end(rest) {
            end
        } else if c == '"' {
            quoted_end(rest, '"')
        } else if c == '\'' && is_char_literal(rest) {
            quoted_end(rest, '\'')
        } else {
            0
        };
        if skipped == 0 {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            out.extend(rest[..skipped].chars().filter(|c| *c == '\n'));
            out.push(' ');
            rest = &rest[skipped..];
        }
    }
    out
}

fn raw_string_end(text: &str) -> Option<usize> {
    let body = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = body.chars().take_while(|c| *c == '#').count();
    let body = body[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let start = text.len() - body.len();
    Some(body.find(&close).map_or(text.len(), |end| start + end + close.len()))
}

fn quoted_end(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// `'a'` and `'\n'` are characters, `'a` is a lifetime.
fn is_char_literal(text: &str) -> bool {
    let mut chars = text.chars().skip(1);
    match (chars.next(), chars.next()) {
        (Some('\\'), _) => true,
        (_, second) => second == Some('\''),
    }
}

#[test]
fn the_scanner_sees_code_only() {
    let code = Code::of(
        "// async\nlet a = \"unsafe \\\" await\"; /* async */ let r = r#\"async\"#; let c = 'x'; fn f<'a>() {}\n#[cfg(test)]\nmod tests { unsafe }",
    );
    let words: Vec<(usize, &str)> = code.words().collect();
    assert_eq!(words, [(2, "let"), (2, "a"), (2, "let"), (2, "r"), (2, "let"), (2, "c"), (2, "fn"), (2, "f"), (2, "a")]);
}

#[test]
fn the_scanner_finds_imports() {
    let rooms = |text: &str| Code::of(text).imported_rooms().into_iter().map(|(_, room)| room).collect::<Vec<_>>();
    assert_eq!(rooms("use crate::store::Store;\nfn f(x: crate::graph::Op) {}"), ["store", "graph"]);
    assert_eq!(heads("{a::{X, Y}, b, c::Z};"), ["a", "b", "c"]);
    assert_eq!(Code::of("use x;\nuse tar::Header;").first_use_of_crate("tar"), Some(2));
    assert_eq!(Code::of("use crate::layer::tar::write;").first_use_of_crate("tar"), None);
}
