//! What people read when a registry does not do what it should: whole messages, through the program.

use croze::digest::Digest;

use crate::common::{self, Run, Space};
use crate::fixture::{Registry, SampleImage};
use crate::proxy::{Fault, Proxy};

/// Builds from `test/image:1` of a registry with the sample, whose answers about `part` meet `faults`.
fn build_from(part: &str, faults: Vec<Fault>) -> Option<(Run, String, SampleImage)> {
    let registry = Registry::start()?;
    let image = SampleImage::new();
    registry.push(&image, "test/image:1");
    let proxy = Proxy::start(&registry.host, &part.replace("LAYER", &image.layer_digest().to_string()), faults);
    let space = Space::new();
    space.write(".config/croze/config.toml", "[network]\nattempts = 2\ntimeout_secs = 1\n");
    space.dockerfile(&format!("FROM {}/test/image:1\nCOPY Dockerfile /\n", proxy.host));
    let output = format!("type=local,dest={}", space.text_path("out"));
    let run = space.build(&["-o", &output]);
    assert!(!space.path("out").exists(), "nothing half-written");
    Some((run, proxy.host.clone(), image))
}

/// The message with the place in the Dockerfile that belongs to all of them, and what is said below it.
fn at_from(message: &str, host: &str, notes: &[&str]) -> String {
    let image = format!("{host}/test/image:1");
    let mut text =
        format!("error: {message}\n --> Dockerfile:1:6\n  |\n1 | FROM {image}\n  |      {}\n", "^".repeat(image.len()));
    for (index, note) in notes.iter().enumerate() {
        if index == 0 {
            text.push_str("  |\n");
        }
        text.push_str(&format!("  = {note}\n"));
    }
    text
}

#[test]
fn a_registry_that_forbids() {
    let Some((run, host, _)) = build_from("/manifests/1", vec![Fault::Status("403 Forbidden")]) else { return };
    let message = format!("{host} refuses access to `{host}/test/image:1` (status 403, without credentials)");
    let notes = [
        "note: a registry may answer like this for a repository that does not exist",
        &format!("help: if it is a private one, log in by `croze login {host}`"),
    ];
    run.fails(3, &at_from(&message, &host, &notes));
}

