//! Contents of `RUN --mount=type=cache` on their way: a tar of the directory, cut by content, each chunk a blob.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::chunks::{Chunker, MOST_BYTES};
use super::place::Writer;
use super::{Place, TravelError};
use crate::digest::{DiffId, Digest};
use crate::image::Descriptor;
use crate::layer::{self, Compression, LayerError, LayerLimits};
use crate::registry::Taken;
use crate::snapshot::dir;
use crate::store::{MountAbout, Store};
use crate::task;

/// The media type of a list of chunks.
pub const LIST_TYPE: &str = "application/vnd.croze.cache.mount.v1+json";
/// The media type of a chunk.
const CHUNK_TYPE: &str = "application/vnd.croze.cache.chunk.v1+zstd";

const LEVEL: i32 = 3;
/// Chunks that wait to be sent, or to be unpacked.
const CHUNKS_AHEAD: usize = 4;

/// A cache mount that a cache holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountOffer {
    /// What the directory is for.
    pub about: MountAbout,
    /// Its [`MountList`].
    pub list: Descriptor,
}

/// The chunks of a cache mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountList {
    /// Names the tar.
    pub diff_id: DiffId,
    /// Blobs, in order.
    pub chunks: Vec<Chunk>,
}

/// A part of the tar, compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Of its blob.
    pub digest: Digest,
    /// Of its blob.
    #[serde(rename = "size")]
    pub size_bytes: u64,
}

impl Chunk {
    /// The blob.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(CHUNK_TYPE, self.digest, self.size_bytes)
    }
}

/// What sending a mount took.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct SentMount {
    /// Bytes of chunks that were sent.
    pub sent_bytes: u64,
    /// Bytes of chunks that were there.
    pub there_bytes: u64,
}

/// Sends the directory of the cache mount `name`, chunk by chunk; those that the place has are not sent.
///
/// # Errors
/// The directory changes while it is read; the place does not take it.
pub async fn send(store: &Store, writer: &Writer, name: &Digest) -> Result<(MountList, SentMount), TravelError> {
    let (sender, mut receiver) = mpsc::channel::<(Chunk, std::path::PathBuf)>(CHUNKS_AHEAD);
    let (store, name) = (store.clone(), *name);
    let temp = store.temp_dir()?;
    let directory = temp.path.clone();
    let writing = task::blocking(move || {
        let mut number = 0;
        let mut chunker = Chunker::new(|plain| {
            let packed = zstd::bulk::compress(&plain, LEVEL)?;
            let chunk = Chunk { digest: Digest::of(&packed), size_bytes: packed.len() as u64 };
            let path = directory.join(number.to_string());
            number += 1;
            fs::write(&path, packed)?;
            sender.blocking_send((chunk, path)).map_err(|_| io::ErrorKind::BrokenPipe.into())
        });
        let data = store.cache_mount_path(&name).join("data");
        let summary = layer::write_tar(&data, None, &mut chunker)?;
        chunker.finish().map_err(LayerError::Write)?;
        Ok::<DiffId, LayerError>(summary.diff_id)
    });
    // dropping the receiver ends the writing when a chunk could not be sent
    let sending = async move {
        let (mut chunks, mut sent) = (Vec::new(), SentMount::default());
        while let Some((chunk, path)) = receiver.recv().await {
            match writer.put(&chunk.descriptor(), std::future::ready(Ok(path.clone())), None).await? {
                Taken::Sent => sent.sent_bytes += chunk.size_bytes,
                Taken::There | Taken::Mounted => sent.there_bytes += chunk.size_bytes,
            }
            chunks.push(chunk);
            // gone with its directory at the latest
            let _stays = fs::remove_file(&path);
        }
        Ok::<_, TravelError>((chunks, sent))
    };
    let (written, sent) = tokio::join!(writing, sending);
    let (chunks, sent) = sent?;
    Ok((MountList { diff_id: written?, chunks }, sent))
}

/// Reads the list of a mount's chunks.
///
/// # Errors
/// It is not there, or is none.
pub async fn list(place: &Place, offer: &MountOffer) -> Result<MountList, TravelError> {
    let bytes = place.document(&offer.list).await?;
    let malformed = |error: serde_json::Error| TravelError::Malformed { place: place.name(), reason: error.to_string() };
    serde_json::from_slice(&bytes).map_err(malformed)
}

/// Brings a cache mount here, unless it is there by now. Returns the bytes that this took.
///
/// # Errors
/// A chunk is missing or damaged; the tar is not what the list says, or more than `limits` allow.
pub async fn fetch(
    store: &Store,
    place: &Place,
    name: &Digest,
    offer: &MountOffer,
    limits: LayerLimits,
) -> Result<u64, TravelError> {
    let list = list(place, offer).await?;
    let fetched_bytes = list.chunks.iter().map(|chunk| chunk.size_bytes).sum();
    let (sender, receiver) = mpsc::channel::<Vec<u8>>(CHUNKS_AHEAD);
    let (store, name, about, expected) = (store.clone(), *name, offer.about.clone(), list.diff_id);
    let unpacking = task::blocking(move || {
        let temp = store.temp_dir()?;
        let tree = temp.path.join("data");
        fs::create_dir(&tree).map_err(TravelError::io("create", &tree))?;
        let mut tar = Chunks { receiver, current: io::Cursor::new(Vec::new()) };
        let unpacked = layer::unpack_into(&tree, &mut tar, Compression::None, None, limits)?;
        if unpacked.diff_id != expected {
            return Err(LayerError::WrongContent { expected, found: unpacked.diff_id }.into());
        }
        let owned = fs::File::open(&tree).and_then(|file| dir::set_owner(file, about.uid, about.gid));
        let mode = std::os::unix::fs::PermissionsExt::from_mode(about.mode & 0o7777);
        owned.and_then(|()| fs::set_permissions(&tree, mode)).map_err(TravelError::io("set the owner of", &tree))?;
        store.publish_cache_mount(&name, &tree, &about)?;
        Ok::<(), TravelError>(())
    });
    // dropping the sender ends the unpacking, well or not
    let fetching = async move {
        let mut ahead = VecDeque::new();
        let mut todo = list.chunks.iter();
        loop {
            while ahead.len() < CHUNKS_AHEAD
                && let Some(chunk) = todo.next()
            {
                let (place, descriptor) = (place.clone(), chunk.descriptor());
                ahead.push_back(tokio::spawn(async move { place.document(&descriptor).await }));
            }
            let Some(next) = ahead.pop_front() else { return Ok::<(), TravelError>(()) };
            let packed = next.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
            let malformed = |error: io::Error| TravelError::Malformed { place: place.name(), reason: error.to_string() };
            let plain = zstd::bulk::decompress(&packed, MOST_BYTES).map_err(malformed)?;
            if sender.send(plain).await.is_err() {
                // who unpacks says why it wants no more
                return Ok(());
            }
        }
    };
    let (fetched, unpacked) = tokio::join!(fetching, unpacking);
    fetched?;
    unpacked?;
    Ok(fetched_bytes)
}

/// Chunks as one stream.
struct Chunks {
    receiver: mpsc::Receiver<Vec<u8>>,
    current: io::Cursor<Vec<u8>>,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.current.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            match self.receiver.blocking_recv() {
                Some(chunk) => self.current = io::Cursor::new(chunk),
                None => return Ok(0),
            }
        }
    }
}
