//! Downloads and git trees, from servers of the test's own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use croze::digest::Digest;
use croze::graph::GitOp;
use croze::registry::Anonymous;
use croze::source::SourceError;
use croze::source::git::{self, GitAccess};
use croze::source::http::{self, HttpAuth};
use croze::store::Store;
use tempfile::TempDir;

use crate::client;
use crate::files::FileServer;

fn store() -> (TempDir, Store) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(&directory.path().join("store")).expect("a fresh store");
    (directory, store)
}

#[tokio::test]
async fn a_file_is_downloaded_once_while_it_stays_the_same() {
    let (_directory, store) = store();
    let (server, client) = (FileServer::start(), client(Arc::new(Anonymous)));
    let url = server.url("moved/hello.txt?x");
    let file = http::fetch(&store, &client, &url, None, None).await.expect("the file");
    assert_eq!((file.file_name.as_str(), file.size_bytes), ("hello.txt", 6));
    assert_eq!(file.last_modified_secs, Some(1_577_934_245));
    assert_eq!(store.read_blob(&file.digest).expect("it is kept"), b"hello\n");
    assert_eq!(http::fetch(&store, &client, &url, None, None).await.expect("the same"), file);
    assert_eq!(server.answers(), ["302", "200", "302", "304"]);
    http::fetch(&store, &client, &url, Some(file.digest), None).await.expect("known by its checksum");
    assert_eq!(server.answers().len(), 4, "nobody is asked");
}

#[tokio::test]
async fn a_download_is_held_against_its_checksum() {
    let (_directory, store) = store();
    let (server, client) = (FileServer::start(), client(Arc::new(Anonymous)));
    let url = server.url("hello.txt");
    let (wanted, found) = (Digest::of(b"other"), Digest::of(b"hello\n"));
    for _ in 0..2 {
        let error = http::fetch(&store, &client, &url, Some(wanted), None).await.expect_err("another file");
        assert!(
            matches!(&error, SourceError::Checksum { expected, found: other, size_bytes: 6, .. }
            if *expected == wanted && *other == found),
            "{error}"
        );
    }
    assert_eq!(store.blob_size(&found).expect("readable"), None);
}

#[tokio::test]
async fn a_refusal_names_status_and_url() {
    let (_directory, store) = store();
    let (server, client) = (FileServer::start(), client(Arc::new(Anonymous)));
    for (path, status) in [("none", "404"), ("secret/hello.txt", "401")] {
        let url = server.url(path);
        let error = http::fetch(&store, &client, &url, None, None).await.expect_err(path).to_string();
        assert!(error.contains(&url) && error.contains(status), "{error}");
    }
    let token = HttpAuth::Token("t0ken\n".into());
    http::fetch(&store, &client, &server.url("secret/hello.txt"), None, Some(&token)).await.expect("with a token");
}

#[tokio::test]
async fn a_broken_download_starts_anew() {
    let (_directory, store) = store();
    let (server, client) = (FileServer::start(), client(Arc::new(Anonymous)));
    let file = http::fetch(&store, &client, &server.url("cut-once/hello.txt"), None, None).await.expect("the second time");
    assert_eq!(file.digest, Digest::of(b"hello\n"));
}

