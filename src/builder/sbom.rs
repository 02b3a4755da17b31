//! What is in an image: the packages that its files tell of, as an SPDX document.
//!
//! Read are the databases of dpkg, apk and rpm, and the metadata of installed Python and Node.js packages; nothing of the image
//! is run. Source of the form: SPDX 2.3, JSON; of package URLs: purl-spec.

use std::collections::BTreeSet;
use std::io::Read;

use serde_json::{Value, json};

use crate::digest::Digest;
use crate::export::attestation::Claim;
use crate::snapshot::{FileKind, FileTree, Last, SnapshotError, TreePath, resolve};

mod berkeley;
mod ndb;
mod rpm;
mod sqlite;

/// A package as its manager names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Package {
    /// `deb`, `apk`, `rpm`, `pypi`, `npm`: the type of its package URL.
    manager: &'static str,
    /// Who made it, such as `debian`; empty for packages of languages.
    distribution: String,
    name: String,
    version: String,
    architecture: String,
    license: String,
}

impl Package {
    /// One of a language.
    fn of_language(manager: &'static str, name: String, version: String, license: String) -> Package {
        Package { manager, distribution: String::new(), name, version, architecture: String::new(), license }
    }
}

/// Larger files are no package metadata.
const MOST_BYTES: u64 = 64 << 20;
/// A database of rpm has all that its packages say of their files.
const MOST_DATABASE_BYTES: u64 = 512 << 20;

/// The packages of `tree` as a statement; `created` is RFC 3339. Reads the tree's directories: blocks.
///
/// # Errors
/// The tree cannot be read.
pub fn claim(tree: &dyn FileTree, created: &str) -> Result<Claim, SnapshotError> {
    let packages = packages(tree)?;
    Ok(Claim {
        predicate_type: "https://spdx.dev/Document".to_owned(),
        file_name: "sbom.spdx.json".to_owned(),
        predicate: document(&packages, created),
        ..Claim::default()
    })
}

fn packages(tree: &dyn FileTree) -> Result<BTreeSet<Package>, SnapshotError> {
    let mut found = BTreeSet::new();
    let release = match text(tree, "/etc/os-release")? {
        Some(text) => Some(text),
        None => text(tree, "/usr/lib/os-release")?,
    };
    let distribution = release.as_deref().and_then(distribution);
    let of = |usual: &str| distribution.clone().unwrap_or_else(|| usual.to_owned());
    if let Some(text) = text(tree, "/var/lib/dpkg/status")? {
        found.extend(debian(&text, &of("debian")));
    }
    // images without a package manager keep one file per package
    for (name, _) in directory(tree, "/var/lib/dpkg/status.d")? {
        let name = String::from_utf8_lossy(&name).into_owned();
        if !name.ends_with(".md5sums")
            && let Some(text) = text(tree, &format!("/var/lib/dpkg/status.d/{name}"))?
        {
            found.extend(debian(&text, &of("debian")));
        }
    }
    if let Some(text) = text(tree, "/lib/apk/db/installed")? {
        found.extend(alpine(&text, &of("alpine")));
    }
    for (path, read) in rpm::DATABASES {
        if let Some(bytes) = bytes(tree, path, MOST_DATABASE_BYTES)? {
            found.extend(read(&bytes).into_iter().filter_map(|header| rpm::package(header, &of(""))));
        }
    }
    installed(tree, &mut found)?;
    Ok(found)
}

/// The distribution's `ID`.
fn distribution(release: &str) -> Option<String> {
    let value = release.lines().find_map(|line| line.strip_prefix("ID="))?.trim().trim_matches(['"', '\'']);
    Some(value.to_lowercase()).filter(|value| !value.is_empty())
}

/// dpkg's status: paragraphs of `Field: value`.
fn debian(text: &str, distribution: &str) -> Vec<Package> {
    let package = |paragraph: &str| {
        let field =
            |name: &str| paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::to_owned);
        // one that was removed has left its configuration
        if field("Status").is_some_and(|status| !status.ends_with(" installed")) {
            return None;
        }
        Some(Package {
            manager: "deb",
            distribution: distribution.to_owned(),
            name: field("Package")?,
            version: field("Version")?,
            architecture: field("Architecture").unwrap_or_default(),
            license: String::new(),
        })
    };
    text.split("\n\n").filter_map(package).collect()
}

/// apk's database: paragraphs of `L:value`.
fn alpine(text: &str, distribution: &str) -> Vec<Package> {
    let package = |paragraph: &str| {
        let field = |letter: &str| paragraph.lines().find_map(|line| line.strip_prefix(letter)).map(str::to_owned);
        Some(Package {
            manager: "apk",
            distribution: distribution.to_owned(),
            name: field("P:")?,
            version: field("V:")?,
            architecture: field("A:").unwrap_or_default(),
            license: field("L:").unwrap_or_default(),
        })
    };
    text.split("\n\n").filter_map(package).collect()
}

