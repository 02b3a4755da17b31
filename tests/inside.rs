//! What a command sees and may do, told by a program that looks from inside: the table of the README, beside the same program
//! under runc with the configuration that `runc spec` writes.
//!
//! `UPDATE=1 cargo test --test inside` writes the table anew.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{Run, Space, run, skip_unless};

/// Around the table in the README.
const BEGIN: &str = "<!-- what a command sees, by tests/inside.rs -->\n";
const END: &str = "<!-- end -->\n";

/// What runc leaves to settings of the kernel, so that machines differ.
const BY_SETTING: [&str; 5] = ["bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "virtual machine (AF_VSOCK)"];

/// Group, what was looked at, and what was found.
type Line = (String, String, String);

#[test]
fn the_readme_says_what_a_command_sees_and_may_do() {
    if !skip_unless("the_readme_says_what_a_command_sees_and_may_do", &["musl-gcc", "runc"]) {
        return;
    }
    let space = Space::with_busybox();
    fs::create_dir_all(space.path("ctx")).expect("a directory");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/inside/probe.c");
    run(Command::new("musl-gcc").args(["-static", "-O1", "-o"]).arg(space.path("ctx/probe")).arg(source)).succeeds();

    let ours = by_croze(&space);
    let theirs = by_runc(&space);
    let mut table = format!("{BEGIN}| | croze | runc |\n| --- | --- | --- |\n");
    for (group, what, found) in &ours {
        let other = theirs.iter().find(|(a, b, _)| (a, b) == (group, what)).map_or("", |(_, _, found)| found.as_str());
        let other = if BY_SETTING.contains(&what.as_str()) { "as the kernel is set" } else { other };
        let shown = |text: &str| if text.is_empty() { "none".to_owned() } else { text.to_owned() };
        table.push_str(&format!("| {group}: {what} | {} | {} |\n", shown(found), shown(other)));
    }
    table.push_str(END);

    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = fs::read_to_string(&readme).expect("the README");
    let begin = text.find(BEGIN).expect("the table begins");
    let end = begin + text[begin..].find(END).expect("the table ends") + END.len();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&readme, format!("{}{table}{}", &text[..begin], &text[end..])).expect("writes");
    } else {
        assert_eq!(text[begin..end], table, "the table in the README is not what a command sees: UPDATE=1 writes it anew");
    }
    // whatever else it says, these hold
    let found = |group: &str, what: &str| {
        ours.iter().find(|(a, b, _)| (a.as_str(), b.as_str()) == (group, what)).map(|(_, _, found)| found.as_str())
    };
    assert_eq!(found("capabilities", "CapEff"), Some("00000000a80425fb"));
    assert_eq!(found("descriptors", "numbers"), Some("0 1 2"));
    assert_eq!(found("processes", "numbers in /proc"), Some("1"));
    for (group, what, found) in ours.iter().filter(|(group, ..)| ["system calls", "writing"].contains(&group.as_str())) {
        assert!(found == "refused" || found == "absent", "{group} {what}: {found}");
    }
}

fn lines(text: &str) -> Vec<Line> {
    let line = |line: &str| {
        let mut fields = line.split('|').map(str::to_owned);
        Some((fields.next()?, fields.next()?, fields.next()?))
    };
    text.lines().filter_map(line).collect()
}

/// The exec form, so that nothing but the program is there; what it prints is the step's output.
fn by_croze(space: &Space) -> Vec<Line> {
    space.dockerfile("FROM busybox\nCOPY probe /probe\nRUN [\"/probe\"]\n");
    let run = space.build(&["--progress=plain"]).succeeds();
    let output = run.stderr.lines().filter(|line| line.contains('|')).filter_map(|line| line.splitn(3, ' ').nth(2));
    lines(&output.collect::<Vec<_>>().join("\n"))
}

fn by_runc(space: &Space) -> Vec<Line> {
    for directory in ["bundle/rootfs/dev", "bundle/rootfs/proc", "bundle/rootfs/sys"] {
        fs::create_dir_all(space.path(directory)).expect("a directory");
    }
    fs::copy(space.path("ctx/probe"), space.path("bundle/rootfs/probe")).expect("copies");
    run(Command::new("runc").arg("spec").current_dir(space.path("bundle"))).succeeds();
    let mut spec = space.read_json("bundle/config.json");
    spec["process"]["args"] = serde_json::json!(["/probe"]);
    spec["process"]["terminal"] = serde_json::json!(false);
    fs::write(space.path("bundle/config.json"), spec.to_string()).expect("writes");
    let mut command = Command::new("runc");
    command.arg("--root").arg(space.path("runc")).args(["run", "-b"]).arg(space.path("bundle"));
    let run: Run = run(command.arg(format!("croze-inside-{}", std::process::id()))).succeeds();
    lines(&run.stdout)
}
