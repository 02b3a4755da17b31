//! Trees to tars and back, judged by each other and by GNU tar.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::archive::{EntryKind, Reader};
use super::*;
use crate::digest::Digest;
use crate::snapshot::testing::make;
use crate::snapshot::{FileTree, TreePath, View};

/// A directory that is gone with the value, with a tree made by `script`; `None` without the privilege.
fn tree(script: &str) -> Option<(tempfile::TempDir, PathBuf)> {
    let temp = tempfile::tempdir().unwrap();
    let tree = temp.path().join("tree");
    fs::create_dir(&tree).unwrap();
    make(&tree, script).then_some((temp, tree))
}

fn tar_of(tree: &Path, epoch: Option<i64>) -> Vec<u8> {
    let mut tar = Vec::new();
    let summary = write_tar(tree, epoch, &mut tar).unwrap();
    assert_eq!((summary.diff_id.0, summary.tar_bytes), (Digest::of(&tar), tar.len() as u64));
    tar
}

/// The tar's entries, one line each.
fn entries(tar: &[u8]) -> Vec<String> {
    let mut reader = Reader::new(tar);
    let mut lines = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let data = std::io::read_to_string(&mut reader).unwrap();
        let kind = match entry.kind {
            EntryKind::HardLink(first) => format!("HardLink({first})"),
            EntryKind::Symlink(target) => format!("Symlink({})", target.escape_ascii()),
            kind => format!("{kind:?}"),
        };
        lines.push(format!("{} {kind} {:o} {data}", entry.path, entry.mode).trim_end().to_owned());
    }
    lines
}

#[track_caller]
fn check(script: &str, expected: &[&str]) {
    let Some((_temp, tree)) = tree(script) else { return };
    assert_eq!(entries(&tar_of(&tree, None)), expected);
}

#[test]
fn an_empty_tree_is_two_zero_blocks() {
    let (_temp, tree) = tree("").unwrap();
    assert_eq!(tar_of(&tree, None), vec![0; 1024]);
}

#[test]
fn entries_are_sorted_within_their_directory() {
    check(
        "dir a; file a/z 1; file a-b 2; file B 3; mode B 600",
        &["/B File 600 3", "/a Directory 755", "/a/z File 644 1", "/a-b File 644 2"],
    );
}

#[test]
fn the_first_name_of_an_inode_has_the_data() {
    check("file b x; hard a b; hard c b", &["/a File 644 x", "/b HardLink(/a) 644", "/c HardLink(/a) 644"]);
}

#[test]
fn whiteouts_and_opaque_marks_have_names_of_their_own() {
    check(
        "dir d; opaque d; file d/x 1; gone e; link f g",
        &["/d Directory 755", "/d/.wh..wh..opq File 0", "/d/x File 644 1", "/.wh.e File 0", "/f Symlink(g) 777"],
    );
}

#[test]
fn sockets_and_reserved_names_are_left_out() {
    check("file .wh.x 1; dir .wh.d; file .wh.d/y 1; socket s; fifo p; mode p 622; file z 1", &["/p Fifo 622", "/z File 644 1"]);
}

#[test]
fn times_after_the_epoch_become_the_epoch() {
    let (_temp, tree) = tree("file a 1; file b 1; time a 100; time b 300").unwrap();
    let times = |epoch| {
        let tar = tar_of(&tree, epoch);
        let mut reader = Reader::new(tar.as_slice());
        std::iter::from_fn(|| reader.next_entry().unwrap()).map(|entry| entry.mtime.seconds).collect::<Vec<_>>()
    };
    assert_eq!(times(None), [100, 300]);
    assert_eq!(times(Some(200)), [100, 200]);
}

