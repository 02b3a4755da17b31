//! Builds for several platforms at once: one index, shared steps, files side by side.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use common::{Registry, Space, judge, run, skip_unless};
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

/// An aarch64 program of these instructions.
fn aarch64(code: &str) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let code: Vec<u8> = (0..code.len()).step_by(2).map(|at| u8::from_str_radix(&code[at..at + 2], 16).expect("hex")).collect();
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let mut put = |value: u64, bytes: usize| elf.extend(&value.to_le_bytes()[..bytes]);
    // type, machine, version, entry, program headers, sections, flags, sizes and counts
    for (value, bytes) in [(2, 2), (183, 2), (1, 4), (BASE + HEADERS, 8), (64, 8), (0, 8), (0, 4)] {
        put(value, bytes);
    }
    for value in [64, 56, 1, 0, 0, 0] {
        put(value, 2);
    }
    // one segment, readable and executable: offset, addresses, sizes, alignment
    let bytes = HEADERS + code.len() as u64;
    for (value, width) in [(1, 4), (5, 4), (0, 8), (BASE, 8), (BASE, 8), (bytes, 8), (bytes, 8), (0x1_0000, 8)] {
        put(value, width);
    }
    elf.extend(code);
    elf
}

/// Writes `aarch64` and a newline to the new file `/made`, then becomes `/second`:
/// `openat(AT_FDCWD, name, O_CREAT|O_WRONLY, 0644)`, `write(x0, line, 8)`, `execve(second, [second, 0], 0)`, `exit(9)`.
const FIRST: &str = "600c809281020010220880d2833480d2080780d2010000d401020050020180d2080880d2010000d4c001007041010010e00f1ff8ff0700f9\
                     e1030091e2031faaa81b80d2010000d4200180d2a80b80d2010000d42f6d61646500616172636836340a002f7365636f6e6400";
/// `write(1, \"second\\n\", 7)`, `exit(0)`.
const SECOND: &str = "200080d2e1000010e20080d2080880d2010000d4000080d2a80b80d2010000d47365636f6e640a00";

#[test]
fn programs_of_another_processor_run_in_an_emulator() {
    if !skip_unless("programs_of_another_processor_run_in_an_emulator", &["qemu-aarch64-static"]) {
        return;
    }
    let space = Space::new();
    let text = "FROM scratch\nCOPY --chmod=755 first second /\nRUN [\"/first\"]\nUSER 1000\nRUN [\"/second\"]\n";
    space.dockerfile(text).write("ctx/first", aarch64(FIRST)).write("ctx/second", aarch64(SECOND));
    let run = space.build(&["--progress=plain", "--platform=linux/arm64", "-o", "out"]).succeeds();
    assert_eq!(run.stderr.lines().filter(|line| line.ends_with(" second")).count(), 2, "{}", run.stderr);
    assert_eq!(space.read("out/made"), "aarch64\n");
    // nothing is left of it for the rest of the machine
    assert!(!Path::new("/proc/sys/fs/binfmt_misc/croze").exists());
}

#[test]
fn two_platforms_are_pushed_as_an_index_and_each_runs() {
    let test = "two_platforms_are_pushed_as_an_index_and_each_runs";
    if !skip_unless(test, &["qemu-aarch64-static", "docker-registry", "skopeo"]) {
        return;
    }
    let (space, registry) = (Space::with_busybox(), Registry::start());
    let name = format!("{}/team/pair:1", registry.host);
    space.write("ctx/first", aarch64(FIRST)).write("ctx/second", aarch64(SECOND)).dockerfile(
        "FROM scratch AS of-arm64\nCOPY --chmod=755 first second /\nRUN [\"/first\"]\n\
         FROM busybox AS of-amd64\nRUN uname -m > /made\n\
         FROM of-$TARGETARCH\nLABEL for=$TARGETARCH\n",
    );
    space.build(&[BOTH, "-t", &name, "--push"]).succeeds();
    let raw = judge("skopeo", &["inspect", "--tls-verify=false", "--raw", &format!("docker://{name}")]).stdout;
    let index: Value = serde_json::from_str(&raw).expect("JSON");
    let platforms: Vec<&Value> =
        index["manifests"].as_array().expect("an index").iter().map(|entry| &entry["platform"]["architecture"]).collect();
    assert_eq!(platforms.len(), 2, "{raw}");

    let other = Space::new();
    for (architecture, run, made) in
        [("amd64", "RUN test \"$(uname -m)\" = x86_64", "x86_64\n"), ("arm64", "RUN [\"/second\"]", "aarch64\n")]
    {
        assert!(platforms.iter().any(|found| **found == architecture), "{raw}");
        other.dockerfile(&format!("FROM {name}\n{run}\n"));
        let out = other.build_files(&["--platform", &format!("linux/{architecture}")]);
        assert_eq!(fs::read_to_string(out.join("made")).expect("there"), made, "{architecture}");
    }
}