/// Python's `*.dist-info` and Node's `node_modules`, wherever they are.
fn installed(tree: &dyn FileTree, found: &mut BTreeSet<Package>) -> Result<(), SnapshotError> {
    if tree.lookup(&TreePath::root())?.is_none() {
        return Ok(());
    }
    let mut todo = vec![TreePath::root()];
    while let Some(path) = todo.pop() {
        for (name, meta) in tree.read_dir(&path)? {
            if meta.kind != FileKind::Directory {
                continue;
            }
            let child = path.child(&name);
            if name.ends_with(b".dist-info") {
                found.extend(text_at(tree, &child.child(b"METADATA"))?.as_deref().and_then(python));
            } else if path.file_name() == Some(b"node_modules") || in_scope(&path) {
                found.extend(text_at(tree, &child.child(b"package.json"))?.as_deref().and_then(node));
            }
            todo.push(child);
        }
    }
    Ok(())
}

/// `node_modules/@scope`.
fn in_scope(path: &TreePath) -> bool {
    path.file_name().is_some_and(|name| name.starts_with(b"@")) && path.parent().file_name() == Some(b"node_modules")
}

/// The headers of a distribution's metadata.
fn python(text: &str) -> Option<Package> {
    let field = |name: &str| text.lines().take_while(|line| !line.is_empty()).find_map(|line| line.strip_prefix(name));
    let license = field("License-Expression: ").unwrap_or_default().to_owned();
    Some(Package::of_language("pypi", field("Name: ")?.to_owned(), field("Version: ")?.to_owned(), license))
}

fn node(text: &str) -> Option<Package> {
    let manifest: Value = serde_json::from_str(text).ok()?;
    let field = |name: &str| manifest[name].as_str().map(str::to_owned);
    Some(Package::of_language("npm", field("name")?, field("version")?, field("license").unwrap_or_default()))
}

fn directory(tree: &dyn FileTree, path: &str) -> Result<Vec<(Vec<u8>, crate::snapshot::Meta)>, SnapshotError> {
    let found = resolve(tree, &TreePath::clean(path.as_bytes()), Last::Follow)?;
    match found.meta {
        Some(meta) if meta.kind == FileKind::Directory => tree.read_dir(&found.path),
        _ => Ok(Vec::new()),
    }
}

fn text(tree: &dyn FileTree, path: &str) -> Result<Option<String>, SnapshotError> {
    let found = resolve(tree, &TreePath::clean(path.as_bytes()), Last::Follow)?;
    text_at(tree, &found.path)
}

fn bytes(tree: &dyn FileTree, path: &str, most: u64) -> Result<Option<Vec<u8>>, SnapshotError> {
    let found = resolve(tree, &TreePath::clean(path.as_bytes()), Last::Follow)?;
    bytes_at(tree, &found.path, most)
}

