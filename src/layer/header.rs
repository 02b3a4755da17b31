//! One entry as tar header blocks: plain ustar where it can say everything, a PAX header in front where it cannot.
//!
//! The same choices as Go's `archive/tar` makes, whose output is what other builders write: numbers in octal or in PAX,
//! never base-256; names split at the last slash that fits; PAX records sorted by key; no user or group names.
//! Spec: POSIX.1-2024, `pax`, "ustar Interchange Format" and "pax Extended Header".

use tar::{EntryType, Header};

use crate::snapshot::{FileKind, Time, Xattrs};

/// What a header says.
#[derive(Clone, Debug)]
pub struct TarEntry {
    /// Without a leading slash; a directory's ends with one.
    pub name: Vec<u8>,
    /// Kind.
    pub kind: TarKind,
    /// `0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes that follow.
    pub size_bytes: u64,
    /// Modification time in whole seconds.
    pub mtime_secs: i64,
    /// Extended attributes, sorted by name; of a layer's files only `security.capability`, as containerd and BuildKit write them.
    pub xattrs: Xattrs,
}

/// The kinds of entries that we write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TarKind {
    /// A file that is no link.
    Plain(FileKind),
    /// A symbolic link to this text.
    Symlink(Vec<u8>),
    /// Another name of an earlier entry.
    HardLink(Vec<u8>),
}

/// Bytes of a tar block.
pub const BLOCK: usize = 512;

/// Largest numbers of an 8 and a 12 byte octal field.
const MAX_SMALL: u64 = 0o7777777;
const MAX_LARGE: u64 = 0o77777777777;

/// Appends the header blocks of `entry` to `out`.
pub fn write_header(entry: &TarEntry, out: &mut Vec<u8>) {
    let mut records = Records::default();
    let mut header = Header::new_ustar();
    let fields = header.as_ustar_mut().expect("made as ustar");

    match split_name(&entry.name) {
        Some((prefix, name)) => {
            fields.prefix[..prefix.len()].copy_from_slice(prefix);
            fields.name[..name.len()].copy_from_slice(name);
        }
        None => {
            records.add("path", &entry.name);
            fill_ascii(&mut fields.name, &entry.name);
        }
    }
    let (kind, target, device) = match &entry.kind {
        TarKind::Plain(kind) => type_of(*kind),
        TarKind::Symlink(target) => (EntryType::Symlink, target.as_slice(), None),
        TarKind::HardLink(first) => (EntryType::Link, first.as_slice(), None),
    };
    if target.len() > fields.linkname.len() || !target.is_ascii() {
        records.add("linkpath", target);
    }
    fill_ascii(&mut fields.linkname, target);

    header.set_entry_type(kind);
    header.set_mode(entry.mode);
    header.set_uid(records.number("uid", entry.uid.into(), MAX_SMALL));
    header.set_gid(records.number("gid", entry.gid.into(), MAX_SMALL));
    header.set_size(records.number("size", entry.size_bytes, MAX_LARGE));
    let mtime = u64::try_from(entry.mtime_secs).ok().filter(|secs| *secs <= MAX_LARGE);
    if mtime.is_none() {
        records.add("mtime", entry.mtime_secs.to_string().as_bytes());
    }
    header.set_mtime(mtime.unwrap_or(0));
    if let Some((major, minor)) = device {
        // A Linux device number has 12 and 20 bits, which always fit.
        header.set_device_major(major).expect("made as ustar");
        header.set_device_minor(minor).expect("made as ustar");
    }
    for (name, value) in &entry.xattrs {
        records.add([b"SCHILY.xattr.", name.as_slice()].concat(), value);
    }
    header.set_cksum();

    if let Some(records) = records.finish() {
        write_pax(&entry.name, &records, out);
    }
    out.extend_from_slice(header.as_bytes());
}

/// Zero bytes that fill the last block of `size_bytes` of data.
pub fn padding(size_bytes: u64) -> &'static [u8] {
    static ZEROS: [u8; BLOCK] = [0; BLOCK];
    let used = (size_bytes % BLOCK as u64) as usize;
    &ZEROS[..if used == 0 { 0 } else { BLOCK - used }]
}

/// Whole seconds of `time`, those after `epoch` replaced by it.
pub fn whole_seconds(time: Time, epoch: Option<i64>) -> i64 {
    epoch.map_or(time.seconds, |epoch| time.seconds.min(epoch))
}

fn type_of(kind: FileKind) -> (EntryType, &'static [u8], Option<(u32, u32)>) {
    match kind {
        FileKind::Directory => (EntryType::Directory, b"", None),
        FileKind::Fifo => (EntryType::Fifo, b"", None),
        FileKind::Character(major, minor) => (EntryType::Char, b"", Some((major, minor))),
        FileKind::Block(major, minor) => (EntryType::Block, b"", Some((major, minor))),
        // Links come with their target, and the walk leaves sockets out.
        FileKind::File | FileKind::Symlink | FileKind::Socket => (EntryType::Regular, b"", None),
    }
}

