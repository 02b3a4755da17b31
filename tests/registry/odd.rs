//! Registries that answer in unusual ways, and layers that unusual programs wrote: what containerd and Docker take is taken.

use std::io::Write;
use std::sync::Arc;

use croze::digest::Digest;
use croze::export::{self, PushBy, Whereabouts};
use croze::image::Descriptor;
use croze::layer::LayerLimits;
use croze::registry::{RegistryError, Taken};
use croze::source::image::{PullPolicy, ensure_layers, resolve};
use croze::store::Store;

use crate::common::Space;
use crate::fixture::{Registry, SampleImage};
use crate::proxy::{Fault, Proxy};
use crate::{Me, anonymous, client, fetch, image_ref};

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";

/// The head without the header of this name (in lower case).
fn without(head: &str, name: &str) -> String {
    let kept = head.lines().filter(|line| !line.to_ascii_lowercase().starts_with(&format!("{name}:")));
    kept.map(|line| format!("{line}\r\n")).collect()
}

fn with(head: &str, name: &str, value: &str) -> String {
    let status = head.lines().next().unwrap_or_default();
    without(head, &name.to_ascii_lowercase()).replacen(status, &format!("{status}\r\n{name}: {value}"), 1)
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(plain).expect("memory does not fail");
    gzip.finish().expect("memory does not fail")
}

#[tokio::test]
async fn a_blob_may_come_in_any_way_that_http_has() {
    let Some(registry) = Registry::start() else { return };
    let image = SampleImage::new();
    registry.push(&image, "test/image:1");
    let unsized_body: fn(&str) -> String = |head| without(head, "content-length");
    let ways = [
        vec![Fault::Head(unsized_body)],
        vec![Fault::Chunked],
        vec![Fault::RedirectHere],
        vec![Fault::Head(|head| with(head, "Content-Type", "text/html; charset=utf-8"))],
        // a part that is asked for and the whole that comes
        vec![Fault::CutBodyAfter(100_000), Fault::WholeAlways],
        vec![Fault::CutBodyAfter(100_000), Fault::RedirectHere, Fault::Nothing],
    ];
    for faults in ways {
        let proxy = Proxy::start(&registry.host, "/blobs/", faults.clone());
        let found = fetch(&anonymous(), &image_ref(&proxy.host, "test/image:1"), &image).await;
        assert!(found.expect("it is right") == image.layer, "{faults:?}");
    }
}

#[tokio::test]
async fn a_manifest_is_known_by_its_bytes() {
    let Some(registry) = Registry::start() else { return };
    registry.push(&SampleImage::new(), "test/image:1");
    let heads: [fn(&str) -> String; 4] = [
        |head| without(head, "docker-content-digest"),
        |head| without(head, "content-type"),
        |head| with(head, "Content-Type", "application/octet-stream"),
        |head| with(head, "Content-Type", "application/json; charset=utf-8"),
    ];
    for head in heads {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(&directory.path().join("store")).expect("a fresh store");
        let proxy = Proxy::start(&registry.host, "/manifests/", vec![Fault::Head(head); 9]);
        let (name, platform) = (image_ref(&proxy.host, "test/image:1"), "linux/s390x".parse().expect("valid"));
        let found = resolve(&store, &anonymous(), &name, &platform, PullPolicy::Always, 0).await.expect("it is understood");
        assert_eq!(found.config.architecture, "s390x");
    }
    // one that has another digest than the registry says is not what it says
    let wrong: fn(&str) -> String = |head| with(head, "Docker-Content-Digest", &Digest::of(b"x").to_string());
    let proxy = Proxy::start(&registry.host, "/manifests/", vec![Fault::Head(wrong)]);
    let error = anonymous().manifest(&image_ref(&proxy.host, "test/image:1")).await.expect_err("it lies");
    assert!(matches!(error, RegistryError::BadDigest { expected, .. } if expected == Digest::of(b"x")), "{error}");
}

#[tokio::test]
async fn a_registry_that_does_not_know_heads_is_asked_for_the_whole() {
    let Some(registry) = Registry::start() else { return };
    registry.push(&SampleImage::new(), "test/image:1");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(&directory.path().join("store")).expect("a fresh store");
    let faults = [vec![Fault::Nothing; 1], vec![Fault::Status("405 Method Not Allowed")]].concat();
    let proxy = Proxy::start(&registry.host, "/manifests/1", faults);
    let (name, platform) = (image_ref(&proxy.host, "test/image:1"), "linux/amd64".parse().expect("valid"));
    for _ in 0..2 {
        resolve(&store, &anonymous(), &name, &platform, PullPolicy::Always, 0).await.expect("it answers a `GET`");
    }
    let methods: Vec<String> =
        proxy.requests("/manifests/1 ").iter().map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect();
    assert_eq!(methods, ["GET", "HEAD", "GET"]);
}

