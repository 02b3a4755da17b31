//! Copies of small trees, from scripts to listings.

use super::*;
use crate::graph::{Chmod, CopyOp, CopySource, InlineFile, Unpack};
use crate::layer;
use crate::snapshot::testing::make;
use crate::snapshot::{DirTree, FileKind, View};
use crate::source::digest::Hashing;
use crate::store::Store;

const CREATED: Time = Time { seconds: 77, nanoseconds: 0 };

/// The source tree of most tests; all times are 5.
const SOURCE: &str = "file f x; file top.txt top; file other.md o; dir dir; file dir/a.txt a; file dir/b.md b; dir dir/sub; \
     file dir/sub/c.txt c; dir dir/sub/deep; file dir/sub/deep/d.txt d; \
     time f 5; time top.txt 5; time other.md 5; time dir/a.txt 5; time dir/b.md 5; time dir/sub/c.txt 5; \
     time dir/sub/deep/d.txt 5; time dir/sub/deep 5; time dir/sub 5; time dir 5";

struct Bench {
    source: tempfile::TempDir,
    parent: tempfile::TempDir,
}

fn bench(source: &str, parent: &str) -> Bench {
    let bench = Bench { source: tempfile::tempdir().unwrap(), parent: tempfile::tempdir().unwrap() };
    assert!(make(bench.source.path(), source) && make(bench.parent.path(), parent), "the tests of copies run as root");
    bench
}

fn op(sources: &[&str], destination: &str) -> CopyOp {
    CopyOp {
        sources: sources.iter().map(|pattern| CopySource::Path { input: 1, pattern: (*pattern).to_owned() }).collect(),
        destination: destination.to_owned(),
        chown: None,
        chmod: None,
        parents: false,
        excludes: Vec::new(),
        unpack: Unpack::Never,
    }
}

