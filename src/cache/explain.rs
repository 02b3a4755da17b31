//! Why a step has another key than the one it is compared with; pure.
//!
//! A step that runs leaves a [`Description`]: the parts of its key as text, and the files that it selects. The next build that
//! has to run the same step compares its own description with that one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ListSink;
use super::states::{Changes, FileStates};
use crate::digest::{DiffId, Digest};

/// All that decided a step's key, in a form that people can be told about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The image below all steps: name and manifest.
    pub base: Option<(String, Digest)>,
    /// What the step starts from, bottom first.
    pub layers: Vec<DiffId>,
    /// The parts of its key but for the layers, in the key's order.
    pub parts: Vec<(String, String)>,
    /// The files that a copy selects: path, and what tells their states apart.
    pub files: FileStates,
}

impl Description {
    /// The description of a step whose key has these parts; the layers among them are told by `layers`.
    pub fn new(base: Option<(String, Digest)>, layers: Vec<DiffId>, parts: ListSink) -> Description {
        let parts = parts.0.into_iter().filter(|(name, _)| name != "layers" && name != "version").collect();
        Description { base, layers, parts, files: FileStates::default() }
    }
}

/// At most so many files are named.
const NAMED_FILES: usize = 5;
/// A value longer than this is cut.
const SHOWN_CHARS: usize = 60;

/// What differs, one sentence each, the nearest cause first. `maker` tells which step of this build made a layer.
pub fn differences(former: &Description, now: &Description, maker: impl Fn(&DiffId) -> Option<String>) -> Vec<String> {
    let mut told = Vec::new();
    files(former, now, &mut told);
    parts(&former.parts, &now.parts, &mut told);
    // a copy's key does not know what lies below it
    let starts_from_layers = now.parts.iter().any(|(name, value)| name == "op" && value == "exec");
    if starts_from_layers && former.layers != now.layers {
        told.push(layers(former, now, maker));
    }
    told
}

fn layers(former: &Description, now: &Description, maker: impl Fn(&DiffId) -> Option<String>) -> String {
    match (&former.base, &now.base) {
        (Some((old_name, old)), Some((name, new))) if old_name == name && old != new => {
            return format!("the base image `{name}` moved from {} to {}", short(old), short(new));
        }
        (Some((old, _)), Some((new, _))) if old != new => return format!("the base image was `{old}`, it is `{new}`"),
        (Some((old, _)), None) => return format!("the base image was `{old}`, there is none now"),
        (None, Some((new, _))) => return format!("the base image is `{new}`, there was none"),
        _ => {}
    }
    let same = former.layers.iter().zip(&now.layers).take_while(|(old, new)| old == new).count();
    match now.layers.get(same) {
        Some(layer) => match maker(layer) {
            Some(step) if former.layers.len() < now.layers.len() => format!("`{step}` comes before it now"),
            Some(step) => format!("`{step}`, before it, gave another layer"),
            None => "an image that it starts from has other layers".to_owned(),
        },
        None => "a step before it is gone".to_owned(),
    }
}

fn files(former: &Description, now: &Description, told: &mut Vec<String>) {
    let Changes { changed, new, gone, unknown } = former.files.changes(&now.files);
    let total = now.files.count();
    let of = if total == 1 { "1 file".to_owned() } else { format!("{} files", thousands(total)) };
    for (paths, what) in [(changed, "changed"), (new, "new"), (gone, "gone")] {
        if paths.is_empty() {
            continue;
        }
        let named: Vec<&str> = paths.iter().take(NAMED_FILES).map(|path| path.as_str()).collect();
        let more = paths.len() - named.len();
        let more = if more > 0 { format!(" and {} more", thousands(more)) } else { String::new() };
        let count = thousands(paths.len());
        let count = if what == "gone" { format!("{count} {what}") } else { format!("{count} of {of} {what}") };
        told.push(format!("{count}: {}{more}", named.join(", ")));
    }
    told.extend(unknown.iter().take(NAMED_FILES).map(|directory| format!("files in `{directory}/` changed")));
}