#[tokio::test]
async fn a_host_that_a_redirect_leads_to_is_told_no_secret_even_if_it_asks() {
    let Some(registry) = Registry::start() else { return };
    let image = SampleImage::new();
    registry.push(&image, "test/image:1");
    let elsewhere = Proxy::start(&registry.host, "/", vec![Fault::NeedBasic; 9]);
    let proxy = Proxy::start(&registry.host, "/blobs/", vec![Fault::NeedBasic, Fault::RedirectTo(elsewhere.host.clone())]);
    let error = fetch(&client(Arc::new(Me)), &image_ref(&proxy.host, "test/image:1"), &image).await.expect_err("refused there");
    assert!(matches!(&error, RegistryError::Denied { host, .. } if *host == elsewhere.host), "{error}");
    assert_eq!(elsewhere.headers("authorization"), [None]);
}

#[tokio::test]
async fn a_push_goes_on_where_a_registry_is_odd() {
    let Some(registry) = Registry::start() else { return };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(&directory.path().join("store")).expect("a fresh store");
    let root = crate::faults::sample_in(&store, 1, &directory.path().join("layout")).await;
    let elsewhere = Proxy::start(&registry.host, "/v2/", Vec::new());
    for (number, (part, faults)) in [
        // a token that is good no longer: when an upload begins, when it ends, and for the manifest
        ("/blobs/uploads/", vec![Fault::Expired]),
        ("digest=", vec![Fault::Expired]),
        ("/manifests/1", vec![Fault::Expired]),
        // uploads that go on at another host
        ("/blobs/uploads/", vec![Fault::RedirectTo(elsewhere.host.clone()); 9]),
        ("digest=", vec![Fault::RedirectTo(elsewhere.host.clone()); 9]),
        // an upload that is forgotten, and a host that is busy with it
        ("digest=", vec![Fault::Status("404 Not Found"), Fault::Status("503 Service Unavailable")]),
        ("/manifests/1", vec![Fault::Status("500 Internal Server Error")]),
    ]
    .into_iter()
    .enumerate()
    {
        let proxy = Proxy::start(&registry.host, part, faults.clone());
        let name = image_ref(&proxy.host, &format!("odd/push{number}:1"));
        let pushed = export::push(&store, &anonymous(), &root, &[name], PushBy::Tag, Whereabouts::default()).await;
        pushed.unwrap_or_else(|error| panic!("{part} {faults:?}: {error}"));
        let there = image_ref(&registry.host, &format!("odd/push{number}:1"));
        assert_eq!(anonymous().manifest(&there).await.expect("it is there").digest, root.digest);
        let is_expired = matches!(faults[0], Fault::Expired);
        assert_eq!(proxy.requests("/token?").len(), usize::from(is_expired), "{part} {faults:?}");
    }
}

#[tokio::test]
async fn a_blob_that_may_not_be_taken_over_is_sent() {
    let Some(registry) = Registry::start() else { return };
    let image = SampleImage::new();
    registry.push(&image, "test/image:1");
    let space = tempfile::tempdir().expect("a temporary directory");
    let path = space.path().join("blob");
    std::fs::write(&path, &image.layer).expect("writable");
    let blob = Descriptor::new(GZIP, image.layer_digest(), image.layer.len() as u64);
    for (number, (faults, expected)) in [
        (vec![], Taken::Mounted),
        (vec![Fault::Status("403 Forbidden")], Taken::Sent),
        (vec![Fault::Status("404 Not Found")], Taken::Sent),
        (vec![Fault::Status("400 Bad Request")], Taken::Sent),
    ]
    .into_iter()
    .enumerate()
    {
        let proxy = Proxy::start(&registry.host, "mount=", faults);
        let name = image_ref(&proxy.host, &format!("test/other{number}:1"));
        let pushing = anonymous().push_to(&name, vec!["test/image".to_owned()]).await.expect("it may be written");
        let file = async { Ok::<_, RegistryError>(path.clone()) };
        assert_eq!(pushing.put_blob(&blob, file, Some("test/image")).await.expect("it is taken"), expected);
        assert!(pushing.has_blob(&blob.digest).await.expect("it answers"));
    }
}

