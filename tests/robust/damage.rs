//! Damage to a store: the next build repairs it or says what is damaged, and the one after that works.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::common::{Space, busybox_tar, judge};
use super::names;

/// A base that no registry gives: nothing listens there.
const BASE: &str = "127.0.0.1:1/base:1";

/// A space with a base, and an image made of it by a copy and a command.
fn built() -> Space {
    let space = Space::new();
    space.croze(["import", busybox_tar(), BASE]).succeeds();
    space.write("ctx/copied", "copied\n");
    space.dockerfile(&format!("FROM {BASE}\nCOPY copied /\nRUN echo made > /made\n"));
    space.build(&["-t", "app"]).succeeds();
    space
}

/// The store's layer that has this file.
#[track_caller]
fn layer_with(space: &Space, file: &str) -> PathBuf {
    let layers = names(&space.path("store/layers")).into_iter().map(|name| space.path("store/layers").join(name));
    layers.into_iter().find(|layer| layer.join("tree").join(file).exists()).expect("the layer is there")
}

/// The digest in hex that the file of a name has for its manifest.
fn manifest(space: &Space, name: &str) -> String {
    let text = space.read(&format!("store/names/{name}"));
    // a sum of it follows
    let record: serde_json::Value = serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
    record["manifest"].as_str().and_then(|digest| digest.strip_prefix("sha256:")).expect("a digest").to_owned()
}

/// Builds on with one more step, which needs every layer, and gives how many steps ran.
#[track_caller]
fn builds_on(space: &Space) -> usize {
    space.dockerfile(&format!("FROM {BASE}\nCOPY copied /\nRUN echo made > /made\nRUN cat /copied /made > /both\n"));
    let run = space.build(&["--progress=plain", "-o", "type=local,dest=out"]).succeeds();
    assert_eq!(space.read("out/both"), "copied\nmade\n");
    let number = |line: &str| line.split(' ').next().map(str::to_owned);
    let steps: Vec<String> =
        run.stderr.lines().filter(|line| line.contains("COPY") || line.contains("RUN")).filter_map(number).collect();
    run.stderr
        .lines()
        .filter(|line| number(line).is_some_and(|number| steps.contains(&number)) && line.contains(" DONE "))
        .count()
}

#[test]
fn a_layer_whose_tree_is_gone_is_made_anew() {
    let space = built();
    fs::remove_dir_all(layer_with(&space, "copied").join("tree")).expect("removed");
    assert_eq!(builds_on(&space), 2);
}

#[test]
fn a_layer_that_is_gone_is_made_anew() {
    let space = built();
    fs::remove_dir_all(layer_with(&space, "made")).expect("removed");
    assert_eq!(builds_on(&space), 2);
}

#[test]
fn a_layer_whose_record_is_cut_short_is_made_anew() {
    let space = built();
    fs::write(layer_with(&space, "made").join("record"), "{").expect("damaged");
    assert_eq!(builds_on(&space), 2);
}

/// As if the machine had been started anew since.
fn age(layer: &Path) {
    let path = layer.join("record");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot");
    let text = fs::read_to_string(&path).expect("a record");
    assert!(text.contains(boot.trim()));
    // without its sum, as earlier versions wrote it
    let text = text.lines().next().expect("a line").replace(boot.trim(), "an-earlier-one");
    fs::write(&path, text).expect("written");
}

#[test]
fn a_layer_that_a_power_cut_emptied_is_made_anew() {
    let space = built();
    for file in ["copied", "made"] {
        age(&layer_with(&space, file));
        fs::write(layer_with(&space, file).join("tree").join(file), "").expect("emptied");
    }
    assert_eq!(builds_on(&space), 3);
}

#[test]
fn a_layer_that_a_power_cut_spared_is_looked_at_once() {
    let space = built();
    for file in ["copied", "made", "bin/busybox"] {
        age(&layer_with(&space, file));
    }
    assert_eq!(builds_on(&space), 1);
    for file in ["copied", "made", "bin/busybox"] {
        assert!(layer_with(&space, file).join("proven").exists(), "{file}");
    }
}