fn parts(former: &[(String, String)], now: &[(String, String)], told: &mut Vec<String>) {
    let values = |parts: &[(String, String)], wanted: &str| -> Vec<String> {
        parts.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value.clone()).collect()
    };
    let (old, new) = (values(former, "argument"), values(now, "argument"));
    if old != new {
        told.push(words(&old.join(" "), &new.join(" ")));
    }
    variables(&values(former, "env"), &values(now, "env"), told);
    mounts(former, now, told);
    for (name, words) in [
        ("cwd", "the working directory"),
        ("user", "the user"),
        ("platform", "the platform"),
        ("network", "the network"),
        ("security", "the security mode"),
        ("hostname", "the host name"),
        ("extra host", "a line of `/etc/hosts`"),
        ("shm size", "the size of `/dev/shm`"),
        ("ulimit", "a limit"),
        ("op", "the operation"),
        ("destination", "the destination"),
        ("--chown", "`--chown`"),
        ("--chmod", "`--chmod`"),
        ("--exclude", "`--exclude`"),
    ] {
        let (old, new) = (values(former, name), values(now, name));
        if old != new {
            let text = |values: &[String]| match values {
                [] => "nothing".to_owned(),
                values => format!("`{}`", cut(&values.join(" "))),
            };
            told.push(format!("{words} was {}, it is {}", text(&old), text(&new)));
        }
    }
    if values(former, "script") != values(now, "script") {
        told.push("the script in the here-document changed".to_owned());
    }
    // the digest of all that decides a copy: the rest of it is the directories
    if told.is_empty() && values(former, "content") != values(now, "content") {
        told.push("directories that it copies, or that it finds at its destination, have another mode or owner".to_owned());
    }
}

/// The words in which two commands differ.
fn words(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.split_whitespace().collect(), new.split_whitespace().collect());
    let start = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let (old_rest, new_rest) = (&old[start..], &new[start..]);
    let end = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(|(old, new)| old == new).count();
    let (old, new) = (&old_rest[..old_rest.len() - end], &new_rest[..new_rest.len() - end]);
    match (old, new) {
        ([], []) => "the command has other blanks".to_owned(),
        ([], new) => format!("the command has `{}` added", cut(&new.join(" "))),
        (old, []) => format!("the command has lost `{}`", cut(&old.join(" "))),
        (old, new) => format!("in the command, `{}` became `{}`", cut(&old.join(" ")), cut(&new.join(" "))),
    }
}

fn variables(old: &[String], new: &[String], told: &mut Vec<String>) {
    let split = |variables: &[String]| -> BTreeMap<String, String> {
        let pair = |text: &String| text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        variables.iter().filter_map(pair).collect()
    };
    let (before, after) = (split(old), split(new));
    let sizes = (told.len(), before.len());
    for (name, value) in &after {
        match before.get(name) {
            Some(former) if former != value => {
                told.push(format!("the argument or variable `{name}` was `{}`, it is `{}`", cut(former), cut(value)));
            }
            Some(_) => {}
            None => told.push(format!("the argument or variable `{name}` is new: `{}`", cut(value))),
        }
    }
    told.extend(
        before.keys().filter(|name| !after.contains_key(*name)).map(|name| format!("the argument or variable `{name}` is gone")),
    );
    if old != new && (told.len(), before.len()) == sizes {
        told.push("the variables have another order".to_owned());
    }
}

