//! rpm's databases: where they are, and what a package's header says.
//!
//! Source: rpm, `docs/manual/format_header.md`; the numbers of tags from `rpmtag.h`. In a database a header has no magic number.

use super::{Package, berkeley, ndb, sqlite};

/// A reader of one kind of database: its bytes to all package headers in it, as far as it is sound.
type Read = fn(&[u8]) -> Vec<Vec<u8>>;

/// Every place of a database, and how it is read.
pub const DATABASES: [(&str, Read); 6] = [
    ("/usr/lib/sysimage/rpm/rpmdb.sqlite", sqlite_headers),
    ("/var/lib/rpm/rpmdb.sqlite", sqlite_headers),
    ("/usr/lib/sysimage/rpm/Packages.db", ndb::blobs),
    ("/var/lib/rpm/Packages.db", ndb::blobs),
    ("/usr/lib/sysimage/rpm/Packages", berkeley::values),
    ("/var/lib/rpm/Packages", berkeley::values),
];

/// Column 0 of the table is the package's number.
fn sqlite_headers(database: &[u8]) -> Vec<Vec<u8>> {
    sqlite::column(database, "Packages", 1).unwrap_or_default()
}

const NAME: u32 = 1000;
const VERSION: u32 = 1001;
const RELEASE: u32 = 1002;
const EPOCH: u32 = 1003;
const LICENSE: u32 = 1014;
const ARCH: u32 = 1022;

const INT32: u32 = 4;
const STRING: u32 = 6;
const STRINGS_OF_LANGUAGES: u32 = 9;

/// The package of a header; `None` for what is damaged, and for the keys that rpm keeps as if they were packages.
pub fn package(header: Vec<u8>, distribution: &str) -> Option<Package> {
    let header = Header::open(&header)?;
    let name = header.text(NAME).filter(|name| name != "gpg-pubkey")?;
    let version = format!("{}-{}", header.text(VERSION)?, header.text(RELEASE)?);
    let version = match header.number(EPOCH) {
        Some(epoch) if epoch > 0 => format!("{epoch}:{version}"),
        _ => version,
    };
    Some(Package {
        manager: "rpm",
        distribution: distribution.to_owned(),
        name,
        version,
        architecture: header.text(ARCH).unwrap_or_default(),
        license: header.text(LICENSE).unwrap_or_default(),
    })
}

/// Index and data of a header.
struct Header<'a> {
    index: &'a [u8],
    data: &'a [u8],
}

/// Tag, type, offset, count.
const ENTRY_BYTES: usize = 16;

impl<'a> Header<'a> {
    fn open(bytes: &'a [u8]) -> Option<Header<'a>> {
        let (entries, data_bytes) = (number(bytes, 0)? as usize, number(bytes, 4)? as usize);
        let (index, rest) = bytes.get(8..)?.split_at_checked(entries.checked_mul(ENTRY_BYTES)?)?;
        Some(Header { index, data: rest.get(..data_bytes)? })
    }

    /// Type of a tag's value, and the data from its beginning on.
    fn value(&self, tag: u32) -> Option<(u32, &'a [u8])> {
        let entry = self.index.chunks_exact(ENTRY_BYTES).find(|entry| number(entry, 0) == Some(tag))?;
        Some((number(entry, 4)?, self.data.get(number(entry, 8)? as usize..)?))
    }

    fn text(&self, tag: u32) -> Option<String> {
        let (kind, value) = self.value(tag)?;
        let end = value.iter().position(|byte| *byte == 0)?;
        // of several languages, the first has no name
        [STRING, STRINGS_OF_LANGUAGES].contains(&kind).then(|| String::from_utf8_lossy(&value[..end]).into_owned())
    }

    fn number(&self, tag: u32) -> Option<u32> {
        let (kind, value) = self.value(tag)?;
        number(value, 0).filter(|_| kind == INT32)
    }
}

/// A big-endian number of four bytes.
fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A header with these texts and numbers, as a database keeps it.
    pub fn header(texts: &[(u32, &str)], numbers: &[(u32, u32)]) -> Vec<u8> {
        let (mut index, mut data) = (Vec::new(), Vec::new());
        let mut entry = |tag: u32, kind: u32, offset: usize| {
            index.extend([tag, kind, offset as u32, 1].iter().flat_map(|number| number.to_be_bytes()));
        };
        for (tag, value) in numbers {
            entry(*tag, INT32, data.len());
            data.extend(value.to_be_bytes());
        }
        for (tag, text) in texts {
            entry(*tag, STRING, data.len());
            data.extend(text.as_bytes());
            data.push(0);
        }
        let lengths = [texts.len() + numbers.len(), data.len()];
        [lengths.iter().flat_map(|length| (*length as u32).to_be_bytes()).collect(), index, data].concat()
    }

    #[test]
    fn a_header_names_a_package() {
        let texts = [(NAME, "zlib"), (VERSION, "1.3"), (RELEASE, "2.fc40"), (LICENSE, "Zlib"), (ARCH, "x86_64")];
        let found = package(header(&texts, &[(EPOCH, 1)]), "fedora").expect("sound");
        assert_eq!(found.url(), "pkg:rpm/fedora/zlib@1.3-2.fc40?arch=x86_64&epoch=1");
        assert_eq!((found.version.as_str(), found.license.as_str()), ("1:1.3-2.fc40", "Zlib"));
        let found = package(header(&texts[..3], &[]), "").expect("sound");
        assert_eq!(found.url(), "pkg:rpm/zlib@1.3-2.fc40");
        assert_eq!(package(header(&[(NAME, "gpg-pubkey"), (VERSION, "1"), (RELEASE, "1")], &[]), ""), None);
    }

    #[test]
    fn a_damaged_header_is_nothing() {
        let whole = header(&[(NAME, "a"), (VERSION, "1"), (RELEASE, "2")], &[]);
        for length in 0..whole.len() {
            assert_eq!(package(whole[..length].to_vec(), ""), None);
        }
        for position in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[position] = 0xff;
            // whatever it says now, it is read without harm
            let _something = package(damaged, "");
        }
    }
}
