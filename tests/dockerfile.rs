//! Reads `testdata/dockerfile`: each file of `ok` becomes its `.instructions`, each of `err` its `.diagnostic`.
//!
//! `UPDATE=1 cargo test --test dockerfile` rewrites what is expected; review the difference.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use croze::diagnostic::render::{Color, render};
use croze::diagnostic::{Severity, Source, Spanned};
use croze::dockerfile::{
    Command, Dockerfile, Healthcheck, Heredoc, Instruction, InstructionKind, Pair, Run, Transfer, TransferSource, parse,
};

#[test]
fn what_is_understood() {
    for path in dockerfiles("ok") {
        let (dockerfile, diagnostics) = parse(&source(&path));
        let mut text = dump(&dockerfile);
        for diagnostic in &diagnostics {
            assert_eq!(diagnostic.severity, Severity::Warning, "{}: {}", path.display(), diagnostic.message);
            writeln!(text, "\n[{}]\n{}", diagnostic.code, render(diagnostic, Color::Never)).expect("strings take all");
        }
        compare(&path.with_extension("instructions"), &text);
    }
}

#[test]
fn what_is_refused() {
    for path in dockerfiles("err") {
        let (_, diagnostics) = parse(&source(&path));
        assert!(diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error), "{} is fine", path.display());
        let texts: Vec<String> = diagnostics
            .iter()
            .map(|diagnostic| format!("[{}]\n{}\n", diagnostic.code, render(diagnostic, Color::Never)))
            .collect();
        compare(&path.with_extension("diagnostic"), &texts.join("\n"));
    }
}

fn dockerfiles(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/dockerfile").join(folder);
    let entries = fs::read_dir(&folder).expect("the folder is there");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "dockerfile"));
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", folder.display());
    paths
}

fn source(path: &Path) -> Source {
    Source::new("Dockerfile", fs::read_to_string(path).expect("text"))
}

fn compare(path: &Path, text: &str) {
    if env::var_os("UPDATE").is_some() {
        fs::write(path, text).expect("written");
        return;
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    assert_eq!(text, expected, "{} differs; UPDATE=1 rewrites it", path.display());
}

/// The tree as text: a line per instruction with its lines in the file, indented lines for what it holds.
fn dump(dockerfile: &Dockerfile) -> String {
    let mut dump = Dump { out: String::new(), source: &dockerfile.source };
    let directives = &dockerfile.directives;
    if let Some(syntax) = &directives.syntax {
        dump.line(0, &format!("# syntax {:?}", syntax.value));
    }
    if directives.escape != '\\' {
        dump.line(0, &format!("# escape {:?}", directives.escape));
    }
    if let Some(check) = &directives.check {
        dump.line(0, &format!("# check {:?}", check.value));
    }
    for instruction in &dockerfile.global_args {
        dump.instruction(instruction);
    }
    for stage in &dockerfile.stages {
        let from = &stage.from;
        let name = from.name.as_ref().map_or("-", |name| &name.value);
        dump.line(0, &format!("stage {name} from {:?}, line {}", from.base.value, dump.source.line_column(from.span.start).0));
        if let Some(platform) = &from.platform {
            dump.line(1, &format!("platform {:?}", platform.value));
        }
        for instruction in &stage.instructions {
            dump.instruction(instruction);
        }
    }
    dump.out
}

struct Dump<'a> {
    out: String,
    source: &'a Source,
}