/// `name` for the fields of 155 and 100 bytes; `None` if it does not fit them or is not ASCII.
fn split_name(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if !name.is_ascii() {
        return None;
    }
    if name.len() <= 100 {
        return Some((b"", name));
    }
    // A directory's own slash does not count as a place to split.
    let searched = &name[..(name.len() - 1).min(156)];
    let slash = searched.iter().rposition(|byte| *byte == b'/').filter(|slash| *slash > 0)?;
    let (prefix, rest) = (&name[..slash], &name[slash + 1..]);
    (rest.len() <= 100 && !rest.is_empty()).then_some((prefix, rest))
}

/// What an old reader sees of a text that stands in PAX: its ASCII, cut.
fn fill_ascii(field: &mut [u8], text: &[u8]) {
    for (byte, ascii) in field.iter_mut().zip(text.iter().filter(|byte| byte.is_ascii())) {
        *byte = *ascii;
    }
}

/// The records of one PAX header.
#[derive(Default)]
struct Records(Vec<(Vec<u8>, Vec<u8>)>);

impl Records {
    fn add(&mut self, key: impl AsRef<[u8]>, value: &[u8]) {
        self.0.push((key.as_ref().to_vec(), value.to_vec()));
    }

    /// What stands in the header for `value`: itself, or 0 with the value as a record.
    fn number(&mut self, key: &'static str, value: u64, max: u64) -> u64 {
        if value <= max {
            return value;
        }
        self.add(key, value.to_string().as_bytes());
        0
    }

    fn finish(mut self) -> Option<Vec<u8>> {
        self.0.sort_unstable();
        let mut bytes = Vec::new();
        for (key, value) in &self.0 {
            let rest = key.len() + value.len() + 3;
            // The length counts its own digits: try until it agrees with itself.
            let mut length = rest + rest.to_string().len();
            length = rest + length.to_string().len();
            bytes.extend_from_slice(format!("{length} ").as_bytes());
            bytes.extend_from_slice(key);
            bytes.push(b'=');
            bytes.extend_from_slice(value);
            bytes.push(b'\n');
        }
        (!bytes.is_empty()).then_some(bytes)
    }
}

fn write_pax(name: &[u8], records: &[u8], out: &mut Vec<u8>) {
    let mut header = Header::new_ustar();
    let fields = header.as_ustar_mut().expect("made as ustar");
    let plain = name.strip_suffix(b"/").unwrap_or(name);
    let (dir, base) = match plain.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => plain.split_at(slash + 1),
        None => (&b""[..], plain),
    };
    fill_ascii(&mut fields.name, &[dir, b"PaxHeaders.0/", base].concat());
    header.set_entry_type(EntryType::XHeader);
    header.set_mode(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(records.len() as u64);
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(records);
    out.extend_from_slice(padding(records.len() as u64));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> TarEntry {
        TarEntry {
            name: name.as_bytes().to_vec(),
            kind: TarKind::Plain(FileKind::File),
            mode: 0o644,
            uid: 0,
            gid: 0,
            size_bytes: 0,
            mtime_secs: 1,
            xattrs: Xattrs::new(),
        }
    }

    /// The PAX records that `entry` needs, as text.
    #[track_caller]
    fn check_pax(entry: &TarEntry, expected: &str) {
        let mut out = Vec::new();
        write_header(entry, &mut out);
        let pax = if out.len() == BLOCK {
            ""
        } else {
            let size = out[124..135].iter().fold(0, |size, digit| size * 8 + usize::from(digit - b'0'));
            std::str::from_utf8(&out[BLOCK..BLOCK + size]).unwrap()
        };
        assert_eq!(pax, expected);
        let header = Header::from_byte_slice(&out[out.len() - BLOCK..]);
        assert!(header.as_ustar().is_some());
    }

    #[test]
    fn ordinary_entries_need_no_pax() {
        check_pax(&entry("a"), "");
        check_pax(&entry(&format!("{}/{}", "d".repeat(155), "f".repeat(100))), "");
        check_pax(&TarEntry { uid: 2_097_151, size_bytes: MAX_LARGE, ..entry("a") }, "");
    }

    #[test]
    fn what_ustar_cannot_say_stands_in_pax() {
        let long = "f".repeat(101);
        check_pax(&entry(&long), &format!("111 path={long}\n"));
        check_pax(&entry("ä"), "11 path=ä\n");
        check_pax(&TarEntry { uid: 2_097_152, ..entry("a") }, "15 uid=2097152\n");
        check_pax(&TarEntry { mtime_secs: -5, ..entry("a") }, "12 mtime=-5\n");
        check_pax(&TarEntry { kind: TarKind::Symlink("ü".into()), ..entry("a") }, "15 linkpath=ü\n");
        check_pax(
            &TarEntry { gid: 4_000_000_000, xattrs: vec![(b"security.capability".to_vec(), b"x".to_vec())], ..entry("a") },
            "38 SCHILY.xattr.security.capability=x\n18 gid=4000000000\n",
        );
    }

    #[test]
    fn record_lengths_count_their_own_digits() {
        for size in [1, 88, 89, 90, 91, 92, 93, 985, 986, 987, 988, 989, 990] {
            let mut records = Records::default();
            records.add("path", &vec![b'x'; size]);
            let bytes = records.finish().unwrap();
            let length: usize = std::str::from_utf8(&bytes).unwrap().split(' ').next().unwrap().parse().unwrap();
            assert_eq!(length, bytes.len());
        }
    }
}
