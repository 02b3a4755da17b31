//! Full disks: one message that names the file system, nothing half-written, and a store that works once there is space.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::common::{Space, run};
use super::{REPRODUCIBLE, names, number};

/// A file system of its own at `small` in a space.
struct Small {
    place: PathBuf,
}

impl Small {
    fn mount(space: &Space, options: &str) -> Small {
        let place = space.path("small");
        fs::create_dir_all(&place).expect("a directory");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(&place)).succeeds();
        Small { place }
    }

    fn grow(&self) {
        run(Command::new("mount").args(["-o", "remount,size=256m"]).arg(&self.place)).succeeds();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        run(Command::new("umount").arg("-l").arg(&self.place));
    }
}

/// A store with busybox on a file system of 12 MB.
fn small_store(space: &Space) -> Small {
    let small = Small::mount(space, "size=12m");
    space.croze(["import", super::common::busybox_tar(), "busybox:latest", "--root", "small/store"]).succeeds();
    small
}

fn build(space: &Space) -> super::common::Run {
    space.build(&["--root", "small/store"])
}

/// Nothing is left of a failed build but the store as it was.
#[track_caller]
fn nothing_half_written(space: &Space) {
    for directory in ["tmp", "trash", "locks"] {
        assert_eq!(names(&space.path("small/store").join(directory)), [""; 0], "{directory}");
    }
    assert_eq!(names(&space.path("small/store/layers")).len(), 1);
}

#[test]
fn a_copy_that_does_not_fit() {
    // a layer that nothing reads is written as one tar, another file by file
    for (goes_on, fails_at) in [("", "write the layer"), ("RUN true\n", "create `/big`")] {
        let space = Space::new();
        let small = small_store(&space);
        space.dockerfile(&format!("FROM busybox\nCOPY big /\n{goes_on}")).write("ctx/big", vec![7; 30 << 20]);
        build(&space).fails(
            5,
            &format!(
                "error: no space left on the file system of the store `{}`\n \
                 --> Dockerfile:2:1\n  |\n\
                 2 | COPY big /\n  \
                 | ^^^^^^^^^^\n  |\n  \
                 = note: cannot {fails_at}\n  \
                 = note: no space left on device\n  \
                 = help: free space there, or name another store with `--root DIR`",
                space.text_path("small/store")
            ),
        );
        nothing_half_written(&space);
        small.grow();
        build(&space).succeeds();
    }
}

#[test]
fn a_command_that_fills_the_disk() {
    let space = Space::new();
    let small = small_store(&space);
    space.dockerfile("FROM busybox\nRUN cat /dev/zero > /big\n");
    build(&space).fails(
        5,
        &format!(
            "error: no space left on the file system of the store `{}`\n \
             --> Dockerfile:2:1\n  |\n\
             2 | RUN cat /dev/zero > /big\n  \
             | ^^^^^^^^^^^^^^^^^^^^^^^^\n  |\n  \
             = note: `RUN` did not complete successfully: exit code 1\n  \
             = note: the last lines of its output:\n          \
             cat: write error: No space left on device\n  \
             = help: free space there, or name another store with `--root DIR`",
            space.text_path("small/store")
        ),
    );
    nothing_half_written(&space);
    small.grow();
    space.dockerfile("FROM busybox\nRUN head -c 30000000 /dev/zero > /big\n");
    build(&space).succeeds();
}

#[test]
fn a_command_that_hides_why_it_failed() {
    let space = Space::new();
    let _small = small_store(&space);
    space.dockerfile("FROM busybox\nRUN cat /dev/zero > /big 2> /dev/null\n");
    let run = build(&space);
    assert_eq!(run.code, Some(5), "{}", run.stderr);
    nothing_half_written(&space);
}

#[test]
fn a_command_that_fills_a_disk_of_its_own() {
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\nRUN --mount=type=tmpfs,size=65536,target=/t head -c 100000 /dev/zero > /t/big\n");
    let run = space.build(&[]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("error: `RUN` did not complete successfully: exit code 1\n"), "{}", run.stderr);
}

