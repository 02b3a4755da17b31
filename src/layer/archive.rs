//! Tar archives as entries, whoever wrote them: old, ustar, GNU and PAX headers, compressed or not.
//!
//! Our own reader on the `tar` crate's header layout: that crate cuts PAX records at line feeds, which file capabilities may
//! contain, and then misses the sizes and names that follow.
//! Sparse files are read with their holes, see [`sparse`].
//! Spec: POSIX.1-2024 `pax`; GNU tar manual, "Basic Tar Format" (long names).

use std::io::{self, BufRead, Read};

use tar::Header;

use super::LayerError;
use super::header::{BLOCK, padding};
use super::sparse::{self, Map, Piece, Records};
use crate::snapshot::{Time, TreePath, Xattrs};
use fields::{LongFields, bad_number, header_name, parse_pax, parse_time, small, unsigned, until_nul, verify_checksum};
pub(super) use fields::{bad, number};
pub use packing::{Packing, open};
pub(super) use packing::{is_header, start_of};

mod fields;
mod packing;

/// One entry of an archive. The data of a file is read from the [`Reader`] before the next entry is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Where it goes, cleaned: absolute names start at the root, `..` cannot leave it.
    pub path: TreePath,
    /// What it is.
    pub kind: EntryKind,
    /// Which kind of regular file it says it is, if it is one.
    pub form: Form,
    /// Permission, setuid, setgid and sticky bits: `0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of a regular file; 0 else.
    pub size_bytes: u64,
    /// Modification time.
    pub mtime: Time,
    /// Extended attributes (`SCHILY.xattr.*`), sorted by name, as the archive has them: nothing is left out yet.
    pub xattrs: Xattrs,
}

/// What kind of entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link with its target as written.
    Symlink(Vec<u8>),
    /// Another name of the entry at that path.
    HardLink(TreePath),
    /// Named pipe.
    Fifo,
    /// Character device with its number (major, minor).
    Character(u32, u32),
    /// Block device with its number.
    Block(u32, u32),
}

/// The forms of regular files: to a reader they are alike, but BuildKit's `ADD` knows the plain one alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// A file, also a sparse one that PAX records describe.
    Plain,
    /// A sparse file of GNU tar's own type `S`.
    OldSparse,
    /// A "contiguous" file, type `7`.
    Contiguous,
}

/// Reads entries one after the other; as a [`Read`], gives the data of the last one.
pub struct Reader<R> {
    input: R,
    /// Data of the current entry that was not read yet, and the padding behind it.
    data_left: u64,
    padding_left: u64,
    /// Where the data belongs, for a sparse file.
    sparse: Option<Map>,
    /// Data of a sparse file with its holes.
    holes: Vec<u8>,
}

/// Largest piece of a sparse file.
const SPARSE_PIECE: usize = 1 << 20;

/// Limit of names and PAX headers, as in Go's reader: they are held in memory.
const MAX_SPECIAL: u64 = 1 << 20;

impl<R: Read> Reader<R> {
    /// Reads the plain tar `input`.
    pub fn new(input: R) -> Reader<R> {
        Reader { input, data_left: 0, padding_left: 0, sparse: None, holes: Vec::new() }
    }

