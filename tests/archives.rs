//! Images by name and as archives: load, save, tag, remove, history, what is said of them.

mod common;

use common::{Space, judge, skip_unless};
use croze::export;
use serde_json::Value;

fn built() -> Space {
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\nLABEL a=b\nCOPY file /file\n").write("ctx/file", "content\n");
    space.build(&["-q", "-t", "app:1"]).succeeds();
    space
}

fn id(space: &Space, name: &str) -> Value {
    let inspected: Value = serde_json::from_str(&space.croze(["inspect", name]).succeeds().stdout).expect("JSON");
    inspected["config_digest"].clone()
}

#[test]
fn what_is_saved_can_be_loaded_and_built_upon() {
    let space = built();
    let saved = id(&space, "app:1");
    space.croze(["save", "-o", "app.tar", "app:1", "busybox"]).succeeds();
    let other = Space::new();
    let archive = space.text_path("app.tar");
    let loaded = other.croze(["load", "-i", &archive]).succeeds();
    assert_eq!(loaded.stdout, "app:1\nbusybox:latest\n");
    assert_eq!(id(&other, "app:1"), saved);
    other.dockerfile("FROM app:1\nRUN cp /file /copy\n");
    assert_eq!(std::fs::read_to_string(other.build_files(&[]).join("copy")).expect("there"), "content\n");
    // what was loaded is saved as it came
    other.croze(["save", "-o", "again.tar", "app:1", "busybox"]).succeeds();
    assert!(std::fs::read(other.path("again.tar")).expect("there") == std::fs::read(archive).expect("there"));
}

#[test]
fn archives_of_other_programs_are_loaded() {
    if !skip_unless("archives_of_other_programs_are_loaded", &["skopeo"]) {
        return;
    }
    let space = built();
    space.croze(["save", "-o", "app.tar", "app:1"]).succeeds();
    let source = format!("oci-archive:{}:1", space.text_path("app.tar"));
    // `docker save` as it was for years: layers as `HEX.tar`, links among them
    judge("skopeo", &["copy", &source, &format!("docker-archive:{}:old/app:2", space.text_path("old.tar"))]);
    judge("skopeo", &["copy", &source, &format!("oci-archive:{}:docker.io/new/app:3", space.text_path("new.tar"))]);
    for (archive, name) in [("old.tar", "old/app:2"), ("new.tar", "new/app:3")] {
        assert_eq!(space.croze(["load", "-i", archive]).succeeds().stdout, format!("{name}\n"));
        assert_eq!(id(&space, name), id(&space, "app:1"));
    }
    judge("gzip", &["-k", &space.text_path("new.tar")]);
    let input = std::fs::read(space.path("new.tar.gz")).expect("there");
    assert_eq!(space.croze_with_input(["load"], &input).succeeds().stdout, "new/app:3\n");
}

#[test]
fn what_is_no_archive_of_images_is_refused() {
    let space = built();
    let refused = |file: &str, why: &str| {
        let run = space.croze(["load", "-i", file]);
        assert_eq!(run.code, Some(2), "{}", run.stderr);
        assert!(run.stderr.starts_with(&format!("error: cannot load `{file}`: {why}")), "{}", run.stderr);
    };
    space.write("junk", "junk\n");
    refused("junk", "the layer is damaged");
    judge("tar", &["-C", &space.text_path("ctx"), "-cf", &space.text_path("files.tar"), "file"]);
    refused("files.tar", "it has neither `index.json` nor `manifest.json`");
    space.build(&["-o", "type=oci,tar=false,dest=layout"]).succeeds();
    let blob = std::fs::read_dir(space.path("layout/blobs/sha256")).expect("blobs").next().expect("one").expect("one").path();
    let good = std::fs::read(&blob).expect("read");
    std::fs::write(&blob, "other bytes").expect("writes");
    judge("tar", &["-C", &space.text_path("layout"), "-cf", &space.text_path("wrong.tar"), "."]);
    refused("wrong.tar", "its blob sha256:");
    std::fs::write(&blob, good).expect("writes");
}