#[test]
fn content_ignores_times_and_nothing_else() {
    let content = |script: &str| {
        let (_temp, tree) = tree(script)?;
        Some(write_tar(&tree, None, &mut std::io::sink()).unwrap().content)
    };
    let Some(base) = content("file a 1; time a 5; xattr a user.k v") else { return };
    assert_eq!(content("file a 1; time a 6; xattr a user.k v"), Some(base));
    for other in [
        "file a 2; xattr a user.k v",
        "file a 1; mode a 600; xattr a user.k v",
        "file a 1; own a 5; xattr a user.k v",
        "file a 1; xattr a user.k w",
        "file a 1",
        "file b 1; xattr b user.k v",
        "file a 1; xattr a user.k v; gone b",
    ] {
        assert_ne!(content(other), Some(base), "{other}");
    }
}

#[test]
fn large_files_pass_in_pieces() {
    let (_temp, tree) = tree("dir d; file z end").unwrap();
    let data: Vec<u8> = (0..3_500_000_u32).map(|number| (number % 251) as u8).collect();
    fs::write(tree.join("d/large"), &data).unwrap();
    for index in 0..300 {
        fs::write(tree.join(format!("small-{index}")), [index as u8; 10]).unwrap();
    }
    let tar = tar_of(&tree, None);
    let other = tempfile::tempdir().unwrap();
    unpack_into(other.path(), &mut tar.as_slice(), Compression::None, None, LayerLimits::NONE).unwrap();
    assert_eq!(fs::read(other.path().join("d/large")).unwrap(), data);
    assert_eq!(tar_of(other.path(), None), tar);
}

/// What GNU tar makes of a tar of ours must give the same tar again.
#[test]
fn gnu_tar_reads_what_we_write() {
    let long = "n".repeat(120);
    let script =
        format!("dir a; file a/{long} 1; file ü 2; own ü 70000; link l {long}{long}; hard h ü; mode ü 4755; time a 9; time l 8");
    let Some((temp, tree)) = tree(&script) else { return };
    let tar = tar_of(&tree, None);
    let out = temp.path().join("out");
    fs::create_dir(&out).unwrap();
    let child = Command::new("tar").args(["-x", "--numeric-owner", "-p", "-C"]).arg(&out).stdin(Stdio::piped()).spawn();
    let Ok(mut child) = child else {
        eprintln!("skipped: no tar program");
        return;
    };
    child.stdin.take().unwrap().write_all(&tar).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(entries(&tar_of(&out, None)), entries(&tar));
    assert_eq!(tar_of(&out, None), tar);
}

