//! Names of images: small files, replaced whole.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::sum::{with_sum, without_sum};
use super::{Store, StoreError, read_if_there};
use crate::digest::Digest;
use crate::reference::ImageRef;

/// What a name stands for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NameRecord {
    /// The manifest, or an index of several.
    pub manifest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its bytes.
    pub size_bytes: u64,
    /// When the name was set, seconds since 1970.
    pub set_secs: i64,
    /// How it came here.
    pub origin: NameOrigin,
}

/// How a name came into the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NameOrigin {
    /// By a build.
    Built,
    /// By `croze import`.
    Imported,
    /// From a registry.
    Pulled,
}

/// What [`Store::check_names`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameCheck {
    /// How many names are sound.
    pub sound: usize,
    /// The files that were no names.
    pub damaged: Vec<PathBuf>,
}

/// The file: the record and whose it is, so that listing need not take paths apart.
#[derive(Serialize, Deserialize)]
struct NameFile {
    name: String,
    #[serde(flatten)]
    record: NameRecord,
}

impl Store {
    /// What `image_ref` stands for, by its tag; by its digest if it has no tag.
    ///
    /// # Errors
    /// `DamagedName`, once: the file is put aside then, and there is no such name any more.
    pub fn name(&self, image_ref: &ImageRef) -> Result<Option<NameRecord>, StoreError> {
        let path = self.name_path(image_ref);
        let Some(bytes) = read_if_there(&path)? else { return Ok(None) };
        match parse(&bytes) {
            Some((_, record)) => Ok(Some(record)),
            None => {
                self.trash(&path)?;
                Err(StoreError::DamagedName { name: image_ref.to_string(), path })
            }
        }
    }

    /// Sets what `image_ref` stands for.
    pub fn set_name(&self, image_ref: &ImageRef, record: &NameRecord) -> Result<(), StoreError> {
        let path = self.name_path(image_ref);
        let parent = path.parent().expect("a name lies below its repository");
        fs::create_dir_all(parent).map_err(StoreError::io("create", parent))?;
        let digest = image_ref.digest.filter(|_| image_ref.tag.is_none());
        let name = ImageRef { digest, ..image_ref.clone() }.canonical();
        let text = serde_json::to_vec(&NameFile { name, record: record.clone() }).expect("a record is plain data");
        let mut temp = self.temp_file()?;
        temp.file.write_all(&with_sum(text)).map_err(StoreError::io("write", temp.path()))?;
        temp.publish(&path)
    }

    /// All names, sorted.
    pub fn names(&self) -> Result<Vec<(ImageRef, NameRecord)>, StoreError> {
        let mut names = Vec::new();
        let mut todo = vec![self.root().join("names")];
        while let Some(directory) = todo.pop() {
            for entry in fs::read_dir(&directory).map_err(StoreError::io("read", &directory))? {
                let entry = entry.map_err(StoreError::io("read", &directory))?;
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    todo.push(entry.path());
                } else if let Some(bytes) = read_if_there(&entry.path())? {
                    names.extend(parse(&bytes));
                }
            }
        }
        names.sort_by(|left, right| left.0.cmp(&right.0));
        Ok(names)
    }

    /// Reads the file of every name; those that are no names go to the trash.
    pub fn check_names(&self) -> Result<NameCheck, StoreError> {
        let mut check = NameCheck::default();
        let mut todo = vec![self.root().join("names")];
        while let Some(directory) = todo.pop() {
            for entry in fs::read_dir(&directory).map_err(StoreError::io("read", &directory))? {
                let entry = entry.map_err(StoreError::io("read", &directory))?;
                let path = entry.path();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    todo.push(path);
                    continue;
                }
                let Some(bytes) = read_if_there(&path)? else { continue };
                // a damaged name may have become another one
                match parse(&bytes).filter(|(image_ref, _)| self.name_path(image_ref) == path) {
                    Some(_) => check.sound += 1,
                    None => {
                        self.trash(&path)?;
                        check.damaged.push(path);
                    }
                }
            }
        }
        check.damaged.sort();
        Ok(check)
    }

    /// Forgets a name; returns whether it was there.
    pub fn remove_name(&self, image_ref: &ImageRef) -> Result<bool, StoreError> {
        let path = self.name_path(image_ref);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StoreError::io("delete", &path)(error)),
        }
    }

    fn name_path(&self, image_ref: &ImageRef) -> PathBuf {
        let mut path = self.root().join("names");
        path.push(component(&image_ref.host));
        image_ref.repository.split('/').for_each(|name| path.push(component(name)));
        let leaf = match (&image_ref.tag, &image_ref.digest) {
            (Some(tag), _) => format!(":{tag}"),
            (None, Some(digest)) => format!("@{digest}"),
            (None, None) => ":latest".to_owned(),
        };
        path.push(component(&leaf));
        debug_assert!(!path.starts_with(Path::new("..")));
        path
    }
}

