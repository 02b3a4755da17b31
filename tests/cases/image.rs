//! An image as text that people read: its configuration, its history, and its file tree.
//!
//! The reader is independent of what croze itself has for images: it takes an OCI layout apart with `tar` and `serde_json`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use serde_json::Value;

/// All paths of an image, `/` included, by their bytes.
pub struct Tree {
    entries: BTreeMap<Vec<u8>, Entry>,
    /// The first layer's `diff_id`, if there is a layer.
    base: Option<String>,
}

#[derive(Clone, PartialEq)]
struct Entry {
    kind: Kind,
    mode: u32,
    owner: (u64, u64),
    xattrs: BTreeMap<String, Vec<u8>>,
    /// Paths with one number are one file.
    number: usize,
}

#[derive(Clone, PartialEq)]
enum Kind {
    Directory,
    File(Vec<u8>),
    Link(Vec<u8>),
    Device(char, u32, u32),
    Fifo,
}

/// The one image of a layout as lines.
///
/// First the configuration: a line per member of `config`, per variable, label, port and volume; then the history, then the
/// tree, without what is as in `busybox` if the image is based on it (what is missing of that is `gone`). Short texts are shown,
/// other files by size and the begin of their SHA-256.
pub fn describe(layout: &Path, busybox: &Tree) -> String {
    let config = config(layout);
    let mut out = String::new();
    if config["architecture"] != machine() || config["os"] != "linux" {
        writeln!(out, "platform {}", [&config["os"], &config["architecture"], &config["variant"]].map(word).join("/"))
            .expect(TEXT);
    }
    if let Some(author) = config.get("author") {
        writeln!(out, "author {author}").expect(TEXT);
    }
    for (key, value) in config["config"].as_object().into_iter().flatten() {
        match value {
            Value::Array(items) if key == "Env" || key == "OnBuild" => {
                items.iter().for_each(|item| writeln!(out, "{key} {item}").expect(TEXT));
            }
            Value::Object(members) if key != "Healthcheck" => {
                members.iter().for_each(|(name, item)| writeln!(out, "{key} {name:?} {item}").expect(TEXT));
            }
            value => writeln!(out, "{key} {value}").expect(TEXT),
        }
    }
    for entry in config["history"].as_array().into_iter().flatten() {
        let layer = if entry["empty_layer"] == true { "-" } else { "layer" };
        writeln!(out, "history {layer} {}", entry["created_by"]).expect(TEXT);
    }
    Tree::of_image(layout).write(&mut out, busybox);
    out
}

const TEXT: &str = "strings take all";

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

/// This machine's architecture in the words of OCI.
fn machine() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Tree {
    /// Reads the layers of a layout's one image, the later ones over the earlier ones.
    pub fn of_image(layout: &Path) -> Tree {
        let config = config(layout);
        let base = config["rootfs"]["diff_ids"][0].as_str().map(str::to_owned);
        let root = Entry { kind: Kind::Directory, mode: 0o755, owner: (0, 0), xattrs: BTreeMap::new(), number: 0 };
        let mut tree = Tree { entries: BTreeMap::from([(Vec::new(), root)]), base };
        for layer in manifest(layout)["layers"].as_array().expect("an array") {
            tree.apply(File::open(blob(layout, layer)).expect("the layer is there"));
        }
        tree
    }

    fn apply(&mut self, layer: File) {
        let mut archive = tar::Archive::new(layer);
        let mut written = BTreeSet::new();
        for entry in archive.entries().expect("a tar") {
            let mut entry = entry.expect("a tar entry");
            let path = clean(&entry.path_bytes());
            let (parent, name) = split(&path);
            if name == b".wh..wh..opq" {
                self.remove_below(parent, &written);
            } else if let Some(gone) = name.strip_prefix(b".wh.") {
                let gone = join(parent, gone);
                self.remove_below(&gone, &written);
                self.entries.remove(&gone);
            } else {
                let read = self.read_entry(&mut entry);
                if read.kind != Kind::Directory {
                    self.remove_below(&path, &BTreeSet::new());
                }
                self.entries.insert(path.clone(), read);
                written.insert(path);
            }
        }
    }

    fn read_entry(&self, entry: &mut tar::Entry<'_, File>) -> Entry {
        let mut xattrs = BTreeMap::new();
        for extension in entry.pax_extensions().expect("extensions").into_iter().flatten() {
            let extension = extension.expect("an extension");
            if let Some(name) = extension.key().expect("text").strip_prefix("SCHILY.xattr.") {
                xattrs.insert(name.to_owned(), extension.value_bytes().to_owned());
            }
        }
        let header = entry.header().clone();
        let link = entry.link_name_bytes().map(|name| name.into_owned()).unwrap_or_default();
        let device = |letter| {
            let number = |part: std::io::Result<Option<u32>>| part.expect("a number").expect("devices have numbers");
            Kind::Device(letter, number(header.device_major()), number(header.device_minor()))
        };
        let kind = match header.entry_type() {
            tar::EntryType::Directory => Kind::Directory,
            tar::EntryType::Symlink => Kind::Link(link),
            tar::EntryType::Link => return self.entries.get(&clean(&link)).expect("what a hard link names came before").clone(),
            tar::EntryType::Char => device('c'),
            tar::EntryType::Block => device('b'),
            tar::EntryType::Fifo => Kind::Fifo,
            _ => {
                let mut content = Vec::new();
                entry.read_to_end(&mut content).expect("reads");
                Kind::File(content)
            }
        };
        let owner = (header.uid().expect("a number"), header.gid().expect("a number"));
        static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(1);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Entry { kind, mode: header.mode().expect("a number") & 0o7777, owner, xattrs, number }
    }

    /// Removes all below a directory but what this layer itself has written.
    fn remove_below(&mut self, directory: &[u8], but: &BTreeSet<Vec<u8>>) {
        let prefix = [directory, b"/"].concat();
        let is_below = |path: &[u8]| directory.is_empty() && !path.is_empty() || path.starts_with(&prefix);
        self.entries.retain(|path, _| !is_below(path) || but.contains(path));
    }

    fn write(&self, out: &mut String, busybox: &Tree) {
        let without = |path: &[u8]| busybox.entries.get(path).filter(|_| self.base.is_some() && self.base == busybox.base);
        let mut first_paths: BTreeMap<usize, &[u8]> = BTreeMap::new();
        for (path, entry) in &self.entries {
            let first = *first_paths.entry(entry.number).or_insert(path);
            if without(path).is_some_and(|known| known.looks_like(entry)) || path.is_empty() && entry.is_plain_root() {
                continue;
            }
            write!(out, "{}/{}", entry.mode_and_owner(), path.escape_ascii()).expect(TEXT);
            match &entry.kind {
                _ if first != path.as_slice() => write!(out, " = /{}", first.escape_ascii()).expect(TEXT),
                Kind::Directory | Kind::Fifo => {}
                Kind::File(content) => write!(out, " {}", shown(content, busybox)).expect(TEXT),
                Kind::Link(target) => write!(out, " -> {}", target.escape_ascii()).expect(TEXT),
                Kind::Device(_, major, minor) => write!(out, " {major}:{minor}").expect(TEXT),
            }
            for (name, value) in &entry.xattrs {
                write!(out, " {name}={}", value.escape_ascii()).expect(TEXT);
            }
            out.push('\n');
        }
        for path in busybox.entries.keys().filter(|path| without(path).is_some() && !self.entries.contains_key(*path)) {
            writeln!(out, "gone /{}", path.escape_ascii()).expect(TEXT);
        }
    }
}

