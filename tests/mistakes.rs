//! Dockerfiles with one mistake each, and some that look like it: what people read, whole, for each instruction and flag, the
//! unknown, the repeated, the empty, the malformed and the contradictory.
//!
//! A file of `testdata/mistakes` is a list of cases: a line `--- NAME`, a Dockerfile, a line `===`, and what is said of it. The first
//! word of that is `refused` or `accepted`, which is what BuildKit does with the same file. Nothing is resolved or run.
//! `UPDATE=1 cargo test --test mistakes` writes the answers anew; review the difference.

use std::path::{Path, PathBuf};
use std::{env, fs};

use croze::diagnostic::render::{Color, render};
use croze::diagnostic::{Severity, Source};
use croze::dockerfile::parse;
use croze::plan::{self, Bases, Options};

#[test]
fn each_mistake_is_explained() {
    let mut wrong = Vec::new();
    for path in files() {
        let text = fs::read_to_string(&path).expect("text");
        let cases: Vec<Case> = format!("\n{text}").split("\n--- ").skip(1).map(Case::read).collect();
        assert!(!cases.is_empty(), "{} has no cases", path.display());
        let answers: Vec<String> = cases.iter().map(|case| answer(&case.dockerfile)).collect();
        if env::var_os("UPDATE").is_some() {
            let write = |(case, answer): (&Case, &String)| format!("--- {}\n{}===\n{answer}", case.name, case.dockerfile);
            let written: String = cases.iter().zip(&answers).map(write).collect();
            fs::write(&path, written).expect("written");
            continue;
        }
        let name = path.file_stem().unwrap_or_default().display();
        for (case, answer) in cases.iter().zip(&answers).filter(|(case, answer)| case.answer != **answer) {
            wrong.push(format!("{name}, {}\n--- expected\n{}--- actual\n{answer}", case.name, case.answer));
        }
    }
    assert!(wrong.is_empty(), "{} answers differ; UPDATE=1 rewrites them\n{}", wrong.len(), wrong.join("\n"));
}

struct Case {
    name: String,
    dockerfile: String,
    answer: String,
}

impl Case {
    fn read(text: &str) -> Case {
        let (name, rest) = text.split_once('\n').expect("a name has a line of its own");
        let (dockerfile, answer) = rest.split_once("===").expect("`===` stands before the answer");
        let answer = format!("{}\n", answer.trim_matches('\n'));
        Case { name: name.to_owned(), dockerfile: dockerfile.to_owned(), answer }
    }
}

/// What is said of a Dockerfile, as far as it can be without its base images.
fn answer(text: &str) -> String {
    let (dockerfile, mut found) = parse(&Source::new("Dockerfile", text));
    let options = Options::new("linux/amd64".parse().expect("valid"));
    let is_error = |severity: Severity| severity == Severity::Error;
    if found.iter().any(|diagnostic| is_error(diagnostic.severity)) {
        let more = plan::mistakes(&dockerfile, &options, &found);
        found.extend(more);
    } else if let Err(errors) = plan::wanted_images(&dockerfile, &options, &Bases::new()) {
        found.extend(errors);
    } else {
        let (_, more) = plan::lower(&dockerfile, &options, &Bases::new());
        found.extend(more.into_iter().filter(|diagnostic| diagnostic.code != plan::UNRESOLVED));
    }
    if let Err(bad) = plan::check_options(&dockerfile, &options) {
        found.push(*bad);
    }
    found.sort_by_key(|diagnostic| diagnostic.place.as_ref().map(|(_, span)| span.start));
    let verdict = if found.iter().any(|diagnostic| is_error(diagnostic.severity)) { "refused" } else { "accepted" };
    let texts: Vec<String> = found.iter().map(|diagnostic| render(diagnostic, Color::Never) + "\n").collect();
    format!("{verdict}\n{}", texts.concat())
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/mistakes");
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths
}
