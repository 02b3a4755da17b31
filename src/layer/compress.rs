//! Layers as compressed blobs: made once, when an output asks for them.
//!
//! The tar is cut into pieces of a fixed size and each becomes a gzip member or a zstd frame of its own. Several of them in a
//! row are one valid stream (RFC 1952 section 2.2, RFC 8878 section 3.1), and what comes out does not depend on how many
//! threads made it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use libdeflater::{CompressionLvl, Compressor};

use super::LayerError;
use super::archive::{self, Packing};
use super::estargz;
use super::packed::write_layer;
use super::pipeline::{Sink, ordered};
use super::proof::condemn;
use crate::digest::{CacheKey, DiffId, Digest, Hasher};
use crate::image::media_type;
use crate::store::{Store, StoreError, Variant};

/// How a layer blob is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Compression {
    /// Not.
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
    /// gzip with a table of its files at the end, which is part of the plain bytes too.
    Estargz,
}

/// One level for every output, or an image's digest would depend on which output came first. On source text libdeflate's 4
/// writes 3 % more than `gzip -6` and takes two thirds of the time of its own 6, which writes 1 % less.
const GZIP_LEVEL: i32 = 4;
const ZSTD_LEVEL: i32 = 3;

/// Plain bytes of a gzip member. Larger ones save next to nothing: deflate looks back 32 KiB.
const GZIP_PIECE: usize = 1 << 20;
/// Plain bytes of a zstd frame, which looks back further: 1 MiB costs a sixth more.
const ZSTD_PIECE: usize = 4 << 20;

/// How a layer blob is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Encoding {
    /// Its format.
    pub compression: Compression,
    /// 0 to 9 for gzip, 1 to 22 for zstd; others become the nearest of these, `None` is the level that every output has
    /// unless it asks for another.
    pub level: Option<i32>,
}

impl From<Compression> for Encoding {
    fn from(compression: Compression) -> Encoding {
        Encoding { compression, level: None }
    }
}

impl Encoding {
    /// The level that the format's encoder gets.
    fn level(self) -> i32 {
        match self.compression {
            Compression::None => 0,
            Compression::Gzip | Compression::Estargz => self.level.map_or(GZIP_LEVEL, |level| level.clamp(0, 9)),
            Compression::Zstd => self.level.map_or(ZSTD_LEVEL, |level| level.clamp(1, 22)),
        }
    }

    /// Names what the bytes of a blob depend on, besides the layer; the last number changes when an encoder does.
    pub(super) fn variant(self, epoch: Option<i64>) -> String {
        let kind = match self.compression {
            Compression::None => "tar-1".to_owned(),
            Compression::Gzip => format!("gzip-{}-1", self.level()),
            Compression::Zstd => format!("zstd-{}-1", self.level()),
            Compression::Estargz => format!("estargz-{}-1", self.level()),
        };
        epoch.map_or(kind.clone(), |epoch| format!("epoch-{epoch}+{kind}"))
    }

    /// Plain bytes of one member or frame.
    pub(super) fn piece_bytes(self) -> usize {
        match self.compression {
            Compression::None | Compression::Gzip | Compression::Estargz => GZIP_PIECE,
            Compression::Zstd => ZSTD_PIECE,
        }
    }

    /// The gzip members of these pieces.
    pub(super) fn members(self, pieces: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        // one for all: making it costs more than a small piece does
        let mut compressor = self.compressor();
        pieces.iter().map(|plain| member(&mut compressor, plain)).collect()
    }

    /// libdeflate, for gzip.
    fn compressor(self) -> Compressor {
        Compressor::new(CompressionLvl::new(self.level()).expect("libdeflate has levels 0 to 12"))
    }

    /// One member or frame.
    fn compress(self, plain: Vec<u8>) -> io::Result<Vec<u8>> {
        match self.compression {
            Compression::None => Ok(plain),
            Compression::Gzip | Compression::Estargz => Ok(member(&mut self.compressor(), &plain)),
            Compression::Zstd => zstd::bulk::compress(&plain, self.level()),
        }
    }
}

