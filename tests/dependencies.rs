//! Checks the crates that end up in the binary: licences, how many there are, and that building them takes a C compiler
//! and nothing else. The lists are `deny.toml`'s, so that `cargo deny` and this test agree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// More crates than this take too long to read and to build.
const MOST_CRATES: usize = 150;

#[test]
fn licences_are_allowed() {
    let allowed = words_of("[licenses]", "allow = [");
    for package in shipped_packages() {
        let licence = package["license"].as_str().unwrap_or("none");
        assert!(is_allowed(licence, &allowed), "{} has the licence `{licence}`, which deny.toml does not allow", package["name"]);
    }
}

#[test]
fn a_c_compiler_is_enough() {
    let banned = words_of("[bans]", "deny = [");
    assert!(banned.contains("openssl-sys"), "deny.toml was not understood: {banned:?}");
    for package in shipped_packages() {
        let name = package["name"].as_str().expect("packages have names");
        assert!(!banned.contains(name), "`{name}` is banned in deny.toml; choose a crate or feature that does without");
    }
}

#[test]
fn there_are_not_too_many() {
    let count = shipped_packages().len();
    assert!(count <= MOST_CRATES, "{count} crates in the binary, at most {MOST_CRATES} are wanted");
}

/// Packages reachable from croze by normal and build dependencies on Linux.
fn shipped_packages() -> Vec<Value> {
    let arguments =
        ["metadata", "--format-version", "1", "--offline", "--locked", "--filter-platform", "x86_64-unknown-linux-musl"];
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(root).output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let nodes: BTreeMap<String, Vec<Value>> =
        list(&metadata["resolve"]["nodes"]).iter().map(|node| (node["id"].to_string(), list(&node["deps"]))).collect();
    let mut wanted = vec![metadata["resolve"]["root"].to_string()];
    let mut reached = BTreeSet::new();
    while let Some(id) = wanted.pop() {
        let dependencies = nodes.get(&id).into_iter().flatten();
        let shipped = dependencies.filter(|dependency| list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"] != "dev"));
        let next: Vec<String> = shipped.map(|dependency| dependency["pkg"].to_string()).collect();
        if reached.insert(id) {
            wanted.extend(next);
        }
    }
    list(&metadata["packages"]).into_iter().filter(|package| reached.contains(&package["id"].to_string())).collect()
}

/// The quoted words of a list in deny.toml, of `name = "…"` members where it holds tables.
fn words_of(section: &str, list: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deny.toml")).expect("deny.toml is readable");
    let after = text.split_once(section).and_then(|(_, after)| after.split_once(list)).expect("deny.toml has the list").1;
    let body = after.split_once(']').expect("the list ends").0;
    body.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Whether an SPDX expression can be met: all parts joined by `AND`, one of those joined by `OR` (or `/`, the old form).
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let plain = expression.replace(['(', ')'], "").replace('/', " OR ");
    let all = |part: &str| part.split(" OR ").any(|licence| allowed.contains(licence.trim()));
    plain.split(" AND ").all(all)
}

#[test]
fn expressions_are_met_by_their_parts() {
    let allowed: BTreeSet<String> = ["MIT".to_owned(), "ISC".to_owned()].into();
    for (expression, expected) in
        [("MIT", true), ("GPL-3.0 OR MIT", true), ("GPL-3.0/MIT", true), ("GPL-3.0 AND MIT", false), ("(MIT OR X) AND ISC", true)]
    {
        assert_eq!(is_allowed(expression, &allowed), expected, "{expression}");
    }
}
