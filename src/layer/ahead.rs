//! Layers that are compressed while they are committed and while later steps run, so that an output finds its blobs ready.
//!
//! The tar that names a layer is read once, for its digest and for the blob. The blob is made by a thread of its own that
//! nobody waits for: it may lag behind by [`WAITING_BYTES`], and whoever wants the blob before its end waits for its lock
//! ([`compressed`]).

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::LayerError;
use super::compress::{self, Compression, Encoding, compressed, write_pieces};
use super::tar::{TarSummary, write_tar};
use crate::digest::DiffId;
use crate::store::{Kept, LayerRecord, StepLock, Store, StoredLayer, Variant};

/// A form in which an output will want a layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Form {
    /// How its blob is made.
    pub encoding: Encoding,
    /// Limits file times, seconds since 1970.
    pub epoch: Option<i64>,
}

impl Form {
    /// Whether the store has this form of a layer.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn is_there(&self, store: &Store, diff_id: &DiffId) -> Result<bool, LayerError> {
        Ok(compress::known(store, diff_id, &self.encoding.variant(self.epoch))?.is_some())
    }
}

/// As [`commit()`](super::commit()), and begins to make the layer's blobs in `forms`. What fails there is met again, and told,
/// by the output that wants the blob.
///
/// # Errors
/// As [`commit()`](super::commit()).
pub fn commit_ahead(store: &Store, tree: PathBuf, forms: &[Form]) -> Result<StoredLayer, LayerError> {
    publish(store, forms, |ahead| {
        let summary = match ahead {
            Some(ahead) => write_tar(&tree, None, ahead)?,
            None => write_tar(&tree, None, &mut io::sink())?,
        };
        Ok((Kept::Tree(tree), summary))
    })
}

/// Publishes what `make` makes, which writes the tar also to what it is given, if that is something.
pub(super) fn publish(
    store: &Store,
    forms: &[Form],
    make: impl FnOnce(Option<&mut Ahead>) -> Result<(Kept, TarSummary), LayerError>,
) -> Result<StoredLayer, LayerError> {
    // a limited time makes another tar, which has to be read for itself; eStargz is cut where files begin
    let is_same = |form: &&Form| form.epoch.is_none() && form.encoding.compression != Compression::Estargz;
    let (same_tar, others): (Vec<Form>, Vec<Form>) = forms.iter().partition(is_same);
    let mut ahead = same_tar.first().map(|form| Ahead::new(store.clone(), form.encoding));
    let (kept, summary) = make(ahead.as_mut())?;
    let record = LayerRecord { diff_id: summary.diff_id, tar_bytes: summary.tar_bytes, content: summary.content };
    let layer = store.publish_layer(kept, record)?;
    let diff_id = layer.record.diff_id;
    if let Some(ahead) = ahead {
        ahead.name(diff_id)?;
    }
    for form in same_tar.into_iter().skip(1).chain(others) {
        let store = store.clone();
        thread::spawn(move || {
            let _met_again_by_the_output = compressed(&store, &diff_id, form.encoding, form.epoch);
        });
    }
    Ok(layer)
}

/// How far compression may lag behind: plain bytes that wait in memory.
const WAITING_BYTES: usize = 16 << 20;

/// What the compressing thread is told.
enum Message {
    /// The next bytes of the tar.
    Piece(Vec<u8>),
    /// That was all; the tar has this name, and the lock of the variant comes with it.
    Named(DiffId, StepLock),
}

/// Takes the bytes of a tar and hands them to a thread that compresses them.
pub(super) struct Ahead {
    store: Store,
    encoding: Encoding,
    piece: Vec<u8>,
    worker: Worker,
}

enum Worker {
    /// Less than a piece was written.
    Idle,
    Running(SyncSender<Message>),
    /// It ended early, on an error that the output will meet.
    Gone,
}

impl Ahead {
    fn new(store: Store, encoding: Encoding) -> Ahead {
        Ahead { store, encoding, piece: Vec::new(), worker: Worker::Idle }
    }

    fn send(&mut self, message: Message) {
        if let Worker::Idle = self.worker {
            let (sender, receiver) = sync_channel(WAITING_BYTES / self.encoding.piece_bytes());
            let (store, encoding) = (self.store.clone(), self.encoding);
            thread::spawn(move || {
                let _met_again_by_the_output = make_blob(&store, encoding, receiver);
            });
            self.worker = Worker::Running(sender);
        }
        if let Worker::Running(sender) = &self.worker
            && sender.send(message).is_err()
        {
            self.worker = Worker::Gone;
        }
    }