impl Dump<'_> {
    fn line(&mut self, depth: usize, text: &str) {
        writeln!(self.out, "{:1$}{text}", "", depth * 2).expect("strings take all");
    }

    /// Also checks that each word's span holds what the word says.
    fn word(&mut self, name: &str, word: &Spanned<String>) {
        let written = &self.source.text()[word.span.range()];
        let place = if written == word.value { String::new() } else { format!(" <- {written:?}") };
        self.line(2, &format!("{name} {:?}{place}", word.value));
    }

    fn words<'w>(&mut self, name: &str, words: impl IntoIterator<Item = &'w Spanned<String>>) {
        for word in words {
            self.word(name, word);
        }
    }

    fn instruction(&mut self, instruction: &Instruction) {
        let (first, _) = self.source.line_column(instruction.span.start);
        let (last, _) = self.source.line_column(instruction.span.end);
        self.line(1, &format!("{first}-{last} {}", instruction.text));
        match &instruction.kind {
            InstructionKind::Add(transfer) | InstructionKind::Copy(transfer) => self.transfer(transfer),
            InstructionKind::Arg(declarations) => {
                for declaration in declarations {
                    self.word("name", &declaration.name);
                    self.words("default", &declaration.default);
                }
            }
            InstructionKind::Cmd(command) | InstructionKind::Entrypoint(command) => self.command(command),
            InstructionKind::Env(pairs) | InstructionKind::Label(pairs) => self.pairs(pairs),
            InstructionKind::Expose(words) | InstructionKind::Volume(words) => self.words("word", words),
            InstructionKind::Healthcheck(healthcheck) => self.healthcheck(healthcheck),
            InstructionKind::Maintainer(author) => self.line(2, &format!("author {author:?}")),
            InstructionKind::Onbuild(trigger) => self.line(2, &format!("trigger {:?}", trigger.value)),
            InstructionKind::Run(run) => self.run(run),
            InstructionKind::Shell(words) => self.line(2, &format!("shell {words:?}")),
            InstructionKind::Stopsignal(word) | InstructionKind::User(word) | InstructionKind::Workdir(word) => {
                self.word("word", word);
            }
        }
    }

    fn command(&mut self, command: &Command) {
        match command {
            Command::Shell(text) => self.line(2, &format!("shell form {text:?}")),
            Command::Exec(words) => self.line(2, &format!("exec form {words:?}")),
        }
    }

    fn pairs(&mut self, pairs: &[Pair]) {
        for pair in pairs {
            self.word(if pair.legacy { "legacy key" } else { "key" }, &pair.key);
            self.word("value", &pair.value);
        }
    }

    fn heredoc(&mut self, heredoc: &Heredoc) {
        let Heredoc { name, body, raw_body, expand, strip_tabs, descriptor, .. } = heredoc;
        let expand = if *expand { "expanded" } else { "literal" };
        let tabs = if *strip_tabs { ", tabs stripped" } else { "" };
        self.line(2, &format!("heredoc {descriptor}{name:?} {expand}{tabs}"));
        self.line(3, &format!("{body:?}"));
        if body != raw_body {
            self.line(3, &format!("raw {raw_body:?}"));
        }
    }

    fn run(&mut self, run: &Run) {
        self.command(&run.command);
        for heredoc in &run.heredocs {
            self.heredoc(heredoc);
        }
        if run.script().is_some() {
            self.line(2, "the heredoc is the script");
        }
        self.words("mount", &run.mounts);
        self.words("device", &run.devices);
        if let Some(network) = &run.network {
            self.line(2, &format!("network {:?}", network.value));
        }
        if let Some(security) = &run.security {
            self.line(2, &format!("security {:?}", security.value));
        }
    }

    fn transfer(&mut self, transfer: &Transfer) {
        for source in &transfer.sources {
            match source {
                TransferSource::Path(path) => self.word("source", path),
                TransferSource::Heredoc(heredoc) => self.heredoc(heredoc),
            }
        }
        self.word("destination", &transfer.destination);
        self.words("from", &transfer.from);
        self.words("chown", &transfer.chown);
        self.words("chmod", &transfer.chmod);
        self.words("checksum", &transfer.checksum);
        self.words("exclude", &transfer.excludes);
        let switches = [
            ("link", transfer.link.then_some(true)),
            ("parents", transfer.parents.then_some(true)),
            ("keep-git-dir", transfer.keep_git_dir),
            ("unpack", transfer.unpack),
        ];
        for (name, value) in switches {
            if let Some(value) = value {
                self.line(2, &format!("{name} {value}"));
            }
        }
    }

    fn healthcheck(&mut self, healthcheck: &Healthcheck) {
        match healthcheck {
            Healthcheck::None => self.line(2, "none"),
            Healthcheck::Check { command, interval, timeout, start_period, start_interval, retries } => {
                self.command(command);
                self.line(2, &format!("every {interval:?}, at most {timeout:?}, {retries} retries"));
                self.line(2, &format!("start {start_period:?}, every {start_interval:?}"));
            }
        }
    }
}
