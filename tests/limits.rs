//! Limits of a build's steps: control groups of `--cgroup-parent`, `--memory` and the like, and what a step hears of the kernel's
//! kills.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Run, Space, run, skip_unless};

/// A control group with little memory; `None`, having said so, where this machine gives none.
struct Group {
    name: String,
    directory: PathBuf,
}

impl Group {
    fn with_memory(test: &str, bytes: &str) -> Option<Group> {
        let name = format!("croze-test-{}", std::process::id());
        // version 1 has a tree for memory; in version 2 the controller is on for all groups below the root, or is put on
        let v1 = PathBuf::from("/sys/fs/cgroup/memory");
        let v2 = PathBuf::from("/sys/fs/cgroup");
        let (root, file) = if v1.is_dir() { (v1, "memory.limit_in_bytes") } else { (v2, "memory.max") };
        let _on_already = fs::write(root.join("cgroup.subtree_control"), "+memory");
        let directory = root.join(&name);
        let made = fs::create_dir(&directory).and_then(|()| fs::write(directory.join(file), bytes));
        if let Err(error) = made {
            println!("SKIP {test}: no control group for memory: {error}");
            return None;
        }
        Some(Group { name, directory })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // version 1 has one of this name in each tree
        for tree in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _not_there = fs::remove_dir(tree.path().join(&self.name));
        }
        let _gone = fs::remove_dir(&self.directory);
    }
}

#[test]
fn a_kill_for_lack_of_memory_is_told_from_others() {
    let Some(group) = Group::with_memory("a_kill_for_lack_of_memory_is_told_from_others", "48000000") else { return };
    let space = Space::with_busybox();
    let flags = ["--cgroup-parent", &group.name];
    space.dockerfile("FROM busybox\nRUN x=aaaaaaaaaaaaaaaa; while :; do x=$x$x$x$x; done\n");
    let run = space.build(&flags);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("exit code 137: killed by the kernel for lack of memory"), "{}", run.stderr);

    space.dockerfile("FROM busybox\nRUN sh -c 'kill -9 $$'; exit $?\n");
    let run = space.build(&flags);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("exit code 137\n"), "{}", run.stderr);
    assert!(!run.stderr.contains("killed by the kernel"), "{}", run.stderr);

    space.dockerfile("FROM busybox\nRUN kill -11 1; sh -c 'kill -11 $$'; exit 3\n");
    assert!(space.build(&flags).stderr.contains("exit code 3"));
}

#[test]
fn a_name_that_is_no_group_is_refused() {
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\nRUN true\n");
    let run = space.build(&["--cgroup-parent", "../x"]);
    assert_eq!(run.code, Some(5), "{}", run.stderr);
    assert!(run.stderr.contains("`../x` names no control group"), "{}", run.stderr);
}

/// Whether this machine has control groups of this controller; says so if not.
fn has_controller(test: &str, controller: &str) -> bool {
    let v2 = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let found = Path::new("/sys/fs/cgroup").join(controller).is_dir() || v2.split_whitespace().any(|known| known == controller);
    if !found {
        println!("SKIP {test}: no control groups for {controller}");
    }
    found
}

/// Control groups that a build has left.
fn groups_left(pid: u32) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy() == format!("croze-{pid}") {
                found.push(entry.path());
            } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                todo.push(entry.path());
            }
        }
    }
    found
}

#[test]
fn memory_is_limited_and_the_kill_is_told_with_the_flag() {
    let test = "memory_is_limited_and_the_kill_is_told_with_the_flag";
    if !has_controller(test, "memory") {
        return;
    }
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\nRUN x=aaaaaaaaaaaaaaaa; while :; do x=$x$x$x$x; done\n");
    let run = space.build(&["--memory", "48m"]);
    run.fails(
        1,
        "error: `RUN` did not complete successfully: exit code 137: killed by the kernel for lack of memory\n \
         --> Dockerfile:2:1\n  |\n2 | RUN x=aaaaaaaaaaaaaaaa; while :; do x=$x$x$x$x; done\n  | \
         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^\n  |\n  \
         = help: all commands of the build may use 50331648 bytes together (`--memory`)\n",
    );
}

