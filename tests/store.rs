//! The store under many processes and kills, and what is exported from it, judged by other programs.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use croze::digest::{CacheKey, ContentDigest, DiffId, Digest};
use croze::export::{self, Built, BuiltImage, BuiltLayer, ExportError, Form, LayerOrigin, Output};
use croze::image::{DraftHistory, ImageConfig, ImageDraft};
use croze::layer;
use croze::store::{Kept, LayerRecord, Record, Store};

/// A directory with a store in it.
struct Space {
    dir: tempfile::TempDir,
    store: Store,
}

impl Space {
    fn new() -> Space {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = Store::open(&dir.path().join("store")).expect("store");
        Space { dir, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn layer(&self, fill: impl FnOnce(&Path)) -> DiffId {
        let temp = self.store.temp_dir().expect("temp");
        let tree = temp.path.join("tree");
        fs::create_dir(&tree).expect("mkdir");
        fill(&tree);
        layer::commit(&self.store, tree).expect("committed").record.diff_id
    }

    /// Two layers: files of all everyday kinds, and a change on top.
    fn image(&self) -> Built {
        let below = self.layer(|tree| {
            fs::create_dir(tree.join("dir")).expect("mkdir");
            fs::write(tree.join("dir/file"), "one\n").expect("write");
            fs::set_permissions(tree.join("dir/file"), PermissionsExt::from_mode(0o4750)).expect("chmod");
            fs::hard_link(tree.join("dir/file"), tree.join("dir/same")).expect("link");
            symlink("dir/file", tree.join("link")).expect("symlink");
            fs::write(tree.join("big"), vec![7; 200_000]).expect("write");
        });
        let above = self.layer(|tree| {
            fs::create_dir(tree.join("dir")).expect("mkdir");
            fs::write(tree.join("dir/more"), "two\n").expect("write");
        });
        let platform = "linux/amd64".parse().expect("valid");
        let item = |created_by: &str, layer| DraftHistory { created_by: created_by.to_owned(), comment: None, layer };
        let history = vec![item("COPY", true), item("RUN a && b", true), item("CMD", false)];
        let own = |diff_id, created_secs| BuiltLayer {
            diff_id,
            origin: LayerOrigin::Own { created_secs, tar_bytes: None },
            delivered: None,
        };
        let image = BuiltImage {
            draft: ImageDraft { config: ImageConfig::scratch(&platform), history, ..ImageDraft::default() },
            layers: vec![own(below, 1_700_000_000), own(above, 1_700_000_001)],
            claims: Vec::new(),
        };
        Built {
            images: vec![image],
            form: Form::Manifest,
            epoch: None,
            names: vec!["example.com/a/b:1".parse().expect("valid"), "short".parse().expect("valid")],
        }
    }

    fn export(&self, built: &Built, output: &str) -> export::Exported {
        let output = Output::parse(output).expect(output);
        export::export(&self.store, built, &output, 0, &mut io::sink()).expect("exported")
    }

    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program).args(arguments).current_dir(self.dir.path()).output().expect(program);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{program} {arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }
}

/// Another reader's opinion of a layout.
#[track_caller]
fn fsck(layout: &Path) {
    use ocidir::OciRead;
    use ocidir::cap_std::{ambient_authority, fs::Dir};
    let dir = Dir::open_ambient_dir(layout, ambient_authority()).expect("layout");
    ocidir::OciDir::open(dir).and_then(|layout| layout.fsck()).expect("ocidir accepts it");
}

/// The image's tree as both layers make it.
#[track_caller]
fn check_files(root: &Path) {
    let names = |path: &Path| {
        let entries = fs::read_dir(path).expect("read").map(|entry| entry.expect("entry").file_name().into_string());
        let mut names = entries.collect::<Result<Vec<_>, _>>().expect("text");
        names.sort();
        names
    };
    assert_eq!(names(root), ["big", "dir", "link"]);
    assert_eq!(names(&root.join("dir")), ["file", "more", "same"]);
    let file = fs::metadata(root.join("dir/file")).expect("file");
    assert_eq!((file.mode() & 0o7777, file.nlink()), (0o4750, 2));
    assert_eq!(file.ino(), fs::metadata(root.join("dir/same")).expect("same").ino());
    assert_eq!(fs::read_link(root.join("link")).expect("link"), Path::new("dir/file"));
    assert_eq!(fs::read(root.join("big")).expect("big"), vec![7; 200_000]);
}

#[test]
fn layouts_are_valid_in_every_compression() {
    let space = Space::new();
    let built = space.image();
    for compression in ["uncompressed", "gzip", "zstd", "estargz"] {
        let layout = space.path(compression);
        space.export(&built, &format!("type=oci,tar=false,dest={},compression={compression}", layout.display()));
        let entries = export::validate(&layout).expect(compression);
        fsck(&layout);
        assert_eq!(entries.len(), 2, "one entry per name");
        assert_eq!(entries[0].annotations["io.containerd.image.name"], "example.com/a/b:1");
        assert_eq!(entries[0].annotations["org.opencontainers.image.ref.name"], "1");
        assert_eq!(entries[1].annotations["io.containerd.image.name"], "docker.io/library/short:latest");
    }
}

#[test]
fn skopeo_and_umoci_read_what_is_written() {
    let space = Space::new();
    let built = space.image();
    space.export(&built, &format!("type=oci,tar=false,dest={}", space.path("layout").display()));
    let inspected: serde_json::Value =
        serde_json::from_str(&space.run("skopeo", &["inspect", "oci:layout:1"])).expect("skopeo writes JSON");
    assert_eq!(inspected["Layers"].as_array().map(Vec::len), Some(2));
    assert_eq!(inspected["Created"], "2023-11-14T22:13:21Z");
    space.run("umoci", &["unpack", "--image", "layout:1", "bundle"]);
    check_files(&space.path("bundle/rootfs"));

    space.export(&built, &format!("type=oci,dest={}", space.path("image.tar").display()));
    space.run("skopeo", &["inspect", "oci-archive:image.tar:1"]);
    space.export(&built, &format!("type=docker,dest={}", space.path("docker.tar").display()));
    space.run("skopeo", &["copy", "docker-archive:docker.tar:short:latest", "oci:again:x"]);
    export::validate(&space.path("again")).expect("valid");
}

#[test]
fn an_image_without_layers_is_one() {
    let space = Space::new();
    let mut built = space.image();
    built.images[0].layers.clear();
    built.images[0].draft.history.clear();
    space.export(&built, &format!("type=oci,tar=false,dest={}", space.path("layout").display()));
    export::validate(&space.path("layout")).expect("valid");
    space.export(&built, &format!("type=local,dest={}", space.path("files").display()));
    assert_eq!(fs::read_dir(space.path("files")).expect("read").count(), 0);
}

#[test]
fn archives_are_the_layout_and_equal_each_time() {
    let space = Space::new();
    let built = space.image();
    for kind in ["oci", "docker"] {
        let write = |name: &str| {
            let path = space.path(name);
            space.export(&built, &format!("type={kind},dest={}", path.display()));
            fs::read(path).expect("read")
        };
        assert!(write("one.tar") == write("two.tar"), "{kind}: two exports differ");
        let mut piped = Vec::new();
        let output = Output::parse(&format!("type={kind},dest=-")).expect("valid");
        export::export(&space.store, &built, &output, 0, &mut piped).expect("exported");
        assert!(piped == fs::read(space.path("one.tar")).expect("read"), "{kind}: stdout differs from the file");
        let layout = space.path(kind);
        fs::create_dir(&layout).expect("mkdir");
        space.run("tar", &["-xf", "one.tar", "-C", kind]);
        export::validate(&layout).expect("valid");
        assert!(layout.join("manifest.json").exists());
        let listed = space.run("tar", &["-tf", "one.tar"]);
        let names: Vec<&str> = listed.lines().collect();
        assert!(names.is_sorted(), "{names:?}");
    }
}

#[test]
fn a_layout_keeps_its_other_images() {
    let space = Space::new();
    // its own names would count more than those of the output
    let built = Built { names: Vec::new(), ..space.image() };
    let output = |name: &str| format!("type=oci,tar=false,dest={},name={name}", space.path("layout").display());
    space.export(&built, &output("a:1"));
    space.export(&Built { epoch: Some(5), ..built.clone() }, &output("a:2"));
    let names = |entries: &[croze::image::Descriptor]| -> Vec<String> {
        entries.iter().map(|entry| entry.annotations["org.opencontainers.image.ref.name"].clone()).collect()
    };
    let entries = export::validate(&space.path("layout")).expect("valid");
    assert_eq!(names(&entries), ["1", "2"]);
    assert_ne!(entries[0].digest, entries[1].digest);
    space.export(&built, &output("a:2"));
    let index = fs::read(space.path("layout/index.json")).expect("read");
    let index: croze::image::Index = serde_json::from_slice(&index).expect("index");
    assert_eq!(names(&index.manifests), ["1", "2"]);
    assert_eq!(index.manifests[0].digest, index.manifests[1].digest);
}

#[test]
fn an_epoch_with_rewritten_times_makes_equal_images_of_unequal_times() {
    let digest = |mtime_secs: u64| {
        let space = Space::new();
        let diff_id = space.layer(|tree| {
            let file = fs::File::create(tree.join("file")).expect("create");
            file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(mtime_secs)).expect("mtime");
        });
        let origin = LayerOrigin::Own { created_secs: mtime_secs.cast_signed(), tar_bytes: None };
        let mut built = Built { epoch: Some(1000), ..space.image() };
        built.images[0].layers = vec![BuiltLayer { diff_id, origin, delivered: None }];
        built.images[0].draft.history.truncate(1);
        let layout = space.path("layout");
        let output = format!("type=oci,tar=false,dest={},rewrite-timestamp=true", layout.display());
        let artifact = space.export(&built, &output).artifact.expect("an image");
        export::validate(&layout).expect("valid");
        artifact.root.digest
    };
    assert_eq!(digest(2000), digest(3000));
    assert_ne!(digest(2000), digest(500), "a time before the epoch stays");
}