impl Entry {
    /// Equal but for its number.
    fn looks_like(&self, other: &Entry) -> bool {
        Entry { number: 0, ..self.clone() } == Entry { number: 0, ..other.clone() }
    }

    fn is_plain_root(&self) -> bool {
        self.mode == 0o755 && self.owner == (0, 0)
    }

    /// `-rw-r--r-- 0:0 `, with the letters of `ls`.
    fn mode_and_owner(&self) -> String {
        let kind = match self.kind {
            Kind::Directory => 'd',
            Kind::File(_) => '-',
            Kind::Link(_) => return format!("lrwxrwxrwx {}:{} ", self.owner.0, self.owner.1), // its mode means nothing
            Kind::Device(letter, ..) => letter,
            Kind::Fifo => 'p',
        };
        let mut letters = vec![kind];
        for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
            let bits = self.mode >> shift;
            letters.push(if bits & 4 != 0 { 'r' } else { '-' });
            letters.push(if bits & 2 != 0 { 'w' } else { '-' });
            letters.push(match (self.mode & special != 0, bits & 1 != 0) {
                (false, false) => '-',
                (false, true) => 'x',
                (true, false) => letter.to_ascii_uppercase(),
                (true, true) => letter,
            });
        }
        format!("{} {}:{} ", letters.iter().collect::<String>(), self.owner.0, self.owner.1)
    }
}

/// A file's content: as text if it is short, by name if it is busybox (whose bytes depend on the machine), else by digest.
fn shown(content: &[u8], busybox: &Tree) -> String {
    let is_busybox = busybox.entries.get(b"bin/busybox".as_slice()).is_some_and(|entry| match &entry.kind {
        Kind::File(program) => program == content,
        _ => false,
    });
    match std::str::from_utf8(content) {
        _ if is_busybox => "busybox".to_owned(),
        Ok(text) if text.len() <= 4096 => format!("{text:?}"),
        _ => format!("{} bytes {}", content.len(), &croze::digest::Digest::of(content).short()),
    }
}

fn config(layout: &Path) -> Value {
    json(&blob(layout, &manifest(layout)["config"]))
}

fn manifest(layout: &Path) -> Value {
    json(&blob(layout, &json(&layout.join("index.json"))["manifests"][0]))
}

fn blob(layout: &Path, descriptor: &Value) -> std::path::PathBuf {
    let digest = descriptor["digest"].as_str().expect("a digest");
    layout.join("blobs").join(digest.replace(':', "/"))
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("the file is there")).expect("JSON")
}

fn clean(path: &[u8]) -> Vec<u8> {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    parts.collect::<Vec<_>>().join(b"/".as_slice())
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    match parent {
        [] => name.to_vec(),
        parent => [parent, b"/", name].concat(),
    }
}
