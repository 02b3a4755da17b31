//! What a build leaves in a cache elsewhere.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::config::{self, Contents, Offer};
use super::flag::{Mounts, RootForm};
use super::mounts::{self, Chunk, MountOffer, SentMount};
use super::place::Writer;
use super::uploads::{Arrived, Sending, Uploads};
use super::{Answers, TravelError, answers};
use crate::digest::{CacheKey, DiffId, Digest};
use crate::image::{Descriptor, Index, Manifest, document, media_type};
use crate::registry::Taken;
use crate::store::{MountAbout, Record};
use crate::task;

/// What steps came to.
#[derive(Clone, Default, Debug)]
pub struct Results {
    /// By key.
    pub records: BTreeMap<CacheKey, Record>,
    /// The same by the keys that commands adopt results by.
    pub adoptions: BTreeMap<CacheKey, Record>,
    /// The layers whose files go along; the others are only named.
    pub carried: BTreeSet<DiffId>,
    /// What their keys took to find.
    pub answers: Answers,
    /// Ids of the build's cache mounts.
    pub mount_ids: BTreeSet<String>,
}

impl Results {
    /// What can be found.
    pub fn all(&self) -> BTreeMap<CacheKey, Record> {
        let both = self.records.iter().chain(&self.adoptions);
        both.map(|(key, record)| (*key, record.clone())).collect()
    }
}

/// What was sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sent {
    /// The root document.
    pub root: Digest,
    /// Results that the cache has now.
    pub results: usize,
    /// Layers that were sent.
    pub layers: usize,
    /// Bytes of their blobs.
    pub bytes: u64,
    /// Layers that the place had, or took from another of its repositories.
    pub there: usize,
    /// Cache mounts that it has now.
    pub mounts: usize,
    /// What these took.
    pub of_mounts: SentMount,
}

/// Writes `results` as the cache that `uploads` go to: blobs that it lacks, then the document, then its name. `None` when
/// there is nothing to write.
///
/// # Errors
/// The place does not take it; a layer can neither be read nor fetched.
pub async fn send(uploads: &Uploads, results: &Results) -> Result<Option<Sent>, TravelError> {
    if results.records.is_empty() {
        return Ok(None);
    }
    let arrived = uploads.finish(&results.carried).await?;
    uploads.sending().send(results, arrived).await.map(Some)
}

impl Sending {
    async fn send(&self, results: &Results, arrived: BTreeMap<DiffId, Arrived>) -> Result<Sent, TravelError> {
        let writer = self.writer().await?;
        let mut contents = Contents { records: results.all(), ..Contents::default() };
        let mut sent = Sent {
            root: Digest::of(b""),
            results: results.records.len(),
            layers: 0,
            bytes: 0,
            there: 0,
            mounts: 0,
            of_mounts: SentMount::default(),
        };
        for record in results.records.values() {
            let tar_bytes = self.tar_bytes(&record.diff_id)?;
            contents.layers.insert(record.diff_id, Offer { blob: None, tar_bytes });
        }
        for (diff_id, Arrived { offer, taken }) in arrived {
            match (taken, &offer.blob) {
                (Some(Taken::Sent), Some(blob)) => {
                    sent.layers += 1;
                    sent.bytes += blob.size_bytes;
                }
                (Some(_), _) => sent.there += 1,
                (None, _) => {}
            }
            contents.layers.insert(diff_id, offer);
        }
        if !results.answers.is_empty() {
            let bytes = results.answers.to_bytes();
            contents.answers = Some(self.document(writer, answers::MEDIA_TYPE, bytes).await?);
        }
        let chunks = self.mounts(writer, &results.mount_ids, &mut contents, &mut sent).await?;
        sent.root = self.finish(writer, &contents, chunks).await?;
        Ok(sent)
    }

