//! Limits of a build's steps: the control group that `--cgroup-parent` names, and what a step hears of the kernel's kills.

mod common;

use std::fs;
use std::path::PathBuf;

use common::Space;

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
