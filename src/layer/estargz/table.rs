//! The table of an eStargz blob: its entries, and what a tar's headers say of them.

use std::collections::BTreeMap;
use std::io;

use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};
use tar::{EntryType, Header};

use crate::base64;
use crate::digest::Digest;
use crate::image::rfc3339;
use crate::layer::header::{BLOCK, TarEntry, TarKind, padding, write_header};
use crate::snapshot::FileKind;

const TABLE_NAME: &[u8] = b"stargz.index.json";

/// An entry of the table; members as the spec orders them.
#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) size: u64,
    #[serde(rename = "modtime", skip_serializing_if = "String::is_empty")]
    pub(super) mtime: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) link_name: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) mode: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) uid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) gid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) offset: u64,
    /// The member that begins at `offset`, which is known late.
    #[serde(skip)]
    pub(super) member: Option<usize>,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) dev_major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) dev_minor: u64,
    /// Values in base64.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) xattrs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) digest: Option<Digest>,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) chunk_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) chunk_size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) chunk_digest: Option<Digest>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Serialize)]
struct Table<'a> {
    version: u32,
    entries: &'a [Entry],
}

/// The table of these entries as a tar of one entry.
pub(super) fn packed(entries: &[Entry]) -> Vec<u8> {
    let mut json = Vec::new();
    let table = Table { version: 1, entries };
    let mut serializer = Serializer::with_formatter(&mut json, PrettyFormatter::with_indent(b"\t"));
    table.serialize(&mut serializer).expect("a table is plain data");
    let size_bytes = json.len() as u64;
    let entry = TarEntry {
        name: TABLE_NAME.to_vec(),
        kind: TarKind::Plain(FileKind::File),
        mode: 0,
        uid: 0,
        gid: 0,
        size_bytes,
        mtime_secs: 0,
        xattrs: Vec::new(),
    };
    let mut tar = Vec::new();
    write_header(&entry, &mut tar);
    tar.extend_from_slice(&json);
    tar.extend_from_slice(padding(size_bytes));
    tar.extend_from_slice(&[0; 2 * BLOCK]);
    tar
}

/// What the table says of an entry, but for its data.
///
/// A field that is no number, as empty ones of other programs are, is zero: a reader of the tar has to judge it, not the table.
pub(super) fn described(header: &Header, records: &BTreeMap<Vec<u8>, Vec<u8>>) -> Entry {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let record = |key: &str| records.get(key.as_bytes());
    let kind = match header.entry_type() {
        EntryType::Directory => "dir",
        EntryType::Symlink => "symlink",
        EntryType::Link => "hardlink",
        EntryType::Char => "char",
        EntryType::Block => "block",
        EntryType::Fifo => "fifo",
        _ => "reg",
    };
    let links = matches!(kind, "symlink" | "hardlink");
    let link_name = record("linkpath").cloned().or_else(|| header.link_name_bytes().map(|name| name.into_owned()));
    let mtime = record("mtime").and_then(|value| std::str::from_utf8(value).ok()?.parse::<i64>().ok());
    let mtime = mtime.unwrap_or(header.mtime().unwrap_or(0).cast_signed());
    let xattr = |(key, value): (&Vec<u8>, &Vec<u8>)| Some((text(key.strip_prefix(b"SCHILY.xattr.")?), base64::encode(value)));
    let device = |number: io::Result<Option<u32>>| number.ok().flatten().filter(|_| matches!(kind, "char" | "block"));
    let owner = |key: &str, field: io::Result<u64>| record(key).and_then(|value| number(value)).or(field.ok()).unwrap_or(0);
    Entry {
        name: text(record("path").map_or(&*header.path_bytes(), Vec::as_slice)),
        kind,
        mtime: if mtime == 0 { String::new() } else { rfc3339(mtime) },
        link_name: link_name.filter(|_| links).map(|name| text(&name)).unwrap_or_default(),
        mode: header.mode().unwrap_or(0).into(),
        uid: owner("uid", header.uid()),
        gid: owner("gid", header.gid()),
        dev_major: device(header.device_major()).unwrap_or(0).into(),
        dev_minor: device(header.device_minor()).unwrap_or(0).into(),
        xattrs: records.iter().filter_map(xattr).collect(),
        ..Entry::default()
    }
}

/// `LENGTH KEY=VALUE\n`, one after the other.
pub(super) fn records(mut text: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut records = BTreeMap::new();
    while let Some(space) = text.iter().position(|byte| *byte == b' ') {
        let Some(length) = number(&text[..space]).and_then(|length| usize::try_from(length).ok()) else { break };
        let Some(record) = text.get(space + 1..length.saturating_sub(1)) else { break };
        if let Some(equals) = record.iter().position(|byte| *byte == b'=') {
            records.insert(record[..equals].to_vec(), record[equals + 1..].to_vec());
        }
        text = text.get(length..).unwrap_or_default();
    }
    records
}

pub(super) fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
