//! Damage to a store: the next build repairs it or says what is damaged, and the one after that works.

use std::fs;
use std::path::{Path, PathBuf};

use super::common::{Space, busybox_tar};
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
    let record = space.read_json(&format!("store/names/{name}"));
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
    fs::write(&path, text.replace(boot.trim(), "an-earlier-one")).expect("written");
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

#[test]
fn a_damaged_layer_does_not_get_into_an_image() {
    let space = built();
    fs::write(layer_with(&space, "made").join("tree/made"), "mad\n").expect("damaged");
    let run = space.build(&["-o", "type=oci,dest=image.tar"]);
    assert_eq!(run.code, Some(5), "{}", run.stderr);
    assert!(!space.path("image.tar").exists());
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
