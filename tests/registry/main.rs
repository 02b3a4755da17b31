//! The registry client against a real registry (`docker-registry`), with a fault proxy of ours in front where a test needs
//! faults. Images are made here and pushed by `skopeo`.

#[path = "../common/mod.rs"]
mod common;
mod faults;
mod files;
mod fixture;
mod forms;
mod odd;
mod proxy;
mod pull;
mod remote;
mod told;
mod trust;

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use croze::digest::Digest;
use croze::reference::ImageRef;
use croze::registry::manifest::{Document, OCI_INDEX};
use croze::registry::{
    Anonymous, Broken, Client, Credential, CredentialError, Credentials, CredentialsUsed, RegistryConfig, RegistryError, Retry,
    Secret, Tags,
};
use fixture::{Registry, SampleImage};
use proxy::{Fault, Proxy};

fn client(credentials: Arc<dyn Credentials>) -> Client {
    let retry = Retry { backoff: Duration::from_millis(1), longest_pause: Duration::from_millis(4), ..Retry::default() };
    Client::new(RegistryConfig { retry, ..RegistryConfig::default() }, credentials)
}

fn anonymous() -> Client {
    client(Arc::new(Anonymous))
}

fn image_ref(host: &str, rest: &str) -> ImageRef {
    format!("{host}/{rest}").parse().expect("a valid reference")
}

async fn fetch(client: &Client, image_ref: &ImageRef, image: &SampleImage) -> Result<Vec<u8>, RegistryError> {
    client
        .fetch_blob(image_ref, image.layer_digest(), image.layer.len() as u64, |reader| {
            let mut bytes = Vec::new();
            // what failed is in the verdict
            let _ = reader.read_to_end(&mut bytes);
            Ok::<_, RegistryError>(bytes)
        })
        .await
}

#[tokio::test]
async fn an_index_a_manifest_a_config_and_a_layer_come_out_as_they_went_in() {
    let Some(registry) = Registry::start() else { return };
    let image = SampleImage::new();
    registry.push(&image, "test/image:1");
    let (client, image_ref) = (anonymous(), image_ref(&registry.host, "test/image:1"));

    let fetched = client.manifest(&image_ref).await.expect("the index");
    assert_eq!((fetched.media_type.as_str(), &fetched.host), (OCI_INDEX, &registry.host));
    assert_eq!(client.tag_digest(&image_ref).await.expect("a digest"), Some(fetched.digest));
    let Ok(Document::Index(index)) = Document::parse(&fetched.bytes, &fetched.media_type) else { panic!("no index") };
    let chosen = index.choose(&"linux/s390x".parse().expect("valid")).expect("there is one");
    let manifest = client.manifest_by_digest(&image_ref, &chosen.digest).await.expect("the manifest");
    let Ok(Document::Manifest(manifest)) = Document::parse(&manifest.bytes, &manifest.media_type) else { panic!("no manifest") };
    let config = client.document(&image_ref, &manifest.config).await.expect("the config");
    assert!(String::from_utf8_lossy(&config).contains("s390x"));
    assert_eq!(fetch(&client, &image_ref, &image).await.expect("the layer"), image.layer);
}

