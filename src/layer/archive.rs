//! Tar archives as entries, whoever wrote them: old, ustar, GNU and PAX headers, compressed or not.
//!
//! Our own reader on the `tar` crate's header layout: that crate cuts PAX records at line feeds, which file capabilities may
//! contain, and then misses the sizes and names that follow.
//! Sparse files are read with their holes, see [`sparse`].
//! Spec: POSIX.1-2024 `pax`; GNU tar manual, "Basic Tar Format" (long names).

use std::fs::File;
use std::io::{self, BufRead, Read, Seek, SeekFrom};

use tar::Header;

use super::LayerError;
use super::header::{BLOCK, padding};
use super::sparse::{self, Map, Piece, Records};
use crate::snapshot::{Time, TreePath, Xattrs};

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

/// The first bytes of a stream, as many as a header has if there are so many.
pub(super) fn start_of(input: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(BLOCK);
    input.take(BLOCK as u64).read_to_end(&mut start)?;
    Ok(start)
}

/// Whether a tar begins with these bytes: a header, or the zeros of an empty one.
pub(super) fn is_header(start: &[u8]) -> bool {
    let block: Option<&[u8; BLOCK]> = start.get(..BLOCK).and_then(|block| block.try_into().ok());
    block.is_some_and(|block| block.iter().all(|byte| *byte == 0) || verify_checksum(block).is_ok())
}

/// How a stream is packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Packing {
    /// Not, or not in a way that we know.
    Plain,
    /// gzip, of one member or several.
    Gzip,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
    /// Zstandard.
    Zstd,
}

impl Packing {
    /// What the first bytes of a stream tell.
    pub fn detect(start: &[u8]) -> Packing {
        const MAGIC: [(&[u8], Packing); 4] = [
            (b"\x1f\x8b\x08", Packing::Gzip),
            (b"BZh", Packing::Bzip2),
            (b"\xfd7zXZ\x00", Packing::Xz),
            (b"\x28\xb5\x2f\xfd", Packing::Zstd),
        ];
        // a frame that readers skip: its number ends in any four bits (RFC 8878, 3.1.2)
        if let [first, 0x2a, 0x4d, 0x18, ..] = start
            && first & 0xf0 == 0x50
        {
            return Packing::Zstd;
        }
        MAGIC.iter().find(|(magic, _)| start.starts_with(magic)).map_or(Packing::Plain, |(_, packing)| *packing)
    }

    /// The plain bytes of `input`.
    pub fn unpacked<'a>(self, input: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
        Ok(match self {
            Packing::Plain => Box::new(input),
            Packing::Gzip => Box::new(flate2::read::MultiGzDecoder::new(input)),
            Packing::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(input)),
            Packing::Xz => Box::new(lzma_rust2::XzReader::new(input, true)),
            Packing::Zstd => Box::new(zstd::Decoder::new(input)?),
        })
    }
}

/// Opens `file` as an archive if it is one: a tar, plain or packed, whose first entry can be read. An empty tar is none.
///
/// # Errors
/// `Damaged` if the file itself cannot be read.
pub fn open(mut file: File) -> Result<Option<Reader<Box<dyn Read + Send>>>, LayerError> {
    let failed = |source| LayerError::Damaged { action: "read the archive", source };
    let mut start = Vec::new();
    (&file).take(BLOCK as u64).read_to_end(&mut start).map_err(failed)?;
    let packing = Packing::detect(&start);
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let again = file.try_clone().map_err(failed)?;
    let Ok(unpacked) = packing.unpacked(io::BufReader::new(again)) else { return Ok(None) };
    if !matches!(Reader::new(unpacked).next_entry(), Ok(Some(_))) {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let unpacked = packing.unpacked(io::BufReader::with_capacity(256 << 10, file)).map_err(failed)?;
    Ok(Some(Reader::new(unpacked)))
}

/// What the headers in front of an entry say of it.
#[derive(Default)]
struct LongFields {
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    pax: Vec<(Vec<u8>, Vec<u8>)>,
}

impl LongFields {
    fn is_empty(&self) -> bool {
        self.name.is_none() && self.target.is_none() && self.pax.is_empty()
    }

    /// The last record of a key; an empty value takes former ones back.
    fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let (_, value) = self.pax.iter().rev().find(|(found, _)| found == key)?;
        (!value.is_empty()).then_some(value)
    }

    fn number(&self, key: &[u8]) -> io::Result<Option<i64>> {
        let parse = |text: &[u8]| std::str::from_utf8(text).ok()?.parse().ok();
        self.get(key).map(|text| parse(text).ok_or_else(bad_number)).transpose()
    }

    fn xattrs(&self) -> Xattrs {
        let mut xattrs = Xattrs::new();
        for (key, value) in &self.pax {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                xattrs.retain(|(known, _)| known != name);
                xattrs.push((name.to_vec(), value.clone()));
            }
        }
        xattrs.sort_unstable();
        xattrs
    }
}

