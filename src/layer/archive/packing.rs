//! How archives are packed, told by their first bytes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use super::Reader;
use super::fields::verify_checksum;
use crate::layer::LayerError;
use crate::layer::header::BLOCK;

/// The first bytes of a stream, as many as a header has if there are so many.
pub(in crate::layer) fn start_of(input: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(BLOCK);
    input.take(BLOCK as u64).read_to_end(&mut start)?;
    Ok(start)
}

/// Whether a tar begins with these bytes: a header, or the zeros of an empty one.
pub(in crate::layer) fn is_header(start: &[u8]) -> bool {
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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

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
}