/// Changes a byte of a file behind the back of the store, its times included.
fn spoil(path: &Path) {
    let file = fs::File::options().read(true).write(true).open(path).expect("a file");
    let before = file.metadata().and_then(|metadata| metadata.modified()).expect("a time");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 0).expect("a byte");
    file.write_all_at(&[byte[0] ^ 1], 0).expect("written");
    file.set_modified(before).expect("as before");
}

#[test]
fn a_damaged_layer_is_made_again_before_it_gets_into_an_image() {
    let digest = |space: &Space| {
        space.build(&["-o", "type=oci,dest=image.tar", "--metadata-file", "meta.json"]).succeeds();
        space.read_json("meta.json")["containerimage.digest"].clone()
    };
    for file in ["copied", "made"] {
        let space = built();
        spoil(&layer_with(&space, file).join("tree").join(file));
        let run = space.build(&["--progress=plain", "-o", "type=oci,dest=image.tar"]).succeeds();
        assert!(run.stderr.contains("(1 step ran, 1 cached)"), "{}", run.stderr);
        assert!(run.stderr.contains("mending the store"), "{}", run.stderr);
        assert!(run.stderr.contains("was damaged in the store and has been dropped"), "{}", run.stderr);
        let first = digest(&space);
        assert_eq!(space.croze(["fsck"]).succeeds().stdout.lines().count(), 1);
        assert_eq!(digest(&space), first);
        assert_eq!(builds_on(&space), 1);
    }
}

#[test]
fn a_damaged_blob_is_made_again_before_it_gets_into_an_archive() {
    let space = built();
    let flags = ["-o", "type=oci,dest=image.tar", "-o", "type=oci,dest=layout,tar=false"];
    space.build(&flags).succeeds();
    let first = fs::read(space.path("image.tar")).expect("an archive");
    let blobs = names(&space.path("store/blobs/sha256")).into_iter().map(|name| space.path("store/blobs/sha256").join(name));
    // documents of the base can be had from nowhere
    let layers: Vec<PathBuf> = blobs.filter(|path| fs::read(path).is_ok_and(|bytes| bytes.starts_with(&[0x1f, 0x8b]))).collect();
    assert_eq!(layers.len(), 3);
    for layer in layers {
        spoil(&layer);
        fs::remove_dir_all(space.path("layout")).expect("removed");
        space.build(&flags).succeeds();
        assert!(fs::read(space.path("image.tar")).expect("an archive") == first);
        judge("skopeo", &["inspect", &format!("oci:{}", space.text_path("layout"))]);
    }
}

#[test]
fn a_command_that_ran_on_damaged_files_runs_again() {
    let space = built();
    for round in 0..3 {
        spoil(&layer_with(&space, "made").join("tree/made"));
        if round == 1 {
            // the command itself cannot run
            spoil(&layer_with(&space, "copied").join("tree/copied"));
        }
        let text =
            format!("FROM {BASE}\nCOPY copied /\nRUN echo made > /made\nRUN : {round}; cp /made /again; grep made /made\n");
        space.dockerfile(&text);
        let run = space.build(&["--progress=plain", "-o", "type=local,dest=out"]).succeeds();
        assert_eq!(space.read("out/again"), "made\n");
        assert_eq!(space.read("out/copied"), "copied\n");
        assert!(run.stderr.contains("mending the store"), "{}", run.stderr);
    }
}

#[test]
fn files_are_written_of_whole_layers_only() {
    let space = built();
    spoil(&layer_with(&space, "made").join("tree/made"));
    space.build(&["-o", "type=local,dest=out"]).succeeds();
    assert_eq!(space.read("out/made"), "made\n");
    spoil(&layer_with(&space, "made").join("tree/made"));
    space.build(&["--no-cache"]).succeeds();
    assert_eq!(fs::read_to_string(layer_with(&space, "made").join("tree/made")).expect("there"), "made\n");
}