/// The records of a PAX header: length, blank, key, `=`, value, line feed. The length alone says where a value ends.
fn parse_pax(mut data: &[u8]) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut records = Vec::new();
    while !data.is_empty() {
        let record = pax_record(data).ok_or_else(|| bad("a PAX record is malformed"))?;
        let (length, key, value) = record;
        records.push((key.to_vec(), value.to_vec()));
        data = &data[length..];
    }
    Ok(records)
}

fn pax_record(data: &[u8]) -> Option<(usize, &[u8], &[u8])> {
    let blank = data.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&data[..blank]).ok()?.parse().ok()?;
    let record = data.get(blank + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((length, &record[..equals], &record[equals + 1..]))
}

/// Decimal seconds with an optional fraction; nanoseconds count up from the second below.
fn parse_time(text: &[u8]) -> io::Result<Time> {
    let parse = || {
        let text = std::str::from_utf8(text).ok()?;
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let seconds: i64 = whole.parse().ok()?;
        let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
        let nanoseconds: u32 = digits.parse().ok()?;
        if whole.starts_with('-') && nanoseconds > 0 {
            return Some(Time { seconds: seconds.checked_sub(1)?, nanoseconds: 1_000_000_000 - nanoseconds });
        }
        Some(Time { seconds, nanoseconds })
    };
    parse().ok_or_else(bad_number)
}

/// The name in the header itself.
fn header_name(header: &Header) -> Vec<u8> {
    let name = until_nul(&header.as_old().name);
    match header.as_ustar().map(|ustar| until_nul(&ustar.prefix)) {
        Some(prefix) if !prefix.is_empty() => [prefix, b"/", name].concat(),
        _ => name.to_vec(),
    }
}

/// The sum of all bytes with the checksum's own field as blanks; some old writers added signed bytes.
fn verify_checksum(block: &[u8; BLOCK]) -> io::Result<()> {
    let stated = number(&block[148..156])?;
    let bytes = || block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { b' ' } else { *byte });
    let as_unsigned: i64 = bytes().map(i64::from).sum();
    let as_signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
    if stated == as_unsigned || stated == as_signed { Ok(()) } else { Err(bad("a header's checksum is wrong")) }
}

/// A numeric field: octal digits between blanks and NULs, or base-256 (GNU) where the first bit is set. Empty is 0.
pub(super) fn number(field: &[u8]) -> io::Result<i64> {
    if field[0] & 0x80 != 0 {
        // Two's complement, of which the first bit only marks the form and the second is the sign.
        let sign = if field[0] & 0x40 != 0 { -1 } else { 0 };
        let first = i128::from(field[0] & 0x3f) | (sign << 6);
        let value = field[1..].iter().try_fold(first, |value, byte| value.checked_mul(256)?.checked_add(i128::from(*byte)));
        return value.and_then(|value| i64::try_from(value).ok()).ok_or_else(bad_number);
    }
    let digits = until_nul(field).trim_ascii();
    let text = std::str::from_utf8(digits).map_err(|_| bad_number())?;
    if text.is_empty() { Ok(0) } else { i64::from_str_radix(text, 8).map_err(|_| bad_number()) }
}

fn unsigned(field: &[u8]) -> io::Result<u64> {
    u64::try_from(number(field)?).map_err(|_| bad_number())
}