fn member(compressor: &mut Compressor, plain: &[u8]) -> Vec<u8> {
    let mut packed = vec![0; compressor.gzip_compress_bound(plain.len())];
    let count = compressor.gzip_compress(plain, &mut packed).expect("the buffer has the size for the worst case");
    packed.truncate(count);
    packed
}

impl Compression {
    /// How layers of this media type are compressed; `None` for what is no layer.
    pub fn of_media_type(media_type: &str) -> Option<Compression> {
        match media_type {
            "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => Some(Compression::None),
            "application/vnd.oci.image.layer.v1.tar+gzip" | "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
                Some(Compression::Gzip)
            }
            "application/vnd.oci.image.layer.v1.tar+zstd" | "application/vnd.docker.image.rootfs.diff.tar.zstd" => {
                Some(Compression::Zstd)
            }
            _ => None,
        }
    }

    /// OCI's media type of a layer that is compressed like this.
    pub fn layer_type(self) -> &'static str {
        match self {
            Compression::None => media_type::LAYER,
            Compression::Gzip | Compression::Estargz => media_type::LAYER_GZIP,
            Compression::Zstd => media_type::LAYER_ZSTD,
        }
    }

    /// How the blob of a layer is compressed that begins with these bytes, a block of a tar if it has so many. As with containerd,
    /// they count more than the media type, about which some writers are wrong; what they do not tell the type does.
    pub(super) fn found(self, start: &[u8]) -> Compression {
        match Packing::detect(start) {
            Packing::Gzip if self == Compression::Estargz => self,
            Packing::Gzip => Compression::Gzip,
            Packing::Zstd => Compression::Zstd,
            _ if archive::is_header(start) => Compression::None,
            _ => self,
        }
    }

    /// The plain bytes of `blob`, which may have several members or frames.
    pub(super) fn decoder<'a>(self, blob: &'a mut dyn Read) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Compression::None => Box::new(blob),
            Compression::Gzip | Compression::Estargz => Box::new(flate2::read::MultiGzDecoder::new(blob)),
            Compression::Zstd => Box::new(zstd::Decoder::new(blob)?),
        })
    }
}

/// The blob of the stored layer `diff_id`, made at the first call and remembered as a variant of it. Whoever asks while
/// another, in this process or not, makes it waits and takes that one's.
///
/// With `epoch`, file times later than it (seconds since 1970) become it; the variant's `diff_id` then names that tar. For a
/// format that adds to the tar it names all plain bytes.
///
/// # Errors
/// `Missing` if the store has no such layer; `WrongContent` if its tree no longer gives the tar it is named by, and is dropped, or
/// came from a tar in another dialect (its blob is the one to use).
pub fn compressed(
    store: &Store,
    diff_id: &DiffId,
    encoding: impl Into<Encoding>,
    epoch: Option<i64>,
) -> Result<Variant, LayerError> {
    let made = made(store, diff_id, encoding.into(), epoch, |out| Ok(write_layer(store, diff_id, epoch, out)?.diff_id));
    if let Err(LayerError::WrongContent { .. }) = made {
        condemn(store, diff_id)?;
    }
    made
}

/// The same from another blob of the layer: a tree that was unpacked from another builder's tar need not give that tar again.
///
/// # Errors
/// `Damaged`, `WrongContent`: the blob is not what it should be.
pub fn converted(
    store: &Store,
    diff_id: &DiffId,
    (blob, compression): (&Digest, Compression),
    encoding: Encoding,
) -> Result<Variant, LayerError> {
    made(store, diff_id, encoding, None, |out| write_plain(store, blob, compression, out))
}

/// The variant for `encoding` and `epoch`; it is made of what `tar` writes and names, unless it is there.
fn made(
    store: &Store,
    diff_id: &DiffId,
    encoding: Encoding,
    epoch: Option<i64>,
    tar: impl FnOnce(&mut dyn Write) -> Result<DiffId, LayerError> + Send,
) -> Result<Variant, LayerError> {
    let kind = encoding.variant(epoch);
    if let Some(variant) = known(store, diff_id, &kind)? {
        return Ok(variant);
    }
    let _lock = store.lock_step(&lock_key(diff_id, &kind))?;
    if let Some(variant) = known(store, diff_id, &kind)? {
        return Ok(variant);
    }
    let mut blob = store.blob_writer()?;
    let (found, plain) = match encoding.compression {
        Compression::Estargz => estargz::write(tar, encoding, &mut blob)?,
        _ => {
            let found = write_compressed(tar, encoding, &mut blob)?;
            (found, found)
        }
    };
    if epoch.is_none() && found != *diff_id {
        return Err(LayerError::WrongContent { expected: *diff_id, found });
    }
    let (digest, size_bytes) = blob.finish(None)?;
    let variant = Variant { digest, size_bytes, diff_id: plain };
    store.set_variant(diff_id, &kind, &variant)?;
    Ok(variant)
}

