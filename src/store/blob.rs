//! Blobs: files named by the SHA-256 of their bytes.

use std::collections::HashSet;
use std::fs;
use std::io::{self, BufWriter, Read, Write};
use std::path::PathBuf;
use std::sync::{MutexGuard, PoisonError};

use super::temp::TempFile;
use super::{Store, StoreError, read_if_there};
use crate::digest::{Digest, HashingReader, HashingWriter};

/// Big enough that a layer costs few system calls.
const BUFFER_BYTES: usize = 128 << 10;

/// A blob being written; nothing is visible before [`BlobWriter::finish`], and nothing stays without it.
pub struct BlobWriter {
    store: Store,
    temp: TempFile,
    writer: HashingWriter<BufWriter<fs::File>>,
}

impl io::Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl BlobWriter {
    /// Publishes the blob under the digest of its bytes and returns it with its size; with `expected`, refuses others.
    ///
    /// A blob that is there already is replaced: these bytes are verified, those may be damaged.
    ///
    /// # Errors
    /// `Mismatch` if `expected` is something else; the bytes are dropped then.
    pub fn finish(self, expected: Option<Digest>) -> Result<(Digest, u64), StoreError> {
        let (mut file, digest, size_bytes) = self.writer.finish();
        file.flush().map_err(StoreError::io("write", self.temp.path()))?;
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            return Err(StoreError::Mismatch { expected, found: digest });
        }
        self.temp.publish(&self.store.blob_path(&digest))?;
        self.store.written().insert(digest);
        Ok((digest, size_bytes))
    }
}

/// A blob being written whose bytes somebody else hashes; nothing stays without [`VerifiedBlob::finish`].
pub struct VerifiedBlob {
    store: Store,
    temp: TempFile,
    file: BufWriter<fs::File>,
}

impl io::Write for VerifiedBlob {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl VerifiedBlob {
    /// Publishes the bytes as `digest`. Call it when they were proven to be that, and never before.
    pub fn finish(mut self, digest: &Digest) -> Result<(), StoreError> {
        self.file.flush().map_err(StoreError::io("write", self.temp.path()))?;
        self.temp.publish(&self.store.blob_path(digest))?;
        self.store.written().insert(*digest);
        Ok(())
    }
}

impl Store {
    /// Where the blob is or would be.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root().join("blobs/sha256").join(digest.hex())
    }