/// The text as one path component. Parsed references need no change; anything else becomes harmless.
fn component(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b":@[]_-.".contains(&byte);
    let mut out = String::new();
    for (index, byte) in text.bytes().enumerate() {
        if plain(byte) && !(index == 0 && byte == b'.') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02x}"));
        }
    }
    out
}

fn parse(bytes: &[u8]) -> Option<(ImageRef, NameRecord)> {
    let file: NameFile = serde_json::from_slice(without_sum(bytes)?).ok()?;
    Some((file.name.parse().ok()?, file.record))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(text: &str) -> NameRecord {
        NameRecord {
            manifest: Digest::of(text.as_bytes()),
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            size_bytes: 7,
            set_secs: 1,
            origin: NameOrigin::Built,
        }
    }

    fn image_ref(text: &str) -> ImageRef {
        text.parse().expect("valid")
    }

    #[test]
    fn names_are_kept_apart_replaced_and_listed_in_order() {
        let space = tempfile::tempdir().expect("space");
        let store = Store::open(space.path()).expect("store");
        // a tag and a deeper repository of the same spelling
        let texts = ["docker.io/a/b:c", "docker.io/a/b/c:latest", "docker.io/a/b:latest", "[::1]:5000/x:1", "localhost/x:1"];
        for text in texts {
            store.set_name(&image_ref(text), &record(text)).expect("set");
        }
        store.set_name(&image_ref("localhost/x:1"), &record("new")).expect("set");
        assert_eq!(store.name(&image_ref("localhost/x:1")).expect("asked"), Some(record("new")));
        assert_eq!(store.name(&image_ref("a/b:c")).expect("asked"), Some(record("docker.io/a/b:c")));
        assert_eq!(store.name(&image_ref("a/b:d")).expect("asked"), None);
        let listed: Vec<String> =
            store.names().expect("listed").into_iter().map(|(image_ref, _)| image_ref.canonical()).collect();
        let mut expected: Vec<ImageRef> = texts.into_iter().map(image_ref).collect();
        expected.sort();
        assert_eq!(listed, expected.iter().map(ImageRef::canonical).collect::<Vec<_>>());
        assert!(store.remove_name(&image_ref("a/b:c")).expect("removed"));
        assert!(!store.remove_name(&image_ref("a/b:c")).expect("removed"));
    }

    #[test]
    fn a_digest_is_a_name_only_without_a_tag() {
        let space = tempfile::tempdir().expect("space");
        let store = Store::open(space.path()).expect("store");
        let digest = Digest::of(b"m");
        store.set_name(&image_ref(&format!("a:1@{digest}")), &record("tag")).expect("set");
        assert_eq!(store.name(&image_ref("a:1")).expect("asked"), Some(record("tag")));
        assert_eq!(store.name(&image_ref(&format!("a@{digest}"))).expect("asked"), None);
    }

    #[test]
    fn odd_names_stay_inside() {
        let space = tempfile::tempdir().expect("space");
        let store = Store::open(space.path()).expect("store");
        let odd =
            ImageRef { host: "..".to_owned(), repository: "../..//x".to_owned(), tag: Some("a/b".to_owned()), digest: None };
        assert!(!store.name_path(&odd).components().any(|component| component.as_os_str() == ".."));
    }

    #[test]
    fn a_damaged_name_is_reported_once_and_then_no_name() {
        let space = tempfile::tempdir().expect("space");
        let store = Store::open(space.path()).expect("store");
        store.set_name(&image_ref("a:1"), &record("x")).expect("set");
        fs::write(store.name_path(&image_ref("a:1")), "{").expect("damaged");
        assert!(store.names().expect("listed").is_empty());
        let error = store.name(&image_ref("a:1")).expect_err("damaged");
        assert!(matches!(error, StoreError::DamagedName { name, .. } if name == "a:1"));
        assert_eq!(store.name(&image_ref("a:1")).expect("asked"), None);
    }
}
