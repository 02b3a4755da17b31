//! Hundreds of pulls and pushes through a proxy that spoils connections: each is right or says why not, and no store and no
//! registry ever holds wrong bytes.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use croze::digest::Digest;
use croze::export::{self, PushBy, Whereabouts};
use croze::image::Descriptor;
use croze::layer::LayerLimits;
use croze::reference::{ImageRef, Platform};
use croze::registry::manifest::OCI_INDEX;
use croze::source::image::{self, PullPolicy};
use croze::source::oci_layout::{self, LayoutAddress};
use croze::store::Store;

use crate::fixture::{Registry, SampleImage};
use crate::{anonymous, image_ref};

/// How many images go each way, unless `CROZE_TRANSFERS` says how many transfers there are.
const ROUNDS: u64 = 60;

/// What happens to one connection.
#[derive(Clone, Copy, Debug)]
enum Spoil {
    Nothing,
    /// It ends after so many bytes of the answers.
    CutAnswer(usize),
    /// It ends after so many bytes of the requests.
    CutRequest(usize),
    /// One bit of this byte of the answers is wrong.
    FlipAnswer(usize),
    /// One bit of this byte of the requests is wrong.
    FlipRequest(usize),
    /// Its first request gets this answer.
    Status(&'static str),
    /// The answers come in pieces of so many bytes.
    Crumbs(usize),
}

/// Passes bytes on; every connection has its fate from its number.
struct Spoiler {
    host: String,
    spoiled: Arc<AtomicU64>,
}

impl Spoiler {
    fn start(upstream: &str) -> Spoiler {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let host = listener.local_addr().expect("it is bound").to_string();
        let (upstream, spoiled) = (upstream.to_owned(), Arc::new(AtomicU64::new(0)));
        let count = spoiled.clone();
        thread::spawn(move || {
            for (number, client) in listener.incoming().map_while(Result::ok).enumerate() {
                let spoil = fate(number as u64);
                if !matches!(spoil, Spoil::Nothing) {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                let upstream = upstream.clone();
                // whoever hangs up early is a part of the test
                thread::spawn(move || drop(serve(client, &upstream, spoil)));
            }
        });
        Spoiler { host, spoiled }
    }
}

/// A third of the connections is left alone; the same on every run.
fn fate(number: u64) -> Spoil {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x1234_5678_9ABC_DEF1);
    let mut roll = |sides: u64| {
        state ^= state >> 29;
        state = state.wrapping_mul(0xBF58_476D_1CE4_E5B9);
        state ^= state >> 32;
        state % sides
    };
    let far = roll(6000) as usize;
    match roll(9) {
        0 => Spoil::CutAnswer(far),
        1 => Spoil::CutRequest(far),
        2 => Spoil::FlipAnswer(far),
        3 => Spoil::FlipRequest(far),
        4 => Spoil::Status(if far.is_multiple_of(2) { "429 Too Many Requests" } else { "503 Service Unavailable" }),
        5 => Spoil::Crumbs(1 + far % 700),
        _ => Spoil::Nothing,
    }
}

fn serve(mut client: TcpStream, upstream: &str, spoil: Spoil) -> std::io::Result<()> {
    if let Spoil::Status(status) = spoil {
        let mut head = [0; 16 << 10];
        // whatever of the request is there: it is not looked at
        let _bytes = client.read(&mut head)?;
        return write!(client, "HTTP/1.1 {status}\r\nRetry-After: 0\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let upstream = TcpStream::connect(upstream)?;
    let (requests_from, requests_to) = (client.try_clone()?, upstream.try_clone()?);
    let requests = thread::spawn(move || {
        let (cut, flip) = match spoil {
            Spoil::CutRequest(after) => (after, usize::MAX),
            Spoil::FlipRequest(at) => (usize::MAX, at),
            _ => (usize::MAX, usize::MAX),
        };
        pass(requests_from, requests_to, cut, flip, usize::MAX)
    });
    let (cut, flip, piece) = match spoil {
        Spoil::CutAnswer(after) => (after, usize::MAX, usize::MAX),
        Spoil::FlipAnswer(at) => (usize::MAX, at, usize::MAX),
        Spoil::Crumbs(bytes) => (usize::MAX, usize::MAX, bytes),
        _ => (usize::MAX, usize::MAX, usize::MAX),
    };
    pass(upstream, client, cut, flip, piece);
    drop(requests.join());
    Ok(())
}

/// Passes bytes on until either side ends or `cut` bytes have passed, and ends both then.
fn pass(mut from: TcpStream, mut to: TcpStream, cut: usize, flip: usize, piece: usize) {
    let mut passed = 0;
    let mut buffer = [0; 16 << 10];
    while passed < cut {
        let wanted = buffer.len().min(piece).min(cut - passed);
        let Ok(count @ 1..) = from.read(&mut buffer[..wanted]) else { break };
        if (passed..passed + count).contains(&flip) && !is_in_address(&buffer[..count], flip - passed) {
            buffer[flip - passed] ^= 4;
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
        passed += count;
    }
    // the other side may be gone already
    let _gone = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// Whether the byte `at` belongs to the address of a host on loopback. A wrong bit there, in a `Host` that a registry repeats in a
/// `Location`, would have us call other machines.
fn is_in_address(bytes: &[u8], at: usize) -> bool {
    const LOOPBACK: &[u8] = b"127.0.0.1";
    let first = (at + 1).saturating_sub(LOOPBACK.len());
    bytes[first..].windows(LOOPBACK.len()).take(at + 1 - first).any(|window| window == LOOPBACK)
}

/// An image whose blobs have a few thousand bytes, so that faults strike anywhere; different for every `number`.
pub async fn sample_in(store: &Store, number: u64, directory: &Path) -> Descriptor {
    let image = SampleImage::with_noise(2000 + 37 * (number as usize % 100), number as u32 + 1);
    image.write_layout(directory);
    let address = LayoutAddress::parse(&format!("{}:sample", directory.display())).expect("an address");
    for platform in ["linux/amd64", "linux/s390x"] {
        oci_layout::resolve(store, &address, &platform.parse().expect("valid")).await.expect("a layout");
    }
    let top: serde_json::Value = serde_json::from_slice(&fs::read(directory.join("index.json")).expect("there")).expect("JSON");
    let digest: Digest = top["manifests"][0]["digest"].as_str().expect("text").parse().expect("a digest");
    // the attestation, which no platform leads to
    for entry in fs::read_dir(directory.join("blobs/sha256")).expect("there") {
        store.write_blob(&fs::read(entry.expect("readable").path()).expect("there")).expect("a store");
    }
    Descriptor::new(OCI_INDEX, digest, store.blob_size(&digest).expect("readable").expect("there"))
}

fn only_right_bytes(store: &Store) {
    for entry in fs::read_dir(store.root().join("blobs/sha256")).expect("there") {
        let entry = entry.expect("readable");
        let digest = Digest::of(&fs::read(entry.path()).expect("there"));
        assert_eq!(entry.file_name().to_str(), Some(digest.hex().as_str()), "the store holds wrong bytes");
    }
}

fn fresh_store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(&directory.path().join("store")).expect("a fresh store");
    (directory, store)
}

#[tokio::test]
async fn hundreds_of_transfers_over_bad_lines_are_right_or_say_why() {
    let Some(registry) = Registry::start() else { return };
    let transfers = std::env::var("CROZE_TRANSFERS").ok().map(|text| text.parse::<u64>().expect("a number"));
    let rounds = transfers.map_or(ROUNDS, |transfers| transfers.div_ceil(2));
    let spoiler = Spoiler::start(&registry.host);
    let (mut pushed, mut pulled, mut failures) = (0, 0, Vec::new());
    for number in 0..rounds {
        let (space, source) = fresh_store();
        let layout = space.path().join("layout");
        fs::create_dir(&layout).expect("writable");
        let root = sample_in(&source, number, &layout).await;
        let name = |host: &str| image_ref(host, &format!("bad/line{number}:1"));
        // over the bad line, then over the good one, so that there is something to pull
        let through = |host: &str| {
            let (name, source, root) = (name(host), source.clone(), root.clone());
            async move { export::push(&source, &anonymous(), &root, &[name], PushBy::Tag, Whereabouts::default()).await }
        };
        match through(&spoiler.host).await {
            Ok(_) => pushed += 1,
            Err(error) => {
                failures.push(error.to_string());
                through(&registry.host).await.expect("a good line");
            }
        }
        let there = anonymous().manifest(&name(&registry.host)).await.expect("a good line");
        assert_eq!(there.digest, root.digest, "the registry holds something else");

        let (_space, store) = fresh_store();
        match pull(&store, &name(&spoiler.host)).await {
            Ok(()) => pulled += 1,
            Err(error) => {
                failures.push(error);
                only_right_bytes(&store);
                pull(&store, &name(&registry.host)).await.expect("a good line mends what a bad one left");
            }
        }
        only_right_bytes(&store);
    }
    let spoiled = spoiler.spoiled.load(Ordering::Relaxed);
    println!("{rounds} pushes, {pushed} right; {rounds} pulls, {pulled} right; {spoiled} spoiled connections");
    assert!(spoiled > rounds / 2, "the line is too good: {spoiled} bad connections");
    assert!(pushed > rounds / 3 && pulled > rounds / 3, "{pushed} pushes, {pulled} pulls of {rounds}: {failures:#?}");
    for failure in failures {
        // a wrong bit in a `Location` leads to another port, which is named then
        let names = [spoiler.host.as_str(), "sha256:", "cannot reach 127.0.0.1:"];
        assert!(names.iter().any(|name| failure.contains(name)), "it names neither host nor object: {failure}");
    }
}

async fn pull(store: &Store, name: &ImageRef) -> Result<(), String> {
    let (client, platform) = (anonymous(), "linux/amd64".parse::<Platform>().expect("valid"));
    let found =
        image::resolve(store, &client, name, &platform, PullPolicy::Always, 0).await.map_err(|error| error.to_string())?;
    image::ensure_layers(store, &client, &found, Some(name), LayerLimits::default()).await.map_err(|error| error.to_string())?;
    Ok(())
}