    /// The next entry; `None` at the end of the archive. What was not read of the former one's data is skipped.
    ///
    /// # Errors
    /// `Damaged` for what is no tar, ends in the middle, or holds an entry of unknown type.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, LayerError> {
        self.advance().map_err(|source| LayerError::Damaged { action: "read the next entry of the tar", source })
    }

    /// The input, wherever it stands.
    pub fn into_inner(self) -> R {
        self.input
    }

    fn advance(&mut self) -> io::Result<Option<Entry>> {
        let mut long = LongFields::default();
        loop {
            self.skip()?;
            let Some(block) = self.block()? else {
                return if long.is_empty() { Ok(None) } else { Err(bad("the entry that a header describes is missing")) };
            };
            let header = Header::from_byte_slice(&block);
            verify_checksum(&block)?;
            let size_bytes = unsigned(&header.as_old().size)?;
            match header.as_old().linkflag[0] {
                b'x' => long.pax = parse_pax(&self.special(size_bytes)?)?,
                // Global records are comments in practice (`git archive`); Go's reader does not apply them either.
                b'g' => self.begin(size_bytes),
                b'L' => long.name = Some(until_nul(&self.special(size_bytes)?).to_vec()),
                b'K' => long.target = Some(until_nul(&self.special(size_bytes)?).to_vec()),
                flag => return self.entry(flag, &block, size_bytes, &long).map(Some),
            }
        }
    }

    fn entry(&mut self, flag: u8, block: &[u8; BLOCK], size_bytes: u64, long: &LongFields) -> io::Result<Entry> {
        let header = Header::from_byte_slice(block);
        let old = header.as_old();
        let records = Records { pax: &long.pax };
        let name = match records.name().or(long.get(b"path")).or(long.name.as_deref()) {
            Some(name) => name.to_vec(),
            None => header_name(header),
        };
        let target = || match long.get(b"linkpath").or(long.target.as_deref()) {
            Some(target) => target.to_vec(),
            None => until_nul(&old.linkname).to_vec(),
        };
        let device = || -> io::Result<(u32, u32)> {
            let fields = match (header.as_ustar(), header.as_gnu()) {
                (Some(ustar), _) => (&ustar.dev_major, &ustar.dev_minor),
                (None, Some(gnu)) => (&gnu.dev_major, &gnu.dev_minor),
                (None, None) => return Ok((0, 0)),
            };
            Ok((small(unsigned(fields.0)?)?, small(unsigned(fields.1)?)?))
        };
        let kind = match flag {
            // Before directories had a type of their own, a slash told them apart. Newer types mean what they say to Go's reader.
            b'\0' if name.ends_with(b"/") => EntryKind::Directory,
            b'0' | b'\0' | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink(TreePath::clean(&target())),
            b'2' => EntryKind::Symlink(target()),
            b'3' => device().map(|(major, minor)| EntryKind::Character(major, minor))?,
            b'4' => device().map(|(major, minor)| EntryKind::Block(major, minor))?,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => return Err(bad(&format!("an entry has the unknown type `{}`", other.escape_ascii()))),
        };
        let mut size_bytes = match kind {
            EntryKind::File => {
                long.number(b"size")?.map_or(Ok(size_bytes), |size| u64::try_from(size).map_err(|_| bad_number()))?
            }
            // Some writers state the size of a link's target; no data follows.
            _ => 0,
        };
        if flag == b'S' {
            // blocks of the map stand between the header and the data, and count as neither
            let map = sparse::old_map(block, &mut self.input)?;
            self.begin(size_bytes);
            size_bytes = map.size_bytes();
            self.sparse = Some(map);
        } else {
            self.begin(size_bytes);
            if kind == EntryKind::File && records.any() {
                let map = records.map(self)?;
                size_bytes = map.size_bytes();
                self.sparse = Some(map);
            }
        }
        let id = |key: &[u8], field: &[u8]| match long.number(key)? {
            Some(number) => u64::try_from(number).map_err(|_| bad_number()).and_then(small),
            None => unsigned(field).and_then(small),
        };
        Ok(Entry {
            path: TreePath::clean(&name),
            mode: small(unsigned(&old.mode)? & 0o7777)?,
            uid: id(b"uid", &old.uid)?,
            gid: id(b"gid", &old.gid)?,
            size_bytes,
            mtime: match long.get(b"mtime") {
                Some(text) => parse_time(text)?,
                None => Time { seconds: number(&old.mtime)?, nanoseconds: 0 },
            },
            xattrs: long.xattrs(),
            kind,
            form: match flag {
                b'S' => Form::OldSparse,
                b'7' => Form::Contiguous,
                _ => Form::Plain,
            },
        })
    }

    /// What follows the current header has `size_bytes` of data.
    fn begin(&mut self, size_bytes: u64) {
        self.data_left = size_bytes;
        self.padding_left = padding(size_bytes).len() as u64;
    }

    /// The data of a header that describes the next one.
    fn special(&mut self, size_bytes: u64) -> io::Result<Vec<u8>> {
        if size_bytes > MAX_SPECIAL {
            return Err(bad("a header is longer than 1 MiB"));
        }
        self.begin(size_bytes);
        let mut data = Vec::new();
        self.read_to_end(&mut data)?;
        Ok(data)
    }

    /// Skips what is left of the current entry.
    fn skip(&mut self) -> io::Result<()> {
        self.sparse = None;
        io::copy(self, &mut io::sink())?;
        let skipped = io::copy(&mut self.input.by_ref().take(self.padding_left), &mut io::sink())?;
        if skipped < self.padding_left {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.padding_left = 0;
        Ok(())
    }

    /// The next header block; `None` at a block of zeros or where the input ends between two entries.
    fn block(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => filled += count,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
        Ok(block.iter().any(|byte| *byte != 0).then_some(block))
    }
}

