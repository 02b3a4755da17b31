//! A key of the store's own, for digests that nobody else can guess.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;

use super::{Store, StoreError, read_if_there};

const KEY_BYTES: usize = 32;

impl Store {
    /// The key, made when it is first asked for; nobody but the store's owner can read it.
    ///
    /// # Errors
    /// [`StoreError::Io`] when it can be neither read nor made.
    pub fn secret_key(&self) -> Result<Vec<u8>, StoreError> {
        let path = self.root().join("secret-key");
        loop {
            if let Some(key) = read_if_there(&path)? {
                if key.len() == KEY_BYTES {
                    return Ok(key);
                }
                // cut short by a power cut: what was digested by it is digested anew
                self.trash(&path)?;
            }
            let temp = self.temp_dir()?;
            let draft = temp.path.join("key");
            let make = || -> io::Result<()> {
                let mut key = [0; KEY_BYTES];
                File::open("/dev/urandom")?.read_exact(&mut key)?;
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?.write_all(&key)
            };
            make().map_err(StoreError::io("create", &draft))?;
            match fs::hard_link(&draft, &path) {
                // of two that make it at a time, one wins
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(StoreError::io("create", &path)(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_store_keeps_its_key_to_itself() {
        let space = tempfile::tempdir().expect("space");
        let store = Store::open(&space.path().join("one")).expect("store");
        let key = store.secret_key().expect("a key");
        assert_eq!((key.len(), store.secret_key().expect("the same")), (KEY_BYTES, key.clone()));
        let path = store.root().join("secret-key");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let other = Store::open(&space.path().join("two")).expect("store");
        assert_ne!(other.secret_key().expect("a key"), key);
        fs::write(&path, "short").expect("written");
        assert_eq!(store.secret_key().expect("a new one").len(), KEY_BYTES);
    }
}