/// A tar of files with these names and contents, by the `tar` crate: GNU's, long names in headers of their own.
fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *content).expect("memory does not fail");
    }
    tar.into_inner().expect("memory does not fail")
}

/// An image of one layer that is this blob and calls itself so.
fn image_of(layer: Vec<u8>, plain: &[u8], layer_type: &'static str) -> SampleImage {
    SampleImage { layer, diff_id: Digest::of(plain), layer_type, copies: 1 }
}

/// What unpacking the image's layer gives: the content of `file`, or the error.
async fn unpacked(image: &SampleImage, file: &str) -> Result<Vec<u8>, String> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(&directory.path().join("store")).expect("a fresh store");
    let layout = directory.path().join("layout");
    image.write_layout(&layout);
    let address = croze::source::oci_layout::LayoutAddress::parse(&format!("{}:sample", layout.display())).expect("an address");
    let platform = "linux/amd64".parse().expect("valid");
    let words = |error: &dyn std::error::Error| {
        let causes = std::iter::successors(Some(error), |error| error.source());
        causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
    };
    let resolved = croze::source::oci_layout::resolve(&store, &address, &platform).await.map_err(|error| words(&error))?;
    let layers =
        ensure_layers(&store, &anonymous(), &resolved, None, LayerLimits::default()).await.map_err(|error| words(&error))?;
    let tree = layers[0].tree().expect("unpacked").to_owned();
    Ok(std::fs::read(tree.join(file)).unwrap_or_default())
}