#[test]
fn processes_are_limited_and_the_group_goes_with_the_build() {
    let test = "processes_are_limited_and_the_group_goes_with_the_build";
    if !has_controller(test, "pids") {
        return;
    }
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\nRUN while :; do sleep 1000 & done\n");
    let mut command = space.command(["build", "--pids-limit", "64", "ctx"]);
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().expect("croze starts");
    let pid = child.id();
    let run = Run::of(child.wait_with_output().expect("croze ends"));
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("can't fork: Resource temporarily unavailable"), "{}", run.stderr);
    assert!(
        run.stderr.contains("= help: all commands of the build may have 64 processes at once (`--pids-limit`)"),
        "{}",
        run.stderr
    );
    assert_eq!(groups_left(pid), [""; 0].map(PathBuf::from));
}

#[test]
fn a_command_that_forks_without_end_meets_a_limit_that_nobody_asked_for() {
    let test = "a_command_that_forks_without_end_meets_a_limit_that_nobody_asked_for";
    let Some(most) = croze::sandbox::most_processes() else {
        println!("SKIP {test}: this kernel has one number of processes for all namespaces (Linux 6.14)");
        return;
    };
    let space = Space::with_busybox();
    let machine = fs::read_to_string("/proc/sys/kernel/pid_max").expect("a number");
    // what a shell says that has met it; meeting it takes gigabytes
    space.dockerfile("FROM busybox\nRUN echo \"sh: can't fork: Resource temporarily unavailable\" >&2; exit 2\n");
    let run = space.build(&[]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(
        run.stderr.contains(&format!("= help: a command may have {most} processes at once, threads included")),
        "{}",
        run.stderr
    );
    space.dockerfile("FROM busybox\nRUN cat /proc/sys/kernel/pid_max > /most\n");
    assert_eq!(fs::read_to_string(space.build_files(&[]).join("most")).expect("the limit").trim(), most.to_string());
    assert_eq!(fs::read_to_string("/proc/sys/kernel/pid_max").expect("a number"), machine, "the machine's own stays");
}

#[test]
fn processors_and_their_time_are_limited() {
    let test = "processors_and_their_time_are_limited";
    if !has_controller(test, "cpu") || !has_controller(test, "cpuset") {
        return;
    }
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\nRUN cat /proc/self/status | grep Cpus_allowed_list | cut -f 2 > /cpus; nproc > /count\n");
    let run = space.build(&[
        "-o",
        "out",
        "--cpuset-cpus=0",
        "--cpu-quota=50000",
        "--resource=cpu-shares=512",
        "-m=1g",
        "--memory-swap=-1",
    ]);
    assert!(!run.succeeds().stderr.contains("--cpu"), "all of it is in force");
    assert_eq!((space.read("out/cpus").trim(), space.read("out/count").trim()), ("0", "1"));
}

#[test]
fn limits_that_cannot_be_had_are_told_and_the_build_goes_on() {
    let test = "limits_that_cannot_be_had_are_told_and_the_build_goes_on";
    if !skip_unless(test, &["unshare"]) {
        return;
    }
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\nRUN true\n");
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-ec", "umount -R -l /sys/fs/cgroup; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_croze")]);
    command.args(["build", "--progress=plain", "-m", "1g", "--cpu-shares=2", "ctx"]);
    let run = run(command.current_dir(space.path(".")).env("CROZE_ROOT", space.path("store"))).succeeds();
    for line in [
        "`--memory` has no effect: this machine has no control groups for `memory`",
        "`--cpu-shares` has no effect: this machine has no control groups for `cpu`",
    ] {
        assert!(run.stderr.contains(line), "{}", run.stderr);
    }
}

#[test]
fn limits_that_make_no_sense_are_refused() {
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\nRUN true\n");
    space.build(&["--resource=cpu-quota=x", "--resource=cpus=2", "--resource=memory"]).fails(
        2,
        "error: invalid value for `--resource`: `cpus` is not one of `memory`, `memory-swap`, `cpu-shares`, `cpu-period`, \
         `cpu-quota`, `cpuset-cpus`, `cpuset-mems`\n\
         error: invalid value for `--resource`: `memory` is not of the form `NAME=VALUE`\n\
         error: invalid value for `--cpu-quota`: `x` is not a whole number\n",
    );
    space.build(&["-m", "much", "--pids-limit=few", "--memory-swap=1g"]).fails(
        2,
        "error: invalid value for `--memory`: `much` is not a size such as `64m`\n\
         error: `--memory-swap` is memory and swap space together: it takes a `--memory` that is not larger\n\
         error: invalid value for `--pids-limit`: `few` is not a whole number\n",
    );
}
