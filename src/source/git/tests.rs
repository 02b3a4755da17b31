use super::*;

const LISTING: &str = "aa\tHEAD\n\
    aa\trefs/heads/main\n\
    bb\trefs/heads/both\n\
    cc\trefs/tags/both\n\
    dd\trefs/tags/v1\n\
    ee\trefs/tags/v1^{}\n\
    ff\trefs/pull/1/head\n";

#[track_caller]
fn picked(wanted: &str, expected: Option<(&str, &str)>) {
    assert_eq!(pick(LISTING, wanted).map(|found| (found.name, found.commit)), expected);
}

#[test]
fn a_branch_comes_before_a_tag_and_tags_are_peeled() {
    picked("HEAD", Some(("HEAD", "aa")));
    picked("main", Some(("refs/heads/main", "aa")));
    picked("both", Some(("refs/heads/both", "bb")));
    picked("refs/tags/both", Some(("refs/tags/both", "cc")));
    picked("v1", Some(("refs/tags/v1", "ee")));
    picked("pull/1/head", Some(("refs/pull/1/head", "ff")));
    picked("mai", None);
}

fn op(reference: &str, checksum: Option<&str>) -> GitOp {
    GitOp {
        remote: "r".into(),
        reference: reference.into(),
        subdir: String::new(),
        keep_git_dir: false,
        checksum: checksum.map(str::to_owned),
        submodules: true,
        commit_times: false,
    }
}

#[test]
fn a_checksum_may_be_a_prefix_of_the_commit_or_its_tag() {
    let commit = || Commit { id: "abc123".into(), ref_name: None };
    assert!(checked(&op("x", None), commit(), "abc123").is_ok());
    assert!(checked(&op("x", Some("abc")), commit(), "abc123").is_ok());
    assert!(checked(&op("x", Some("def")), commit(), "def456").is_ok());
    assert!(matches!(checked(&op("x", Some("123")), commit(), "abc123"), Err(SourceError::GitChecksum { .. })));
}

#[test]
fn a_full_commit_asks_nobody() {
    let id = "0123456789012345678901234567890123456789";
    let commit = resolve_now(&Programs::default(), &op(id, None), &GitAccess::default()).expect("no program runs");
    assert_eq!(commit, Commit { id: id.into(), ref_name: None });
}

#[test]
fn a_subdirectory_is_inside_and_no_link() {
    let tree = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir_all(tree.path().join("a/b")).expect("writable");
    std::os::unix::fs::symlink("/", tree.path().join("link")).expect("writable");
    let commit = Commit { id: "c".into(), ref_name: None };
    let find = |subdir: &str| subdirectory(tree.path(), &GitOp { subdir: subdir.into(), ..op("", None) }, &commit);
    assert_eq!(find("").expect("all"), tree.path());
    assert_eq!(find("a/b").expect("there"), tree.path().join("a/b"));
    for subdir in ["..", "a/../..", "link", "link/etc", "none", "a/b/c"] {
        assert!(matches!(find(subdir), Err(SourceError::NoGitSubdir { .. })), "{subdir}");
    }
}