/// Writes the plain bytes of a blob; their name.
fn write_plain(store: &Store, digest: &Digest, compression: Compression, out: &mut dyn Write) -> Result<DiffId, LayerError> {
    let path = store.blob_path(digest);
    let mut blob = File::open(&path).map_err(|source| StoreError::Io { action: "open", path, source })?;
    let damaged = |source| LayerError::Damaged { action: "decompress it", source };
    let start = archive::start_of(&mut blob).map_err(damaged)?;
    let mut blob = start.as_slice().chain(blob);
    let mut plain = compression.found(&start).decoder(&mut blob).map_err(damaged)?;
    let (mut hasher, mut buffer) = (Hasher::new(), vec![0; 256 << 10]);
    loop {
        let count = plain.read(&mut buffer).map_err(damaged)?;
        if count == 0 {
            return Ok(DiffId(hasher.finish()));
        }
        hasher.update(&buffer[..count]);
        out.write_all(&buffer[..count]).map_err(LayerError::Write)?;
    }
}

/// What a descriptor of the blob `digest` says besides its type: eStargz has words about its table.
///
/// # Errors
/// `Damaged`, `Store`: the blob cannot be read.
pub fn annotations(store: &Store, digest: &Digest, compression: Compression) -> Result<BTreeMap<String, String>, LayerError> {
    if compression != Compression::Estargz {
        return Ok(BTreeMap::new());
    }
    let mut hasher = Hasher::new();
    hasher.field(b"estargz annotations");
    hasher.field(digest.as_bytes());
    let memo = CacheKey(hasher.finish());
    // no more than a shortcut: what cannot be read is found out anew
    if let Some(known) = store.memo(&memo)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
        return Ok(known);
    }
    let path = store.blob_path(digest);
    let blob = File::open(&path).map_err(|source| StoreError::Io { action: "open", path, source })?;
    let found = estargz::annotations(blob)?;
    store.set_memo(&memo, &serde_json::to_vec(&found).expect("a map of text is plain data"))?;
    Ok(found)
}

/// A variant whose blob is there.
pub(super) fn known(store: &Store, diff_id: &DiffId, kind: &str) -> Result<Option<Variant>, LayerError> {
    let Some(variant) = store.variant(diff_id, kind)? else { return Ok(None) };
    Ok((store.blob_size(&variant.digest)? == Some(variant.size_bytes)).then_some(variant))
}

/// What is locked while a variant is made.
pub(super) fn lock_key(diff_id: &DiffId, kind: &str) -> CacheKey {
    let mut hasher = Hasher::new();
    hasher.field(b"variant");
    hasher.field(diff_id.0.as_bytes());
    hasher.field(kind.as_bytes());
    CacheKey(hasher.finish())
}

/// Pieces of the tar that wait for a thread to compress them.
const PIECES_AHEAD: usize = 2;

/// Writes what `tar` writes to `out` as `encoding` says; the name of the plain bytes.
fn write_compressed(
    tar: impl FnOnce(&mut dyn Write) -> Result<DiffId, LayerError> + Send,
    encoding: Encoding,
    out: &mut dyn Write,
) -> Result<DiffId, LayerError> {
    thread::scope(|scope| {
        let (sender, pieces) = sync_channel(PIECES_AHEAD);
        let tar = scope.spawn(move || {
            let mut pieces = Pieces { piece: Vec::new(), piece_bytes: encoding.piece_bytes(), sender };
            let found = tar(&mut pieces)?;
            pieces.send().map_err(LayerError::Write)?;
            Ok(found)
        });
        let written = write_pieces(pieces.into_iter(), encoding, out);
        let found = tar.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // When writing fails, the tar's thread fails too because nobody takes its pieces: the first error is the cause.
        written?;
        found
    })
}