#[test]
fn what_was_learned_of_damaged_files_is_forgotten() {
    let space = Space::new();
    space.croze(["import", busybox_tar(), BASE]).succeeds();
    let stages = format!("FROM {BASE} AS made\nRUN echo one > /one && echo two > /two\nFROM {BASE}\n");
    space.dockerfile(&format!("{stages}COPY --from=made /one /\n"));
    space.build(&[]).succeeds();
    spoil(&layer_with(&space, "two").join("tree/two"));
    space.dockerfile(&format!("{stages}COPY --from=made /two /\n"));
    for _ in 0..2 {
        space.build(&["-o", "type=local,dest=out"]).succeeds();
        assert_eq!(space.read("out/two"), "two\n");
    }
}

#[test]
fn a_base_whose_manifest_is_damaged_is_named() {
    let space = built();
    let digest = manifest(&space, "127.0.0.1:1/base/:1");
    fs::write(space.path("store/blobs/sha256").join(&digest), "x").expect("damaged");
    let message = |what: &str| {
        format!(
            "error: image `{BASE}` in the store is not whole: blob sha256:{digest} {what}\n \
             --> Dockerfile:1:6\n  |\n\
             1 | FROM {BASE}\n  \
             |      ^^^^^^^^^^^^^^^^^^\n  |\n  \
             = note: cannot reach 127.0.0.1:1: connection refused\n  \
             = help: import or build that image again; one from a registry is fetched when it answers"
        )
    };
    let found = "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
    space.build(&[]).fails(5, &message(&format!("was damaged (its bytes are {found}) and has been put aside")));
    space.build(&[]).fails(5, &message("is not in the store"));
    space.croze(["import", busybox_tar(), BASE]).succeeds();
    space.build(&[]).succeeds();
}

#[test]
fn a_base_whose_layer_is_gone_is_named() {
    let space = built();
    let layer = layer_with(&space, "bin/busybox");
    let name = layer.file_name().expect("a name").to_str().expect("text").to_owned();
    fs::remove_dir_all(&layer).expect("removed");
    space.dockerfile(&format!("FROM {BASE}\nRUN true\n"));
    space.build(&[]).fails(
        5,
        &format!(
            "error: image `{BASE}` in the store is not whole: layer sha256:{name} is not in the store\n \
             --> Dockerfile:1:6\n  |\n\
             1 | FROM {BASE}\n  \
             |      ^^^^^^^^^^^^^^^^^^\n  |\n  \
             = note: cannot reach 127.0.0.1:1: connection refused\n  \
             = help: import or build that image again; one from a registry is fetched when it answers"
        ),
    );
    space.croze(["import", busybox_tar(), BASE]).succeeds();
    space.build(&[]).succeeds();
}

#[test]
fn a_damaged_name_is_named() {
    let space = built();
    let path = space.path("store/names/127.0.0.1:1/base/:1");
    fs::write(&path, "").expect("damaged");
    space.build(&[]).fails(
        5,
        &format!(
            "error: the name `{BASE}` of the store was damaged (`{}`) and has been put aside\n \
             --> Dockerfile:1:6\n  |\n\
             1 | FROM {BASE}\n  \
             |      ^^^^^^^^^^^^^^^^^^\n  |\n  \
             = help: import or build that image again; one from a registry is fetched when it answers",
            path.display()
        ),
    );
    space.croze(["import", busybox_tar(), BASE]).succeeds();
    space.build(&[]).succeeds();
}

#[test]
fn an_image_whose_manifest_is_damaged_is_written_anew() {
    let space = built();
    let digest = manifest(&space, "docker.io/library/app/:latest");
    let path = space.path("store/blobs/sha256").join(&digest);
    let whole = fs::read(&path).expect("a manifest");
    fs::write(&path, "x").expect("damaged");
    space.build(&["-t", "app"]).succeeds();
    assert_eq!(fs::read(&path).expect("a manifest"), whole);
}

#[test]
fn a_damaged_index_is_made_anew() {
    let space = built();
    let path = space.path("store/index.sqlite");
    for damage in [&b"no database"[..], b"", &[0; 5000]] {
        fs::write(&path, damage).expect("damaged");
        let again = space.build(&[]).succeeds();
        assert!(again.stderr.contains("2 steps ran"), "{}", again.stderr);
        let cached = space.build(&[]).succeeds();
        assert!(cached.stderr.contains("all 2 steps cached"), "{}", cached.stderr);
    }
}