impl Bench {
    fn with<T>(&self, work: impl FnOnce(&[CopyInput<'_>], &dyn FileTree) -> T) -> T {
        let tree = DirTree::open(self.source.path()).unwrap();
        let parent = View::new(vec![self.parent.path().to_owned()]).unwrap();
        let digests = Hashing(&tree);
        work(&[CopyInput::Tree(TreeInput { tree: &tree, digests: &digests, hidden: None })], &parent)
    }

    fn key(&self, op: &CopyOp) -> Digest {
        self.with(|inputs, parent| prepared(op, inputs, parent).unwrap().key())
    }

    fn error(&self, op: &CopyOp) -> CopyError {
        self.with(|inputs, parent| prepared(op, inputs, parent).map(|_| ()).unwrap_err())
    }

    /// Each name of the layer with kind, mode, owner, time; `=` and data or target; `links` if it has several names. A tar
    /// written without the files must be theirs.
    fn layer(&self, op: &CopyOp) -> Vec<String> {
        let made = tempfile::tempdir().unwrap();
        let space = tempfile::tempdir().unwrap();
        let store = Store::open(space.path()).unwrap();
        let packed = self.with(|inputs, parent| {
            let prepared = prepared(op, inputs, parent).unwrap();
            run(&prepared, inputs, parent, made.path(), CREATED).unwrap();
            can_be_packed(&prepared).then(|| pack(&prepared, inputs, &store, CREATED, &[], None).unwrap().record)
        });
        if let Some(packed) = packed {
            let of_tree = |tree: &std::path::Path| layer::write_tar(tree, None, &mut std::io::sink()).unwrap();
            let files = of_tree(made.path());
            assert_eq!((packed.diff_id, packed.tar_bytes, packed.content), (files.diff_id, files.tar_bytes, files.content));
            let tree = layer::tree(&store, &packed.diff_id, &[self.parent.path().to_owned()]).unwrap().unwrap();
            assert_eq!(of_tree(&tree), files);
        }
        let layer = DirTree::open(made.path()).unwrap();
        let mut listed = Vec::new();
        let mut todo = vec![TreePath::root()];
        while let Some(path) = todo.pop() {
            for (name, meta) in layer.read_dir(&path).unwrap() {
                let path = path.child(&name);
                let mut line = format!("{path} {:o} {}:{} {}", meta.mode, meta.uid, meta.gid, meta.mtime.seconds);
                match meta.kind {
                    FileKind::Directory => {
                        line.push('/');
                        todo.push(path);
                    }
                    FileKind::File => {
                        let data = std::fs::read_to_string(made.path().join(String::from_utf8_lossy(path.as_bytes()).as_ref()));
                        line += &format!(" = {}{}", data.unwrap(), if meta.links > 1 { " links" } else { "" });
                    }
                    FileKind::Symlink => line += &format!(" -> {}", String::from_utf8(layer.read_link(&path).unwrap()).unwrap()),
                    other => line += &format!(" {other:?}"),
                }
                listed.push(line);
            }
        }
        listed.sort();
        listed
    }
}

fn prepared(op: &CopyOp, inputs: &[CopyInput<'_>], parent: &dyn FileTree) -> Result<Prepared, CopyError> {
    prepare(op, inputs, TreeInput { tree: parent, digests: &Hashing(parent), hidden: None })
}

#[track_caller]
fn check(parent: &str, op: &CopyOp, expected: &[&str]) {
    assert_eq!(bench(SOURCE, parent).layer(op), expected);
}

/// Only the paths of the layer.
#[track_caller]
fn check_names(op: &CopyOp, expected: &[&str]) {
    let layer = bench(SOURCE, "").layer(op);
    let names: Vec<&str> = layer.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(names, expected);
}

#[test]
fn a_file_goes_to_its_name_or_into_a_directory() {
    check("", &op(&["/f"], "/new"), &["/new 644 0:0 5 = x"]);
    check("", &op(&["/f"], "/a/b/"), &["/a 755 0:0 77/", "/a/b 755 0:0 77/", "/a/b/f 644 0:0 5 = x"]);
    check("dir tmp; mode tmp 1777; own tmp 3; time tmp 9", &op(&["/f"], "/tmp"), &["/tmp 1777 3:3 9/", "/tmp/f 644 0:0 5 = x"]);
    check("", &op(&["/f"], "/"), &["/f 644 0:0 5 = x"]);
}

#[test]
fn destination_links_are_followed_inside_the_root() {
    let parent = "dir real; time real 9; link climb ../../../real; link dangling /made/here";
    check(parent, &op(&["/f"], "/climb/one"), &["/real 755 0:0 9/", "/real/one 644 0:0 5 = x"]);
    check(parent, &op(&["/f"], "/dangling"), &["/made 755 0:0 77/", "/made/here 644 0:0 5 = x"]);
}

#[test]
fn a_directory_gives_its_contents() {
    let expected = ["/x 755 0:0 5/", "/x/deep 755 0:0 5/", "/x/deep/d.txt 644 0:0 5 = d", "/x/c.txt 644 0:0 5 = c"];
    let mut sorted = expected;
    sorted.sort_unstable();
    check("", &op(&["/dir/sub"], "/x"), &sorted);
    check("", &op(&["/dir/sub/"], "/x/"), &sorted);
}

#[test]
fn an_existing_destination_keeps_owner_and_mode_but_directories_below_do_not() {
    let mut copy = op(&["/dir/sub"], "/x");
    copy.chown = Some("5:6".to_owned());
    let parent = "dir x; mode x 700; own x 9; dir x/deep; mode x/deep 711; own x/deep 9; file x/kept k";
    check(parent, &copy, &["/x 700 9:9 5/", "/x/c.txt 644 5:6 5 = c", "/x/deep 755 5:6 5/", "/x/deep/d.txt 644 5:6 5 = d"]);
}

#[test]
fn made_parents_take_chown_and_octal_chmod() {
    let mut copy = op(&["/f"], "/a/b");
    copy.chown = Some("7".to_owned());
    copy.chmod = Some(Chmod::Octal(0o4750));
    check("", &copy, &["/a 750 7:7 77/", "/a/b 4750 7:7 5 = x"]);
    copy.chmod = Some(Chmod::Symbolic("go+w".to_owned()));
    check("", &copy, &["/a 755 7:7 77/", "/a/b 666 7:7 5 = x"]);
}

#[test]
fn a_later_source_overwrites() {
    check("", &op(&["/f", "/top.txt"], "/one"), &["/one 644 0:0 5 = top"]);
    check_names(&op(&["/dir/sub", "/top.txt"], "/x/"), &["/x", "/x/c.txt", "/x/deep", "/x/deep/d.txt", "/x/top.txt"]);
}

#[test]
fn wildcards_name_what_is_there() {
    check_names(&op(&["/*.txt"], "/s/"), &["/s", "/s/top.txt"]);
    check_names(&op(&["/*/*.txt"], "/s/"), &["/s", "/s/a.txt"]);
    check_names(&op(&["/dir/*/"], "/s/"), &["/s", "/s/a.txt", "/s/b.md", "/s/c.txt", "/s/deep", "/s/deep/d.txt"]);
    check_names(&op(&["/no*"], "/s/"), &[]);
}

#[test]
fn excludes_are_relative_to_the_source() {
    let exclude = |patterns: &[&str], source: &str| CopyOp {
        excludes: patterns.iter().map(|pattern| (*pattern).to_owned()).collect(),
        ..op(&[source], "/x")
    };
    check_names(&exclude(&["*.md", "sub"], "/dir"), &["/x", "/x/a.txt"]);
    check_names(&exclude(&["**/*.txt", "!**/d.txt"], "/dir"), &["/x", "/x/b.md", "/x/sub", "/x/sub/deep", "/x/sub/deep/d.txt"]);
    check_names(&exclude(&["*", "!a.txt"], "/dir"), &["/x", "/x/a.txt"]);
}

#[test]
fn parents_keep_the_path_from_the_pivot_on() {
    let parents = |source: &str| CopyOp { parents: true, ..op(&[source], "/x/") };
    check_names(&parents("/dir/sub/c.txt"), &["/x", "/x/dir", "/x/dir/sub", "/x/dir/sub/c.txt"]);
    check_names(&parents("./dir/./sub/deep/d.txt"), &["/x", "/x/sub", "/x/sub/deep", "/x/sub/deep/d.txt"]);
    check_names(&parents("dir/./**/d.txt"), &["/x", "/x/sub", "/x/sub/deep", "/x/sub/deep/d.txt"]);
    check_names(&parents("nothing*"), &["/x"]);
    let missing = bench(SOURCE, "").error(&parents("dir/nothing"));
    assert!(matches!(missing, CopyError::Missing { path, .. } if path == TreePath::clean(b"dir/nothing")));
}

#[test]
fn kept_parents_have_their_own_modes() {
    let bench = bench("dir p; mode p 711; own p 4; time p 5; file p/x 1; time p/x 5; time p 5", "");
    let copy = CopyOp { parents: true, ..op(&["/p/x"], "/out/") };
    assert_eq!(bench.layer(&copy)[1..], ["/out/p 711 4:4 5/", "/out/p/x 644 0:0 5 = 1"]);
}

#[test]
fn links_as_sources_are_followed_and_inside_directories_kept() {
    let bench = bench("dir d; file d/f x; time d/f 5; link d/l f; time d/l 5; link out /../d/f; time d 5", "");
    assert_eq!(bench.layer(&op(&["/out"], "/o")), ["/o 644 0:0 5 = x"]);
    assert_eq!(bench.layer(&op(&["/out"], "/")), ["/out 644 0:0 5 = x"]);
    assert!(bench.layer(&op(&["/d"], "/o")).contains(&"/o/l 777 0:0 5 -> f".to_owned()));
}

#[test]
fn hard_links_hold_inside_one_directory_only() {
    let bench = bench("dir h; file h/a x; hard h/b h/a; time h/a 5; time h 5", "");
    assert_eq!(bench.layer(&op(&["/h"], "/o"))[1..], ["/o/a 644 0:0 5 = x links", "/o/b 644 0:0 5 = x links"]);
    assert_eq!(bench.layer(&op(&["/h/a", "/h/b"], "/"))[..], ["/a 644 0:0 5 = x", "/b 644 0:0 5 = x"]);
    let replaced =
        bench.layer(&CopyOp { sources: [op(&["/h"], "/o").sources, vec![inline("a", "new")]].concat(), ..op(&[], "/o") });
    assert_eq!(replaced[1..], ["/o/a 644 0:0 77 = new", "/o/b 644 0:0 5 = x"]);
}

fn inline(name: &str, content: &str) -> CopySource {
    CopySource::Inline(InlineFile { name: name.to_owned(), content: content.to_owned() })
}

#[test]
fn fifos_are_copied_and_sockets_become_empty_files() {
    let bench = bench("dir d; fifo d/p; time d/p 5; socket d/s; mode d/s 755; time d/s 5; time d 5", "");
    assert_eq!(bench.layer(&op(&["/d"], "/o"))[1..], ["/o/p 600 0:0 5 Fifo", "/o/s 755 0:0 5 = "]);
}

#[test]
fn inline_files_are_plain() {
    let copy = CopyOp { sources: vec![inline("run.sh", "echo")], ..op(&[], "/x/") };
    check("", &copy, &["/x 755 0:0 77/", "/x/run.sh 644 0:0 77 = echo"]);
}

#[test]
fn only_file_capabilities_are_carried() {
    let bench = bench("dir d; file d/f x; xattr d/f user.a 1", "");
    let made = tempfile::tempdir().unwrap();
    bench.with(|inputs, parent| {
        let prepared = prepared(&op(&["/d"], "/o"), inputs, parent).unwrap();
        run(&prepared, inputs, parent, made.path(), CREATED).unwrap();
    });
    assert!(DirTree::open(made.path()).unwrap().xattrs(&TreePath::clean(b"o/f")).unwrap().is_empty());
}

#[test]
fn kinds_that_do_not_fit_are_errors() {
    let bench = bench(SOURCE, "dir x; dir x/f; file x/sub s; file plain p; dir e; link x/dir e");
    assert!(matches!(bench.error(&op(&["/f"], "/x")), CopyError::OntoDirectory { .. }));
    assert!(matches!(bench.error(&op(&["/dir"], "/x")), CopyError::OntoFile { path, .. } if path.as_bytes() == b"x/sub"));
    assert!(matches!(bench.error(&op(&["/dir"], "/plain")), CopyError::OntoFile { .. }));
    assert!(matches!(bench.error(&op(&["/f"], "/plain/f")), CopyError::ThroughFile { .. }));
    assert!(matches!(bench.error(&op(&["/f"], "/plain/")), CopyError::ThroughFile { .. }));
    assert!(matches!(bench.error(&op(&["/"], "/x")), CopyError::OntoFile { .. } | CopyError::OntoDirectory { .. }));
}

#[test]
fn a_missing_source_says_what_is_near() {
    let bench = bench(SOURCE, "");
    match bench.error(&op(&["/f", "/dir/a.tx"], "/x/")) {
        CopyError::Missing { source_number: 1, path, nearest, hidden_by: None } => {
            assert_eq!((path.as_bytes(), nearest.as_ref().map(TreePath::as_bytes)), (&b"dir/a.tx"[..], Some(&b"dir/a.txt"[..])));
        }
        other => panic!("{other}"),
    }
    assert!(matches!(bench.error(&op(&["/f/below"], "/x")), CopyError::Missing { .. }));
    assert!(matches!(bench.error(&op(&["/[a"], "/x")), CopyError::BadPattern { source_number: 0, .. }));
}

#[test]
fn keys_leave_out_times_and_what_is_not_selected() {
    let base = bench(SOURCE, "dir x").key(&op(&["/dir"], "/x"));
    let same = |source: &str, parent: &str| bench(&format!("{SOURCE}; {source}"), parent).key(&op(&["/dir"], "/x")) == base;
    assert!(same("time dir/a.txt 6; file more m", "dir x; time x 3; dir other; file x/old o"));
    for source in ["mode dir/a.txt 600", "file dir/a.txt A", "dir dir/e", "own dir/a.txt 3", "mode dir/sub 700"] {
        assert!(!same(source, "dir x"), "{source}");
    }
    // a directory that the copy would make just so may be there or not: the layer is the same
    assert!(same("dir more", ""));
    for parent in ["dir x; mode x 700", "dir x; own x 3", "dir y; link x y"] {
        assert!(!same("dir more", parent), "{parent}");
    }
}

#[test]
fn a_file_that_changes_after_the_decision_fails_the_copy() {
    let bench = bench(SOURCE, "");
    let made = tempfile::tempdir().unwrap();
    let result = bench.with(|inputs, parent| {
        let prepared = prepared(&op(&["/f"], "/x"), inputs, parent).unwrap();
        make(bench.source.path(), "file f changed");
        run(&prepared, inputs, parent, made.path(), CREATED)
    });
    assert!(matches!(result, Err(CopyError::Changed { path }) if path.as_bytes() == b"f"));
}

#[test]
fn copy_tree_leaves_the_target_as_it_is() {
    let bench = bench(SOURCE, "");
    let target = tempfile::tempdir().unwrap();
    make(target.path(), "dir t; mode t 700; own t 5");
    let tree = DirTree::open(bench.source.path()).unwrap();
    copy_tree(&tree, &TreePath::clean(b"dir/sub"), &target.path().join("t")).unwrap();
    copy_tree(&tree, &TreePath::clean(b"missing"), &target.path().join("t")).unwrap();
    let made = DirTree::open(target.path()).unwrap();
    let meta = made.lookup(&TreePath::clean(b"t")).unwrap().unwrap();
    assert_eq!((meta.mode, meta.uid), (0o700, 5));
    assert_eq!(std::fs::read(target.path().join("t/deep/d.txt")).unwrap(), b"d");
}

/// A context with the archive `name`, made by the system's tar of what `script` makes; extra flags in front.
fn archive_of(script: &str, name: &str, flags: &[&str]) -> Bench {
    let bench = bench("", "");
    let files = tempfile::tempdir().unwrap();
    assert!(make(files.path(), script));
    let status = std::process::Command::new("tar")
        .args(["--sort=name", "--mtime=@5", "--numeric-owner", "-cf"])
        .arg(bench.source.path().join(name))
        .args(flags)
        .arg("-C")
        .arg(files.path())
        .arg(".")
        .status()
        .unwrap();
    assert!(status.success());
    bench
}

fn add(source: &str, destination: &str) -> CopyOp {
    CopyOp { unpack: Unpack::Local, ..op(&[source], destination) }
}

const ARCHIVED: &str =
    "dir p; file p/one 1; own p/one 11; hard p/two p/one; link p/l one; dir p/s; mode p/s 711; dir q; mode q 700";

#[test]
fn archives_are_unpacked_with_their_owners_and_modes() {
    let expected = [
        "/x 755 0:0 77/",
        "/x/p 755 0:0 5/",
        "/x/p/l 777 0:0 5 -> one",
        "/x/p/one 644 11:11 5 = 1 links",
        "/x/p/s 711 0:0 5/",
        "/x/p/two 644 11:11 5 = 1 links",
        "/x/q 700 0:0 5/",
    ];
    for (name, flags) in [("a.tar", &[][..]), ("misnamed.txt", &["-z"]), ("a.tar.bz2", &["-j"]), ("a.txz", &["-J"])] {
        assert_eq!(archive_of(ARCHIVED, name, flags).layer(&add(name, "/x")), expected, "{name}");
    }
}

#[test]
fn archives_take_chown_and_not_chmod() {
    let copy = CopyOp { chown: Some("7:8".into()), chmod: Some(Chmod::Octal(0o600)), ..add("a.tar", "/x/") };
    let layer = archive_of("file f 1; mode f 640", "a.tar", &[]).layer(&copy);
    assert_eq!(layer, ["/x 755 7:8 77/", "/x/f 640 7:8 5 = 1"]);
}

#[test]
fn archives_are_copied_where_nothing_is_to_be_unpacked() {
    let bench = archive_of("file f 1", "a.tar", &[]);
    bench.with(|inputs, parent| {
        let prepared = prepared(&op(&["/a.tar"], "/x"), inputs, parent).unwrap();
        assert_eq!(prepared.entries(), 1);
    });
    make(bench.source.path(), "file fake.tar text; time fake.tar 5");
    assert_eq!(bench.layer(&add("/fake.tar", "/x")), ["/x 644 0:0 5 = text"]);
}

#[test]
fn links_of_the_parent_are_followed_inside_the_destination() {
    let bench = archive_of("dir lib; file lib/f 1", "a.tar", &["--no-recursion"]);
    make(bench.parent.path(), "dir usr; dir usr/lib; time usr/lib 9; time usr 9; link lib usr/lib");
    // without an entry for `lib` itself, which would replace the link
    let status = std::process::Command::new("tar")
        .args(["--mtime=@5", "--numeric-owner", "-cf"])
        .arg(bench.source.path().join("b.tar"))
        .args(["--transform=s,^,lib/,", "-C"])
        .arg(bench.source.path())
        .arg("a.tar")
        .status()
        .unwrap();
    assert!(status.success());
    let layer: Vec<String> =
        bench.layer(&add("/b.tar", "/")).into_iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(layer, ["/usr", "/usr/lib", "/usr/lib/a.tar"]);
}

/// A context with `s.tar`: a link `lnk` to `target`, and behind it the file `name`.
fn link_and_file(target: &str, name: &str) -> Bench {
    let bench = bench("", "dir etc");
    let mut tar = tar::Builder::new(std::fs::File::create(bench.source.path().join("s.tar")).unwrap());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    tar.append_link(&mut header, "lnk", target).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(1);
    tar.append_data(&mut header, name, &b"x"[..]).unwrap();
    tar.into_inner().unwrap();
    bench
}

#[test]
fn an_entry_below_a_link_that_leads_nowhere_is_an_error() {
    for name in ["lnk/file", "lnk/deeper/file"] {
        let made = tempfile::tempdir().unwrap();
        let result = link_and_file("/etc", name).with(|inputs, parent| {
            let prepared = prepared(&add("/s.tar", "/in/"), inputs, parent).unwrap();
            run(&prepared, inputs, parent, made.path(), CREATED)
        });
        assert!(matches!(result, Err(CopyError::Archive { .. })), "{name}: {result:?}");
    }
}

#[test]
fn directories_are_made_behind_a_link_that_leads_somewhere() {
    for target in ["..", "/", "../../.."] {
        let layer = link_and_file(target, "lnk/etc/file").layer(&add("/s.tar", "/in/"));
        let names: Vec<&str> = layer.iter().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(names, ["/in", "/in/etc", "/in/etc/file", "/in/lnk"], "{target}");
    }
}

#[test]
fn the_key_of_an_archive_holds_its_bytes_and_what_its_entries_may_meet() {
    let key = |script: &str, parent: &str| {
        let bench = archive_of(script, "a.tar", &[]);
        make(bench.parent.path(), parent);
        bench.key(&add("/a.tar", "/x"))
    };
    let base = key("file f 1", "dir x");
    assert_eq!(key("file f 1", "dir x; file x/g 2; dir y"), base);
    assert_ne!(key("file f 2", "dir x"), base);
    assert_ne!(key("file f 1", "dir x; link x/l y"), base);
    assert_ne!(key("file f 1", "dir x; dir x/d"), base);
}

#[test]
fn what_the_parent_has_just_so_is_left_out() {
    let parent = "dir x; file x/a.txt a; file x/b.md B; dir x/sub; dir x/sub/deep; file x/sub/c.txt c; \
         file x/sub/deep/d.txt d; mode x/sub/deep/d.txt 600";
    let d_txt = "/x/sub/deep/d.txt 644 0:0 5 = d";
    let expected = ["/x 755 0:0 5/", "/x/b.md 644 0:0 5 = b", "/x/sub 755 0:0 5/", "/x/sub/deep 755 0:0 5/", d_txt];
    check(parent, &op(&["/dir"], "/x"), &expected);
    check(parent, &op(&["/dir/a.txt"], "/x/"), &[]);
    let key = |parent: &str| bench(SOURCE, parent).key(&op(&["/dir/a.txt"], "/x/"));
    let same = key("dir x; file x/a.txt a; time x/a.txt 5");
    assert_eq!(same, key("dir x; file x/a.txt a; time x/a.txt 6"), "times do not count");
    assert_ne!(same, key("dir x; file x/a.txt b"));
}

#[test]
fn a_tar_without_files_has_names_links_and_modes_in_the_order_of_a_tree() {
    let source = "dir s; file s/b two; hard s/a s/b; hard s/a-c s/b; dir s/a.d; file s/a.d/x 1; dir s/e; file s/e/y 2; file s/e-f 3; \
         file s/e!g 4; link s/l e; mode s/b 4711; mode s/e 2700; time s/b 5";
    let layer = bench(source, "").layer(&op(&["/s"], "/t/"));
    assert!(layer.len() >= 10, "{layer:?}");
    let mut inline = op(&[], "/d/");
    let file = InlineFile { name: "note".to_owned(), content: "text\n".to_owned() };
    inline.sources = vec![CopySource::Inline(file)];
    assert_eq!(bench("", "").layer(&inline), ["/d 755 0:0 77/", "/d/note 644 0:0 77 = text\n"]);
}
