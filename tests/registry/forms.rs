//! Images from a registry, in other compressions: what independent readers find in them.

use std::io::Read;
use std::path::Path;

use croze::digest::Digest;
use croze::export;
use serde_json::Value;

use crate::common::{Space, judge};
use crate::fixture::{Registry, SampleImage, can_run};

fn blob(layout: &Path, descriptor: &Value) -> Vec<u8> {
    let digest = descriptor["digest"].as_str().expect("text").replace(':', "/");
    std::fs::read(layout.join("blobs").join(digest)).expect("the layout has it")
}

fn manifest(layout: &Path) -> Value {
    let index: Value = serde_json::from_slice(&std::fs::read(layout.join("index.json")).expect("there")).expect("JSON");
    serde_json::from_slice(&blob(layout, &index["manifests"][0])).expect("JSON")
}

#[test]
fn layers_that_another_program_wrote_are_compressed_anew() {
    let Some(registry) = Registry::start() else { return };
    if !can_run(&["skopeo", "umoci"]) {
        return;
    }
    let image = SampleImage::new();
    registry.push(&image, "test/image:1");
    let mut tar = Vec::new();
    flate2::read::GzDecoder::new(image.layer.as_slice()).read_to_end(&mut tar).expect("gzip");
    let space = Space::new();
    space.dockerfile(&format!("FROM {}/test/image:1\nCOPY Dockerfile /own\n", registry.host));
    for (compression, kind) in [("zstd", "tar+zstd"), ("estargz", "tar+gzip"), ("uncompressed", "tar"), ("gzip", "tar+gzip")] {
        let output = format!("type=oci,tar=false,dest={compression},force-compression=true,compression={compression}");
        space.build(&["-t", "forms:read", "-o", &output]).succeeds();
        let layout = space.path(compression);
        export::validate(&layout).expect("a valid layout");
        let manifest = manifest(&layout);
        let layers = manifest["layers"].as_array().expect("layers");
        let kinds: Vec<&Value> = layers.iter().map(|layer| &layer["mediaType"]).collect();
        assert_eq!(kinds, [&Value::from(format!("application/vnd.oci.image.layer.v1.{kind}")); 2]);

        let base = blob(&layout, &layers[0]);
        let plain = match compression {
            "zstd" => zstd::decode_all(base.as_slice()).expect("zstd"),
            "uncompressed" => base.clone(),
            _ => {
                let mut plain = Vec::new();
                flate2::read::MultiGzDecoder::new(base.as_slice()).read_to_end(&mut plain).expect("gzip");
                plain
            }
        };
        assert!(plain.starts_with(&tar), "{compression}: the tar is the one that came");
        assert_eq!((compression == "gzip", compression == "estargz"), (base == image.layer, plain != tar), "{compression}");
        for (layer, label) in layers.iter().zip(["base", "own"]) {
            let annotated = layer["annotations"]["containerd.io/snapshot/stargz/toc.digest"].is_string();
            assert_eq!(annotated, compression == "estargz", "{label}");
        }

        // readers that know nothing of the table must not stumble over it; umoci knows no zstd
        let layout = layout.to_str().expect("text");
        judge(
            "skopeo",
            &["--insecure-policy", "copy", &format!("oci:{layout}:read"), &format!("dir:{}", space.text_path("copied"))],
        );
        if compression != "zstd" {
            let unpacked = space.text_path(&format!("unpacked-{compression}"));
            judge("umoci", &["raw", "unpack", "--image", &format!("{layout}:read"), &unpacked]);
            assert_eq!(Digest::of(&std::fs::read(format!("{unpacked}/noise")).expect("there")), Digest::of(noise(&tar)));
        }
    }
}

/// The one file's bytes.
fn noise(tar: &[u8]) -> &[u8] {
    &tar[512..][..400_000]
}