#[test]
fn annotations_are_on_manifest_and_descriptor() {
    let space = Space::new();
    let built = space.image();
    let layout = space.path("layout");
    let keys = "annotation.a=1,annotation-manifest-descriptor.b=2,annotation[linux/arm64].c=3,annotation[linux/amd64].d=4,annotation-manifest-descriptor[linux/amd64].e=5";
    space.export(&built, &format!("type=oci,tar=false,dest={},{keys}", layout.display()));
    let entries = export::validate(&layout).expect("valid");
    // those for a platform are for images in an index, as with BuildKit
    assert_eq!((entries[0].annotations["b"].as_str(), entries[0].annotations.get("e")), ("2", None));
    let manifest = fs::read(layout.join("blobs/sha256").join(entries[0].digest.hex())).expect("read");
    let manifest: croze::image::Manifest = serde_json::from_slice(&manifest).expect("manifest");
    assert_eq!(manifest.annotations.into_iter().collect::<Vec<_>>(), [("a".to_owned(), "1".to_owned())]);
}

#[test]
fn plain_files_as_directory_and_tar() {
    let space = Space::new();
    let built = space.image();
    let files = space.path("files");
    // what is there and in the way is replaced, what is not stays
    fs::create_dir_all(files.join("dir/more/x")).expect("mkdir");
    symlink("/nonexistent", files.join("big")).expect("symlink");
    for _ in 0..2 {
        space.export(&built, files.to_str().expect("text"));
        check_files(&files);
    }
    fs::write(files.join("mine"), "").expect("write");
    space.export(&built, files.to_str().expect("text"));
    assert!(files.join("mine").exists());

    space.export(&built, &format!("type=tar,dest={}", space.path("files.tar").display()));
    fs::create_dir(space.path("unpacked")).expect("mkdir");
    space.run("tar", &["-xpf", "files.tar", "-C", "unpacked"]);
    check_files(&space.path("unpacked"));
}

