//! Base images through the store: pulled once, then used without asking anybody.

use std::fs;

use croze::layer::LayerLimits;
use croze::reference::Platform;
use croze::registry::RegistryError;
use croze::source::SourceError;
use croze::source::image::{AnsweredBy, PullPolicy, ResolvedImage, ensure_layers, resolve};
use croze::source::oci_layout::{self, LayoutAddress};
use croze::store::Store;
use tempfile::TempDir;

use crate::fixture::{Registry, SampleImage};
use crate::proxy::{Fault, Proxy};
use crate::{anonymous, image_ref};

struct Space {
    store: Store,
    _directory: TempDir,
}

impl Space {
    fn new() -> Space {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(&directory.path().join("store")).expect("a fresh store");
        Space { store, _directory: directory }
    }

    async fn resolve(&self, host: &str, platform: &str, policy: PullPolicy) -> Result<ResolvedImage, SourceError> {
        let (image_ref, platform) = (image_ref(host, "test/image:1"), linux(platform));
        resolve(&self.store, &anonymous(), &image_ref, &platform, policy, 77).await
    }
}

fn linux(architecture: &str) -> Platform {
    format!("linux/{architecture}").parse().expect("a platform")
}

#[track_caller]
fn assert_noise(space: &Space, image: &ResolvedImage) {
    let stored = space.store.layer(&image.layers[0].diff_id).expect("readable").expect("it was unpacked");
    assert_eq!(fs::metadata(stored.tree().expect("unpacked").join("noise")).expect("the file is there").len(), 400_000);
}

#[tokio::test]
async fn an_image_is_pulled_once() {
    let Some(registry) = Registry::start() else { return };
    let image = SampleImage::new();
    registry.push(&image, "test/image:1");
    let proxy = Proxy::start(&registry.host, "/v2/", Vec::new());
    let space = Space::new();

    let first = space.resolve(&proxy.host, "amd64", PullPolicy::Missing).await.expect("from the registry");
    assert_eq!(first.answered_by, AnsweredBy::Registry(proxy.host.clone()));
    assert_eq!(first.config.architecture, "amd64");
    let image_ref = image_ref(&proxy.host, "test/image:1");
    let stored =
        ensure_layers(&space.store, &anonymous(), &first, Some(&image_ref), LayerLimits::default()).await.expect("the layer");
    assert_eq!(stored.len(), 1);
    assert_noise(&space, &first);
    assert_eq!(space.store.blob_size(&image.layer_digest()).expect("readable"), Some(image.layer.len() as u64));

    let asked = proxy.requests("").len();
    let second = space.resolve(&proxy.host, "amd64", PullPolicy::Missing).await.expect("from the store");
    assert_eq!(second.answered_by, AnsweredBy::Store { set_secs: Some(77) });
    assert_eq!((second.manifest.digest, second.config_digest), (first.manifest.digest, first.config_digest));
    ensure_layers(&space.store, &anonymous(), &second, Some(&image_ref), LayerLimits::default()).await.expect("all there");
    assert_eq!(proxy.requests("").len(), asked, "nobody is asked again");
}

#[tokio::test]
async fn another_platform_comes_from_the_same_index() {
    let Some(registry) = Registry::start() else { return };
    registry.push(&SampleImage::new(), "test/image:1");
    let proxy = Proxy::start(&registry.host, "/manifests/1", Vec::new());
    let space = Space::new();
    space.resolve(&proxy.host, "amd64", PullPolicy::Missing).await.expect("from the registry");
    let other = space.resolve(&proxy.host, "s390x", PullPolicy::Missing).await.expect("by digest");
    assert_eq!(other.config.architecture, "s390x");
    assert_eq!(proxy.requests("/manifests/1 ").len(), 1, "the tag was asked for once");
    let error = space.resolve(&proxy.host, "riscv64", PullPolicy::Missing).await.expect_err("there is none");
    let SourceError::Registry(error) = error else { panic!("{error}") };
    assert_eq!(
        error.to_string(),
        format!("`{}/test/image:1` has no image for linux/riscv64, only for linux/amd64, linux/s390x", proxy.host)
    );
}

#[tokio::test]
async fn always_asks_whether_the_tag_moved() {
    let Some(registry) = Registry::start() else { return };
    registry.push(&SampleImage::new(), "test/image:1");
    let proxy = Proxy::start(&registry.host, "/v2/", Vec::new());
    let space = Space::new();
    space.resolve(&proxy.host, "amd64", PullPolicy::Always).await.expect("from the registry");
    let asked = proxy.requests("").len();
    let again = space.resolve(&proxy.host, "amd64", PullPolicy::Always).await.expect("unmoved");
    assert!(matches!(again.answered_by, AnsweredBy::Registry(_)));
    assert_eq!(proxy.requests("").len(), asked + 1, "one HEAD");
    drop(registry);
    let error = space.resolve("127.0.0.1:1", "amd64", PullPolicy::Always).await.expect_err("nobody there");
    assert!(matches!(error, SourceError::Registry(error) if error.is_offline()));
}