#[test]
fn an_output_that_does_not_fit() {
    let space = Space::with_busybox();
    let small = Small::mount(&space, "size=1m");
    space.dockerfile("FROM busybox\nRUN head -c 3000000 /dev/urandom > /big\n").write("small/image.tar", "former");
    let output = format!("type=oci,dest={}", space.text_path("small/image.tar"));
    space.build(&["-o", &output]).fails(
        5,
        &format!(
            "error: no space left on the file system of `{0}`\n |\n \
             = note: cannot write `{0}`\n \
             = note: no space left on device\n \
             = help: free space there, or name another destination",
            space.text_path("small/image.tar")
        ),
    );
    assert_eq!(names(&space.path("small")), ["image.tar"]);
    assert_eq!(space.read("small/image.tar"), "former");
    small.grow();
    space.build(&["-o", &output]).succeeds();
    assert_eq!(names(&space.path("small")), ["image.tar"]);
}

#[test]
fn a_file_system_that_has_no_room_for_a_store() {
    let space = Space::new();
    let _small = Small::mount(&space, "nr_inodes=3");
    space.dockerfile("FROM scratch\n");
    build(&space).fails(
        5,
        &format!(
            "error: no space left on the file system of the store `{0}`\n |\n \
             = note: cannot create `{0}/blobs/sha256`\n \
             = note: no space left on device\n \
             = help: free space there, or name another store with `--root DIR`",
            space.text_path("small/store")
        ),
    );
}

#[test]
fn a_disk_that_is_full_already() {
    let space = Space::new();
    let small = small_store(&space);
    space.dockerfile("FROM busybox\nWORKDIR /a\nRUN echo > b\n");
    // as much as fits
    let filled = run(Command::new("dd").args(["if=/dev/zero", "bs=4k"]).arg(format!("of={}", space.text_path("small/fill"))));
    assert_ne!(filled.code, Some(0));
    let run = build(&space);
    assert_eq!(run.code, Some(5), "{}", run.stderr);
    let first = run.stderr.lines().find(|line| line.starts_with("error"));
    let expected = format!("error: no space left on the file system of the store `{}`", space.text_path("small/store"));
    assert_eq!(first, Some(expected.as_str()), "{}", run.stderr);
    nothing_half_written(&space);
    fs::remove_file(space.path("small/fill")).expect("removed");
    build(&space).succeeds();
    drop(small);
}

#[test]
fn a_disk_that_fills_at_any_moment() {
    let space = super::space();
    let expected = super::digest(&space);
    let flags = [&REPRODUCIBLE[..], &["--root", "small/store"]].concat();
    let small = Small::mount(&space, "size=256m");
    let import = || {
        space.croze(["import", super::common::busybox_tar(), "busybox:latest", "--root", "small/store"]).succeeds();
    };
    let used_kib = || {
        let stat = run(Command::new("df").args(["--output=used", "-k"]).arg(&small.place)).succeeds().stdout;
        stat.lines().last().and_then(|line| line.trim().parse::<u64>().ok()).expect("a number")
    };
    import();
    let before_kib = used_kib();
    space.build(&flags).succeeds();
    let need_kib = used_kib() - before_kib;
    let disks = number("CROZE_TEST_DISKS", 6);
    let mut full = 0;
    for disk in 0..disks {
        fs::remove_dir_all(space.path("small/store")).expect("removed");
        import();
        // in an order that is no order, since what a build leaves depends on when it stopped
        let room_kib = need_kib * (disk * 7 % disks) / disks;
        let size = format!("remount,size={}k", used_kib() + room_kib);
        run(Command::new("mount").args(["-o", &size]).arg(&small.place)).succeeds();
        let run = space.build(&flags);
        match run.code {
            Some(0) => {}
            Some(5) => {
                full += 1;
                let told = format!("error: no space left on the file system of the store `{}`", space.text_path("small/store"));
                assert!(run.stderr.contains(&told), "{room_kib} KiB: {}", run.stderr);
            }
            _ => panic!("{room_kib} KiB: {:?}, {}", run.code, run.stderr),
        }
        small.grow();
        space.build(&flags).succeeds();
        assert_eq!(space.read_json("meta.json")["containerimage.digest"], expected, "{room_kib} KiB");
        let fsck = space.croze(["fsck", "--root", "small/store"]).succeeds();
        assert!(fsck.stdout.contains("all sound"), "{room_kib} KiB: {}", fsck.stdout);
    }
    assert!(full * 2 > disks, "{full} of {disks} disks were full");
}