/// Compresses pieces on all cores and writes them in order. One piece alone is done right here: threads cost more.
pub(super) fn write_pieces(
    mut pieces: impl Iterator<Item = Vec<u8>> + Send,
    encoding: Encoding,
    out: &mut dyn Write,
) -> Result<(), LayerError> {
    let Some(first) = pieces.next() else { return Ok(()) };
    let written = match pieces.next() {
        None => encoding.compress(first).and_then(|packed| out.write_all(&packed)),
        Some(second) => {
            let compress = |piece, sink: &Sink<io::Result<Vec<u8>>>| {
                let _unwanted = sink.put(encoding.compress(piece));
            };
            ordered([first, second].into_iter().chain(pieces), compress, |packed| out.write_all(&packed?))
        }
    };
    written.map_err(LayerError::Write)
}

/// Cuts what is written into pieces and sends them.
struct Pieces {
    piece: Vec<u8>,
    piece_bytes: usize,
    sender: SyncSender<Vec<u8>>,
}

impl Pieces {
    /// Sends what is there, if anything.
    fn send(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.piece);
        self.sender.send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.capacity() == 0 {
            self.piece.reserve_exact(self.piece_bytes);
        }
        let count = bytes.len().min(self.piece_bytes - self.piece.len());
        self.piece.extend_from_slice(&bytes[..count]);
        if self.piece.len() == self.piece_bytes {
            self.send()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::layer::{LayerLimits, Lower, commit, unpack};

    fn empty() -> (tempfile::TempDir, Store) {
        let space = tempfile::tempdir().unwrap();
        let store = Store::open(space.path()).unwrap();
        (space, store)
    }

    /// A store with one committed layer of `files` small files and a large one.
    fn store(files: u32) -> (tempfile::TempDir, Store, DiffId) {
        let space = tempfile::tempdir().unwrap();
        let store = Store::open(space.path()).unwrap();
        let temp = store.temp_dir().unwrap();
        let tree = temp.path.join("tree");
        fs::create_dir(&tree).unwrap();
        for index in 0..files {
            fs::write(tree.join(format!("f{index}")), format!("file {index}\n").repeat(100)).unwrap();
        }
        let large: Vec<u8> = (0..1_200_000_u32).flat_map(|number| number.to_le_bytes()).collect();
        fs::write(tree.join("large"), large).unwrap();
        let layer = commit(&store, tree).unwrap();
        (space, store, layer.record.diff_id)
    }

    #[test]
    fn media_types_tell_compression() {
        let found = ["tar", "tar+gzip", "tar+zstd", "tar+zstd+encrypted"]
            .map(|kind| Compression::of_media_type(&format!("application/vnd.oci.image.layer.v1.{kind}")));
        assert_eq!(found, [Some(Compression::None), Some(Compression::Gzip), Some(Compression::Zstd), None]);
        let docker = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        assert_eq!(Compression::of_media_type(docker), Some(Compression::Gzip));
    }

    #[test]
    fn blobs_unpack_to_the_layer() {
        let (_space, store, diff_id) = store(200);
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let variant = compressed(&store, &diff_id, compression, None).unwrap();
            assert_eq!(variant.diff_id, diff_id);
            assert_eq!(compression == Compression::None, variant.digest == diff_id.0);
            let mut blob = fs::File::open(store.blob_path(&variant.digest)).unwrap();
            let layer = unpack(&store, &mut blob, compression, Some(diff_id), Lower::Nothing, LayerLimits::NONE).unwrap();
            assert_eq!(layer.record.diff_id, diff_id);
        }
    }

    #[test]
    fn a_variant_is_made_once_and_again_when_its_blob_is_gone() {
        let (_space, store, diff_id) = store(1);
        let first = compressed(&store, &diff_id, Compression::Gzip, None).unwrap();
        fs::remove_file(store.blob_path(&first.digest)).unwrap();
        assert_eq!(compressed(&store, &diff_id, Compression::Gzip, None).unwrap(), first);
        assert_eq!(Digest::of(&fs::read(store.blob_path(&first.digest)).unwrap()), first.digest);
    }