    /// All was written, and the layer is called `diff_id`. If its blob is there or somebody makes it, the work is given up.
    fn name(mut self, diff_id: DiffId) -> Result<(), LayerError> {
        let kind = self.encoding.variant(None);
        let Some(lock) = self.store.try_lock_step(&compress::lock_key(&diff_id, &kind))? else { return Ok(()) };
        if compress::known(&self.store, &diff_id, &kind)?.is_some() {
            return Ok(());
        }
        let rest = std::mem::take(&mut self.piece);
        self.send(Message::Piece(rest));
        self.send(Message::Named(diff_id, lock));
        Ok(())
    }
}

impl Write for Ahead {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece_bytes = self.encoding.piece_bytes();
        if self.piece.len() == piece_bytes {
            let full = std::mem::replace(&mut self.piece, Vec::with_capacity(piece_bytes));
            self.send(Message::Piece(full));
        }
        let count = bytes.len().min(piece_bytes - self.piece.len());
        self.piece.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes a blob of the pieces and remembers it under the name that comes last. Without a name nothing stays.
fn make_blob(store: &Store, encoding: Encoding, messages: Receiver<Message>) -> Result<(), LayerError> {
    let mut named = None;
    let mut blob = store.blob_writer()?;
    let name = &mut named;
    let pieces = std::iter::from_fn(move || match messages.recv() {
        Ok(Message::Piece(piece)) => Some(piece),
        Ok(Message::Named(diff_id, lock)) => {
            *name = Some((diff_id, lock));
            None
        }
        Err(_) => None,
    });
    write_pieces(pieces, encoding, &mut blob)?;
    let Some((diff_id, _lock)) = named else { return Ok(()) };
    let (digest, size_bytes) = blob.finish(None)?;
    Ok(store.set_variant(&diff_id, &encoding.variant(None), &Variant { digest, size_bytes, diff_id })?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::layer::Compression;

    const GZIP: Form = Form { encoding: Encoding { compression: Compression::Gzip, level: None }, epoch: None };

    /// A tree of `bytes` bytes.
    fn tree(store: &Store, bytes: usize) -> (crate::store::TempDir, PathBuf) {
        let temp = store.temp_dir().unwrap();
        let tree = temp.path.join("tree");
        fs::create_dir(&tree).unwrap();
        let numbers: Vec<u8> = (0..bytes as u32 / 4).flat_map(|number| number.wrapping_mul(7919).to_le_bytes()).collect();
        fs::write(tree.join("f"), numbers).unwrap();
        (temp, tree)
    }

    fn committed(space: &Path, bytes: usize, forms: &[Form]) -> (Store, DiffId) {
        let store = Store::open(space).unwrap();
        let (_temp, tree) = tree(&store, bytes);
        let layer = commit_ahead(&store, tree, forms).unwrap();
        (store, layer.record.diff_id)
    }

    #[test]
    fn the_blob_is_the_one_that_an_output_makes() {
        for bytes in [0, 100, 5 << 20] {
            let space = tempfile::tempdir().unwrap();
            let epoch = Form { epoch: Some(5), ..GZIP };
            let (store, diff_id) = committed(space.path(), bytes, &[GZIP, epoch]);
            // held until the blob is there
            drop(store.lock_step(&compress::lock_key(&diff_id, &GZIP.encoding.variant(None))).unwrap());
            assert!(GZIP.is_there(&store, &diff_id).unwrap());
            for form in [GZIP, epoch] {
                let blob = || compressed(&store, &diff_id, form.encoding, form.epoch).unwrap();
                let ahead = blob();
                fs::remove_file(store.blob_path(&ahead.digest)).unwrap();
                assert_eq!(blob(), ahead);
            }
        }
    }

    #[test]
    fn a_blob_that_cannot_be_made_keeps_no_layer_from_being_committed() {
        let space = tempfile::tempdir().unwrap();
        let store = Store::open(space.path()).unwrap();
        let (_temp, tree) = tree(&store, 60 << 20);
        let mut ahead = Ahead::new(store.clone(), GZIP.encoding);
        ahead.worker = Worker::Running(sync_channel(1).0);
        let summary = write_tar(&tree, None, &mut ahead).unwrap();
        ahead.name(summary.diff_id).unwrap();
        assert!(!GZIP.is_there(&store, &summary.diff_id).unwrap());
    }
}
