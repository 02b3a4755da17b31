//! eStargz: a gzip layer that can be read file by file. Each piece of a file is a gzip member of its own; behind the tar stands one
//! more entry, a table of where they are, and the blob's end says where the table is.
//!
//! The layer's tar itself stays as it is, byte for byte, as BuildKit has it: no landmark is put among its files.
//! Spec: containerd/stargz-snapshotter, `docs/estargz.md`.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use tar::{EntryType, Header};

use super::LayerError;
use super::compress::Encoding;
use super::header::{BLOCK, padding};
use super::pipeline::{Sink, ordered};
use crate::digest::{DiffId, Digest, Hasher};
use table::{Entry, described, number, records};

mod table;

/// Largest piece of a file in a member.
const CHUNK_BYTES: usize = 4 << 20;
/// An empty gzip member whose extra field holds where the table begins.
const FOOTER_BYTES: usize = 51;
const FOOTER_START: [u8; 16] = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 26, 0, b'S', b'G', 22, 0];
const FOOTER_END: [u8; 13] = [1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
const MAGIC: &[u8] = b"STARGZ";

/// Digest of a blob's table.
const TABLE_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";
/// Bytes of a blob without compression.
const PLAIN_BYTES: &str = "io.containers.estargz.uncompressed-size";

/// Members that one thread compresses at a time have this many plain bytes or more, the last ones excepted.
const BATCH_BYTES: usize = 1 << 20;
/// Such batches that wait for a thread.
const BATCHES_AHEAD: usize = 2;

/// Writes what `tar` writes to `out`, compressed on all cores; its name, and that of all plain bytes. The blob does not depend on
/// how many threads made it.
///
/// # Errors
/// Those of `tar`; `Write` carries the writer's.
pub(super) fn write(
    tar: impl FnOnce(&mut dyn Write) -> Result<DiffId, LayerError> + Send,
    encoding: Encoding,
    out: &mut dyn Write,
) -> Result<(DiffId, DiffId), LayerError> {
    // where each member begins, and where the last one ends
    let mut starts = vec![0_u64];
    let (found, mut contents) = thread::scope(|scope| -> Result<_, LayerError> {
        let (sender, batches) = sync_channel(BATCHES_AHEAD);
        let tar = scope.spawn(move || -> Result<_, LayerError> {
            let mut packer = Packer::new(sender);
            let found = tar(&mut packer)?;
            Ok((found, packer.finish().map_err(LayerError::Write)?))
        });
        let compress = |batch, sink: &Sink<Vec<Vec<u8>>>| {
            let _unwanted = sink.put(encoding.members(batch));
        };
        let written = ordered(batches.into_iter(), compress, |members| {
            for member in members {
                out.write_all(&member)?;
                starts.push(starts.last().copied().unwrap_or(0) + member.len() as u64);
            }
            Ok(())
        });
        let contents = tar.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // When writing fails, the tar's thread fails too because nobody takes its members: the first error is the cause.
        written.map_err(LayerError::Write)?;
        contents
    })?;
    for entry in &mut contents.entries {
        entry.offset = entry.member.map_or(0, |member| starts[member]);
    }
    let table = table::packed(&contents.entries);
    contents.plain.update(&table);
    let place = format!("{:016x}", starts.last().copied().unwrap_or(0));
    let footer = [&FOOTER_START, place.as_bytes(), MAGIC, &FOOTER_END].concat();
    let end = encoding.members(vec![table]).into_iter().chain([footer]);
    end.into_iter().try_for_each(|bytes| out.write_all(&bytes)).map_err(LayerError::Write)?;
    Ok((found, DiffId(contents.plain.finish())))
}

/// Takes a layer's tar, cuts it into members and sends these away in batches.
struct Packer {
    sender: SyncSender<Vec<Vec<u8>>>,
    /// Members before the batch.
    sent_members: usize,
    batch: Vec<Vec<u8>>,
    batch_bytes: usize,
    /// Plain bytes of the member that is being gathered.
    member: Vec<u8>,
    state: State,
    /// Records of a PAX header, for the entry that follows.
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    contents: Contents,
}

/// What is known of a layer's tar when all of it was seen.
struct Contents {
    plain: Hasher,
    entries: Vec<Entry>,
}

/// Where in the tar the next byte is.
enum State {
    /// In a header block, of which this much is there.
    Header(Vec<u8>),
    /// In what belongs to the next header: so much of it, and its length.
    Extension(Extension, Vec<u8>, usize),
    /// In a file.
    Data(Box<Data>),
    /// In what fills a block.
    Padding(u64),
    /// In the zero blocks at the end.
    End,
}

/// What stands before a header because it has no room for it.
enum Extension {
    Pax,
    /// GNU's long name, or target of a link: a record of this name.
    Gnu(&'static [u8]),
    /// Of no consequence here.
    Other,
}

/// A file that is being read.
struct Data {
    /// Its entry's number.
    entry: usize,
    size_bytes: u64,
    read_bytes: u64,
    chunk_bytes: usize,
    whole: Hasher,
    chunk: Hasher,
}

impl Packer {
    fn new(sender: SyncSender<Vec<Vec<u8>>>) -> Packer {
        Packer {
            sender,
            sent_members: 0,
            batch: Vec::new(),
            batch_bytes: 0,
            member: Vec::new(),
            state: State::Header(Vec::new()),
            records: BTreeMap::new(),
            contents: Contents { plain: Hasher::new(), entries: Vec::new() },
        }
    }

    /// Sends what is left.
    fn finish(mut self) -> io::Result<Contents> {
        self.end_member()?;
        self.send()?;
        Ok(self.contents)
    }

    /// The number of the member that begins here.
    fn next_member(&mut self) -> io::Result<usize> {
        self.end_member()?;
        Ok(self.sent_members + self.batch.len())
    }

    fn end_member(&mut self) -> io::Result<()> {
        if self.member.is_empty() {
            return Ok(());
        }
        self.batch_bytes += self.member.len();
        self.batch.push(std::mem::take(&mut self.member));
        if self.batch_bytes >= BATCH_BYTES { self.send() } else { Ok(()) }
    }

    fn send(&mut self) -> io::Result<()> {
        self.sent_members += self.batch.len();
        self.batch_bytes = 0;
        // nobody takes it when writing has failed
        self.sender.send(std::mem::take(&mut self.batch)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// A whole header block is there.
    fn begin(&mut self, block: &[u8]) -> io::Result<State> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(State::End);
        }
        let header = Header::from_byte_slice(block);
        let size_bytes = match self.records.get(b"size".as_slice()).and_then(|value| number(value)) {
            Some(size_bytes) => size_bytes,
            // an empty field is a zero to all readers
            None if header.as_old().size.iter().all(|byte| *byte == 0) => 0,
            None => header.entry_size()?,
        };
        let extension = match header.entry_type() {
            EntryType::XHeader => Some(Extension::Pax),
            EntryType::GNULongName => Some(Extension::Gnu(b"path")),
            EntryType::GNULongLink => Some(Extension::Gnu(b"linkpath")),
            EntryType::XGlobalHeader => Some(Extension::Other),
            _ => None,
        };
        if let Some(extension) = extension {
            let length = usize::try_from(size_bytes).map_err(io::Error::other)?;
            return Ok(State::Extension(extension, Vec::new(), length));
        }
        let mut entry = described(header, &std::mem::take(&mut self.records));
        if entry.kind != "reg" || size_bytes == 0 {
            entry.digest = (entry.kind == "reg").then(|| Digest::of(b""));
            self.contents.entries.push(entry);
            return Ok(State::Header(Vec::new()));
        }
        entry.size = size_bytes;
        entry.member = Some(self.next_member()?);
        self.contents.entries.push(entry);
        Ok(State::Data(Box::new(Data {
            entry: self.contents.entries.len() - 1,
            size_bytes,
            read_bytes: 0,
            chunk_bytes: 0,
            whole: Hasher::new(),
            chunk: Hasher::new(),
        })))
    }

    /// Takes bytes of a file, up to the end of a chunk.
    fn data(&mut self, mut data: Box<Data>, bytes: &[u8]) -> io::Result<(State, usize)> {
        let left = data.size_bytes - data.read_bytes;
        let room = (CHUNK_BYTES - data.chunk_bytes).min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = bytes.len().min(room);
        let taken = &bytes[..count];
        self.member.extend_from_slice(taken);
        data.whole.update(taken);
        data.chunk.update(taken);
        data.chunk_bytes += count;
        data.read_bytes += count as u64;
        let is_last = data.read_bytes == data.size_bytes;
        if !is_last && data.chunk_bytes < CHUNK_BYTES {
            return Ok((State::Data(data), count));
        }
        let entries = &mut self.contents.entries;
        let current = entries.last_mut().expect("a file in work has an entry");
        current.chunk_digest = Some(std::mem::take(&mut data.chunk).finish());
        if data.chunk_bytes == CHUNK_BYTES {
            current.chunk_size = CHUNK_BYTES as u64;
        }
        if is_last {
            entries[data.entry].digest = Some(data.whole.finish());
            return Ok((State::Padding(padding(data.size_bytes).len() as u64), count));
        }
        let name = entries[data.entry].name.clone();
        let (member, chunk_offset) = (Some(self.next_member()?), data.read_bytes);
        self.contents.entries.push(Entry { name, kind: "chunk", member, chunk_offset, ..Entry::default() });
        data.chunk_bytes = 0;
        Ok((State::Data(data), count))
    }
}

impl Write for Packer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (next, count) = match std::mem::replace(&mut self.state, State::End) {
            State::Header(mut block) => {
                let count = bytes.len().min(BLOCK - block.len());
                block.extend_from_slice(&bytes[..count]);
                self.member.extend_from_slice(&bytes[..count]);
                let next = if block.len() == BLOCK { self.begin(&block)? } else { State::Header(block) };
                (next, count)
            }
            State::Extension(extension, mut text, length) => {
                let whole = length.saturating_add(padding(length as u64).len());
                let count = bytes.len().min(whole - text.len());
                text.extend_from_slice(&bytes[..count]);
                self.member.extend_from_slice(&bytes[..count]);
                if text.len() < whole {
                    (State::Extension(extension, text, length), count)
                } else {
                    text.truncate(length);
                    match extension {
                        Extension::Pax => self.records.extend(records(&text)),
                        Extension::Gnu(record) => {
                            text.truncate(text.iter().position(|byte| *byte == 0).unwrap_or(length));
                            self.records.insert(record.to_vec(), text);
                        }
                        Extension::Other => {}
                    }
                    (State::Header(Vec::new()), count)
                }
            }
            State::Data(data) => self.data(data, bytes)?,
            State::Padding(0) => (State::Header(Vec::new()), 0),
            State::Padding(left) => {
                let count = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                self.member.extend_from_slice(&bytes[..count]);
                (State::Padding(left - count as u64), count)
            }
            State::End => {
                self.member.extend_from_slice(bytes);
                (State::End, bytes.len())
            }
        };
        self.state = next;
        self.contents.plain.update(&bytes[..count]);
        // `Ok(0)` would say that nothing can be written any more
        if count == 0 && !bytes.is_empty() { self.write(bytes) } else { Ok(count) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a descriptor says of a blob that [`Packer`] has written.
///
/// # Errors
/// `Damaged`: it is none.
pub(super) fn annotations(mut blob: impl Read + Seek) -> Result<BTreeMap<String, String>, LayerError> {
    let damaged = |source| LayerError::Damaged { action: "read its table of contents", source };
    let no_table = || damaged(io::ErrorKind::InvalidData.into());
    let mut footer = [0; FOOTER_BYTES];
    let end = blob.seek(SeekFrom::End(-(FOOTER_BYTES as i64))).map_err(damaged)?;
    blob.read_exact(&mut footer).map_err(damaged)?;
    let place = footer.strip_prefix(&FOOTER_START).and_then(|rest| std::str::from_utf8(rest.get(..16)?).ok());
    let start = place.and_then(|place| u64::from_str_radix(place, 16).ok()).filter(|start| *start < end).ok_or_else(no_table)?;
    blob.seek(SeekFrom::Start(start)).map_err(damaged)?;
    let mut tar = Vec::new();
    flate2::read::GzDecoder::new((&mut blob).take(end - start)).read_to_end(&mut tar).map_err(damaged)?;
    let header = tar.get(..BLOCK).ok_or_else(no_table)?;
    let size_bytes = Header::from_byte_slice(header).entry_size().map_err(damaged)?;
    let length = usize::try_from(size_bytes).map_err(|_| no_table())?;
    let table = tar[BLOCK..].get(..length).ok_or_else(no_table)?;
    blob.seek(SeekFrom::Start(0)).map_err(damaged)?;
    let mut plain = flate2::read::MultiGzDecoder::new(io::BufReader::with_capacity(256 << 10, blob));
    let plain_bytes = io::copy(&mut plain, &mut io::sink()).map_err(damaged)?;
    Ok(BTreeMap::from([
        (TABLE_DIGEST.to_owned(), Digest::of(table).to_string()),
        (PLAIN_BYTES.to_owned(), plain_bytes.to_string()),
    ]))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Cursor;

    use serde_json::Value;

    use super::*;
    use crate::layer::{Compression, write_tar};

    fn pack(tree: &std::path::Path) -> (Vec<u8>, Vec<u8>, DiffId) {
        let mut tar = Vec::new();
        write_tar(tree, None, &mut tar).unwrap();
        let mut blob = Vec::new();
        let written = |out: &mut dyn Write| Ok(write_tar(tree, None, out)?.diff_id);
        let (found, diff_id) = write(written, Compression::Estargz.into(), &mut blob).unwrap();
        assert_eq!(found.0, Digest::of(&tar));
        (tar, blob, diff_id)
    }

    fn member(blob: &[u8], offset: u64) -> Vec<u8> {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&blob[offset as usize..]).read_to_end(&mut plain).unwrap();
        plain
    }

    fn table_of(blob: &[u8]) -> Value {
        let place = std::str::from_utf8(&blob[blob.len() - FOOTER_BYTES + 16..][..16]).unwrap();
        let tar = member(blob, u64::from_str_radix(place, 16).unwrap());
        let length = Header::from_byte_slice(&tar[..BLOCK]).entry_size().unwrap() as usize;
        let annotations = annotations(Cursor::new(blob)).unwrap();
        assert_eq!(annotations[TABLE_DIGEST], Digest::of(&tar[BLOCK..][..length]).to_string());
        serde_json::from_slice(&tar[BLOCK..][..length]).unwrap()
    }

    #[test]
    fn every_file_is_found_by_the_table() {
        let space = tempfile::tempdir().unwrap();
        let tree = space.path();
        fs::create_dir(tree.join("d")).unwrap();
        fs::write(tree.join("d/small"), "small\n").unwrap();
        fs::write(tree.join("d/empty"), "").unwrap();
        let large: Vec<u8> = (0..(CHUNK_BYTES as u32 * 2 + 100) / 4).flat_map(|number| number.to_le_bytes()).collect();
        fs::write(tree.join("large"), &large).unwrap();
        fs::write(tree.join("x".repeat(200)), "long name").unwrap();
        std::os::unix::fs::symlink("d/small", tree.join("link")).unwrap();
        fs::hard_link(tree.join("d/small"), tree.join("other")).unwrap();
        let (tar, blob, diff_id) = pack(tree);
        let mut plain = Vec::new();
        flate2::read::MultiGzDecoder::new(blob.as_slice()).read_to_end(&mut plain).unwrap();
        assert!(plain.starts_with(&tar), "the tar itself stays as it is");
        assert_eq!(diff_id.0, Digest::of(&plain));
        assert_eq!(annotations(Cursor::new(&blob)).unwrap()[PLAIN_BYTES], plain.len().to_string());

        let table = table_of(&blob);
        let entries = table["entries"].as_array().unwrap();
        let mut found: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for entry in entries {
            let name = entry["name"].as_str().unwrap().to_owned();
            let Some(offset) = entry["offset"].as_u64() else { continue };
            let whole = found.entry(name).or_default();
            assert_eq!(entry["chunkOffset"].as_u64().unwrap_or(0), whole.len() as u64);
            let size = entries.iter().find(|first| first["name"] == entry["name"]).unwrap()["size"].as_u64().unwrap();
            let left = size as usize - whole.len();
            let chunk = &member(&blob, offset)[..entry["chunkSize"].as_u64().map_or(left, |size| size as usize)];
            assert_eq!(entry["chunkDigest"], Digest::of(chunk).to_string());
            whole.extend_from_slice(chunk);
        }
        assert_eq!(found["large"], large);
        assert_eq!(
            (found["d/small"].as_slice(), found[&"x".repeat(200)].as_slice()),
            (b"small\n".as_slice(), b"long name".as_slice())
        );
        let of = |name: &str| entries.iter().find(|entry| entry["name"] == name).unwrap();
        assert_eq!(of("large")["digest"], Digest::of(&large).to_string());
        assert_eq!((&of("link")["type"], &of("link")["linkName"]), (&"symlink".into(), &"d/small".into()));
        assert_eq!((&of("other")["type"], &of("other")["linkName"]), (&"hardlink".into(), &"d/small".into()));
        assert_eq!(
            (&of("d/")["type"], &of("d/empty")["digest"], of("d/empty").get("offset")),
            (&"dir".into(), &Digest::of(b"").to_string().into(), None)
        );
        assert_eq!(pack(tree).1, blob);
    }

    #[test]
    fn tars_of_other_programs_have_long_names_elsewhere() {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_size(5);
        let name = "long/".repeat(50) + "name";
        // the crate writes them as GNU's tar does
        tar.append_data(&mut header, &name, b"data\n".as_slice()).unwrap();
        let mut link = Header::new_gnu();
        link.set_entry_type(EntryType::Symlink);
        tar.append_link(&mut link, "link", &name).unwrap();
        let tar = tar.into_inner().unwrap();
        let mut blob = Vec::new();
        let write_it = |out: &mut dyn Write| {
            // in odd pieces
            tar.chunks(700).try_for_each(|piece| out.write_all(piece)).map_err(LayerError::Write)?;
            Ok(DiffId(Digest::of(&tar)))
        };
        write(write_it, Compression::Estargz.into(), &mut blob).unwrap();
        let table = table_of(&blob);
        let entries = table["entries"].as_array().unwrap();
        assert_eq!((entries.len(), &entries[0]["name"], &entries[1]["linkName"]), (2, &name.clone().into(), &name.into()));
        assert_eq!(&member(&blob, entries[0]["offset"].as_u64().unwrap())[..5], b"data\n");
    }

    #[test]
    fn what_is_no_such_blob_is_told() {
        for bytes in [b"".as_slice(), &[0; 100], &FOOTER_START.repeat(4)] {
            assert!(matches!(annotations(Cursor::new(bytes)), Err(LayerError::Damaged { .. })));
        }
    }
}
