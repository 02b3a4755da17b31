//! `Dockerfile.lock`: names keep their meaning.

mod common;

use std::process::Command;

use common::{Space, busybox_tar, run, skip_unless, web};

/// Two images that `base` stands for, one after the other.
fn space() -> Space {
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\nRUN echo one > /which\n");
    space.build(&["-q", "-t", "base"]).succeeds();
    space.dockerfile("FROM base\n");
    space
}

fn move_base(space: &Space) {
    space.write("other/Dockerfile", "FROM busybox\nRUN echo two > /which\n");
    space.croze(["build", "-q", "-t", "base", "other"]).succeeds();
}

fn which(space: &Space, flags: &[&str]) -> String {
    std::fs::read_to_string(space.build_files(flags).join("which")).expect("there")
}

#[test]
fn a_locked_name_stays_until_it_is_updated() {
    let space = space();
    assert_eq!(which(&space, &["--lock"]), "one\n");
    let lock = space.read("ctx/Dockerfile.lock");
    assert!(lock.contains("name = \"docker.io/library/base:latest\"\ndigest = \"sha256:"), "{lock}");
    move_base(&space);
    assert_eq!(which(&space, &[]), "one\n");
    assert_eq!(which(&space, &["--locked"]), "one\n");
    assert_eq!(which(&space, &["--lock"]), "one\n");
    assert_eq!(space.read("ctx/Dockerfile.lock"), lock);
    assert_eq!(which(&space, &["--lock=update"]), "two\n");
    assert_ne!(space.read("ctx/Dockerfile.lock"), lock);
}

#[test]
fn what_is_not_pinned_is_refused() {
    let space = space();
    space.build(&["--locked"]).fails(
        4,
        "error: `base` is not pinned\n --> Dockerfile:1:6\n  |\n1 | FROM base\n  |      ^^^^\n  |\n  \
         = help: `croze build --lock` writes what it stands for into the lock file; or name it by digest, `--checksum` or commit\n",
    );
    space.build(&["--lock"]).succeeds();
    space.croze(["import", busybox_tar(), "extra"]).succeeds();
    space.dockerfile("FROM base\nCOPY --from=extra /bin/busybox /extra\n");
    let run = space.build(&["--locked"]);
    assert_eq!(run.code, Some(4), "{}", run.stderr);
    assert!(run.stderr.contains("error: `extra` is not pinned"), "{}", run.stderr);
}

#[test]
fn a_lock_file_that_is_none_is_told() {
    let space = space();
    space.write("ctx/Dockerfile.lock", "version = 1\nimage = 3\n");
    let run = space.build(&[]);
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    assert!(run.stderr.contains("error: the lock file `ctx/Dockerfile.lock` cannot be used: invalid type"), "{}", run.stderr);
    space.croze(["build", "--lock", "--locked", "ctx"]).fails(2, "error: `--lock` and `--locked` cannot be used together\n");
}

/// Runs git as somebody in `www/tree`, which is served as `tree.git`.
fn git(space: &Space, arguments: &[&str]) {
    let mut command = Command::new("git");
    command.args(["-c", "user.name=T", "-c", "user.email=t@example.invalid"]).args(arguments);
    command.current_dir(space.path("www/tree")).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    run(&mut command).succeeds();
}

fn publish(space: &Space, content: &str) {
    space.write("www/file", content).write("www/tree/file", content);
    git(space, &["add", "-A"]);
    git(space, &["commit", "-qm", content.trim()]);
    git(space, &["update-server-info"]);
}

#[test]
fn downloads_and_git_trees_are_locked_too() {
    if !skip_unless("downloads_and_git_trees_are_locked_too", &["git"]) {
        return;
    }
    let space = Space::new();
    space.write("www/tree/.keep", "");
    git(&space, &["init", "-q", "-b", "main"]);
    std::os::unix::fs::symlink("tree/.git", space.path("www/tree.git")).expect("a link");
    publish(&space, "one\n");
    let host = web::serve(space.path("www"));
    let context = format!("named=http://{host}/tree.git#main");
    space.dockerfile(&format!(
        "FROM scratch\nADD http://{host}/file /download\nADD http://{host}/tree.git#main /tree/\nCOPY --from=named file /named\n\
         COPY --from=page context /page\n"
    ));
    let page = format!("page=http://{host}/file");
    let with_context = |flags: &[&str]| {
        [&["--build-context", &context, "--build-context", &page], flags]
            .concat()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    let contents = |flags: &[&str]| {
        let flags = with_context(flags);
        let out = space.build_files(&flags.iter().map(String::as_str).collect::<Vec<_>>());
        ["download", "tree/file", "named", "page"].map(|name| std::fs::read_to_string(out.join(name)).expect("there"))
    };

    // every kind of name is refused
    let refused = space.croze([vec!["build".to_owned()], with_context(&["--locked", "ctx"])].concat());
    assert_eq!(refused.code, Some(4), "{}", refused.stderr);
    assert!(
        refused.stderr.contains(&format!("the context `named` from `http://{host}/tree.git#main` is not pinned")),
        "{}",
        refused.stderr
    );
    space.write("named/file", "");
    let refused = space.croze(["build", "--locked", "--build-context", &page, "ctx"]);
    assert!(refused.stderr.contains("the context `page` from "), "{}", refused.stderr);
    let refused = space.croze(["build", "--locked", "--build-context", "named=named", "--build-context", "page=named", "ctx"]);
    assert_eq!(refused.code, Some(4), "{}", refused.stderr);
    for name in ["file", "tree.git"] {
        assert!(refused.stderr.contains(&format!("`http://{host}/{name}` is not pinned")), "{}", refused.stderr);
    }

    assert_eq!(contents(&["--lock"]), ["one\n"; 4]);
    publish(&space, "two\n");
    assert_eq!(contents(&[]), ["one\n"; 4]);
    assert_eq!(contents(&["--locked", "--no-cache"]), ["one\n"; 4]);
    let locked = space.read("ctx/Dockerfile.lock");
    assert_eq!(contents(&["--lock"]), ["one\n"; 4]);
    assert_eq!(space.read("ctx/Dockerfile.lock"), locked);

    let lock = |update: &str| {
        let run = space.croze([vec!["lock".to_owned()], with_context(&[update, "ctx"])].concat());
        assert_eq!(run.succeeds().stdout, "ctx/Dockerfile.lock\n");
    };
    lock(&format!("--update=http://{host}/file"));
    assert_eq!(contents(&["--locked"]), ["two\n", "one\n", "one\n", "two\n"]);
    lock("--update");
    assert_eq!(contents(&["--locked"]), ["two\n"; 4]);
    space.croze(["lock", "--update=busybox", "ctx"]).fails(
        2,
        "error: nothing is pinned by the name `busybox`\n |\n = help: `--update` without a name asks for all of them anew",
    );
}

#[test]
fn names_are_locked_without_a_build() {
    let space = space();
    space.dockerfile("FROM base\nRUN false\n");
    space.croze(["lock", "ctx"]).succeeds();
    let locked = space.read("ctx/Dockerfile.lock");
    assert!(locked.contains("name = \"docker.io/library/base:latest\""), "{locked}");
    move_base(&space);
    space.croze(["lock", "ctx"]).succeeds();
    assert_eq!(space.read("ctx/Dockerfile.lock"), locked);
    space.croze(["lock", "--update=base", "ctx"]).succeeds();
    assert_ne!(space.read("ctx/Dockerfile.lock"), locked);
}