#[test]
fn a_processor_without_an_emulator_is_named() {
    let space = Space::new();
    // an ELF file for a processor that nobody has made
    let mut elf = aarch64(SECOND);
    elf[18..20].copy_from_slice(&[0xfe, 0xfe]);
    space.dockerfile("FROM scratch\nCOPY --chmod=755 program /\nRUN [\"/program\"]\n").write("ctx/program", elf);
    space.build(&["--platform=linux/mips64le"]).fails(
        1,
        "error: `RUN` did not complete successfully: exit code 126: cannot execute `/program`: exec format error\n \
         --> Dockerfile:3:1\n  |\n3 | RUN [\"/program\"]\n  | ^^^^^^^^^^^^^^^^\n  |\n  \
         = help: the step is for linux/mips64le and this machine is linux/amd64: install an emulator (`qemu-mips64el-static` of Debian's qemu-user-static), or build that stage with `FROM --platform=$BUILDPLATFORM`\n",
    );
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

/// `command` on one processor.
fn on_one_core(command: &Command) -> Command {
    let mut pinned = Command::new("taskset");
    pinned.args(["-c", "0"]).arg(command.get_program()).args(command.get_args()).env_clear();
    pinned.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(directory) = command.get_current_dir() {
        pinned.current_dir(directory);
    }
    pinned
}

#[test]
fn the_same_sources_give_the_same_digest() {
    if !skip_unless("the_same_sources_give_the_same_digest", &["taskset"]) {
        return;
    }
    // several pieces for the compressors, in a layer whose times are those of the run
    let text = "FROM --platform=$BUILDPLATFORM busybox AS made\n\
                RUN mkdir /out && for i in 1 2 3 4 5 6; do cat /bin/busybox; done > /out/large && ln /out/large /out/other\n\
                FROM scratch\nARG TARGETARCH\nCOPY --from=made /out /out\nCOPY file /of-$TARGETARCH\nENV A=1\n";
    let [busy, fresh] = [(); 2].map(|()| {
        let space = Space::with_busybox();
        space.dockerfile(text).write("ctx/file", "content\n");
        space
    });
    let digest = |space: &Space, cores: Cores, compression: &str, platforms: &str| {
        std::fs::remove_dir_all(space.path("layout")).ok();
        let output = format!("type=oci,tar=false,dest=layout,rewrite-timestamp=true,compression={compression}");
        let mut command =
            space.command(["build", "-o", &output, "--platform", platforms, "--provenance=mode=max", "--sbom", "ctx"]);
        command.env("SOURCE_DATE_EPOCH", "1000000000");
        let mut command = if cores == Cores::One { on_one_core(&command) } else { command };
        run(&mut command).succeeds();
        export::validate(&space.path("layout")).expect("a valid layout");
        space.read_json("layout/index.json")["manifests"][0]["digest"].clone()
    };
    for platforms in ["linux/amd64", "linux/amd64,linux/arm64"] {
        for compression in ["gzip", "zstd", "estargz", "uncompressed"] {
            // other outputs before this one leave blobs in other forms behind
            busy.build(&["-o", "type=docker,dest=other.tar,compression-level=9", "--platform", "linux/amd64"]).succeeds();
            let first = digest(&busy, Cores::One, compression, platforms);
            assert_eq!(digest(&fresh, Cores::All, compression, platforms), first, "{compression} for {platforms}");
            assert_eq!(digest(&busy, Cores::All, compression, platforms), first, "{compression} for {platforms}, again");
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cores {
    One,
    All,
}