#[test]
fn names_come_and_go() {
    let space = built();
    space.croze(["tag", "app:1", "example.com/other"]).succeeds();
    assert_eq!(id(&space, "example.com/other"), id(&space, "app:1"));
    assert_eq!(space.croze(["rmi", "app:1"]).succeeds().stdout, "app:1\n");
    let gone = "error: no image `app:1` in the store\n |\n = help: `croze images` lists what is there\n";
    space.croze(["rmi", "app:1"]).fails(2, gone);
    space.croze(["tag", "app:1", "x"]).fails(2, gone);
    space.croze(["save", "-o", "x.tar", "app:1"]).fails(2, gone);
    let history = space.croze(["history", "example.com/other"]).succeeds().stdout;
    let made_by: Vec<&str> = history.lines().map(|line| line.rsplit("  ").next().unwrap_or_default()).collect();
    assert_eq!(made_by, ["CREATED BY", "COPY file /file # buildkit", "LABEL a=b", "croze import"]);
}

#[test]
fn statements_lie_beside_the_image() {
    let space = Space::with_busybox();
    let status = "Package: tool\nStatus: install ok installed\nArchitecture: all\nVersion: 1.0-1\n";
    space.dockerfile("FROM busybox\nARG V=1\nCOPY status /var/lib/dpkg/status\n").write("ctx/status", status);
    let output = |name: &str| format!("type=oci,tar=false,dest={}", space.text_path(name));
    let flags = ["--provenance=mode=max", "--sbom", "-t", "app", "--build-arg", "V=2", "--metadata-file", "metadata.json"];
    let once = |name: &str| {
        let run = space
            .command([&["build", "-o", &output(name)], flags.as_slice(), &["ctx"]].concat())
            .env("SOURCE_DATE_EPOCH", "7")
            .output();
        common::Run::of(run.expect("croze starts")).succeeds();
        export::validate(&space.path(name)).expect("a valid layout");
        space.read_json(&format!("{name}/index.json"))["manifests"][0]["digest"].clone()
    };
    let digest = once("one");
    assert_eq!(once("two"), digest, "with an epoch the statements are the same each time");
    let blob = |descriptor: &Value| {
        let hex = descriptor["digest"].as_str().expect("a digest").trim_start_matches("sha256:").to_owned();
        space.read_json(&format!("one/blobs/sha256/{hex}"))
    };
    let index = blob(&space.read_json("one/index.json")["manifests"][0]);
    let (image, said) = (&index["manifests"][0], &index["manifests"][1]);
    assert_eq!(said["annotations"]["vnd.docker.reference.digest"], image["digest"]);
    let manifest = blob(said);
    assert_eq!(manifest["subject"]["digest"], image["digest"]);
    let (sbom, provenance) = (blob(&manifest["layers"][0]), blob(&manifest["layers"][1]));
    assert_eq!(sbom["predicateType"], "https://spdx.dev/Document");
    assert_eq!(sbom["predicate"]["packages"][0]["externalRefs"][0]["referenceLocator"], "pkg:deb/debian/tool@1.0-1?arch=all");
    assert_eq!(provenance["predicateType"], "https://slsa.dev/provenance/v1");
    let definition = &provenance["predicate"]["buildDefinition"];
    assert_eq!(definition["resolvedDependencies"][0]["uri"], "pkg:docker/busybox@latest?platform=linux%2Famd64");
    assert_eq!(definition["externalParameters"]["request"]["args"]["build-arg:V"], "2");
    assert_eq!(definition["internalParameters"]["buildConfig"]["llbDefinition"].as_array().map(Vec::len), Some(3));
    let metadata = space.read_json("metadata.json");
    assert_eq!(metadata["buildx.build.provenance"]["buildType"], "https://mobyproject.org/buildkit@v1");
    assert_eq!(metadata["containerimage.digest"], digest);
}

#[test]
fn little_is_told_unless_more_is_asked_for() {
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\nARG SECRET\nRUN true\n");
    space.build(&["--provenance", "--build-arg", "SECRET=hush", "-o", "type=oci,tar=false,dest=out"]).succeeds();
    let blobs = std::fs::read_dir(space.path("out/blobs/sha256")).expect("blobs");
    let statements: Vec<String> = blobs
        .filter_map(|entry| std::fs::read_to_string(entry.expect("entry").path()).ok())
        .filter(|text| text.contains("in-toto.io/Statement"))
        .collect();
    assert_eq!(statements.len(), 1);
    assert!(!statements[0].contains("hush") && statements[0].contains("pkg:docker/busybox@latest"));
    let message = "error: `type=docker` holds no attestations; write `type=oci`, or leave them out\n";
    space.build(&["--provenance", "-o", "type=docker,dest=x.tar"]).fails(2, message);
}