fn small(number: u64) -> io::Result<u32> {
    u32::try_from(number).map_err(|_| bad_number())
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

pub(super) fn bad(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn bad_number() -> io::Error {
    bad("a number in a header is malformed")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pax_values_may_hold_line_feeds() {
        let records = parse_pax(b"12 a=\n\n\n\nx\n\n9 path=y\n").unwrap();
        assert_eq!(records, [(b"a".to_vec(), b"\n\n\n\nx\n".to_vec()), (b"path".to_vec(), b"y".to_vec())]);
    }

    #[test]
    fn malformed_pax_is_refused() {
        for data in [&b"9 path=y"[..], b"8 path=y\n", b"path=y\n", b"99999999999999999999 a=b\n", b"3 \n", b"0 a=b\n"] {
            assert!(parse_pax(data).is_err(), "{}", data.escape_ascii());
        }
    }

    #[test]
    fn numbers_have_two_forms() {
        assert_eq!(number(b"0000644\0").unwrap(), 0o644);
        assert_eq!(number(b"   644 \0").unwrap(), 0o644);
        assert_eq!(number(b"\0\0\0\0\0\0\0\0").unwrap(), 0);
        assert_eq!(number(b"\x80\0\0\0\x01\0\0\0").unwrap(), 1 << 24);
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xfe").unwrap(), -2);
        assert!(number(b"8\0\0\0\0\0\0\0").is_err());
        assert!(number(&[0xbf; 12]).is_err());
    }

    #[test]
    fn times_have_fractions() {
        assert_eq!(parse_time(b"1.5").unwrap(), Time { seconds: 1, nanoseconds: 500_000_000 });
        assert_eq!(parse_time(b"-1.25").unwrap(), Time { seconds: -2, nanoseconds: 750_000_000 });
        assert_eq!(parse_time(b"7.0000000019").unwrap(), Time { seconds: 7, nanoseconds: 1 });
        assert!(parse_time(b"1.x").is_err());
    }

    #[test]
    fn packings_are_told_by_content() {
        assert_eq!(Packing::detect(b"\x1f\x8b\x08\x00"), Packing::Gzip);
        assert_eq!(Packing::detect(b"BZh91AY"), Packing::Bzip2);
        assert_eq!(Packing::detect(b"\xfd7zXZ\x00"), Packing::Xz);
        assert_eq!(Packing::detect(b"\x28\xb5\x2f\xfd\x00"), Packing::Zstd);
        assert_eq!(Packing::detect(b"\x5a\x2a\x4d\x18\x00"), Packing::Zstd);
        assert_eq!(Packing::detect(b"\x1f"), Packing::Plain);
    }

    /// A tar of one file `hello`, as xz writes it.
    const XZ: &[u8] = b"\xfd\x37\x7a\x58\x5a\x00\x00\x04\xe6\xd6\xb4\x46\x02\x00\x21\x01\x16\x00\x00\x00\x74\x2f\xe5\xa3\xe0\x27\
        \xff\x00\x5b\x5d\x00\x34\x19\x49\xee\x8d\xd7\xf8\xb8\x3f\xc9\x37\x32\xde\xc8\xd5\x80\x31\x34\x42\xb0\x16\
        \x1b\x03\xcc\xcf\x2e\x45\x0e\xe6\x01\x1f\x99\x6c\x8f\xf8\x93\xe3\x17\x16\xbd\xfb\x07\xb5\xbf\x16\x2b\x9e\
        \xaf\x29\xfd\xb5\x85\x54\x7a\x4b\x6c\xc5\xde\x47\x13\x7e\xd1\x2d\x55\x03\xd1\xa2\x77\x9c\x7a\xed\xb8\xd5\
        \x5e\x26\x6d\xe8\x8c\x55\x37\x60\x42\x80\x9b\x00\x7f\x7a\x5a\xcf\x00\x00\x00\x00\x59\x93\xb8\xd4\xa3\x7e\
        \x16\xe1\x00\x01\x77\x80\x50\x00\x00\x00\x94\x56\x99\xaf\xb1\xc4\x67\xfb\x02\x00\x00\x00\x00\x04\x59\x5a";

    /// What `open` says of a file of these bytes: the first entry and its data.
    fn opened(bytes: &[u8]) -> Option<(String, String)> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut reader = open(file).unwrap()?;
        let entry = reader.next_entry().unwrap().unwrap();
        Some((entry.path.to_string(), io::read_to_string(reader).unwrap()))
    }

    #[test]
    fn archives_are_opened_however_they_are_packed() {
        let mut plain = Vec::new();
        Packing::Xz.unpacked(XZ).unwrap().read_to_end(&mut plain).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(&plain).unwrap();
        let zstd = zstd::encode_all(plain.as_slice(), 1).unwrap();
        for bytes in [XZ, &plain, &gzip.finish().unwrap(), &bzip2.finish().unwrap(), &zstd] {
            assert_eq!(opened(bytes), Some(("/hello".to_owned(), "abc".to_owned())), "{:?}", Packing::detect(bytes));
        }
    }

    #[test]
    fn what_is_no_archive_is_none() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"text").unwrap();
        for bytes in [&b""[..], b"text", &[0; 1024], &XZ[..40], &gzip.finish().unwrap(), b"PK\x03\x04"] {
            assert_eq!(opened(bytes), None);
        }
    }

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