#[test]
fn an_epoch_is_the_time_of_plain_files() {
    let space = Space::new();
    let built = Built { epoch: Some(1_234_567_890), ..space.image() };
    space.export(&built, space.path("files").to_str().expect("text"));
    for name in ["big", "dir", "dir/file", "link"] {
        assert_eq!(fs::symlink_metadata(space.path("files").join(name)).expect(name).mtime(), 1_234_567_890, "{name}");
    }
    space.export(&built, &format!("type=tar,dest={}", space.path("files.tar").display()));
    let listed = space.run("tar", &["--utc", "-tvf", "files.tar"]);
    assert!(listed.lines().all(|line| line.contains("2009-02-13 23:31")), "{listed}");
}

#[test]
fn the_store_s_own_image_needs_no_blobs_and_becomes_a_base() {
    let space = Space::new();
    let built = space.image();
    let artifact = export::to_store(&space.store, &built, &[], 9).expect("stored");
    let image = &artifact.images[0];
    let record = space.store.name(&built.names[1]).expect("asked").expect("named");
    assert_eq!((record.manifest, record.set_secs), (image.descriptor.digest, 9));
    assert_eq!(space.store.read_blob(&record.manifest).expect("read"), image.manifest);
    assert_eq!(fs::read_dir(space.store.root().join("blobs/sha256")).expect("read").count(), 2);

    let base = image.layers.iter().map(|layer| BuiltLayer {
        diff_id: layer.diff_id,
        origin: LayerOrigin::Base(layer.descriptor.clone()),
        delivered: None,
    });
    let config: ImageConfig = serde_json::from_slice(&image.config).expect("config");
    let draft = ImageDraft { base_history: config.history, history: vec![], ..built.images[0].draft.clone() };
    let derived = Built { images: vec![BuiltImage { layers: base.collect(), draft, claims: Vec::new() }], ..built };
    space.export(&derived, &format!("type=oci,tar=false,dest={}", space.path("layout").display()));
    export::validate(&space.path("layout")).expect("valid");
}

