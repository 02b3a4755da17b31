//! Digests and the names made of them.
//!
//! Everything content-addressed here is SHA-256. A newtype per meaning keeps a [`DiffId`] from being used where a
//! [`ChainId`] is due.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// A SHA-256 digest; displays as `sha256:<64 hex digits>`, the form of the OCI image-spec.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    /// The 32 raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A digest from 32 raw bytes that were a digest before (a database column, a record).
    pub fn from_bytes(bytes: [u8; 32]) -> Digest {
        Digest(bytes)
    }

    /// The 64 lower-case hex digits alone, as blob file names use them.
    pub fn hex(&self) -> String {
        hex_text(&self.hex_digits()).to_owned()
    }

    fn hex_digits(&self) -> [u8; 64] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut digits = [0; 64];
        for (pair, byte) in digits.as_chunks_mut::<2>().0.iter_mut().zip(self.0) {
            *pair = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
        }
        digits
    }

    /// The first twelve hex digits, for people.
    pub fn short(&self) -> String {
        hex_text(&self.hex_digits())[..12].to_owned()
    }
}

fn hex_text(digits: &[u8; 64]) -> &str {
    str::from_utf8(digits).expect("digits are ASCII")
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        f.write_str(hex_text(&self.hex_digits()))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not `sha256:` and 64 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a digest of the form `sha256:<64 hex digits>`")]
pub struct BadDigest(pub String);

impl FromStr for Digest {
    type Err = BadDigest;

    fn from_str(text: &str) -> Result<Digest, BadDigest> {
        let bad = || BadDigest(text.to_owned());
        let hex = text.strip_prefix("sha256:").ok_or_else(bad)?.as_bytes();
        if hex.len() != 64 {
            return Err(bad());
        }
        let nibble = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(bad()),
        };
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Digest(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! meaning {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Digest);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

meaning! {
    /// The digest of a layer's uncompressed tar (OCI image-spec, "Layer DiffID").
    DiffId
}
meaning! {
    /// The digest of a stack of diff_ids (OCI image-spec, "Layer ChainID").
    ChainId
}
meaning! {
    /// Names a step's result before it runs.
    CacheKey
}
meaning! {
    /// Names a step: its op and the ids of its inputs. Equal steps have equal ids.
    StepId
}
meaning! {
    /// Names the selected paths of a tree: names, types, modes, owners, link targets, xattrs and data, never times.
    ContentDigest
}

impl ChainId {
    /// The chain of `diff_ids`, bottom layer first; `None` for no layers.
    pub fn of(diff_ids: &[DiffId]) -> Option<ChainId> {
        diff_ids.iter().fold(None, |below, diff_id| Some(ChainId::above(below, diff_id)))
    }

    /// The chain of the layer `diff_id` on those of `below`.
    pub fn above(below: Option<ChainId>, diff_id: &DiffId) -> ChainId {
        ChainId(below.map_or(diff_id.0, |below| Digest::of(format!("{below} {diff_id}").as_bytes())))
    }
}

/// An incremental SHA-256.
///
/// Keys are made of many small parts, so those are gathered: a call of the hash function costs more than hashing a few bytes.
#[derive(Clone)]
pub struct Hasher {
    hash: Sha256,
    gathered: [u8; GATHERED_BYTES],
    gathered_bytes: usize,
}

const GATHERED_BYTES: usize = 512;

impl Default for Hasher {
    fn default() -> Hasher {
        Hasher { hash: Sha256::default(), gathered: [0; GATHERED_BYTES], gathered_bytes: 0 }
    }
}

impl Hasher {
    /// An empty hash.
    pub fn new() -> Hasher {
        Hasher::default()
    }

    /// Adds raw bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        if let Some(room) = self.gathered[self.gathered_bytes..].get_mut(..bytes.len()) {
            room.copy_from_slice(bytes);
            self.gathered_bytes += bytes.len();
            return;
        }
        self.hash.update(&self.gathered[..self.gathered_bytes]);
        self.gathered_bytes = 0;
        match self.gathered.get_mut(..bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.gathered_bytes = bytes.len();
            }
            None => self.hash.update(bytes),
        }
    }

    /// Adds `bytes` behind their length, so that the boundary between two fields is part of the hash.
    pub fn field(&mut self, bytes: &[u8]) {
        self.update(&(bytes.len() as u64).to_le_bytes());
        self.update(bytes);
    }

    /// The digest of all that was added.
    pub fn finish(mut self) -> Digest {
        self.hash.update(&self.gathered[..self.gathered_bytes]);
        Digest(self.hash.finalize().into())
    }
}

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The keyed digest of `message` (RFC 2104 with SHA-256): who does not have the key can neither make nor guess it.
pub fn hmac(key: &[u8], message: &[u8]) -> Digest {
    const BLOCK: usize = 64;
    let mut padded = [0; BLOCK];
    if key.len() > BLOCK {
        padded[..32].copy_from_slice(Digest::of(key).as_bytes());
    } else {
        padded[..key.len()].copy_from_slice(key);
    }
    let keyed = |pad: u8, message: &[u8]| {
        let mut hasher = Hasher::new();
        hasher.update(&padded.map(|byte| byte ^ pad));
        hasher.update(message);
        hasher.finish()
    };
    keyed(0x5c, keyed(0x36, message).as_bytes())
}