fn text_at(tree: &dyn FileTree, path: &TreePath) -> Result<Option<String>, SnapshotError> {
    let bytes = bytes_at(tree, path, MOST_BYTES)?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// The content of a file of at most so many bytes; `None` for anything else.
fn bytes_at(tree: &dyn FileTree, path: &TreePath, most: u64) -> Result<Option<Vec<u8>>, SnapshotError> {
    if tree.lookup(path)?.is_none_or(|meta| meta.kind != FileKind::File || meta.size_bytes > most) {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let read = tree.open(path)?.take(most).read_to_end(&mut bytes);
    read.map_err(|source| SnapshotError::io("read", path, source))?;
    Ok(Some(bytes))
}

fn document(packages: &BTreeSet<Package>, created: &str) -> Value {
    let listed: Vec<Value> = packages.iter().enumerate().map(|(number, package)| package.described(number)).collect();
    let seed = Digest::of(json!(listed).to_string().as_bytes());
    let relation = |number: usize| {
        json!({
            "spdxElementId": "SPDXRef-DOCUMENT",
            "relationshipType": "DESCRIBES",
            "relatedSpdxElement": format!("SPDXRef-Package-{number}"),
        })
    };
    json!({
        "SPDXID": "SPDXRef-DOCUMENT",
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "name": "sbom",
        "documentNamespace": format!("urn:croze:sbom:{}", seed.hex()),
        "creationInfo": {"created": created, "creators": [concat!("Tool: croze-", env!("CARGO_PKG_VERSION"))]},
        "packages": listed,
        "relationships": (0..packages.len()).map(relation).collect::<Vec<_>>(),
    })
}

impl Package {
    fn described(&self, number: usize) -> Value {
        let license = if self.license.is_empty() { "NOASSERTION" } else { &self.license };
        json!({
            "SPDXID": format!("SPDXRef-Package-{number}"),
            "name": self.name,
            "versionInfo": self.version,
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": false,
            "licenseConcluded": "NOASSERTION",
            "licenseDeclared": license,
            "copyrightText": "NOASSERTION",
            "externalRefs": [{
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": self.url(),
            }],
        })
    }

    fn url(&self) -> String {
        let distribution = match self.distribution.as_str() {
            "" => String::new(),
            name => format!("{name}/"),
        };
        // rpm's URLs have the epoch apart from the version
        let (epoch, version) = match self.version.split_once(':') {
            Some((epoch, version)) if self.manager == "rpm" => (epoch, version),
            _ => ("", self.version.as_str()),
        };
        let qualifiers: Vec<String> = [("arch", self.architecture.as_str()), ("epoch", epoch)]
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let query = if qualifiers.is_empty() { String::new() } else { format!("?{}", qualifiers.join("&")) };
        let escaped = |text: &str| text.replace('%', "%25").replace('@', "%40").replace('+', "%2B").replace(':', "%3A");
        format!("pkg:{}/{distribution}{}@{}{query}", self.manager, escaped(&self.name), escaped(version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(files: &[(&str, &str)], expected: &[&str]) {
        let space = tempfile::tempdir().expect("space");
        for (path, text) in files {
            let path = space.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
            std::fs::write(path, text).expect("writes");
        }
        let tree = crate::snapshot::DirTree::open(space.path()).expect("opens");
        let urls: Vec<String> = packages(&tree).expect("readable").iter().map(Package::url).collect();
        assert_eq!(urls, expected);
    }

    #[test]
    fn dpkg_and_its_remains() {
        let status = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9+deb12u1\nDescription: x\n y\n\n\
                      Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n";
        check(&[("var/lib/dpkg/status", status)], &["pkg:deb/debian/libc6@2.36-9%2Bdeb12u1?arch=amd64"]);
        let single = "Package: tzdata\nArchitecture: all\nVersion: 2024a\n";
        check(&[("var/lib/dpkg/status.d/tzdata", single)], &["pkg:deb/debian/tzdata@2024a?arch=all"]);
    }

    #[test]
    fn rpm_where_its_database_lies() {
        let space = tempfile::tempdir().expect("space");
        let texts = [(1000, "zlib"), (1001, "1.3"), (1002, "2"), (1022, "x86_64")];
        let header = rpm::tests::header(&texts, &[]);
        let script = "import sqlite3, sys; base = sqlite3.connect(sys.argv[1]); \
            base.execute('CREATE TABLE Packages (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL)'); \
            base.execute('INSERT INTO Packages (blob) VALUES (?)', (bytes.fromhex(sys.argv[2]),)); base.commit()";
        let hex: String = header.iter().map(|byte| format!("{byte:02x}")).collect();
        for directory in ["etc", "usr/lib/sysimage/rpm"] {
            std::fs::create_dir_all(space.path().join(directory)).expect("creates");
        }
        std::fs::write(space.path().join("etc/os-release"), "ID=fedora\n").expect("writes");
        let mut command = std::process::Command::new("python3");
        command.args(["-c", script]).arg(space.path().join("usr/lib/sysimage/rpm/rpmdb.sqlite")).arg(hex);
        assert!(command.status().expect("python3 starts").success());
        let tree = crate::snapshot::DirTree::open(space.path()).expect("opens");
        let urls: Vec<String> = packages(&tree).expect("readable").iter().map(Package::url).collect();
        assert_eq!(urls, ["pkg:rpm/fedora/zlib@1.3-2?arch=x86_64"]);
    }

    #[test]
    fn apk_python_and_node() {
        check(
            &[
                ("lib/apk/db/installed", "C:Q1\nP:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\n\nP:zlib\nV:1.3\n"),
                (
                    "usr/lib/python3/dist-packages/flask-3.0.dist-info/METADATA",
                    "Metadata-Version: 2.1\nName: Flask\nVersion: 3.0\n\nName: no\n",
                ),
                ("app/node_modules/left-pad/package.json", r#"{"name":"left-pad","version":"1.3.0","license":"WTFPL"}"#),
                ("app/node_modules/@a/b/package.json", r#"{"name":"@a/b","version":"2"}"#),
                ("app/node_modules/broken/package.json", "{"),
                ("app/package.json", r#"{"name":"app","version":"0"}"#),
                ("usr/lib/os-release", "NAME=\"x\"\nID=\"Wolfi\"\n"),
            ],
            &[
                "pkg:apk/wolfi/musl@1.2.4-r2?arch=x86_64",
                "pkg:apk/wolfi/zlib@1.3",
                "pkg:npm/%40a/b@2",
                "pkg:npm/left-pad@1.3.0",
                "pkg:pypi/Flask@3.0",
            ],
        );
        check(&[], &[]);
    }
}
