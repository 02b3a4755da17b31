//! gzip for readers who hold what comes out against a digest: its checksum is not computed, which is a tenth of the work.
//!
//! Source: RFC 1952.

use std::io::{self, BufRead, BufReader, Read};

use flate2::{Decompress, FlushDecompress, Status};

/// The plain bytes of all members of a stream.
pub struct Gunzip<R> {
    input: BufReader<R>,
    inflate: Decompress,
    place: Place,
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    FirstHeader,
    NextHeader,
    Data,
}

const INPUT_BYTES: usize = 128 << 10;

const HAS_CHECKSUM: u8 = 1 << 1;
const HAS_EXTRA: u8 = 1 << 2;
const HAS_NAME: u8 = 1 << 3;
const HAS_COMMENT: u8 = 1 << 4;

impl<R: Read> Gunzip<R> {
    pub fn new(input: R) -> Gunzip<R> {
        let input = BufReader::with_capacity(INPUT_BYTES, input);
        Gunzip { input, inflate: Decompress::new(false), place: Place::FirstHeader }
    }

    fn header(&mut self) -> io::Result<()> {
        let header: [u8; 10] = self.take()?;
        let flags = header[3];
        if header[..3] != [0x1f, 0x8b, 8] {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "invalid gzip header"));
        }
        if flags & HAS_EXTRA != 0 {
            let length = u16::from_le_bytes(self.take()?);
            self.skip(u64::from(length))?;
        }
        for _ in 0..(flags & (HAS_NAME | HAS_COMMENT)).count_ones() {
            self.input.skip_until(0)?;
        }
        if flags & HAS_CHECKSUM != 0 {
            self.skip(2)?;
        }
        self.inflate.reset(false);
        Ok(())
    }

    /// A checksum, which is not looked at, and the size.
    fn trailer(&mut self) -> io::Result<()> {
        let trailer: [u8; 8] = self.take()?;
        let [.., a, b, c, d] = trailer;
        if u32::from_le_bytes([a, b, c, d]) == self.inflate.total_out() as u32 {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::InvalidInput, "a member of the gzip stream has not the size that it says"))
    }

    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn skip(&mut self, count: u64) -> io::Result<()> {
        io::copy(&mut self.input.by_ref().take(count), &mut io::sink()).map(drop)
    }
}

impl<R: Read> Read for Gunzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !buffer.is_empty() {
            if self.place != Place::Data {
                if self.place == Place::NextHeader && self.input.fill_buf()?.is_empty() {
                    return Ok(0);
                }
                self.header()?;
                self.place = Place::Data;
            }
            let input = self.input.fill_buf()?;
            let (is_end, before) = (input.is_empty(), (self.inflate.total_in(), self.inflate.total_out()));
            let status = self.inflate.decompress(input, buffer, FlushDecompress::None);
            let status = status.map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "corrupt deflate stream"))?;
            let (read, made) = (self.inflate.total_in() - before.0, self.inflate.total_out() - before.1);
            self.input.consume(read as usize);
            if status == Status::StreamEnd {
                self.trailer()?;
                self.place = Place::NextHeader;
            } else if is_end && made == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "incomplete deflate stream"));
            }
            if made > 0 {
                return Ok(made as usize);
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn packed(plain: &[u8]) -> Vec<u8> {
        let builder = flate2::GzBuilder::new().filename("name").comment("words").extra([1, 2, 3].as_slice());
        let mut gzip = builder.write(Vec::new(), flate2::Compression::fast());
        gzip.write_all(plain).expect("memory does not fail");
        gzip.finish().expect("memory does not fail")
    }

    fn read(stream: &[u8]) -> Result<Vec<u8>, String> {
        let mut plain = Vec::new();
        Gunzip::new(stream).read_to_end(&mut plain).map_err(|error| error.to_string())?;
        Ok(plain)
    }

    #[test]
    fn all_members_are_read() {
        let one: Vec<u8> = (0..300_000_u32).flat_map(|number| (number.wrapping_mul(number)).to_le_bytes()).collect();
        assert!(read(&packed(&one)).expect("sound") == one);
        let several = [packed(&one), packed(b""), packed(b"end")].concat();
        assert!(read(&several).expect("sound") == [&one[..], b"end"].concat());
    }

    #[test]
    fn what_is_cut_or_something_else_is_an_error() {
        let stream = packed(&[7; 1000]);
        for length in 0..stream.len() {
            read(&stream[..length]).expect_err("cut");
        }
        let refused = |stream: &[u8]| read(stream).expect_err("refused");
        assert_eq!(refused(b"PK\x03\x04 something else"), "invalid gzip header");
        assert_eq!(refused(&[&stream[..], b"and something else"].concat()), "invalid gzip header");
        assert_eq!(refused(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0, 0b111, 0, 0]), "corrupt deflate stream");
        let mut other_size = stream.clone();
        *other_size.last_mut().expect("a trailer") ^= 1;
        assert_eq!(refused(&other_size), "a member of the gzip stream has not the size that it says");
    }
}