#[test]
fn a_layer_that_is_gone_is_named() {
    let space = Space::new();
    let built = space.image();
    let missing = built.images[0].layers[1].diff_id;
    space.store.trash(&space.store.root().join("layers").join(missing.0.hex())).expect("trashed");
    let output = Output::parse("type=oci,dest=-").expect("valid");
    let error = export::export(&space.store, &built, &output, 0, &mut io::sink()).expect_err("refused");
    assert!(matches!(error, ExportError::NoLayer(diff_id) if diff_id == missing), "{error}");
}

#[test]
fn every_kind_of_damage_to_a_layout_is_found() {
    let space = Space::new();
    let built = space.image();
    let layout = space.path("layout");
    let output = format!("type=oci,tar=false,dest={}", layout.display());
    space.export(&built, &output);
    let blobs = fs::read_dir(layout.join("blobs/sha256")).expect("read").map(|entry| entry.expect("entry").path());
    let files: Vec<PathBuf> = blobs.chain([layout.join("index.json"), layout.join("oci-layout")]).collect();
    assert_eq!(files.len(), 6);
    for file in files {
        let whole = fs::read(&file).expect("read");
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        for damaged in [&whole[..whole.len() - 1], &flipped, b""] {
            fs::write(&file, damaged).expect("damaged");
            assert!(export::validate(&layout).is_err(), "{} of {} bytes", file.display(), damaged.len());
        }
        // the next export repairs what is not an index
        if file.parent().is_some_and(|parent| parent.ends_with("sha256")) {
            space.export(&built, &output);
            export::validate(&layout).expect("repaired");
        }
        fs::write(&file, &whole).expect("restored");
    }
    fs::write(layout.join("blobs/sha256/extra"), "").expect("write");
    assert!(export::validate(&layout).is_err());
}