#[test]
fn what_a_registry_does_not_have() {
    let Some(registry) = Registry::start() else { return };
    let foreign = SampleImage { layer_type: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", ..SampleImage::new() };
    registry.push(&SampleImage::new(), "test/image:1");
    registry.push(&foreign, "test/image:foreign");
    let (space, host) = (Space::new(), &registry.host);
    let says = |image: &str, message: &str| {
        let name = format!("{host}/{image}");
        space.dockerfile(&format!("FROM {name}\n"));
        let place = format!(" --> Dockerfile:1:6\n  |\n1 | FROM {name}\n  |      {}", "^".repeat(name.len()));
        space.build(&[]).fails(3, &format!("error: `{name}` {message}\n{place}"));
        space.croze(["pull", &name]).fails(3, &format!("error: `{name}` {message}"));
    };
    says("test/nothing:1", &format!("does not exist on {host}, which has no such repository"));
    says("test/image:fore1gn", &format!("does not exist on {host}; its nearest tag is `foreign`"));
    says("test/image:bookworm", &format!("does not exist on {host}; its tags are `1`, `foreign`"));
    let layer = foreign.layer_digest();
    says("test/image:foreign", &format!("has a foreign layer {layer}, whose bytes no registry holds"));
}

#[test]
fn a_registry_that_hangs() {
    let Some((run, host, _)) = build_from("/manifests/1", vec![Fault::Hang; 9]) else { return };
    run.fails(3, &at_from(&format!("cannot reach {host}: no answer for a second"), &host, &[]));
}

#[test]
fn a_page_instead_of_a_manifest() {
    let page = Fault::Answer("text/html", "<html>please log in</html>");
    let Some((run, host, _)) = build_from("/manifests/1", vec![page; 9]) else { return };
    run.fails(
        3,
        &at_from(&format!("`{host}/test/image:1` has a malformed manifest: a `text/html` came instead of it"), &host, &[]),
    );
}

#[test]
fn a_manifest_of_the_first_format() {
    let old = Fault::Answer("application/vnd.docker.distribution.manifest.v1+prettyjws", r#"{"schemaVersion":1,"fsLayers":[]}"#);
    let Some((run, host, _)) = build_from("/manifests/1", vec![old; 9]) else { return };
    let message = format!(
        "`{host}/test/image:1` is stored in Docker's schema 1 format, which is no longer read; push it again with a current tool"
    );
    run.fails(3, &at_from(&message, &host, &[]));
}

#[test]
fn a_manifest_whose_config_is_nowhere() {
    let empty = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
    let manifest = concat!(
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"#,
        r#""application/vnd.oci.image.config.v1+json","digest":"sha256:"#,
        "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        r#"","size":2},"layers":[]}"#
    );
    let faults = vec![Fault::Answer("application/vnd.oci.image.manifest.v1+json", manifest)];
    let Some((run, host, _)) = build_from("/manifests/1", faults) else { return };
    run.fails(3, &at_from(&format!("{host} has no blob {empty} in `test/image`"), &host, &[]));
}

#[test]
fn a_layer_with_other_bytes() {
    let Some((run, host, image)) = build_from("/blobs/LAYER", vec![Fault::FlipBodyByte(5000); 9]) else { return };
    let mut bytes = image.layer.clone();
    bytes[5000] ^= 1;
    let found = Digest::of(&bytes);
    let message = format!("{host} sent wrong bytes for {} (they hash to {found})", image.layer_digest());
    run.fails(3, &at_from(&message, &host, &[]));
}

#[test]
fn a_layer_that_stays_truncated() {
    // what moves on may break again: only a download that stands still is given up
    let faults = [vec![Fault::CutBodyAfter(1000)], vec![Fault::CutBodyAfter(0); 9]].concat();
    let Some((run, host, image)) = build_from("/blobs/LAYER", faults) else { return };
    let (digest, size_bytes) = (image.layer_digest(), image.layer.len());
    let message = format!(
        "the download of {digest} from {host} stopped at 1000 of {size_bytes} bytes: \
         the connection broke (end of file before message length reached)"
    );
    run.fails(3, &at_from(&message, &host, &[]));
}

#[test]
fn an_index_without_the_platform() {
    let Some(registry) = Registry::start() else { return };
    registry.push(&SampleImage::new(), "test/image:1");
    let (space, host) = (Space::new(), &registry.host);
    space.dockerfile(&format!("FROM {host}/test/image:1\n"));
    let message = format!("`{host}/test/image:1` has no image for linux/riscv64, only for linux/amd64, linux/s390x");
    space.build(&["--platform=linux/riscv64"]).fails(3, &at_from(&message, host, &[]));
    space.croze(["pull", "--platform=linux/riscv64", &format!("{host}/test/image:1")]).fails(3, &format!("error: {message}"));
}

#[test]
fn a_name_is_asked_for_once_whatever_it_is_wanted_for() {
    let Some(registry) = Registry::start() else { return };
    registry.push(&SampleImage::new(), "test/image:1");
    let proxy = Proxy::start(&registry.host, "/v2/", Vec::new());
    let space = Space::new();
    let name = format!("{}/test/image:1", proxy.host);
    space.dockerfile(&format!("FROM {name} AS a\nFROM {name} AS b\nCOPY --from=a /noise /a\nCOPY --from={name} /noise /c\n"));
    let both = "--platform=linux/amd64,linux/s390x";
    for (flags, heads) in [(vec![both], 0), (vec![both, "--pull"], 1)] {
        space.build(&flags).succeeds();
        let asked = proxy.requests("/manifests/1 ");
        let methods: Vec<&str> = asked.iter().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(methods, [vec!["GET"], vec!["HEAD"; heads]].concat());
    }
}

#[test]
fn a_certificate_that_nobody_vouches_for() {
    if !crate::fixture::can_run(&["docker-registry", "openssl"]) {
        return;
    }
    let (space, registry) = (Space::new(), common::Registry::start_tls());
    let host = &registry.host;
    space.dockerfile(&format!("FROM {host}/test/image:1\n"));
    let message = format!(
        "cannot speak TLS with {host}: its certificate is signed by an authority that is not trusted here; add a `ca` for it"
    );
    let help = format!("help: `[registry.\"{host}\"]` in config.toml knows `ca = \"FILE\"`, `http = true` and `insecure = true`");
    space.build(&[]).fails(3, &at_from(&message, host, &[&help]));
}

/// A tar of these entries: name, type, and data or target.
fn tar_of(entries: &[(&str, u8, &str)]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (name, kind, content) in entries {
        let mut header = tar::Header::new_ustar();
        // names that the crate would refuse
        let fields = header.as_ustar_mut().expect("made as ustar");
        fields.name[..name.len()].copy_from_slice(name.as_bytes());
        let is_link = matches!(kind, b'1' | b'2');
        if is_link {
            fields.linkname[..content.len()].copy_from_slice(content.as_bytes());
        }
        let data = if is_link { "" } else { content };
        fields.typeflag = [*kind];
        header.set_mode(0o644 + if *kind == b'5' { 0o111 } else { 0 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(data.len() as u64);
        header.set_cksum();
        tar.extend_from_slice(header.as_bytes());
        tar.extend_from_slice(data.as_bytes());
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// A space, and the name of `image` in a registry.
fn published(registry: &Registry, image: &SampleImage) -> (Space, String) {
    registry.push(image, "test/image:1");
    (Space::new(), format!("{}/test/image:1", registry.host))
}

#[test]
fn a_layer_that_aims_at_files_outside_of_it() {
    let Some(registry) = Registry::start() else { return };
    let victim = tempfile::tempdir().expect("a temporary directory");
    let outside = victim.path().to_str().expect("text");
    let (absolute, climbing) = (format!("{outside}/absolute"), format!("../../../../../../..{outside}/climbing"));
    let through = format!("link{outside}/through");
    let image = SampleImage::of_tar(&tar_of(&[
        (&absolute, b'0', "1"),
        (&climbing, b'0', "2"),
        ("link", b'2', "/"),
        (&through, b'0', "3"),
        ("up", b'2', "../../../../../../.."),
        ("chain", b'2', "up"),
        (&format!("chain{outside}/chained"), b'0', "4"),
        ("hard", b'1', &format!("chain{outside}/chained")),
        ("magic", b'2', "/proc/self/root"),
        ("magic/caught", b'0', "5"),
    ]));
    let (space, name) = published(&registry, &image);
    space.dockerfile(&format!("FROM {name}\nCOPY Dockerfile magic/copied\n"));
    let out = space.build_files(&[]);
    assert_eq!(std::fs::read_dir(victim.path()).expect("readable").count(), 0, "a layer wrote outside");
    let read = |path: &str| std::fs::read_to_string(out.join(path.trim_start_matches('/'))).expect(path);
    let inside = ["absolute", "climbing", "through", "chained"].map(|file| read(&format!("{outside}/{file}")));
    assert_eq!((inside, read("hard")), (["1", "2", "3", "4"].map(str::to_owned), "4".to_owned()));
    // that link means the image's own root, and a directory there
    assert_eq!(read("proc/self/root/caught"), "5");
    assert!(out.join("proc/self/root/copied").is_file());
}

#[test]
fn a_layer_that_is_damaged_inside() {
    let Some(registry) = Registry::start() else { return };
    let whole = SampleImage::new();
    let cut = SampleImage { layer: whole.layer[..whole.layer.len() / 2].to_vec(), ..SampleImage::new() };
    let (space, name) = published(&registry, &cut);
    let says = |digest: Digest, note: &str| format!("error: cannot unpack layer {digest} of `{name}`\n |\n = note: {note}\n");
    let broken = says(
        cut.layer_digest(),
        "the layer is damaged: cannot read the next entry of the tar\n = note: incomplete deflate stream",
    );
    space.croze(["pull", &name]).fails(3, &broken);

    let other = SampleImage { diff_id: Digest::of(b"another"), ..SampleImage::new() };
    registry.push(&other, "test/image:1");
    let wrong = format!("the layer's content is {} instead of {}", whole.diff_id, other.diff_id);
    space.croze(["pull", &name]).fails(3, &says(other.layer_digest(), &wrong));

    let dangling = SampleImage::of_tar(&tar_of(&[("hard", b'1', "nowhere")]));
    registry.push(&dangling, "test/image:1");
    let nowhere = "`/hard` is a hard link to `/nowhere`, which does not exist";
    space.croze(["pull", &name]).fails(3, &says(dangling.layer_digest(), nowhere));

    let no_tar = SampleImage::of_tar(&[b'x'; 2048]);
    registry.push(&no_tar, "test/image:1");
    space.croze(["pull", &name]).fails(
        3,
        &says(
            no_tar.layer_digest(),
            "the layer is damaged: cannot read the next entry of the tar\n = note: a number in a header is malformed",
        ),
    );

    let odd = SampleImage { layer_type: "application/vnd.example.bundle", ..SampleImage::new() };
    registry.push(&odd, "test/image:1");
    let message = format!(
        "error: image `{name}` cannot be used: its layer {} is a `application/vnd.example.bundle`, which is no layer that can be unpacked",
        odd.layer_digest()
    );
    space.croze(["pull", &name]).fails(3, &message);
}

#[test]
fn a_password_that_is_wrong() {
    if !crate::fixture::can_run(&["docker-registry"]) {
        return;
    }
    let (space, registry) = (Space::with_busybox(), common::Registry::start_private());
    let host = &registry.host;
    space
        .croze(["login", "-u", "me", "-p", "wrong", host])
        .fails(3, &format!("error: {host} refuses the log-in as user `me` (status 401)"));
    assert!(!space.path(".docker").exists(), "nothing is kept");
    // one that was right once: base64 of me:old
    space.write(".docker/config.json", format!(r#"{{"auths":{{"{host}":{{"auth":"bWU6b2xk"}}}}}}"#));
    let refused = |name: &str| {
        format!(
            "error: {host} refuses access to `{name}` (status 401, as user `me` from ~/.docker/config.json)\n |\n \
             = help: log in as a user who may, or ask for the right to"
        )
    };
    let name = format!("{host}/team/app:1");
    space.croze(["pull", &name]).fails(3, &refused(&name));
    space.dockerfile("FROM busybox\nLABEL a=b\n");
    space.build(&["-t", &name]).succeeds();
    space.croze(["push", &name]).fails(3, &refused(&name));
    space.build(&["-t", &name, "--push"]).fails(3, &refused(&name));
}

#[test]
fn a_layer_that_is_a_bomb() {
    let Some(registry) = Registry::start() else { return };
    let image = SampleImage::new();
    registry.push(&image, "test/image:1");
    let (space, host) = (Space::new(), &registry.host);
    space.write(".config/croze/config.toml", "[layer]\nmax_bytes = 399_999\n");
    let name = format!("{host}/test/image:1");
    let message = format!(
        "error: cannot unpack layer {} of `{name}`\n |\n = note: it has more than 399999 bytes when it is unpacked\n \
         = help: if you trust it, raise `max_entries` or `max_bytes` in `[layer]` of config.toml",
        image.layer_digest()
    );
    space.croze(["pull", &name]).fails(3, &message);
    space.write(".config/croze/config.toml", "[layer]\nmax_bytes = 400_000\nmax_entries = 0\n");
    space.croze(["pull", &name]).fails(3, &message.replace("399999 bytes when it is unpacked", "0 entries"));
    space.write(".config/croze/config.toml", "[layer]\nmax_bytes = 400_000\nmax_entries = 1\n");
    space.croze(["pull", &name]).succeeds();
}
