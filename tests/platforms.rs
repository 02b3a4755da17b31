//! Builds for several platforms at once: one index, shared steps, files side by side.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use common::{Space, judge, skip_unless};
use croze::export;
use serde_json::Value;

/// One file per architecture, and a layer that both images share.
const PAIR: &str = "FROM scratch AS files\nCOPY common /common\n\
                    FROM scratch\nARG TARGETARCH\nCOPY --from=files /common /common\nCOPY $TARGETARCH /arch\n\
                    LABEL arch=$TARGETARCH\n";
const BOTH: &str = "--platform=linux/arm64,linux/amd64";

fn pair() -> Space {
    let space = Space::new();
    space.dockerfile(PAIR).write("ctx/common", "both\n").write("ctx/amd64", "amd64\n").write("ctx/arm64", "arm64\n");
    space
}

fn blob(layout: &Path, descriptor: &Value) -> Value {
    let digest = descriptor["digest"].as_str().expect("a digest").trim_start_matches("sha256:");
    let bytes = fs::read(layout.join("blobs/sha256").join(digest)).expect("the blob is there");
    serde_json::from_slice(&bytes).expect("JSON")
}

/// The platforms that an index lists, in its order.
fn architectures(index: &Value) -> Vec<&str> {
    let entries = index["manifests"].as_array().expect("a list");
    entries.iter().map(|entry| entry["platform"]["architecture"].as_str().expect("a platform")).collect()
}

#[test]
fn platforms_become_one_index_in_the_order_asked_for() {
    let space = pair();
    let annotations = ["index:a=1", "index-descriptor:b=2", "manifest[linux/arm64]:c=3", "manifest-descriptor:d=4"];
    let annotations: Vec<&str> = annotations.iter().flat_map(|text| ["--annotation", text]).collect();
    let output = format!("type=oci,tar=false,dest={}", space.text_path("layout"));
    let files = ["-t", "pair", "--iidfile", "iid", "--metadata-file", "metadata.json"];
    space.build(&[&[BOTH, "-o", &output], annotations.as_slice(), &files].concat()).succeeds();
    let layout = space.path("layout");
    export::validate(&layout).expect("a valid layout");

    let entry = &space.read_json("layout/index.json")["manifests"][0];
    assert_eq!(entry["annotations"]["b"], "2");
    assert_eq!(entry["mediaType"], "application/vnd.oci.image.index.v1+json");
    let index = blob(&layout, entry);
    assert_eq!(architectures(&index), ["arm64", "amd64"]);
    assert_eq!(index["annotations"], serde_json::json!({"a": "1"}));
    for (entry, marked) in index["manifests"].as_array().expect("a list").iter().zip([true, false]) {
        assert_eq!(entry["annotations"], serde_json::json!({"d": "4"}));
        let manifest = blob(&layout, entry);
        assert_eq!(manifest["annotations"]["c"] == "3", marked);
        let config = blob(&layout, &manifest["config"]);
        assert_eq!(config["config"]["Labels"]["arch"], entry["platform"]["architecture"]);
        assert_eq!(config["architecture"], entry["platform"]["architecture"]);
    }

    let metadata = space.read_json("metadata.json");
    assert_eq!(metadata["containerimage.digest"], entry["digest"]);
    assert_eq!(metadata["containerimage.digest"], space.read("iid"));
    assert_eq!(metadata["containerimage.config.digest"], Value::Null);
}

#[test]
fn what_is_equal_for_all_platforms_runs_once() {
    let space = Space::with_busybox();
    space.dockerfile(
        "FROM --platform=$BUILDPLATFORM busybox AS build\nRUN echo once > /once\n\
         FROM --platform=$BUILDPLATFORM busybox AS cross\nARG TARGETARCH\nRUN echo $TARGETARCH > /arch\n\
         FROM scratch\nCOPY --from=build /once /\nCOPY --from=cross /arch /\n",
    );
    let run = space.build(&["--progress=plain", BOTH, "-o", "out"]).succeeds();
    // a step in front again has its header again
    let numbers =
        |text: &str| run.stderr.lines().filter(|line| line.ends_with(text)).filter_map(|line| line.split(' ').next()).collect();
    let steps = |text: &str| BTreeSet::<&str>::len(&numbers(text));
    assert_eq!((steps("RUN echo once > /once"), steps("RUN echo arm64 > /arch"), steps("RUN echo amd64 > /arch")), (1, 1, 1));
    for architecture in ["arm64", "amd64"] {
        assert_eq!(space.read(&format!("out/linux_{architecture}/once")), "once\n");
        assert_eq!(space.read(&format!("out/linux_{architecture}/arch")), format!("{architecture}\n"));
    }
    let again = space.build(&[BOTH]).succeeds();
    assert!(again.stderr.contains("(all 6 steps cached)"), "{}", again.stderr);
}

