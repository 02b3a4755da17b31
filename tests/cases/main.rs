//! What Dockerfiles mean: builds each folder `testdata/cases/GROUP/NAME` with the real program and compares what came out.
//!
//! A folder is a context with its Dockerfile; `args` holds flags, one per line, for a build that is started beside the context
//! (which is called `ctx`); `setup` is a shell script that makes there what git cannot hold; `expected` holds the image as text
//! (see [`image::describe`]), or the exit code and the whole error.
//! All cases share one store. `FROM busybox` is this machine's, and the group `bases` is built first, in order of names, as
//! `base-NAME:latest`. What is expected is what BuildKit makes of the same files, but for the words of errors.
//! `UPDATE=1 cargo test --test cases` writes the `expected` files anew; review the difference.

#[path = "../common/mod.rs"]
mod common;
mod image;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Run, Space};
use image::Tree;

#[test]
fn each_folder_builds_what_it_should() {
    let space = Space::with_busybox();
    let busybox = image_of_busybox(&space);
    let (bases, cases): (Vec<Case>, Vec<Case>) = all_cases().into_iter().partition(|case| case.group == "bases");
    let mut wrong: Vec<String> = bases.iter().filter_map(|base| base.difference(&space, &busybox)).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut wrong = Vec::new();
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            wrong.extend(case.difference(&space, &busybox));
        }
        wrong
    };
    let found: Vec<String> = std::thread::scope(|scope| {
        let workers = [(); 4].map(|()| scope.spawn(work));
        workers.into_iter().flat_map(|worker| worker.join().expect("no worker panics")).collect()
    });
    wrong.extend(found);
    assert!(wrong.is_empty(), "{} of {} cases\n{}", wrong.len(), bases.len() + cases.len(), wrong.join("\n"));
}

/// One folder.
struct Case {
    group: String,
    name: String,
    folder: PathBuf,
}

impl Case {
    /// Builds it and says what is not as expected, for people; with `UPDATE` set nothing is.
    fn difference(&self, space: &Space, busybox: &Tree) -> Option<String> {
        let actual = self.build(space, busybox);
        let path = self.folder.join("expected");
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, &actual).expect("writes");
            return None;
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        (actual != expected).then(|| format!("{}\n{}", path.display(), changed_lines(&expected, &actual)))
    }

    fn build(&self, space: &Space, busybox: &Tree) -> String {
        let place = format!("{}/{}", self.group, self.name);
        let context = space.path(&format!("{place}/ctx"));
        copy_files(&self.folder, &context);
        if let Ok(script) = fs::read_to_string(self.folder.join("setup")) {
            let mut shell = Command::new("sh");
            shell.args(["-euc", &format!("umask 022\n{script}")]).current_dir(&context);
            common::run(&mut shell).succeeds();
        }
        let layout = space.path(&format!("{place}/image"));
        let output = format!("type=oci,dest={},tar=false,compression=uncompressed", layout.display());
        let flags = fs::read_to_string(self.folder.join("args")).unwrap_or_default();
        if self.group == "bases" {
            let mut command = space.command(["build", "-t", &format!("base-{}", self.name), "ctx"]);
            common::run(command.current_dir(space.path(&place))).succeeds();
        }
        let mut command = space.command(["build", "--progress=plain", "-o", &output]);
        command.args(flags.lines()).arg("ctx").current_dir(space.path(&place));
        let run = Run::of(command.output().expect("croze starts"));
        let text = match run.code {
            Some(0) => image::describe(&layout, busybox),
            _ => failure(&run),
        };
        fs::remove_dir_all(space.path(&place)).expect("removes what it made");
        text
    }
}

/// Exit code and error; progress comes before, with times in it.
fn failure(run: &Run) -> String {
    let code = run.code.map_or("a signal".to_owned(), |code| format!("exit code {code}"));
    let error: Vec<&str> = run.stderr.lines().skip_while(|line| !line.starts_with("error")).collect();
    format!("{code}\n{}\n", error.join("\n"))
}

/// All folders, sorted by group and name.
fn all_cases() -> Vec<Case> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/cases");
    let mut cases = Vec::new();
    for group in folders(&top) {
        for folder in folders(&group) {
            let name = |path: &Path| path.file_name().and_then(|name| name.to_str()).expect("names are text").to_owned();
            cases.push(Case { group: name(&group), name: name(&folder), folder });
        }
    }
    cases
}

fn folders(of: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(of).expect("the cases are there");
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

/// Copies a case's context: files, directories, symbolic links, and what is executable.
fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("creates");
    for entry in fs::read_dir(from).expect("reads") {
        let entry = entry.expect("readable");
        let (name, kind) = (entry.file_name(), entry.file_type().expect("has a type"));
        if kind.is_dir() {
            copy_files(&entry.path(), &to.join(name));
        } else if kind.is_symlink() {
            let target = fs::read_link(entry.path()).expect("reads");
            std::os::unix::fs::symlink(target, to.join(name)).expect("links");
        } else if name != "args" && name != "expected" && name != "setup" {
            fs::copy(entry.path(), to.join(name)).expect("copies");
        }
    }
}

/// The tree of `busybox:latest`, which cases leave out of their lists.
fn image_of_busybox(space: &Space) -> Tree {
    space.dockerfile("FROM busybox\n");
    let layout = space.path("busybox");
    space.build(&["-o", &format!("type=oci,dest={},tar=false,compression=uncompressed", layout.display())]).succeeds();
    Tree::of_image(&layout)
}

/// Lines that are in one text alone, in the order of a walk through both.
fn changed_lines(expected: &str, actual: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), actual.lines().collect());
    let gone = old.iter().filter(|line| !new.contains(line)).map(|line| format!("  - {line}\n"));
    let come = new.iter().filter(|line| !old.contains(line)).map(|line| format!("  + {line}\n"));
    gone.chain(come).collect()
}
