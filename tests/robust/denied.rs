//! Directories that cannot be a store. What users and machines may not do is told in `tests/rootless.rs`.

use std::os::unix::fs::chown;
use std::process::Command;

use super::common::{Space, run};

#[test]
fn a_store_of_a_later_version_is_left_alone() {
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\n").write("store/version", "croze store 2\nflavour user\n");
    space.build(&[]).fails(
        5,
        &format!(
            "error: `{}` cannot be used as a store: its format is `croze store 2`, this program knows `croze store 1`; choose \
             another directory",
            space.text_path("store")
        ),
    );
}

#[test]
fn a_directory_with_other_things_does_not_become_a_store() {
    let space = Space::new();
    space.dockerfile("FROM scratch\n").write("store/thesis", "x");
    space.build(&[]).fails(
        5,
        &format!(
            "error: `{}` cannot be used as a store: it is no store and not empty (it holds `thesis`); choose another directory",
            space.text_path("store")
        ),
    );
}

#[test]
fn a_store_of_another_user_is_left_alone() {
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\n");
    chown(space.path("store/version"), Some(4242), None).expect("root may");
    space.build(&["--cache-from", "type=local,src=cache"]).fails(
        5,
        &format!(
            "error: `{}` cannot be used as a store: it belongs to user 4242, you are user 0; choose another directory",
            space.text_path("store")
        ),
    );
}

#[test]
fn a_store_that_cannot_be_written_can_be_looked_at() {
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\n");
    let store = space.text_path("store");
    run(Command::new("mount").args(["--bind", &store, &store])).succeeds();
    run(Command::new("mount").args(["-o", "remount,bind,ro", &store])).succeeds();
    let (built, listed) = (space.build(&[]), space.croze(["images", "-q"]));
    run(Command::new("umount").args(["-l", &store])).succeeds();
    built.fails(
        5,
        &format!("error: `{store}` cannot be used as a store: its file system is mounted read-only; choose another directory"),
    );
    assert_eq!(listed.succeeds().stdout.lines().count(), 1);
}

#[test]
fn a_file_is_no_store() {
    let space = Space::new();
    space.dockerfile("FROM scratch\n").write("store", "x");
    space.build(&[]).fails(
        5,
        &format!("error: `{}` cannot be used as a store: it is a file; choose another directory", space.text_path("store")),
    );
}