impl<R: BufRead> Reader<R> {
    /// Up to `most` bytes, at least one, of the current entry's data that was not read yet, as they lie in memory; say by
    /// [`Reader::take_piece`] how many were used.
    ///
    /// # Errors
    /// `UnexpectedEof` where the archive ends first.
    pub(super) fn piece(&mut self, most: u64) -> io::Result<&[u8]> {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        if self.sparse.is_some() {
            let mut buffer = std::mem::take(&mut self.holes);
            buffer.resize(most.min(SPARSE_PIECE), 0);
            let read = self.read_exact(&mut buffer);
            self.holes = buffer;
            return read.map(|()| self.holes.as_slice());
        }
        let stored = most.min(usize::try_from(self.data_left).unwrap_or(usize::MAX));
        let piece = self.input.fill_buf()?;
        match piece.len().min(stored) {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => Ok(&piece[..count]),
        }
    }

    /// The first `count` bytes of the last piece were used; of a sparse file all of them are.
    pub(super) fn take_piece(&mut self, count: usize) {
        if self.sparse.is_none() {
            self.input.consume(count);
            self.data_left -= count as u64;
        }
    }
}

impl<R: Read> Reader<R> {
    fn read_stored(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.data_left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let wanted = buffer.len().min(usize::try_from(self.data_left).unwrap_or(usize::MAX));
        let count = self.input.read(&mut buffer[..wanted])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.data_left -= count as u64;
        Ok(count)
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(map) = &mut self.sparse else { return self.read_stored(buffer) };
        let limit = |length: u64| usize::try_from(length).unwrap_or(usize::MAX);
        let count = match map.next(buffer.len() as u64) {
            Piece::Hole(length) => {
                buffer[..limit(length)].fill(0);
                limit(length)
            }
            Piece::Data(length) => match self.read_stored(&mut buffer[..limit(length)])? {
                0 if length > 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => count,
            },
        };
        if let Some(map) = &mut self.sparse {
            map.advance(count as u64);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let mut reader = Reader::new(bytes.as_slice());
            while let Ok(Some(_)) = reader.next_entry() {}
        }

        #[test]
        fn any_change_of_a_header_is_read_without_a_panic(at in 0_usize..1536, value: u8) {
            let mut out = Vec::new();
            let entry = super::super::header::TarEntry {
                name: "ü".into(),
                kind: super::super::header::TarKind::Plain(crate::snapshot::FileKind::File),
                mode: 0o644, uid: 1, gid: 2, size_bytes: 0, mtime_secs: 3, xattrs: Vec::new(),
            };
            super::super::header::write_header(&entry, &mut out);
            out[at] = value;
            // A right checksum lets the change through to the parser.
            for header in [0, 1024] {
                let sum: u32 = (header..header + 512).map(|i| if (148..156).contains(&(i - header)) { 32 } else { u32::from(out[i]) }).sum();
                out[header + 148..header + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
            let mut reader = Reader::new(out.as_slice());
            while let Ok(Some(_)) = reader.next_entry() {}
        }
    }
}