#[tokio::test]
async fn what_is_missing_is_told_apart() {
    let Some(registry) = Registry::start() else { return };
    let image = SampleImage::new();
    registry.push(&image, "test/image:bookworm");
    let client = anonymous();

    let error = client.manifest(&image_ref(&registry.host, "test/image:bokworm")).await.expect_err("no such tag");
    assert!(matches!(&error, RegistryError::NotFound { tags: Tags::Nearest(tags), .. } if tags == &["bookworm"]), "{error}");
    let error = client.manifest(&image_ref(&registry.host, "test/none:1")).await.expect_err("no such repository");
    assert!(matches!(&error, RegistryError::NotFound { tags: Tags::NoRepository, .. }), "{error}");
    let unknown = format!("test/image@{}", Digest::of(b"?"));
    let error = client.manifest(&image_ref(&registry.host, &unknown)).await.expect_err("no such digest");
    assert!(matches!(error, RegistryError::NotFound { .. }), "{error}");
    let image_ref = image_ref(&registry.host, "test/image:bookworm");
    let error =
        client.fetch_blob(&image_ref, Digest::of(b"?"), 1, |_| Ok::<_, RegistryError>(())).await.expect_err("no such blob");
    assert!(matches!(error, RegistryError::NoBlob { .. }), "{error}");
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_broke() {
    let Some(registry) = Registry::start() else { return };
    let image = SampleImage::new();
    registry.push(&image, "test/image:1");
    let proxy = Proxy::start(&registry.host, "/blobs/", vec![Fault::CutBodyAfter(100_000), Fault::CutBodyAfter(50_000)]);
    let image_ref = image_ref(&proxy.host, "test/image:1");

    assert_eq!(fetch(&anonymous(), &image_ref, &image).await.expect("the layer"), image.layer);
    let ranges = proxy.headers("range");
    assert_eq!(ranges.len(), 3, "{ranges:?}");
    assert_eq!(ranges[0], None);
    assert!(ranges[1].is_some() && ranges[2].is_some() && ranges[1] != ranges[2], "{ranges:?}");
}

#[tokio::test]
async fn a_server_that_is_busy_is_asked_again() {
    let Some(registry) = Registry::start() else { return };
    let image = SampleImage::new();
    registry.push(&image, "test/image:1");
    let faults = vec![Fault::Status("429 Too Many Requests"), Fault::Status("503 Service Unavailable"), Fault::CutHead];
    let proxy = Proxy::start(&registry.host, "/manifests/", faults);

    anonymous().manifest(&image_ref(&proxy.host, "test/image:1")).await.expect("the fourth answer is good");
    assert_eq!(proxy.headers("accept").len(), 4);
}

#[tokio::test]
async fn a_server_that_stays_broken_is_named_with_its_status() {
    let Some(registry) = Registry::start() else { return };
    let proxy = Proxy::start(&registry.host, "/manifests/", vec![Fault::Status("503 Service Unavailable"); 9]);
    let error = anonymous().manifest(&image_ref(&proxy.host, "test/image:1")).await.expect_err("it stays broken");
    assert!(matches!(error, RegistryError::Status { status: 503, .. }), "{error}");
    assert_eq!(proxy.headers("accept").len(), Retry::default().attempts as usize);
}

#[tokio::test]
async fn wrong_bytes_are_refused() {
    let Some(registry) = Registry::start() else { return };
    let image = SampleImage::new();
    registry.push(&image, "test/image:1");
    let proxy = Proxy::start(&registry.host, "/blobs/", vec![Fault::FlipBodyByte(1000)]);
    let error = fetch(&anonymous(), &image_ref(&proxy.host, "test/image:1"), &image).await.expect_err("one bit is wrong");
    assert!(matches!(error, RegistryError::BadDigest { expected, .. } if expected == image.layer_digest()), "{error}");
}

#[tokio::test]
async fn a_consumer_that_gives_up_ends_the_download_with_its_own_error() {
    let Some(registry) = Registry::start() else { return };
    let image = SampleImage::new();
    registry.push(&image, "test/image:1");
    let image_ref = image_ref(&registry.host, "test/image:1");
    let enough = || RegistryError::Redirects { url: "enough".into() };
    let error = anonymous()
        .fetch_blob(&image_ref, image.layer_digest(), image.layer.len() as u64, move |_| Err::<(), _>(enough()))
        .await
        .expect_err("it gave up");
    assert!(matches!(error, RegistryError::Redirects { .. }), "{error}");
}

#[tokio::test]
async fn nobody_there_is_offline() {
    let client = anonymous();
    let error = client.manifest(&image_ref("127.0.0.1:1", "x:1")).await.expect_err("nobody listens");
    assert!(matches!(&error, RegistryError::Unreachable { broken: Broken::Refused, .. }), "{error}");
    assert!(error.is_offline());
    let error = client.manifest(&image_ref("no-such-host.invalid", "x:1")).await.expect_err("no such name");
    assert!(matches!(&error, RegistryError::Unreachable { broken: Broken::Name(_), .. }), "{error}");
}

struct Me;

impl Credentials for Me {
    fn find(&self, _host: &str, _repository: &str) -> Result<Option<Credential>, CredentialError> {
        let secret = Secret::Password("secret".into());
        Ok(Some(Credential { username: "me".into(), secret, origin: "the test".into() }))
    }
}

#[tokio::test]
async fn a_token_is_fetched_once_and_shown() {
    let Some(registry) = Registry::start() else { return };
    let image = SampleImage::new();
    registry.push(&image, "test/image:1");
    let proxy = Proxy::start(&registry.host, "/v2/", vec![Fault::NeedToken; 99]);
    let (client, image_ref) = (anonymous(), image_ref(&proxy.host, "test/image:1"));
    client.manifest(&image_ref).await.expect("the manifest");
    assert_eq!(fetch(&client, &image_ref, &image).await.expect("the layer"), image.layer);
    assert_eq!(proxy.requests("/token?").len(), 1);
    assert!(proxy.requests("/token?")[0].contains("scope=repository:test/image:pull&service=fault"));
}

#[tokio::test]
async fn a_password_is_shown_when_asked_for() {
    let Some(registry) = Registry::start() else { return };
    let image = SampleImage::new();
    registry.push(&image, "test/image:1");
    let proxy = Proxy::start(&registry.host, "/v2/", vec![Fault::NeedBasic; 99]);
    let image_ref = image_ref(&proxy.host, "test/image:1");
    client(Arc::new(Me)).manifest(&image_ref).await.expect("the manifest");
    let error = anonymous().manifest(&image_ref).await.expect_err("no password");
    assert!(matches!(error, RegistryError::Denied { status: 401, used: CredentialsUsed::None, .. }), "{error}");
}

#[tokio::test]
async fn a_redirect_to_another_host_shows_it_no_password() {
    let Some(registry) = Registry::start() else { return };
    let image = SampleImage::new();
    registry.push(&image, "test/image:1");
    let elsewhere = Proxy::start(&registry.host, "/", Vec::new());
    let faults = vec![Fault::NeedBasic, Fault::RedirectTo(elsewhere.host.clone())];
    let proxy = Proxy::start(&registry.host, "/blobs/", faults);
    let image_ref = image_ref(&proxy.host, "test/image:1");
    assert_eq!(fetch(&client(Arc::new(Me)), &image_ref, &image).await.expect("the layer"), image.layer);
    assert_eq!(proxy.headers("authorization").iter().filter(|value| value.is_some()).count(), 1);
    assert_eq!(elsewhere.headers("authorization"), [None]);
}

#[tokio::test]
async fn a_mirror_is_asked_first_and_the_host_itself_after_it() {
    let Some(registry) = Registry::start() else { return };
    let image = SampleImage::new();
    registry.push(&image, "test/image:1");
    let mirror = Proxy::start(&registry.host, "/v2/", vec![Fault::Status("404 Not Found")]);
    let mut config = RegistryConfig::default();
    config.hosts.entry(registry.host.clone()).or_default().mirrors = vec![mirror.host.clone()];
    let client = Client::new(config, Arc::new(Anonymous));
    let image_ref = image_ref(&registry.host, "test/image:1");
    assert_eq!(client.manifest(&image_ref).await.expect("from the host").host, registry.host);
    assert_eq!(client.manifest(&image_ref).await.expect("from the mirror").host, mirror.host);
}