fn mounts(former: &[(String, String)], now: &[(String, String)], told: &mut Vec<String>) {
    let split = |parts: &[(String, String)]| -> BTreeMap<String, Vec<(String, String)>> {
        let mut mounts: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
        let mut target = None;
        // the parts of a mount follow its target, and nothing follows the mounts
        for (name, value) in parts {
            match (name.as_str(), &target) {
                ("mount", _) => {
                    mounts.entry(value.clone()).or_default();
                    target = Some(value.clone());
                }
                (_, Some(target)) => mounts.entry(target.clone()).or_default().push((name.clone(), value.clone())),
                (_, None) => {}
            }
        }
        mounts
    };
    let (before, after) = (split(former), split(now));
    let part = |wanted: &str, parts: &[(String, String)]| parts.iter().find(|(name, _)| name == wanted).cloned();
    let differs = |wanted: &str, old: &[(String, String)], new: &[(String, String)]| part(wanted, old) != part(wanted, new);
    for (target, parts) in &after {
        match before.get(target) {
            None => told.push(format!("the mount at `{target}` is new")),
            Some(old) if differs("secret value", old, parts) => told.push(format!("the secret mounted at `{target}` changed")),
            Some(old) if differs("bind content", old, parts) => told.push(format!("the files mounted at `{target}` changed")),
            Some(old) if differs("cache seed", old, parts) => {
                told.push(format!("the files that the cache mounted at `{target}` begins with changed"));
            }
            Some(old) if old != parts => told.push(format!("the options of the mount at `{target}` changed")),
            Some(_) => {}
        }
    }
    told.extend(
        before.keys().filter(|target| !after.contains_key(*target)).map(|target| format!("the mount at `{target}` is gone")),
    );
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

fn short(digest: &Digest) -> String {
    format!("sha256:{}", &digest.hex()[..12])
}

/// `4,120`.
fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).expect("digits")).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(parts: &[(&str, &str)]) -> Description {
        let parts = [("op", "exec")].iter().chain(parts).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Description { parts: parts.collect(), ..Description::default() }
    }

    #[track_caller]
    fn check(former: &[(&str, &str)], now: &[(&str, &str)], expected: &[&str]) {
        assert_eq!(differences(&described(former), &described(now), |_| None), expected);
    }

    #[test]
    fn commands_differ_in_words() {
        let command = |text: &'static str| [("argument", "/bin/sh"), ("argument", "-c"), ("argument", text)];
        check(&command("make -j2 all"), &command("make -j4 all"), &["in the command, `-j2` became `-j4`"]);
        check(&command("make"), &command("make all"), &["the command has `all` added"]);
        check(&command("make all"), &command("make"), &["the command has lost `all`"]);
        check(&command("make  all"), &command("make all"), &["the command has other blanks"]);
    }

    #[test]
    fn variables_differ_by_name() {
        check(
            &[("env", "A=1"), ("env", "B=1")],
            &[("env", "A=2"), ("env", "C=3")],
            &[
                "the argument or variable `A` was `1`, it is `2`",
                "the argument or variable `C` is new: `3`",
                "the argument or variable `B` is gone",
            ],
        );
        check(&[("env", "A=1"), ("env", "B=1")], &[("env", "B=1"), ("env", "A=1")], &["the variables have another order"]);
    }

    #[test]
    fn mounts_differ_by_target() {
        let bind = |content: &'static str| [("mount", "/src"), ("bind", "ro"), ("bind content", content)];
        check(&bind("a"), &bind("b"), &["the files mounted at `/src` changed"]);
        check(
            &bind("a"),
            &[("mount", "/src"), ("bind", "rw"), ("bind content", "a")],
            &["the options of the mount at `/src` changed"],
        );
        check(&bind("a"), &[("mount", "/x"), ("cache", "")], &["the mount at `/x` is new", "the mount at `/src` is gone"]);
    }

    #[test]
    fn everything_else_is_told_by_its_name() {
        check(&[("cwd", "/"), ("user", "")], &[("cwd", "/w"), ("user", "")], &["the working directory was `/`, it is `/w`"]);
        check(&[], &[("hostname", "h")], &["the host name was nothing, it is `h`"]);
        check(&[("script", "a")], &[("script", "b")], &["the script in the here-document changed"]);
    }

    #[test]
    fn files_are_counted_and_named() {
        let with = |files: &[(&str, u64)]| Description {
            files: FileStates::collect(files.iter().map(|(path, state)| (path.as_bytes(), *state))),
            ..Description::default()
        };
        let now = with(&[("a", 1), ("b", 2), ("c", 3)]);
        let told = differences(&with(&[("a", 1), ("b", 9), ("d", 4)]), &now, |_| None);
        assert_eq!(told, ["1 of 3 files changed: b", "1 of 3 files new: c", "1 gone: d"]);
        let many: Vec<String> = (0..4120).map(|number| format!("{number:04}")).collect();
        let all = |state| with(&many.iter().map(|path| (path.as_str(), state)).collect::<Vec<_>>());
        let told = differences(&all(1), &all(2), |_| None);
        assert_eq!(told, ["4,120 of 4,120 files changed: 0000, 0001, 0002, 0003, 0004 and 4,115 more"]);
    }

    #[test]
    fn what_lies_below_is_told_by_its_maker() {
        let layer = |text: &str| DiffId(Digest::of(text.as_bytes()));
        let on = |base: &str, layers: &[&str]| Description {
            base: Some(("busybox".to_owned(), Digest::of(base.as_bytes()))),
            layers: layers.iter().map(|text| layer(text)).collect(),
            ..described(&[])
        };
        let maker = |found: &DiffId| (*found == layer("new")).then(|| "COPY . .".to_owned());
        let told = |former: Description, now: Description| differences(&former, &now, maker);
        assert_eq!(told(on("1", &["b", "old"]), on("1", &["b", "new"])), ["`COPY . .`, before it, gave another layer"]);
        assert_eq!(told(on("1", &["b"]), on("1", &["b", "new"])), ["`COPY . .` comes before it now"]);
        assert_eq!(told(on("1", &["b", "old"]), on("1", &["b"])), ["a step before it is gone"]);
        let moved = format!("the base image `busybox` moved from {} to {}", short(&Digest::of(b"1")), short(&Digest::of(b"2")));
        assert_eq!(told(on("1", &["a"]), on("2", &["b"])), [moved]);
    }
}