#[tokio::test]
async fn damaged_documents_and_layers_are_fetched_again() {
    let Some(registry) = Registry::start() else { return };
    let image = SampleImage::new();
    registry.push(&image, "test/image:1");
    let space = Space::new();
    let image_ref = image_ref(&registry.host, "test/image:1");
    let first = space.resolve(&registry.host, "amd64", PullPolicy::Missing).await.expect("from the registry");
    ensure_layers(&space.store, &anonymous(), &first, Some(&image_ref), LayerLimits::default()).await.expect("the layer");

    for digest in [first.manifest.digest, first.config_digest, image.layer_digest()] {
        let path = space.store.blob_path(&digest);
        fs::remove_file(&path).expect("it is there");
        fs::write(&path, b"damaged").expect("writable");
    }
    let tree = space.store.layer(&first.layers[0].diff_id).expect("readable").expect("it is there");
    let tree = tree.tree().expect("unpacked").to_owned();
    fs::remove_dir_all(tree.parent().expect("a layer's directory")).expect("removable");
    // what a process has found it does not look for again
    let space = Space { store: Store::open(space.store.root()).expect("the same store"), ..space };
    let again = space.resolve(&registry.host, "amd64", PullPolicy::Missing).await.expect("repaired");
    assert_eq!(again.config, first.config);
    ensure_layers(&space.store, &anonymous(), &again, Some(&image_ref), LayerLimits::default()).await.expect("repaired");
    assert_noise(&space, &again);
}

#[tokio::test]
async fn a_layer_that_arrives_damaged_is_named_and_leaves_nothing() {
    let Some(registry) = Registry::start() else { return };
    let image = SampleImage::new();
    registry.push(&image, "test/image:1");
    // where it is no gzip any more, where it does not decompress to the same, and in the sum at its end
    let faults = [0, 5000, image.layer.len() - 5].map(Fault::FlipBodyByte).to_vec();
    let proxy = Proxy::start(&registry.host, &format!("/blobs/{}", image.layer_digest()), faults.clone());
    let space = Space::new();
    let image_ref = image_ref(&proxy.host, "test/image:1");
    let resolved = space.resolve(&proxy.host, "amd64", PullPolicy::Missing).await.expect("the documents are right");
    for fault in faults {
        let error = ensure_layers(&space.store, &anonymous(), &resolved, Some(&image_ref), LayerLimits::default())
            .await
            .expect_err("one bit is wrong");
        let error = error.to_string();
        let (host, digest) = (&proxy.host, image.layer_digest());
        assert!(error.starts_with(&format!("{host} sent wrong bytes for {digest} (they hash to sha256:")), "{fault:?}: {error}");
        assert!(space.store.layer(&resolved.layers[0].diff_id).expect("readable").is_none());
        assert_eq!(space.store.blob_size(&image.layer_digest()).expect("readable"), None);
    }
    ensure_layers(&space.store, &anonymous(), &resolved, Some(&image_ref), LayerLimits::default())
        .await
        .expect("the last download is right");
}

#[tokio::test]
async fn a_layout_is_imported_with_its_layers() {
    let layout = tempfile::tempdir().expect("a temporary directory");
    let image = SampleImage::new();
    image.write_layout(layout.path());
    let space = Space::new();
    let address = |suffix: &str| LayoutAddress::parse(&format!("{}{suffix}", layout.path().display())).expect("an address");
    let resolved = oci_layout::resolve(&space.store, &address(":sample"), &linux("s390x")).await.expect("it is there");
    assert_eq!(resolved.config.architecture, "s390x");
    assert_eq!(resolved.answered_by, AnsweredBy::Layout(layout.path().to_owned()));
    let by_digest = address(&format!("@{}", resolved.manifest.digest));
    let same = oci_layout::resolve(&space.store, &by_digest, &linux("amd64")).await.expect("by digest");
    assert_eq!(same.config_digest, resolved.config_digest);
    fs::remove_dir_all(layout.path().join("blobs")).expect("removable");
    ensure_layers(&space.store, &anonymous(), &resolved, None, LayerLimits::default())
        .await
        .expect("nothing depends on the directory");
    assert_noise(&space, &resolved);
}

#[tokio::test]
async fn a_layout_is_verified_and_its_tags_are_suggested() {
    let layout = tempfile::tempdir().expect("a temporary directory");
    let image = SampleImage::new();
    image.write_layout(layout.path());
    let space = Space::new();
    let address = |suffix: &str| LayoutAddress::parse(&format!("{}{suffix}", layout.path().display())).expect("an address");
    let error = oci_layout::resolve(&space.store, &address(":smaple"), &linux("amd64")).await.expect_err("no such tag");
    assert!(error.to_string().ends_with("it has no tag `smaple`; did you mean `sample`?"), "{error}");
    let error = oci_layout::resolve(&space.store, &address(""), &linux("arm64")).await.expect_err("no such platform");
    assert!(matches!(error, SourceError::Registry(error) if matches!(*error, RegistryError::NoPlatform { .. })));
    fs::write(layout.path().join("blobs/sha256").join(image.layer_digest().hex()), b"damaged").expect("writable");
    let error = oci_layout::resolve(&space.store, &address(""), &linux("amd64")).await.expect_err("damaged");
    assert!(matches!(error, SourceError::Store(_)), "{error}");
}