    /// The blob's size if it is there.
    pub fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let path = self.blob_path(digest);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("inspect", &path)(error)),
        }
    }

    /// The whole blob, verified. For documents, not layers.
    ///
    /// # Errors
    /// `Missing`; `Damaged` if its bytes are not what its name says, and then it is put aside.
    pub fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.blob_path(digest);
        let bytes = read_if_there(&path)?.ok_or(StoreError::Missing { digest: *digest })?;
        let found = Digest::of(&bytes);
        if found == *digest {
            return Ok(bytes);
        }
        self.trash(&path)?;
        Err(StoreError::Damaged { digest: *digest, found })
    }

    /// Whether the blob is there and its bytes are those of its name; others are put aside. What this process itself has
    /// written is not read again.
    pub fn is_whole_blob(&self, digest: &Digest) -> Result<bool, StoreError> {
        if self.written().contains(digest) {
            return Ok(self.blob_size(digest)?.is_some());
        }
        let path = self.blob_path(digest);
        let file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(StoreError::io("open", &path)(error)),
        };
        let mut reader = HashingReader::new(file);
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(StoreError::io("read", &path)(error)),
            }
        }
        if reader.finish().1 == *digest {
            return Ok(true);
        }
        self.trash(&path)?;
        Ok(false)
    }

    fn written(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.inner.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores small bytes; finding them there already is fine, finding others under their name repairs them.
    pub fn write_blob(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        let path = self.blob_path(&digest);
        if read_if_there(&path)?.is_some_and(|there| there == bytes) {
            return Ok(digest);
        }
        let mut temp = self.temp_file()?;
        temp.file.write_all(bytes).map_err(StoreError::io("write", temp.path()))?;
        temp.publish(&path)?;
        Ok(digest)
    }

    /// Starts a blob that is verified while it is read: hashing it once more would cost a sixth of unpacking it.
    pub fn verified_blob(&self) -> Result<VerifiedBlob, StoreError> {
        let temp = self.temp_file()?;
        let file = temp.file.try_clone().map_err(StoreError::io("open", temp.path()))?;
        Ok(VerifiedBlob { store: self.clone(), temp, file: BufWriter::with_capacity(BUFFER_BYTES, file) })
    }

    /// Starts a blob of unknown digest.
    pub fn blob_writer(&self) -> Result<BlobWriter, StoreError> {
        let temp = self.temp_file()?;
        let file = temp.file.try_clone().map_err(StoreError::io("open", temp.path()))?;
        let writer = HashingWriter::new(BufWriter::with_capacity(BUFFER_BYTES, file));
        Ok(BlobWriter { store: self.clone(), temp, writer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let space = tempfile::tempdir().expect("space");
        let store = Store::open(space.path()).expect("store");
        (space, store)
    }

    #[test]
    fn written_bytes_come_back() {
        let (_space, store) = store();
        let digest = store.write_blob(b"abc").expect("written");
        assert_eq!(digest, Digest::of(b"abc"));
        assert_eq!(store.read_blob(&digest).expect("read"), b"abc");
        assert_eq!(store.blob_size(&digest).expect("size"), Some(3));
        assert_eq!(store.write_blob(b"abc").expect("written"), digest);
    }

    #[test]
    fn a_missing_blob_is_named() {
        let (_space, store) = store();
        let digest = Digest::of(b"abc");
        assert!(matches!(store.read_blob(&digest), Err(StoreError::Missing { digest: named }) if named == digest));
        assert_eq!(store.blob_size(&digest).expect("size"), None);
    }

    #[test]
    fn a_damaged_blob_is_reported_once_and_then_missing() {
        let (_space, store) = store();
        let digest = store.write_blob(b"abc").expect("written");
        fs::write(store.blob_path(&digest), b"abd").expect("damaged");
        let error = store.read_blob(&digest).expect_err("damaged");
        assert!(error.to_string().contains(&digest.to_string()) && error.to_string().contains("put aside"), "{error}");
        assert!(matches!(store.read_blob(&digest), Err(StoreError::Missing { .. })));
    }

    #[test]
    fn a_blob_that_was_written_by_another_process_is_read_before_it_counts_as_whole() {
        let (space, store) = store();
        let mut writer = store.blob_writer().expect("writer");
        writer.write_all(b"abc").expect("written");
        let (digest, _) = writer.finish(None).expect("finished");
        assert!(store.is_whole_blob(&digest).expect("asked"));
        let other = Store::open(space.path()).expect("store");
        assert!(other.is_whole_blob(&digest).expect("asked"));
        fs::write(store.blob_path(&digest), b"abd").expect("damaged");
        assert!(!other.is_whole_blob(&digest).expect("asked"));
        assert!(!store.blob_path(&digest).exists(), "put aside");
        assert!(!store.is_whole_blob(&digest).expect("asked"));
    }

    #[test]
    fn writing_again_repairs() {
        let (_space, store) = store();
        let digest = store.write_blob(b"abc").expect("written");
        fs::write(store.blob_path(&digest), b"").expect("truncated");
        store.write_blob(b"abc").expect("written");
        assert_eq!(store.read_blob(&digest).expect("read"), b"abc");
        fs::write(store.blob_path(&digest), b"").expect("truncated");
        let mut writer = store.blob_writer().expect("writer");
        writer.write_all(b"abc").expect("written");
        assert_eq!(writer.finish(Some(digest)).expect("finished"), (digest, 3));
        assert_eq!(store.read_blob(&digest).expect("read"), b"abc");
    }

    #[test]
    fn unexpected_or_unfinished_bytes_leave_nothing() {
        let (space, store) = store();
        let mut writer = store.blob_writer().expect("writer");
        writer.write_all(b"evil").expect("written");
        let wanted = Digest::of(b"good");
        let error = writer.finish(Some(wanted)).expect_err("refused");
        assert!(matches!(error, StoreError::Mismatch { expected, found } if expected == wanted && found == Digest::of(b"evil")));
        let mut writer = store.blob_writer().expect("writer");
        writer.write_all(b"half").expect("written");
        drop(writer);
        drop(store);
        for name in ["blobs/sha256", "tmp", "trash"] {
            assert_eq!(fs::read_dir(space.path().join(name)).expect("read").count(), 0, "{name}");
        }
    }
}