    #[test]
    fn a_blob_is_converted_to_what_the_tree_gives() {
        let (_space, store, diff_id) = store(200);
        for to in [Compression::Gzip, Compression::Zstd, Compression::Estargz, Compression::None] {
            let of_tree = compressed(&store, &diff_id, to, None).unwrap();
            let (_other_space, other) = empty();
            let from = Compression::Zstd;
            let source = compressed(&store, &diff_id, from, None).unwrap();
            other.write_blob(&fs::read(store.blob_path(&source.digest)).unwrap()).unwrap();
            assert_eq!(converted(&other, &diff_id, (&source.digest, from), to.into()).unwrap(), of_tree);
            let wrong = converted(&other, &DiffId(Digest::of(b"x")), (&source.digest, from), to.into());
            assert!(matches!(wrong, Err(LayerError::WrongContent { .. })), "{wrong:?}");
            let bytes = fs::read(store.blob_path(&source.digest)).unwrap();
            let (_third_space, third) = empty();
            let cut = third.write_blob(&bytes[..bytes.len() - 5]).unwrap();
            let damaged = converted(&third, &diff_id, (&cut, from), to.into());
            assert!(matches!(damaged, Err(LayerError::Damaged { .. })), "{damaged:?}");
        }
    }

    #[test]
    fn a_level_is_another_variant_unless_it_is_the_usual_one() {
        let (_space, store, diff_id) = store(200);
        let blob = |level| compressed(&store, &diff_id, Encoding { compression: Compression::Gzip, level }, None).unwrap();
        let usual = blob(None);
        assert_eq!(blob(Some(GZIP_LEVEL)), usual);
        assert!(blob(Some(9)).size_bytes < usual.size_bytes && usual.size_bytes < blob(Some(0)).size_bytes);
        assert_eq!((blob(Some(99)), blob(Some(-1))), (blob(Some(9)), blob(Some(0))));
    }

    #[test]
    fn an_epoch_gives_another_layer() {
        let (_space, store, diff_id) = store(1);
        let clamped = compressed(&store, &diff_id, Compression::Gzip, Some(5)).unwrap();
        assert_ne!(clamped.diff_id, diff_id);
        let mut blob = fs::File::open(store.blob_path(&clamped.digest)).unwrap();
        unpack(&store, &mut blob, Compression::Gzip, Some(clamped.diff_id), Lower::Nothing, LayerLimits::NONE).unwrap();
    }

    #[test]
    fn a_changed_tree_is_noticed() {
        let (_space, store, diff_id) = store(1);
        let tree = crate::layer::tree(&store, &diff_id, &[]).unwrap().unwrap();
        fs::write(tree.join("f0"), "other").unwrap();
        let result = compressed(&store, &diff_id, Compression::Gzip, None);
        assert!(matches!(result, Err(LayerError::WrongContent { .. })), "{result:?}");
        let other = DiffId(Digest::of(b"no layer"));
        assert!(matches!(compressed(&store, &other, Compression::None, None), Err(LayerError::Missing { .. })));
    }

    #[test]
    fn what_is_not_expected_is_not_published() {
        let (_space, store, _) = store(1);
        let tar = [0; 1024];
        let expected = DiffId(Digest::of(b"another"));
        let result = unpack(&store, &mut tar.as_slice(), Compression::None, Some(expected), Lower::Nothing, LayerLimits::NONE);
        assert!(matches!(result, Err(LayerError::WrongContent { .. })));
        assert!(store.layer(&DiffId(Digest::of(&tar))).unwrap().is_none());
        assert!(store.layer(&expected).unwrap().is_none());
    }

    #[test]
    fn a_failing_writer_is_told() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (_space, store, diff_id) = store(1);
        let tar = |out: &mut dyn Write| Ok(write_layer(&store, &diff_id, None, out)?.diff_id);
        let result = write_compressed(tar, Compression::Gzip.into(), &mut Full);
        assert!(matches!(result, Err(LayerError::Write(err)) if err.kind() == io::ErrorKind::StorageFull));
    }
}