    /// Writes the document and names it.
    async fn finish(&self, writer: &Writer, contents: &Contents, chunks: Vec<Chunk>) -> Result<Digest, TravelError> {
        if writer.is_flat() {
            let bytes = contents.to_bytes();
            let root = Descriptor::of(config::MEDIA_TYPE, &bytes);
            writer.finish(&root, bytes).await?;
            return Ok(root.digest);
        }
        let config = self.document(writer, config::MEDIA_TYPE, contents.to_bytes()).await?;
        let mut seen = HashSet::new();
        let blobs: Vec<Descriptor> = contents
            .layers
            .iter()
            .filter_map(|(diff_id, offer)| {
                let mut blob = offer.blob.clone().filter(|blob| seen.insert(blob.digest))?;
                blob.media_type = self.target.dialect.layer(&blob.media_type).to_owned();
                // containerd's word for it, which BuildKit goes by
                blob.annotations.insert("containerd.io/uncompressed".to_owned(), diff_id.to_string());
                Some(blob)
            })
            .chain(contents.answers.clone())
            .chain(contents.mounts.values().map(|offer| offer.list.clone()))
            .collect();
        // what no manifest names a registry may drop
        let chunks = chunks.iter().map(Chunk::descriptor).filter(|chunk| seen.insert(chunk.digest));
        let blobs: Vec<Descriptor> = blobs.into_iter().chain(chunks).collect();
        let (root_type, bytes) = match self.target.root {
            RootForm::Manifest => {
                let media_type = media_type::MANIFEST.to_owned();
                let manifest = Manifest { schema_version: 2, media_type, config, layers: blobs, annotations: BTreeMap::new() };
                (media_type::MANIFEST, document::compact(&manifest))
            }
            RootForm::Index => {
                let root_type = self.target.dialect.index();
                let manifests = blobs.into_iter().chain([config]).collect();
                let index = Index { media_type: root_type.to_owned(), ..Index::new(manifests) };
                (root_type, document::compact(&index))
            }
        };
        let root = Descriptor::of(root_type, &bytes);
        writer.finish(&root, bytes).await?;
        Ok(root.digest)
    }

    /// Sends the wanted cache mounts; the chunks that the cache has of them.
    async fn mounts(
        &self,
        writer: &Writer,
        of_build: &BTreeSet<String>,
        contents: &mut Contents,
        sent: &mut Sent,
    ) -> Result<Vec<Chunk>, TravelError> {
        let is_wanted = |id: &String| match &self.target.mounts {
            Mounts::None => false,
            Mounts::All => of_build.contains(id),
            // an id is kept as a path
            Mounts::Ids(ids) => ids.iter().any(|wanted| wanted.trim_matches('/') == id.trim_matches('/')),
        };
        if self.target.mounts == Mounts::None {
            return Ok(Vec::new());
        }
        let store = self.store.clone();
        let here = task::blocking(move || store.cache_mounts()).await?;
        let here = here.into_iter().filter_map(|(name, about)| Some((name, about.filter(|about| is_wanted(&about.id))?)));
        let mut wanted: BTreeMap<Digest, MountAbout> = here.collect();
        let mut chunks = Vec::new();
        // those that no step of this build has used stay in a cache that is written again
        for (name, _) in self.imports.mounts().filter(|(_, offer)| is_wanted(&offer.about.id)) {
            let Some((offer, place)) = self.imports.mount(name).filter(|_| !wanted.contains_key(name)) else { continue };
            if place.shares_blobs_with(&self.place) {
                chunks.extend(mounts::list(place, offer).await?.chunks);
                contents.mounts.insert(*name, offer.clone());
            } else {
                self.imports.fetch_mount(&self.store, self.limits, name).await?;
                wanted.insert(*name, offer.about.clone());
            }
        }
        for (name, about) in wanted {
            // a step of another build may have it to itself just now
            let (store, key) = (self.store.clone(), CacheKey(name));
            let lock = task::blocking(move || store.lock_step(&key)).await?;
            let (list, taken) = mounts::send(&self.store, writer, &name).await?;
            drop(lock);
            let bytes = document::compact(&list);
            let list_of = self.document(writer, mounts::LIST_TYPE, bytes).await?;
            contents.mounts.insert(name, MountOffer { about, list: list_of });
            chunks.extend(list.chunks);
            sent.of_mounts.sent_bytes += taken.sent_bytes;
            sent.of_mounts.there_bytes += taken.there_bytes;
        }
        sent.mounts = contents.mounts.len();
        Ok(chunks)
    }

    /// Sends a document as a blob.
    async fn document(&self, writer: &Writer, kind: &str, bytes: Vec<u8>) -> Result<Descriptor, TravelError> {
        let descriptor = Descriptor::of(kind, &bytes);
        let store = self.store.clone();
        let path = task::blocking(move || store.write_blob(&bytes).map(|digest| store.blob_path(&digest))).await?;
        writer.put(&descriptor, std::future::ready(Ok(path)), None).await?;
        Ok(descriptor)
    }

    fn tar_bytes(&self, diff_id: &DiffId) -> Result<u64, TravelError> {
        let stored = self.store.layer(diff_id)?.map(|layer| layer.record.tar_bytes);
        Ok(stored.or_else(|| self.imports.tar_bytes(diff_id)).unwrap_or_default())
    }
}