/// Runs git as somebody, in `directory`.
fn run(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=T", "-c", "user.email=t@example.invalid", "-c", "protocol.file.allow=always"])
        .args(arguments)
        .current_dir(directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .expect("git is installed");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A repository with branch `main`, annotated tag `v1` on its first commit, and a submodule.
fn repository(directory: &Path) -> String {
    let (library, site) = (directory.join("lib"), directory.join("site"));
    for path in [&library, &site] {
        fs::create_dir(path).expect("writable");
        run(path, &["init", "-q", "-b", "main"]);
    }
    fs::write(library.join("lib.txt"), "lib\n").expect("writable");
    run(&library, &["add", "-A"]);
    run(&library, &["commit", "-qm", "lib"]);
    fs::create_dir(site.join("docs")).expect("writable");
    fs::write(site.join("docs/a.txt"), "one\n").expect("writable");
    fs::write(site.join("run.sh"), "#!/bin/sh\n").expect("writable");
    fs::set_permissions(site.join("run.sh"), fs::Permissions::from_mode(0o755)).expect("writable");
    run(&site, &["add", "-A"]);
    run(&site, &["commit", "-qm", "one"]);
    run(&site, &["tag", "-a", "v1", "-m", "one"]);
    run(&site, &["submodule", "--quiet", "add", "../lib", "third"]);
    fs::write(site.join("docs/a.txt"), "two\n").expect("writable");
    run(&site, &["commit", "-qam", "two"]);
    format!("file://{}", site.display())
}

fn op(remote: &str, reference: &str, subdir: &str) -> GitOp {
    GitOp {
        remote: remote.to_owned(),
        reference: reference.to_owned(),
        subdir: subdir.to_owned(),
        keep_git_dir: false,
        checksum: None,
        submodules: true,
        commit_times: false,
    }
}

async fn check_out(store: &Store, op: &GitOp) -> Result<git::Checkout, SourceError> {
    let access = GitAccess::default();
    let commit = git::resolve(op, &access).await?;
    git::checkout(store, op, &commit, &access).await
}

#[tokio::test]
async fn references_lead_to_their_trees() {
    let (directory, store) = store();
    let remote = repository(directory.path());
    let site = directory.path().join("site");
    let first = run(&site, &["rev-parse", "v1^{}"]);

    let tag = check_out(&store, &op(&remote, "v1", "")).await.expect("the tag");
    assert_eq!(tag.commit, first, "an annotated tag is peeled");
    assert_eq!(fs::read(tag.path.join("docs/a.txt")).expect("there"), b"one\n");
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o7777;
    assert_eq!((mode(&tag.path), mode(&tag.path.join("docs/a.txt")), mode(&tag.path.join("run.sh"))), (0o755, 0o644, 0o755));
    assert!(!tag.path.join(".git").exists());

    for reference in ["", "main", "refs/heads/main"] {
        let tree = check_out(&store, &op(&remote, reference, "")).await.expect(reference);
        assert_eq!(fs::read(tree.path.join("docs/a.txt")).expect("there"), b"two\n", "{reference}");
        assert_eq!(fs::read(tree.path.join("third/lib.txt")).expect("the submodule"), b"lib\n", "{reference}");
    }
    let by_commit = check_out(&store, &op(&remote, &first, "docs")).await.expect("the commit");
    assert_eq!(fs::read(by_commit.path.join("a.txt")).expect("there"), b"one\n");
    let path = by_commit.path.clone();
    drop(by_commit);
    assert!(!path.exists(), "a checkout goes with its value");
}

#[tokio::test]
async fn the_git_directory_stays_when_asked_for() {
    let (directory, store) = store();
    let remote = repository(directory.path());
    let tree = check_out(&store, &GitOp { keep_git_dir: true, ..op(&remote, "v1", "") }).await.expect("the tag");
    assert_eq!(fs::read_to_string(tree.path.join(".git/HEAD")).expect("there"), format!("{}\n", tree.commit));
}

#[tokio::test]
async fn what_is_missing_in_a_repository_is_named() {
    let (directory, store) = store();
    let remote = repository(directory.path());
    let error = check_out(&store, &op(&remote, "mian", "")).await.err().expect("no such branch");
    assert!(matches!(&error, SourceError::NoGitRef { nearest: Some(near), .. } if near == "main"), "{error}");
    let error = check_out(&store, &op(&remote, "main", "nosuchdir")).await.err().expect("no such directory");
    assert!(matches!(&error, SourceError::NoGitSubdir { subdir, .. } if subdir == "nosuchdir"), "{error}");
    let other = GitOp { checksum: Some("0123456".into()), ..op(&remote, "main", "") };
    assert!(matches!(check_out(&store, &other).await.err(), Some(SourceError::GitChecksum { .. })));
    let error = check_out(&store, &op("file:///nonexistent", "", "")).await.err().expect("no repository");
    assert!(matches!(&error, SourceError::Git { action: "ask", .. }), "{error}");
}