/// Not a test of its own: what the processes of the next tests do when this binary runs again with `CROZE_TEST_STORE` set.
#[test]
fn child() {
    let Some(root) = std::env::var_os("CROZE_TEST_STORE") else { return };
    let rounds = std::env::var("CROZE_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX);
    let store = Store::open(Path::new(&root)).expect("store");
    println!("ready");
    for round in 0..rounds {
        let text = format!("{}", round % 10);
        let digest = store.write_blob(text.as_bytes()).expect("blob");
        assert_eq!(store.read_blob(&digest).expect("read back"), text.as_bytes());
        let key = CacheKey(digest);
        let lock = store.lock_step(&key).expect("locked");
        let record = Record { diff_id: DiffId(digest), created_secs: 1 };
        store.set_records(&[(key, record.clone())]).expect("record");
        assert_eq!(store.record(&key).expect("asked"), Some(record));
        drop(lock);
        let temp = store.temp_dir().expect("temp");
        let tree = temp.path.join("tree");
        fs::create_dir(&tree).expect("mkdir");
        fs::write(tree.join("file"), &text).expect("write");
        let record = LayerRecord { diff_id: DiffId(digest), tar_bytes: 1, content: ContentDigest(digest) };
        let layer = store.publish_layer(Kept::Tree(tree), record).expect("published");
        assert_eq!(fs::read_to_string(layer.tree().expect("kept as files").join("file")).expect("read"), text);
    }
}

fn spawn_child(root: &Path, rounds: Option<u64>) -> std::process::Child {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "child", "--nocapture"]).env("CROZE_TEST_STORE", root);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(rounds) = rounds {
        command.env("CROZE_TEST_ROUNDS", rounds.to_string());
    }
    command.spawn().expect("spawned")
}

#[test]
fn many_processes_make_and_use_one_store_at_once() {
    let space = tempfile::tempdir().expect("temporary directory");
    let root = space.path().join("store");
    let children: Vec<_> = (0..200).map(|_| spawn_child(&root, Some(4))).collect();
    for child in children {
        let output = child.wait_with_output().expect("waited");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let store = Store::open(&root).expect("store");
    for round in 0..4 {
        let digest = Digest::of(round.to_string().as_bytes());
        assert!(store.record(&CacheKey(digest)).expect("asked").is_some());
        assert!(store.layer(&DiffId(digest)).expect("asked").is_some());
    }
    for name in ["tmp", "locks"] {
        assert_eq!(fs::read_dir(root.join(name)).expect("read").count(), 0, "{name} is clean");
    }
}

#[test]
fn killed_processes_leave_a_usable_store() {
    let space = tempfile::tempdir().expect("temporary directory");
    let root = space.path().join("store");
    for round in 0..20 {
        let mut child = spawn_child(&root, None);
        // kill it at some point of its work: the sooner the round, the earlier
        let mut out = child.stdout.take().expect("piped");
        let mut seen = String::new();
        while !seen.contains("ready") {
            let mut byte = [0];
            assert_eq!(out.read(&mut byte).expect("read"), 1, "the child ended before it was killed");
            seen.push(char::from(byte[0]));
        }
        let opened = Store::open(&root).expect("store");
        for _ in 0..round {
            opened.write_blob(b"meanwhile").expect("written");
        }
        child.kill().expect("killed");
        child.wait().expect("waited");
    }
    let output = spawn_child(&root, Some(20)).wait_with_output().expect("waited");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_dir(root.join("tmp")).expect("read").count(), 0, "leavings of killed processes were swept");
    let store = Store::open(&root).expect("store");
    assert!(store.empty_trash(usize::MAX).expect("emptied"));
}
