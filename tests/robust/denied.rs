//! Machines and users that may not do what a build takes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::Command;

use super::common::{Run, Space, busybox_tar, run};

/// croze behind `setpriv`, in a space.
fn restricted(space: &Space, how: &[&str], program: &PathBuf, arguments: &[&str]) -> Run {
    let mut command = Command::new("setpriv");
    command.args(how).arg(program).args(arguments).current_dir(space.path("."));
    run(command.env("CROZE_ROOT", space.path("store")).env("HOME", space.path(".")))
}

fn croze() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_croze"))
}

const NO_CAPABILITIES: [&str; 4] = ["--bounding-set", "-all", "--inh-caps", "-all"];
const NOBODY: [&str; 5] = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];

#[test]
fn root_without_capabilities_makes_no_sandbox() {
    let space = Space::new();
    space.dockerfile("FROM busybox\nRUN true\n");
    restricted(&space, &NO_CAPABILITIES, &croze(), &["import", busybox_tar(), "busybox"]).succeeds();
    restricted(&space, &NO_CAPABILITIES, &croze(), &["build", "ctx"]).fails(
        5,
        "error: no sandbox can be made here: the capability CAP_SYS_ADMIN is missing\n \
         --> Dockerfile:2:1\n  |\n\
         2 | RUN true\n  \
         | ^^^^^^^^\n  |\n  \
         = help: run croze as root; in a container, as one that may make namespaces (`--privileged`)",
    );
}

#[test]
fn a_store_of_root_needs_its_privileges() {
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\n");
    restricted(&space, &NO_CAPABILITIES, &croze(), &["build", "ctx"]).fails(
        5,
        &format!(
            "error: `{}` cannot be used as a store: it was made by root of the machine, and its `trusted.*` attributes are \
             lost or hidden from this process; choose another directory",
            space.text_path("store")
        ),
    );
}

#[test]
fn an_ordinary_user_is_told_so() {
    // where everybody may go, unlike the directories of a build
    let open = tempfile::tempdir().expect("a directory");
    fs::set_permissions(open.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let program = open.path().join("croze");
    fs::copy(croze(), &program).expect("a copy");
    let home = open.path().join("home");
    fs::create_dir(&home).expect("a directory");
    chown(&home, Some(65534), Some(65534)).expect("chown");
    fs::write(home.join("Dockerfile"), "FROM scratch\n").expect("write");
    let as_nobody = |root: &str| {
        let mut command = Command::new("setpriv");
        run(command.args(NOBODY).arg(&program).args(["build", "--root", root, "."]).current_dir(&home))
    };
    as_nobody("store").fails(
        5,
        "error: user 65534 cannot make layers: their files belong to many users, which takes root\n |\n \
         = help: run croze as root, for example by `sudo`",
    );
    // and each has a store of their own
    let space = Space::new();
    let theirs = home.join("store");
    space.dockerfile("FROM scratch\n");
    space.croze(["build", "--root", theirs.to_str().expect("text"), "ctx"]).fails(
        5,
        &format!(
            "error: `{}` cannot be used as a store: it belongs to user 65534, you are user 0; choose another directory",
            theirs.display()
        ),
    );
    let ours = open.path().join("ours");
    space.croze(["build", "--root", ours.to_str().expect("text"), "ctx"]).succeeds();
    as_nobody(ours.to_str().expect("text")).fails(
        5,
        &format!("error: `{}` cannot be used as a store: it is closed to user 65534; choose another directory", ours.display()),
    );
}

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