#[tokio::test]
async fn layers_may_be_packed_in_any_way_that_readers_know() {
    let long = format!("{}/file", "long".repeat(60));
    let tar = tar_of(&[("file", b"content"), (&long, b"more")]);
    let frames = |parts: &[&[u8]]| parts.concat();
    let skipped = [&[0x5e, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
    let (first, second) = tar.split_at(700);
    let zstd = |plain: &[u8]| zstd::encode_all(plain, 3).expect("memory does not fail");
    // no block of zeros at the end
    let open_ended = &tar[..tar.len() - 1024];
    let docker = "application/vnd.docker.image.rootfs.diff.tar";
    for (name, layer, plain, layer_type) in [
        ("gzip of several members", frames(&[&gzip(first), &gzip(b""), &gzip(second)]), &tar[..], GZIP),
        ("zstd of several frames", frames(&[&zstd(first), &zstd(second)]), &tar, ZSTD),
        ("zstd with frames to skip", frames(&[&skipped, &zstd(first), &skipped, &zstd(second), &skipped]), &tar, ZSTD),
        ("a tar without an end", gzip(open_ended), open_ended, GZIP),
        ("a tar with more zeros", gzip(&[&tar[..], &[0; 9000]].concat()), &[&tar[..], &[0; 9000]].concat(), GZIP),
        ("no gzip under its name", tar.clone(), &tar, GZIP),
        ("zstd that calls itself gzip", zstd(&tar), &tar, GZIP),
        ("gzip that calls itself zstd", gzip(&tar), &tar, ZSTD),
        ("gzip that Docker calls a tar", gzip(&tar), &tar, docker),
    ] {
        let image = image_of(layer, plain, layer_type);
        assert_eq!(unpacked(&image, "file").await.as_deref(), Ok(b"content".as_slice()), "{name}");
        assert_eq!(unpacked(&image, &long).await.as_deref(), Ok(b"more".as_slice()), "{name}");
    }
    for (name, layer, plain, layer_type) in [
        ("two blocks of zeros", gzip(&[0; 1024]), &[0; 1024][..], GZIP),
        ("nothing, packed", gzip(b""), b"", GZIP),
        ("nothing", Vec::new(), b"", PLAIN),
    ] {
        assert_eq!(unpacked(&image_of(layer, plain, layer_type), "file").await.as_deref(), Ok(b"".as_slice()), "{name}");
    }
    let rubbish = image_of([gzip(&tar), b"and something more".to_vec()].concat(), &tar, GZIP);
    let error = unpacked(&rubbish, "file").await.expect_err("Go's reader does not take it either");
    assert!(error.contains("the layer is damaged") && error.ends_with("invalid gzip header"), "{error}");
}

/// An entry whose numbers and names are where older and newer writers put them.
fn block(name: &str, kind: u8, size: &[u8; 12], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice(b"0000644\0");
    block[124..136].copy_from_slice(size);
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    change(&mut block);
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn padded(content: &[u8]) -> Vec<u8> {
    let mut padded = content.to_vec();
    padded.resize(content.len().next_multiple_of(512), 0);
    padded
}

#[tokio::test]
async fn headers_of_all_dialects_are_understood() {
    let octal = |size: usize| <[u8; 12]>::try_from(format!("{size:011o}\0").as_bytes()).expect("12 bytes");
    let binary = |size: u8| {
        let mut field = [0; 12];
        (field[0], field[11]) = (0x80, size);
        field
    };
    let pax = |records: &str| [block("pax", b'x', &octal(records.len()), |_| ()), padded(records.as_bytes())].concat();
    let no_change = |_: &mut [u8]| ();
    let end = vec![0; 1024];
    for (name, parts, file, expected) in [
        ("size in base 256", vec![block("a", b'0', &binary(4), no_change), padded(b"four")], "a", "four"),
        ("size in PAX", vec![pax("10 size=4\n"), block("a", b'0', &octal(0), no_change), padded(b"four")], "a", "four"),
        (
            "name in PAX",
            vec![pax("16 path=other/b\n"), block("a", b'0', &octal(4), no_change), padded(b"four")],
            "other/b",
            "four",
        ),
        (
            "a global header",
            vec![
                block("g", b'g', &octal(13), no_change),
                padded(b"13 comment=x\n"),
                block("a", b'0', &octal(1), no_change),
                padded(b"1"),
            ],
            "a",
            "1",
        ),
        (
            "a prefix",
            vec![block("a", b'0', &octal(1), |block| block[345..348].copy_from_slice(b"d/e")), padded(b"1")],
            "d/e/a",
            "1",
        ),
        ("no magic", vec![block("a", b'\0', &octal(1), |block| block[257..265].fill(0)), padded(b"1")], "a", "1"),
        ("blanks for zeros", vec![block("a", b'0', b"          1\0", no_change), padded(b"1")], "a", "1"),
        (
            "a link behind its target",
            vec![block("a", b'0', &octal(1), no_change), padded(b"1"), block("b", b'1', &octal(0), |block| block[157] = b'a')],
            "b",
            "1",
        ),
        // with the size of what it links to, and no data
        (
            "a link with a size",
            vec![
                block("a", b'0', &octal(1), no_change),
                padded(b"1"),
                block("b", b'1', &octal(1), |block| block[157] = b'a'),
                block("c", b'0', &octal(1), no_change),
                padded(b"3"),
            ],
            "c",
            "3",
        ),
        ("a file whose name ends like a directory's", vec![block("a/", b'0', &octal(1), no_change), padded(b"1")], "a", "1"),
        (
            "a directory of the oldest kind",
            vec![block("a/", b'\0', &octal(0), no_change), block("a/b", b'0', &octal(1), no_change), padded(b"1")],
            "a/b",
            "1",
        ),
    ] {
        let tar = [parts.concat(), end.clone()].concat();
        let image = image_of(gzip(&tar), &tar, GZIP);
        assert_eq!(unpacked(&image, file).await.as_deref(), Ok(expected.as_bytes()), "{name}");
    }
    let early = [block("b", b'1', &octal(0), |block| block[157] = b'a'), block("a", b'0', &octal(0), no_change), end].concat();
    let error = unpacked(&image_of(gzip(&early), &early, GZIP), "b").await.expect_err("its target is not there yet");
    assert!(error.contains("`/b` is a hard link to `/a`, which does not exist"), "{error}");
}

#[test]
fn a_layer_may_stand_in_an_image_twice() {
    let Some(registry) = Registry::start() else { return };
    registry.push(&SampleImage { copies: 3, ..SampleImage::new() }, "test/image:1");
    let target = format!("{}/test/built:1", registry.host);
    let space = Space::new();
    space.dockerfile(&format!("FROM {}/test/image:1\nCOPY Dockerfile /d\n", registry.host));
    space.build(&["-t", &target]).succeeds();
    space.croze(["push", &target]).succeeds();
    let other = Space::new();
    other.dockerfile(&format!("FROM {target}\nCOPY --from={target} /d /again\n"));
    let files = other.build_files(&[]);
    assert_eq!(std::fs::metadata(files.join("noise")).expect("there").len(), 400_000);
    assert!(files.join("again").is_file());
    assert_eq!(other.croze(["inspect", "-f", "{{len .RootFS.Layers}}", &target]).succeeds().stdout, "4\n");
}

#[test]
fn an_index_may_list_indexes() {
    let space = Space::new();
    let layout = space.path("layout");
    SampleImage::new().write_layout(&layout);
    let top = space.read_json("layout/index.json");
    let mut entry = top["manifests"][0].clone();
    for _ in 0..2 {
        let list = serde_json::json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
        space.write(&format!("layout/blobs/sha256/{}", Digest::of(list.as_bytes()).hex()), &list);
        let kind = "application/vnd.oci.image.index.v1+json";
        entry = serde_json::json!({"mediaType": kind, "digest": Digest::of(list.as_bytes()), "size": list.len()});
    }
    entry["annotations"] = top["manifests"][0]["annotations"].clone();
    space.write("layout/index.json", serde_json::json!({"schemaVersion": 2, "manifests": [entry]}).to_string());
    space.dockerfile("FROM base\n");
    let context = format!("base=oci-layout://{}:sample", layout.display());
    for platform in ["linux/amd64", "linux/s390x"] {
        assert!(space.build_files(&["--build-context", &context, "--platform", platform]).join("noise").is_file());
    }
}

/// Writes an OCI layout of an image with these tars for layers, tagged `sample`.
fn write_layers(layout: &std::path::Path, tars: &[Vec<u8>]) {
    let blobs = layout.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).expect("writable");
    let put = |bytes: &[u8], kind: &str| {
        let digest = Digest::of(bytes);
        std::fs::write(blobs.join(digest.hex()), bytes).expect("writable");
        serde_json::json!({"mediaType": kind, "digest": digest, "size": bytes.len()})
    };
    let layers: Vec<serde_json::Value> = tars.iter().map(|tar| put(&gzip(tar), GZIP)).collect();
    let diff_ids: Vec<Digest> = tars.iter().map(|tar| Digest::of(tar)).collect();
    let rootfs = serde_json::json!({"type": "layers", "diff_ids": diff_ids});
    let config = serde_json::json!({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs});
    let config = put(config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json");
    let manifest = serde_json::json!({"schemaVersion": 2, "config": config, "layers": layers});
    let mut entry = put(manifest.to_string().as_bytes(), "application/vnd.oci.image.manifest.v1+json");
    entry["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": "sample"});
    let top = serde_json::json!({"schemaVersion": 2, "manifests": [entry]});
    std::fs::write(layout.join("index.json"), top.to_string()).expect("writable");
    std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("writable");
}

#[test]
fn directories_that_a_layer_takes_for_granted_are_as_below() {
    let tar = |entries: &[(&str, u8, u32, u64)]| {
        let mut tar = Vec::new();
        for (name, kind, mode, owner) in entries {
            tar.extend(block(name, *kind, &[b'0'; 12], |block| {
                block[100..108].copy_from_slice(format!("{mode:07o}\0").as_bytes());
                block[108..116].copy_from_slice(format!("{owner:07o}\0").as_bytes());
            }));
        }
        tar.resize(tar.len() + 1024, 0);
        tar
    };
    let below =
        tar(&[("tmp/", b'5', 0o1777, 0), ("home/", b'5', 0o700, 5), ("opaque/", b'5', 0o750, 3), ("opaque/a", b'0', 0o644, 0)]);
    let above = tar(&[
        ("tmp/file", b'0', 0o600, 0),
        ("home/me/file", b'0', 0o600, 7),
        ("opaque/.wh..wh..opq", b'0', 0o600, 0),
        ("opaque/b", b'0', 0o600, 0),
    ]);
    let space = Space::new();
    write_layers(&space.path("layout"), &[below.clone(), above.clone(), above]);
    space.dockerfile("FROM base\n");
    let context = format!("base=oci-layout://{}:sample", space.text_path("layout"));
    space.build(&["--build-context", &context, "-o", "type=tar,dest=files.tar"]).succeeds();
    let mut files = tar::Archive::new(std::fs::File::open(space.path("files.tar")).expect("there"));
    let listed: Vec<String> = files
        .entries()
        .expect("a tar")
        .map(|entry| {
            let entry = entry.expect("a tar");
            let header = entry.header();
            let path = entry.path().expect("a path").display().to_string();
            format!("{path} {:o} {}", header.mode().expect("a mode"), header.uid().expect("an owner"))
        })
        .collect();
    let expected = [
        "home/ 700 5",
        "home/me/ 755 0",
        "home/me/file 600 7",
        "opaque/ 750 3",
        "opaque/b 600 0",
        "tmp/ 1777 0",
        "tmp/file 600 0",
    ];
    assert_eq!(listed, expected);
    space.croze(["fsck"]).succeeds();
}
