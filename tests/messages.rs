//! What people read when something goes wrong: the whole of stderr and the exit code, for each folder of `testdata/messages`.
//!
//! A folder holds a context, the `command` that is run beside it (where the context is called `ctx`), and what is `expected`.
//! Folders without a `command` belong to a test of their own, which prepares what a folder cannot hold: a registry, a server.
//! `UPDATE=1 cargo test --test messages` writes the `expected` files anew; review the difference as a reader at 3 a.m. would.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Registry, Run, Space, judge, skip_unless};

#[test]
fn each_folder_says_what_it_should() {
    let folders = folders();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut wrong = Vec::new();
        while let Some(folder) = folders.get(next.fetch_add(1, Ordering::Relaxed)) {
            let Ok(command) = fs::read_to_string(folder.join("command")) else { continue };
            wrong.extend(difference(folder, &run(&space_of(folder), &command), &[]));
        }
        wrong
    };
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let workers = [scope.spawn(work), scope.spawn(work)];
        workers.into_iter().flat_map(|worker| worker.join().expect("no worker panics")).collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_registry_without_the_image() {
    if !skip_unless("a_registry_without_the_image", &["skopeo", "docker-registry"]) {
        return;
    }
    let (space, registry) = (Space::with_busybox(), Registry::start());
    space.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    for tag in ["24.04", "22.04", "latest"] {
        let archive = format!("type=oci,dest={}", space.text_path("base.tar"));
        space.build(&["-o", &archive]).succeeds();
        let (from, to) =
            (format!("oci-archive:{}", space.text_path("base.tar")), format!("docker://{}/ubuntu:{tag}", registry.host));
        judge("skopeo", &["copy", "--quiet", "--dest-tls-verify=false", &from, &to]);
    }
    let from = |image: &str| space.dockerfile(&format!("FROM {}/{image}\n", registry.host)).build(&[]);
    check("registry-unknown-tag", &from("ubuntu:24.40"), &[(&registry.host, "REGISTRY")]);
    check("registry-unknown-repository", &from("ubunut:24.04"), &[(&registry.host, "REGISTRY")]);
    let zeros = "0".repeat(64);
    // what the registry answers there is two bytes of JSON
    space.dockerfile(&format!("FROM scratch\nADD --checksum=sha256:{zeros} http://{}/v2/ /tool\n", registry.host));
    check("add-checksum-mismatch", &space.build(&[]), &[(&registry.host, "REGISTRY")]);
    space.dockerfile(&format!("FROM scratch\nADD http://{}/v2/none/manifests/1 /tool\n", registry.host));
    check("add-not-found", &space.build(&[]), &[(&registry.host, "REGISTRY")]);
}

#[test]
fn a_registry_that_wants_a_log_in() {
    if !skip_unless("a_registry_that_wants_a_log_in", &["docker-registry"]) {
        return;
    }
    let registry = Registry::start_closed();
    let space = Space::new();
    space.dockerfile(&format!("FROM {}/team/app:1\n", registry.host));
    check("registry-denied", &space.build(&[]), &[(&registry.host, "REGISTRY")]);
}

/// All folders of cases, sorted by name.
fn folders() -> Vec<PathBuf> {
    let entries = fs::read_dir(cases()).expect("the cases are there");
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    folders.sort();
    folders
}

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/messages")
}

/// A space whose `ctx` holds the folder's files; with a base image if they speak of one.
fn space_of(folder: &Path) -> Space {
    let dockerfile = fs::read_to_string(folder.join("Dockerfile")).unwrap_or_default();
    let command = fs::read_to_string(folder.join("command")).unwrap_or_default();
    let needs_base = format!("{dockerfile}{command}").contains("busyb");
    let space = if needs_base { Space::with_busybox() } else { Space::new() };
    copy_files(folder, &space.path("ctx"));
    space
}

fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("creates");
    for entry in fs::read_dir(from).expect("reads") {
        let entry = entry.expect("readable");
        let name = entry.file_name();
        match entry.file_type().expect("has a type").is_dir() {
            true => copy_files(&entry.path(), &to.join(name)),
            false if name == "command" || name == "expected" => {}
            false => drop(fs::copy(entry.path(), to.join(name)).expect("copies")),
        }
    }
}

/// Runs `NAME=VALUE… croze ARGUMENTS… < FILE`, of which only `croze` must be there.
fn run(space: &Space, command: &str) -> Run {
    let (line, input) = command.split_once('<').map_or((command, None), |(line, file)| (line, Some(file.trim())));
    let mut words = line.split_whitespace();
    let mut variables = Vec::new();
    let program = words.by_ref().find(|word| match word.split_once('=') {
        Some(variable) => {
            variables.push(variable);
            false
        }
        None => true,
    });
    assert_eq!(program, Some("croze"), "{command}");
    let mut command = space.command(words);
    command.envs(variables);
    if let Some(file) = input {
        command.stdin(fs::File::open(space.path(file)).expect("the input is there"));
    }
    Run::of(command.output().expect("croze starts"))
}

#[track_caller]
fn check(name: &str, run: &Run, replacements: &[(&str, &str)]) {
    if let Some(wrong) = difference(&cases().join(name), run, replacements) {
        panic!("{wrong}");
    }
}

/// What differs from `expected`, for people; with `UPDATE` set nothing does.
fn difference(folder: &Path, run: &Run, replacements: &[(&str, &str)]) -> Option<String> {
    let code = run.code.map_or("a signal".to_owned(), |code| format!("exit code {code}"));
    let mut stderr = run.stderr.clone();
    for (from, to) in replacements {
        stderr = stderr.replace(from, to);
    }
    let stdout = if run.stdout.is_empty() { String::new() } else { format!("--- standard output\n{}", run.stdout) };
    let actual = without_times(&format!("{code}\n{stderr}{stdout}"));
    let path = folder.join("expected");
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(folder).expect("creates");
        fs::write(&path, &actual).expect("writes");
        return None;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    (actual != expected).then(|| format!("{}\n--- expected\n{expected}--- actual\n{actual}", path.display()))
}

/// Times and digests differ between runs and machines: `DONE 0.3s`, `#4 0.123 text`, `FROM busybox@sha256:…`.
fn without_times(text: &str) -> String {
    let line = |line: &str| {
        let mut words: Vec<String> = line.split(' ').map(without_digest).collect();
        if words[0].starts_with('#') {
            match words.get(1).map(String::as_str) {
                Some("DONE") => words[2] = "0.0s".to_owned(),
                Some(word) if word.contains('.') && word.parse::<f64>().is_ok() => words[1] = "0.000".to_owned(),
                _ => {}
            }
        }
        words.join(" ") + "\n"
    };
    text.lines().map(line).collect()
}

/// `sha256:` and 64 hex digits, unless the digits repeat one (as those that people write in examples do).
fn without_digest(word: &str) -> String {
    let Some((before, rest)) = word.split_once("sha256:") else { return word.to_owned() };
    let digits = rest.chars().take_while(char::is_ascii_hexdigit).count();
    let (hex, after) = rest.split_at(digits);
    if hex.len() != 64 || hex.bytes().all(|byte| byte == hex.as_bytes()[0]) {
        return word.to_owned();
    }
    format!("{before}sha256:…{after}")
}
