//! `Dockerfile.lock`: names keep their meaning.

mod common;

use common::{Space, busybox_tar};

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