#[test]
fn an_index_in_the_store_is_a_base_for_each_of_its_platforms() {
    let space = pair();
    space.build(&[BOTH, "-t", "pair"]).succeeds();
    space.dockerfile("FROM pair\n");
    for architecture in ["arm64", "amd64"] {
        let platform = format!("--platform=linux/{architecture}");
        space.build(&[&platform, "-o", &format!("out-{architecture}")]).succeeds();
        assert_eq!(space.read(&format!("out-{architecture}/arch")), format!("{architecture}\n"));
    }
    assert!(space.croze(["images"]).succeeds().stdout.contains("pair:latest"));
}

#[test]
fn files_of_several_platforms_lie_side_by_side_or_together() {
    let space = pair();
    space.build(&[BOTH, "-o", "type=tar,dest=files.tar"]).succeeds();
    let listed = judge("tar", &["-tf", &space.text_path("files.tar")]).stdout;
    let expected =
        ["linux_amd64/", "linux_amd64/arch", "linux_amd64/common", "linux_arm64/", "linux_arm64/arch", "linux_arm64/common"];
    assert_eq!(listed.lines().collect::<Vec<_>>(), expected);
    space.build(&["--platform=linux/arm64", "-o", "type=local,dest=one,platform-split=true"]).succeeds();
    assert_eq!(space.read("one/linux_arm64/arch"), "arm64\n");

    let together = [BOTH, "-o", "type=local,dest=together,platform-split=false"];
    space.build(&together).fails(2, "error: `/arch` is in the images for linux/arm64 and linux/amd64\n |\n = help: leave `platform-split=false` out: each platform then has a directory\n");
    space.dockerfile("FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /$TARGETARCH\n");
    space.build(&together).succeeds();
    assert_eq!(space.read("together/arm64") + &space.read("together/amd64"), "arm64\namd64\n");
}

#[test]
fn one_platform_may_have_an_index_too() {
    let space = pair();
    let output = format!("type=oci,tar=false,dest={}", space.text_path("layout"));
    space.build(&["--build-arg", "BUILDKIT_MULTI_PLATFORM=1", "-o", &output]).succeeds();
    let index = blob(&space.path("layout"), &space.read_json("layout/index.json")["manifests"][0]);
    assert_eq!(architectures(&index), [croze::reference::Platform::host().architecture.as_str()]);
}

#[test]
fn what_holds_one_platform_refuses_more() {
    let space = pair();
    let message = "error: `type=docker` holds one platform; write `type=oci`, or build for one platform\n";
    space.build(&[BOTH, "-o", "type=docker,dest=x.tar"]).fails(2, message);
    let message = "error: annotations of an index need an image that has one: build for several platforms\n";
    space.build(&["--annotation", "index:a=b"]).fails(2, message);
    let message = "error: two outputs go to `x.tar`; give each a place of its own\n";
    space.build(&["-o", "type=oci,dest=x.tar", "-o", "type=tar,dest=x.tar"]).fails(2, message);
    let both = ["--platform=linux/amd64", "-o", "type=tar", "-o", "type=oci"];
    space.build(&both).fails(2, "error: two outputs go to standard output; give one of them `dest=FILE`\n");
    assert!(!space.path("x.tar").exists());
}

#[test]
fn others_read_the_index() {
    if !skip_unless("others_read_the_index", &["skopeo", "umoci"]) {
        return;
    }
    let space = pair();
    let output = format!("type=oci,dest={}", space.text_path("pair.tar"));
    space
        .build(&[BOTH, "-t", "pair:1", "-o", &output, "-o", "type=docker,dest=unused.tar"])
        .fails(2, "error: `type=docker` holds one platform; write `type=oci`, or build for one platform\n");
    space.build(&[BOTH, "-t", "pair:1", "-o", &output]).succeeds();
    let source = format!("oci-archive:{}:1", space.text_path("pair.tar"));
    for architecture in ["arm64", "amd64"] {
        let target = format!("oci:{}:1", space.text_path(architecture));
        judge("skopeo", &["--override-arch", architecture, "copy", &source, &target]);
        let image = format!("{}:1", space.text_path(architecture));
        let bundle = space.text_path(&format!("{architecture}-bundle"));
        judge("umoci", &["unpack", "--image", &image, &bundle]);
        assert_eq!(space.read(&format!("{architecture}-bundle/rootfs/arch")), format!("{architecture}\n"));
    }
    // what knows nothing of layouts finds the host's image
    let target = format!("oci:{}:1", space.text_path("docker"));
    judge("skopeo", &["copy", &format!("docker-archive:{}", space.text_path("pair.tar")), &target]);
}
