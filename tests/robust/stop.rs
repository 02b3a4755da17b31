//! SIGINT, SIGTERM and failing steps: everything ends, soon, and nothing is left.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use super::common::Space;
use super::{all_end, mounts, names, processes_with, signal, start};

/// Waits for a process, which is given up after a minute.
#[track_caller]
fn end(child: &mut Child) -> ExitStatus {
    for _ in 0..6000 {
        if let Some(status) = child.try_wait().expect("a child") {
            return status;
        }
        thread::sleep(Duration::from_millis(10));
    }
    child.kill().expect("killed");
    panic!("it does not end");
}

/// Waits until `is_so`, at most a minute.
#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let came = (0..6000).any(|_| {
        thread::sleep(Duration::from_millis(10));
        is_so()
    });
    assert!(came, "{what}");
}

/// Waits until the process has taken SIGINT over.
#[track_caller]
fn answers_signals(child: &Child) {
    until("croze takes signals over", || {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).expect("it runs");
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("a kernel's status");
        u64::from_str_radix(caught.trim(), 16).expect("hexadecimal") & 1 << 1 != 0
    });
}

fn spawn(command: &mut Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("croze starts")
}

#[test]
fn an_interrupt_leaves_no_process_and_a_store_that_works() {
    let space = Space::with_busybox();
    let mark = format!("{}", 86_000 + std::process::id() % 1000);
    space.dockerfile(&format!(
        "FROM busybox AS user\nUSER 1000\nRUN echo up; sleep {mark}1\n\
         FROM busybox AS deaf\nRUN trap '' INT TERM HUP; sleep {mark}2 & echo up; sleep {mark}3\n\
         FROM busybox\nCOPY --from=user /bin/busybox /a\nCOPY --from=deaf /bin/busybox /b\n"
    ));
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let before = mounts(&space);
        let child = start(&space, &[]);
        // both commands run: three sleeps are there
        let sleeps = format!("sleep {mark}");
        for _ in 0..1000 {
            if processes_with(&sleeps).iter().filter(|line| line.starts_with("sleep")).count() >= 3 {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let status = std::process::Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill runs");
        assert!(status.success());
        let output = child.wait_with_output().expect("croze ends");
        assert_eq!(output.status.code(), Some(code));
        all_end(&sleeps);
        assert_eq!(mounts(&space), before);
    }
    space.dockerfile("FROM busybox\nRUN echo works > /works\n");
    space.build(&[]).succeeds();
}

#[test]
fn a_build_that_waits_for_its_input_can_be_interrupted() {
    let space = Space::new();
    let mut child = spawn(space.command(["build", "-"]).stdin(Stdio::piped()));
    answers_signals(&child);
    signal(&child, "INT");
    assert_eq!(end(&mut child).code(), Some(130));
}

#[test]
fn a_build_that_waits_for_a_locked_cache_can_be_interrupted() {
    let space = Space::with_busybox();
    let step = |text: &str| format!("FROM busybox\nRUN --mount=type=cache,target=/c,sharing=locked {text}\n");
    space.write("holder/Dockerfile", step("echo held; sleep 600")).write("waiter/Dockerfile", step("true"));
    let build = |context: &str| {
        let mut child = spawn(&mut space.command(["build", "--progress=plain", context]));
        let lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
        (child, lines)
    };
    let (mut holder, mut lines) = build("holder");
    assert!(lines.any(|line| line.ends_with(" held")));
    let (mut waiter, mut lines) = build("waiter");
    assert!(lines.any(|line| line.contains("RUN --mount")));
    for child in [&mut waiter, &mut holder] {
        signal(child, "INT");
        assert_eq!(end(child).code(), Some(130));
    }
}

#[test]
fn locked_caches_are_never_waited_for_in_a_circle() {
    let space = Space::with_busybox();
    let step = |name: &str, first: &str, second: &str| {
        format!(
            "FROM busybox AS {name}\nRUN --mount=type=cache,id={first},target=/c,sharing=locked \
             --mount=type=cache,id={second},target=/d,sharing=locked sleep 0.05; echo {name} > /{name}\n"
        )
    };
    let mut text = String::new();
    for number in 0..4 {
        text += &step(&format!("there{number}"), "one", "two");
        text += &step(&format!("back{number}"), "two", "one");
    }
    text += &step("twice", "one", "one");
    text += "FROM scratch\nCOPY --from=twice /twice /\n";
    for number in 0..4 {
        text += &format!("COPY --from=there{number} /there{number} /\nCOPY --from=back{number} /back{number} /\n");
    }
    space.dockerfile(&text);
    assert!(end(&mut start(&space, &[])).success());
}

#[test]
fn an_export_that_nobody_reads_can_be_interrupted() {
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\n");
    assert!(Command::new("mkfifo").arg(space.path("pipe")).status().expect("mkfifo starts").success());
    let mut child = spawn(&mut space.command(["build", "-o", "type=oci,dest=pipe", "ctx"]));
    // the rest is more than a pipe takes
    let mut pipe = fs::File::open(space.path("pipe")).expect("opened when croze has opened it");
    pipe.read_exact(&mut [0]).expect("the image begins");
    signal(&child, "TERM");
    assert_eq!(end(&mut child).code(), Some(143));
}

#[test]
fn a_fetch_from_a_silent_server_ends_with_its_programs() {
    let space = Space::with_busybox();
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let host = server.local_addr().expect("an address").to_string();
    space.dockerfile(&format!("FROM busybox\nADD http://{host}/file /\n"));
    space.write("pull/Dockerfile", format!("FROM {host}/image\n"));
    for context in [format!("http://{host}/repository.git"), "ctx".to_owned(), "pull".to_owned()] {
        let mut child = spawn(&mut space.command(["build", &context]));
        let _connection = server.accept().expect("somebody asks");
        signal(&child, "INT");
        assert_eq!(end(&mut child).code(), Some(130), "{context}");
    }
    all_end(&format!("{host}/repository"));
}

#[test]
fn a_failing_step_ends_the_others() {
    let space = Space::with_busybox();
    let mark = format!("{}", 87_000 + std::process::id() % 1000);
    space.dockerfile(&format!(
        "FROM busybox AS long\nRUN --mount=type=cache,target=/meet trap '' TERM; touch /meet/up; sleep {mark}4\n\
         FROM busybox AS bad\nRUN --mount=type=cache,target=/meet until [ -e /meet/up ]; do sleep 0.01; done; exit 3\n\
         FROM busybox\nCOPY --from=long /bin/busybox /a\nCOPY --from=bad /bin/busybox /b\n"
    ));
    let run = space.build(&["--progress=plain"]).fails(
        1,
        "error: `RUN` did not complete successfully: exit code 3\n \
         --> Dockerfile:4:1\n  |\n\
         4 | RUN --mount=type=cache,target=/meet until [ -e /meet/up ]; do sleep 0.01; done; exit 3\n  \
         | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^\n  |\n  \
         = note: in stage `bad`",
    );
    assert_eq!(run.count("CANCELED"), 1, "{}", run.stderr);
    all_end(&format!("sleep {mark}4"));
    assert_eq!(names(&space.path("store/tmp")), [""; 0]);
}

#[test]
fn a_reader_who_stands_still_does_not_keep_a_build_from_ending() {
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\nRUN yes\n");
    let mut child = spawn(&mut space.command(["build", "--progress=plain", "ctx"]));
    let pipe = child.stderr.take().expect("piped");
    until("the pipe is full", || rustix::io::ioctl_fionread(pipe.as_fd()).expect("a pipe") >= 60_000);
    signal(&child, "INT");
    assert_eq!(end(&mut child).code(), Some(130));
}

#[test]
fn a_killed_terminal_does_not_fail_a_build() {
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\nRUN seq 100000\n");
    let mut child = spawn(space.command(["build", "--progress=plain", "-"]).stdin(Stdio::piped()));
    drop(child.stderr.take());
    child.stdin.take().expect("piped").write_all(space.read("ctx/Dockerfile").as_bytes()).expect("croze reads");
    assert!(end(&mut child).success());
}
