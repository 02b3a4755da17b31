//! The builder does without huge pages; what it runs must not inherit that.

mod common;

use common::Space;

#[test]
fn a_command_has_the_huge_pages_that_others_have() {
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\nRUN grep THP_enabled /proc/self/status > /pages || true\n");
    let ours = std::fs::read_to_string("/proc/self/status").expect("a status");
    let ours: String = ours.lines().filter(|line| line.starts_with("THP_enabled")).map(|line| format!("{line}\n")).collect();
    space.build_files(&[]);
    assert_eq!(space.read("out/pages"), ours);
}