/// A tar of the given entries: name, type, target or data.
fn crafted(entries: &[(&str, char, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, flag, text) in entries {
        let mut header = ::tar::Header::new_gnu();
        let data = if matches!(flag, '0') { text.as_bytes() } else { b"" };
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        if !matches!(flag, '0') {
            header.as_old_mut().linkname[..text.len()].copy_from_slice(text.as_bytes());
        }
        header.as_old_mut().linkflag = [*flag as u8];
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(7);
        header.set_size(data.len() as u64);
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(data);
        out.extend_from_slice(header::padding(data.len() as u64));
    }
    out.extend_from_slice(&[0; 1024]);
    out
}

/// Unpacks crafted entries and lists the tree as its own tar would be.
#[track_caller]
fn check_unpacked(crafted_entries: &[(&str, char, &str)], expected: &[&str]) {
    let temp = tempfile::tempdir().unwrap();
    let tar = crafted(crafted_entries);
    match unpack_into(temp.path(), &mut tar.as_slice(), Compression::None, None, LayerLimits::NONE) {
        Ok(unpacked) => assert_eq!(unpacked.diff_id.0, Digest::of(&tar)),
        Err(LayerError::Tree { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
            eprintln!("skipped: needs root");
            return;
        }
        Err(err) => panic!("{err}: {:?}", std::error::Error::source(&err)),
    }
    assert_eq!(entries(&tar_of(temp.path(), None)), expected);
}

#[test]
fn a_layer_may_not_hold_more_than_its_limits() {
    let too_large = |entries: &[(&str, char, &str)], limits: LayerLimits| {
        let temp = tempfile::tempdir().unwrap();
        let result = unpack_into(temp.path(), &mut crafted(entries).as_slice(), Compression::None, None, limits);
        match result {
            Err(LayerError::TooLarge { what, limit }) => Some((what, limit)),
            _ => None,
        }
    };
    let tar = [("a", '0', "12"), ("b", '0', "34")];
    assert_eq!(too_large(&tar, LayerLimits { entries: 2, bytes: 4 }), None);
    assert_eq!(too_large(&tar, LayerLimits { entries: 1, bytes: 4 }), Some((Excess::Entries, 1)));
    assert_eq!(too_large(&tar, LayerLimits { entries: 2, bytes: 3 }), Some((Excess::Bytes, 3)));
    // what stands behind the end is no entry, but has to be read
    let mut zeros = crafted(&tar);
    zeros.resize(2 << 20, 0);
    let (temp, limits) = (tempfile::tempdir().unwrap(), LayerLimits { entries: 2, bytes: 4096 });
    let result = unpack_into(temp.path(), &mut zeros.as_slice(), Compression::None, None, limits);
    assert!(matches!(result, Err(LayerError::TooLarge { .. })));
}

#[test]
fn names_cannot_leave_the_tree() {
    check_unpacked(
        &[("../../up", '0', "1"), ("/abs", '0', "2"), ("a/../../b", '0', "3")],
        &["/abs File 755 2", "/b File 755 3", "/up File 755 1"],
    );
}

#[test]
fn links_lead_nowhere_outside_the_tree() {
    check_unpacked(
        &[("l", '2', "/etc"), ("l/made", '0', "1"), ("up", '2', "../../.."), ("up/x", '0', "2"), ("h", '1', "l/made")],
        &[
            "/etc Directory 755",
            "/etc/made File 755 1",
            "/h HardLink(/etc/made) 755",
            "/l Symlink(/etc) 777",
            "/up Symlink(../../..) 777",
            "/x File 755 2",
        ],
    );
}

#[test]
fn the_last_entry_of_a_name_wins() {
    check_unpacked(&[("a", '0', "1"), ("a", '0', "2")], &["/a File 755 2"]);
    check_unpacked(&[("a", '5', ""), ("a/x", '0', "1"), ("a", '0', "2")], &["/a File 755 2"]);
    check_unpacked(&[("a", '0', "1"), ("a", '5', ""), ("a/x", '0', "2")], &["/a Directory 755", "/a/x File 755 2"]);
    check_unpacked(&[("a", '5', ""), ("a/x", '0', "1"), ("a", '5', "")], &["/a Directory 755", "/a/x File 755 1"]);
    check_unpacked(&[("a", '2', "b"), ("a", '0', "1")], &["/a File 755 1"]);
    check_unpacked(&[("a", '0', "1"), ("a", '1', "a")], &["/a File 755 1"]);
}

#[test]
fn whiteouts_speak_of_lower_layers_only() {
    check_unpacked(&[("a/.wh.gone", '0', "")], &["/a Directory 755", "/a/.wh.gone File 0"]);
    check_unpacked(&[("d", '5', ""), ("d/.wh..wh..opq", '0', "")], &["/d Directory 755", "/d/.wh..wh..opq File 0"]);
    check_unpacked(&[("f", '0', "1"), (".wh.f", '0', "")], &["/f File 755 1"]);
    check_unpacked(
        &[("d", '5', ""), ("d/x", '0', "1"), (".wh.d", '0', "")],
        &["/d Directory 755", "/d/.wh..wh..opq File 0", "/d/x File 755 1"],
    );
    check_unpacked(&[(".wh.d", '0', ""), ("d", '5', "")], &["/d Directory 755", "/d/.wh..wh..opq File 0"]);
    check_unpacked(&[(".wh.d", '0', ""), ("d/x", '0', "1")], &["/d Directory 755", "/d/.wh..wh..opq File 0", "/d/x File 755 1"]);
    check_unpacked(&[(".wh..wh.plnk", '0', "")], &[]);
}

#[test]
fn hard_links_reach_into_lower_layers_as_copies() {
    let Some((_temp, below)) = tree("dir d; mode d 711; file d/f 1; mode d/f 4755; link l d") else { return };
    let view = View::new(vec![below]).unwrap();
    let tar = crafted(&[("d/copy", '1', "l/f")]);
    let temp = tempfile::tempdir().unwrap();
    unpack_into(temp.path(), &mut tar.as_slice(), Compression::None, Some(&view), LayerLimits::NONE).unwrap();
    assert_eq!(entries(&tar_of(temp.path(), None)), ["/d Directory 711", "/d/copy File 4755 1"]);

    let temp = tempfile::tempdir().unwrap();
    let missing = unpack_into(temp.path(), &mut tar.as_slice(), Compression::None, None, LayerLimits::NONE);
    assert!(matches!(missing, Err(LayerError::LinkTarget { .. })), "{missing:?}");
}

#[test]
fn times_of_directories_survive_their_files() {
    let temp = tempfile::tempdir().unwrap();
    let tar = crafted(&[("d", '5', ""), ("d/x", '0', "1")]);
    unpack_into(temp.path(), &mut tar.as_slice(), Compression::None, None, LayerLimits::NONE).unwrap();
    let view = View::new(vec![temp.path().to_owned()]).unwrap();
    for path in ["d", "d/x"] {
        assert_eq!(view.lookup(&TreePath::clean(path.as_bytes())).unwrap().unwrap().mtime.seconds, 7, "{path}");
    }
}

#[test]
fn damage_is_told() {
    let tar = crafted(&[("a", '0', "some data")]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    let gzip = gzip.finish().unwrap();
    let mut flipped = gzip.clone();
    flipped[20] ^= 0x40;
    let cases: [(&[u8], Compression); 5] = [
        (&tar[..600], Compression::None),
        (&tar[..100], Compression::None),
        (&gzip[..gzip.len() - 1], Compression::Gzip),
        (&flipped, Compression::Gzip),
        (&gzip[1..], Compression::Zstd),
    ];
    for (blob, compression) in cases {
        let temp = tempfile::tempdir().unwrap();
        let mut blob = blob;
        let result = unpack_into(temp.path(), &mut blob, compression, None, LayerLimits::NONE);
        assert!(matches!(result, Err(LayerError::Damaged { .. })), "{compression:?}: {result:?}");
    }
}

#[test]
fn overlay_marks_from_outside_are_dropped() {
    let mut tar = Vec::new();
    let records = b"36 SCHILY.xattr.user.overlay.opaque=y\n28 SCHILY.xattr.user.kept=y\n";
    // The lengths are right: each record counts itself.
    let records: Vec<u8> = records
        .split_inclusive(|byte| *byte == b'\n')
        .flat_map(|record| {
            let text = &record[3..];
            [format!("{} ", text.len() + 3).as_bytes(), text].concat()
        })
        .collect();
    let mut header = ::tar::Header::new_ustar();
    header.set_entry_type(::tar::EntryType::XHeader);
    header.set_size(records.len() as u64);
    header.set_cksum();
    tar.extend_from_slice(header.as_bytes());
    tar.extend_from_slice(&records);
    tar.extend_from_slice(header::padding(records.len() as u64));
    tar.extend(crafted(&[("d", '5', "")]));
    let temp = tempfile::tempdir().unwrap();
    unpack_into(temp.path(), &mut tar.as_slice(), Compression::None, None, LayerLimits::NONE).unwrap();
    let view = View::new(vec![temp.path().to_owned()]).unwrap();
    assert_eq!(view.xattrs(&TreePath::clean(b"d")).unwrap(), [(b"user.kept".to_vec(), b"y".to_vec())]);
    assert!(!crate::snapshot::Dir::open(&temp.path().join("d")).unwrap().is_opaque().unwrap());
}

/// Commands that make small trees; those that fail because of a former one are left out.
fn commands() -> impl Strategy<Value = Vec<String>> {
    let name = prop::sample::select(vec!["a", "b", "a/x", "a/y", "b/z", "a/x/q", "ü", "c"]);
    let command = (name.clone(), name, 0..10_u32, 0..1000_u32).prop_map(|(path, other, kind, number)| match kind {
        0..=2 => format!("dir {path}"),
        3 | 4 => format!("file {path} {}", "x".repeat(number as usize + 1)),
        5 => format!("link {path} {other}"),
        6 => format!("hard {path} {other}"),
        7 => format!("mode {path} {:o}", (number % 0o10000) | 0o700),
        8 => format!("time {path} {number}"),
        _ => format!("own {path} {number}"),
    });
    prop::collection::vec(command, 0..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn unpacking_what_we_write_gives_the_same_tar(commands in commands()) {
        let temp = tempfile::tempdir().unwrap();
        for command in &commands {
            crate::snapshot::testing::try_make(temp.path(), command);
        }
        let tar = tar_of(temp.path(), None);
        let other = tempfile::tempdir().unwrap();
        unpack_into(other.path(), &mut tar.as_slice(), Compression::None, None, LayerLimits::NONE).unwrap();
        prop_assert_eq!(tar_of(other.path(), None), tar);
        let summary = |tree: &Path| write_tar(tree, None, &mut io::sink()).unwrap();
        prop_assert_eq!(summary(other.path()), summary(temp.path()));
    }
}

/// A tar as GNU tar writes it with `--sparse` of a file of 300,000 bytes that has five of them at 100,000.
fn sparse_tar(arguments: &[&str]) -> Vec<u8> {
    let temp = tempfile::tempdir().unwrap();
    let mut file = std::fs::File::create(temp.path().join("s")).unwrap();
    file.set_len(300_000).unwrap();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(100_000)).unwrap();
    std::io::Write::write_all(&mut file, b"hello").unwrap();
    std::fs::write(temp.path().join("t"), "after").unwrap();
    let mut tar = std::process::Command::new("tar");
    let output = tar.arg("-cS").args(arguments).args(["-C", temp.path().to_str().unwrap(), "s", "t"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn sparse_files_have_their_holes() {
    let mut expected = vec![0; 300_000];
    expected[100_000..100_005].copy_from_slice(b"hello");
    for arguments in [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        let tar = sparse_tar(arguments);
        assert!(tar.len() < 100_000, "{arguments:?}: the holes are not in the tar");
        let mut reader = archive::Reader::new(tar.as_slice());
        let entry = reader.next_entry().unwrap().unwrap();
        assert_eq!((entry.path.to_string(), entry.size_bytes), ("/s".to_owned(), 300_000), "{arguments:?}");
        let mut data = Vec::new();
        std::io::Read::read_to_end(&mut reader, &mut data).unwrap();
        assert!(data == expected, "{arguments:?}");
        let entry = reader.next_entry().unwrap().unwrap();
        assert_eq!((entry.path.to_string(), entry.size_bytes), ("/t".to_owned(), 5), "{arguments:?}");
    }
}

#[test]
fn damaged_sparse_maps_are_errors() {
    let good = sparse_tar(&["--format=gnu"]);
    // the offset, the length and the size of the whole: digits that make runs overlap, leave the file or be none
    for at in [386, 398, 483] {
        let mut tar = good.clone();
        tar[at..at + 11].copy_from_slice(if at == 483 { b"00000000001" } else { b"77777777777" });
        let sum: u32 = (0..512).map(|i| if (148..156).contains(&i) { 32 } else { u32::from(tar[i]) }).sum();
        tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        assert!(archive::Reader::new(tar.as_slice()).next_entry().is_err(), "{at}");
    }
}
