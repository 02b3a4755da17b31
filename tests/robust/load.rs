//! Much of everything: steps, layers, files, output.

use std::fmt::Write;
use std::fs;
use std::io::Read;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use super::common::Space;

#[test]
fn a_limit_of_steps_at_once_holds_for_three_hundred() {
    let space = Space::with_busybox();
    // a step counts those that run with it by the files they leave for as long
    let mut text = "FROM busybox AS base\n".to_owned();
    let mut copies = String::new();
    for number in 0..300 {
        write!(
            text,
            "FROM base AS s{number}\nRUN --mount=type=cache,target=/c : > /c/{number}; ls /c | wc -l > /n{number}; rm /c/{number}\n"
        )
        .expect("text");
        writeln!(copies, "COPY --from=s{number} /n{number} /").expect("text");
    }
    space.dockerfile(&format!("{text}FROM scratch\n{copies}"));
    let out = space.build_files(&["--max-parallelism", "4"]);
    let count =
        |number: i32| fs::read_to_string(out.join(format!("n{number}"))).expect("a count").trim().parse().expect("a number");
    let most: u32 = (0..300).map(count).max().expect("some");
    assert!((1..=4).contains(&most), "{most}");
}

#[test]
fn a_chain_of_many_layers_is_seen_whole() {
    let space = Space::with_busybox();
    let steps: String = (0..140).map(|number| format!("RUN echo {number} > /f{number}\n")).collect();
    space.dockerfile(&format!("FROM busybox\n{steps}RUN ls / | grep -c '^f[0-9]' > /count\n"));
    let out = space.build_files(&[]);
    assert_eq!(fs::read_to_string(out.join("count")).expect("the count"), "140\n");
}

#[test]
fn a_command_may_leave_a_daemon_that_holds_its_output() {
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\nRUN (while :; do sleep 1; done) & echo started\n");
    let run = space.build(&["--progress=plain"]).succeeds();
    assert!(run.stderr.contains(" started\n"), "{}", run.stderr);
}

#[test]
fn a_directory_of_many_files_is_copied_and_known_again() {
    const FILES: usize = 20_000;
    let space = Space::with_busybox();
    fs::create_dir_all(space.path("ctx/many")).expect("a directory");
    for number in 0..FILES {
        fs::write(space.path("ctx/many").join(number.to_string()), number.to_string()).expect("a file");
    }
    space.dockerfile("FROM busybox\nCOPY many /many\nRUN ls /many | wc -l > /count\n");
    let out = space.build_files(&[]);
    assert_eq!(fs::read_to_string(out.join("count")).expect("the count"), format!("{FILES}\n"));
    let again = space.build(&[]).succeeds();
    assert!(again.stderr.contains("all 2 steps cached"), "{}", again.stderr);
}

#[test]
fn a_deep_tree_is_copied_and_seen() {
    let space = Space::with_busybox();
    let deep: String = "/directory".repeat(300);
    space.write(&format!("ctx{deep}/file"), "deep\n");
    space.dockerfile(&format!("FROM busybox\nCOPY directory /directory\nRUN cat {deep}/file > /file\n"));
    let out = space.build_files(&[]);
    assert_eq!(fs::read_to_string(out.join("file")).expect("the file"), "deep\n");
}

#[test]
fn output_that_is_read_slowly_is_not_kept_in_memory() {
    const BYTES: usize = 40_000_000;
    let space = Space::with_busybox();
    space.dockerfile(&format!(
        "FROM busybox AS lines\nRUN yes | head -c {BYTES}; : > /lines\n\
         FROM busybox AS line\nRUN tr '\\0' x < /dev/zero | head -c {BYTES}; : > /line\n\
         FROM scratch\nCOPY --from=lines /lines /\nCOPY --from=line /line /\n"
    ));
    let mut command = space.command(["build", "--progress=plain", "ctx"]);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("croze starts");
    let mut pipe = child.stderr.take().expect("piped");
    let mut buffer = vec![0; 64 << 10];
    let (mut read, mut most_kib) = (0, 0);
    loop {
        let count = pipe.read(&mut buffer).expect("a pipe");
        if count == 0 {
            break;
        }
        read += count;
        // a reader who is much slower than the commands; how slow does not matter
        if most_kib == 0 && read > 100_000 {
            thread::sleep(Duration::from_millis(300));
        }
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).and_then(|text| text.split_whitespace().next());
        most_kib = peak.map_or(most_kib, |kib| kib.parse().expect("a number"));
    }
    assert!(child.wait().expect("croze ends").success());
    assert!(read > 2 * BYTES, "{read} bytes");
    assert!(most_kib < 64 << 10, "{most_kib} KiB");
}