/// Hashes and counts what is written through it.
pub struct HashingWriter<W> {
    inner: W,
    hasher: Hasher,
    written_bytes: u64,
}

impl<W: Write> HashingWriter<W> {
    /// Wraps `inner`.
    pub fn new(inner: W) -> HashingWriter<W> {
        HashingWriter { inner, hasher: Hasher::new(), written_bytes: 0 }
    }

    /// Bytes written so far.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// The writer, the digest and the number of bytes written.
    pub fn finish(self) -> (W, Digest, u64) {
        (self.inner, self.hasher.finish(), self.written_bytes)
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.written_bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Hashes and counts what is read through it.
pub struct HashingReader<R> {
    inner: R,
    hasher: Hasher,
    read_bytes: u64,
}

impl<R: Read> HashingReader<R> {
    /// Wraps `inner`.
    pub fn new(inner: R) -> HashingReader<R> {
        HashingReader { inner, hasher: Hasher::new(), read_bytes: 0 }
    }

    /// The reader, the digest and the number of bytes read so far.
    pub fn finish(self) -> (R, Digest, u64) {
        (self.inner, self.hasher.finish(), self.read_bytes)
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.read_bytes += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyed_digests_are_those_of_rfc_4231() {
        let found = hmac(&[0x0b; 20], b"Hi There").hex();
        assert_eq!(found, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
        let found = hmac(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First").hex();
        assert_eq!(found, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    }

    #[test]
    fn the_size_of_the_parts_does_not_matter() {
        let bytes: Vec<u8> = (0..5000_u32).map(|number| number as u8).collect();
        for size in [1, 7, 64, 511, 512, 513, 1025, 5000] {
            let mut hasher = Hasher::new();
            bytes.chunks(size).for_each(|part| hasher.update(part));
            assert_eq!(hasher.finish(), Digest::of(&bytes), "{size}");
        }
    }

    #[test]
    fn digest_round_trips_through_text() {
        let digest = Digest::of(b"");
        assert_eq!(digest.to_string(), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(digest.to_string().parse(), Ok(digest));
    }

    #[test]
    fn digest_refuses_other_text() {
        for text in ["", "sha256:", "sha512:00", "sha256:E3B0", &format!("sha256:{}", "G".repeat(64))] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn chain_of_one_layer_is_its_diff_id() {
        let diff_id = DiffId(Digest::of(b"a"));
        assert_eq!(ChainId::of(&[diff_id]), Some(ChainId(diff_id.0)));
        assert_eq!(ChainId::of(&[]), None);
    }

    #[test]
    fn fields_keep_their_boundaries() {
        let hash = |fields: &[&str]| {
            let mut hasher = Hasher::new();
            fields.iter().for_each(|field| hasher.field(field.as_bytes()));
            hasher.finish()
        };
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
    }
}
