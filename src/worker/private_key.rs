//! Private keys of ssh: how files hold them, and signatures by them.
//!
//! Spec: OpenSSH's PROTOCOL.key for `openssh-key-v1`; RFC 8017, 5208 and 5958 for the older forms; RFC 4251, 4253, 5656, 8332
//! and 8709 for what public keys and signatures look like on the wire.

use ring::rand::SystemRandom;
use ring::rsa::{KeyPairComponents, PublicKeyComponents};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RSA_PKCS1_SHA512, RsaKeyPair,
};

use crate::base64;

/// Why a key cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// Another kind of file.
    #[error("this is no private key")]
    NotAKey,
    /// Nobody can be asked for the passphrase.
    #[error("the key has a passphrase")]
    Encrypted,
    /// A key of a kind that is not supported.
    #[error("keys of this kind are not supported: ed25519, RSA of 2048 to 4096 bits and ECDSA with P-256 or P-384 are")]
    Unsupported,
    /// Its parts do not fit together.
    #[error("the key is damaged")]
    Damaged,
}

/// A key and what it is called on the wire.
pub struct PrivateKey {
    /// The public key as an agent tells it.
    pub public: Vec<u8>,
    signer: Signer,
}

enum Signer {
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
    Ecdsa(Curve, EcdsaKeyPair),
}

#[derive(Clone, Copy)]
enum Curve {
    P256,
    P384,
}

/// With RSA the client says which digest it wants (RFC 8332, by the agent protocol's flags).
const WANTS_SHA256: u32 = 2;
const WANTS_SHA512: u32 = 4;

impl PrivateKey {
    /// Reads the text of a key file.
    ///
    /// # Errors
    /// See [`BadKey`].
    pub fn read(text: &str) -> Result<PrivateKey, BadKey> {
        let (label, bytes) = unwrap(text)?;
        match label {
            "OPENSSH" => openssh(&bytes),
            "RSA" => rsa(RsaKeyPair::from_der(&bytes)),
            "" => pkcs8(&bytes),
            "ENCRYPTED" => Err(BadKey::Encrypted),
            _ => Err(BadKey::Unsupported),
        }
    }

    /// The signature of `data` as an agent answers; `None` for one that cannot be made, such as RSA with SHA-1.
    pub fn sign(&self, data: &[u8], flags: u32) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        let (name, signature) = match &self.signer {
            Signer::Ed25519(pair) => ("ssh-ed25519", pair.sign(data).as_ref().to_vec()),
            Signer::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                let name = if flags & WANTS_SHA512 != 0 {
                    pair.sign(&RSA_PKCS1_SHA512, &random, data, &mut signature).ok()?;
                    "rsa-sha2-512"
                } else if flags & WANTS_SHA256 != 0 {
                    pair.sign(&RSA_PKCS1_SHA256, &random, data, &mut signature).ok()?;
                    "rsa-sha2-256"
                } else {
                    return None;
                };
                (name, signature)
            }
            Signer::Ecdsa(curve, pair) => {
                let fixed = pair.sign(&random, data).ok()?;
                let (r, s) = fixed.as_ref().split_at(fixed.as_ref().len() / 2);
                (curve.key_type(), [number(r), number(s)].concat())
            }
        };
        Some([string(name.as_bytes()), string(&signature)].concat())
    }

    fn ed25519(pair: Ed25519KeyPair) -> PrivateKey {
        let public = [string(b"ssh-ed25519"), string(pair.public_key().as_ref())].concat();
        PrivateKey { public, signer: Signer::Ed25519(pair) }
    }

    fn ecdsa(curve: Curve, pair: EcdsaKeyPair) -> PrivateKey {
        let name = curve.name().as_bytes();
        let public = [string(curve.key_type().as_bytes()), string(name), string(pair.public_key().as_ref())].concat();
        PrivateKey { public, signer: Signer::Ecdsa(curve, pair) }
    }
}

impl Curve {
    fn name(self) -> &'static str {
        match self {
            Curve::P256 => "nistp256",
            Curve::P384 => "nistp384",
        }
    }

    fn key_type(self) -> &'static str {
        match self {
            Curve::P256 => "ecdsa-sha2-nistp256",
            Curve::P384 => "ecdsa-sha2-nistp384",
        }
    }

    fn algorithm(self) -> &'static ring::signature::EcdsaSigningAlgorithm {
        match self {
            Curve::P256 => &ECDSA_P256_SHA256_FIXED_SIGNING,
            Curve::P384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
        }
    }

    fn scalar_bytes(self) -> usize {
        match self {
            Curve::P256 => 32,
            Curve::P384 => 48,
        }
    }
}

/// What stands before `PRIVATE KEY` in the file's first line, and the bytes below it.
fn unwrap(text: &str) -> Result<(&str, Vec<u8>), BadKey> {
    let (_, after) = text.split_once("-----BEGIN ").ok_or(BadKey::NotAKey)?;
    let (label, after) = after.split_once("-----").ok_or(BadKey::NotAKey)?;
    let label = label.strip_suffix("PRIVATE KEY").ok_or(BadKey::NotAKey)?.trim_end();
    let (body, _) = after.split_once("-----END ").ok_or(BadKey::Damaged)?;
    if body.lines().any(|line| line.starts_with("Proc-Type:") && line.contains("ENCRYPTED")) {
        return Err(BadKey::Encrypted);
    }
    let bytes = base64::decode(&body.split_ascii_whitespace().collect::<String>()).ok_or(BadKey::Damaged)?;
    Ok((label, bytes))
}

fn rsa(read: Result<RsaKeyPair, ring::error::KeyRejected>) -> Result<PrivateKey, BadKey> {
    let pair = read.map_err(|error| if is_size(&error) { BadKey::Unsupported } else { BadKey::Damaged })?;
    let PublicKeyComponents::<Vec<u8>> { n, e } = pair.public().into();
    Ok(PrivateKey { public: [string(b"ssh-rsa"), number(&e), number(&n)].concat(), signer: Signer::Rsa(pair) })
}

/// The crate tells the reason in words alone.
fn is_size(error: &ring::error::KeyRejected) -> bool {
    matches!(error.to_string().as_str(), "TooSmall" | "TooLarge" | "PrivateModulusLenNotMultipleOf512Bits")
}

fn pkcs8(bytes: &[u8]) -> Result<PrivateKey, BadKey> {
    if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes) {
        return Ok(PrivateKey::ed25519(pair));
    }
    for curve in [Curve::P256, Curve::P384] {
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(curve.algorithm(), bytes, &SystemRandom::new()) {
            return Ok(PrivateKey::ecdsa(curve, pair));
        }
    }
    rsa(RsaKeyPair::from_pkcs8(bytes)).map_err(|_| BadKey::Unsupported)
}

fn openssh(bytes: &[u8]) -> Result<PrivateKey, BadKey> {
    let mut outer = Wire(bytes.strip_prefix(b"openssh-key-v1\0").ok_or(BadKey::Damaged)?);
    let cipher = outer.string().ok_or(BadKey::Damaged)?;
    if cipher != b"none" {
        return Err(BadKey::Encrypted);
    }
    let mut inner = || {
        let (_function, _options, count, _public) = (outer.string()?, outer.string()?, outer.u32()?, outer.string()?);
        let mut inner = Wire(outer.string()?);
        (count == 1 && inner.u32()? == inner.u32()?).then_some(inner)
    };
    let mut key = inner().ok_or(BadKey::Damaged)?;
    match key.string().ok_or(BadKey::Damaged)? {
        b"ssh-ed25519" => openssh_ed25519(&mut key).ok_or(BadKey::Damaged),
        b"ssh-rsa" => openssh_rsa(&mut key).ok_or(BadKey::Damaged)?,
        b"ecdsa-sha2-nistp256" => openssh_ecdsa(Curve::P256, &mut key).ok_or(BadKey::Damaged),
        b"ecdsa-sha2-nistp384" => openssh_ecdsa(Curve::P384, &mut key).ok_or(BadKey::Damaged),
        _ => Err(BadKey::Unsupported),
    }
}

fn openssh_ed25519(key: &mut Wire<'_>) -> Option<PrivateKey> {
    let public = key.string()?;
    // the seed, and the public key once more
    let seed = key.string()?.get(..32)?;
    Ed25519KeyPair::from_seed_and_public_key(seed, public).ok().map(PrivateKey::ed25519)
}

fn openssh_ecdsa(curve: Curve, key: &mut Wire<'_>) -> Option<PrivateKey> {
    let (_curve, public, scalar) = (key.string()?, key.string()?, plain(key.string()?));
    let mut padded = vec![0; curve.scalar_bytes().checked_sub(scalar.len())?];
    padded.extend_from_slice(scalar);
    let pair = EcdsaKeyPair::from_private_key_and_public_key(curve.algorithm(), &padded, public, &SystemRandom::new());
    Some(PrivateKey::ecdsa(curve, pair.ok()?))
}

#[allow(non_snake_case)] // names of the specification
fn openssh_rsa(key: &mut Wire<'_>) -> Option<Result<PrivateKey, BadKey>> {
    let [n, e, d, qInv, p, q] =
        [key.string()?, key.string()?, key.string()?, key.string()?, key.string()?, key.string()?].map(plain);
    // the exponents of the two primes are not in the file
    let (dP, dQ) = (remainder(d, &less_one(p)?), remainder(d, &less_one(q)?));
    let (dP, dQ) = (plain(&dP), plain(&dQ));
    Some(rsa(RsaKeyPair::from_components(&KeyPairComponents { public_key: PublicKeyComponents { n, e }, d, p, q, dP, dQ, qInv })))
}

/// An odd number less one.
fn less_one(odd: &[u8]) -> Option<Vec<u8>> {
    let (last, rest) = odd.split_last().filter(|(last, _)| **last & 1 == 1)?;
    Some([rest, &[last & !1]].concat())
}

/// `value` modulo `modulus`, both with the highest byte first. Bit by bit: it is done once for a key.
fn remainder(value: &[u8], modulus: &[u8]) -> Vec<u8> {
    let wide = [&[0], modulus].concat();
    let mut rest = vec![0_u8; wide.len()];
    for bit in value.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)) {
        let mut carry = bit;
        for byte in rest.iter_mut().rev() {
            (*byte, carry) = (*byte << 1 | carry, *byte >> 7);
        }
        if rest >= wide {
            let mut borrow = false;
            for (byte, less) in rest.iter_mut().zip(&wide).rev() {
                let (first, under) = byte.overflowing_sub(*less);
                let (second, under_too) = first.overflowing_sub(u8::from(borrow));
                (*byte, borrow) = (second, under || under_too);
            }
        }
    }
    rest
}

/// A number without zeros in front.
fn plain(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// Bytes in the form of ssh's messages (RFC 4251, 5).
pub struct Wire<'a>(pub &'a [u8]);

impl<'a> Wire<'a> {
    /// A number of four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*bytes))
    }

    /// Bytes behind their length.
    pub fn string(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u32()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }
}

/// Writes what [`Wire::string`] reads.
pub fn string(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("keys and signatures are short");
    [&length.to_be_bytes(), bytes].concat()
}

/// A number that is not negative.
fn number(bytes: &[u8]) -> Vec<u8> {
    let bytes = plain(bytes);
    match bytes.first() {
        Some(first) if first & 0x80 != 0 => string(&[&[0], bytes].concat()),
        _ => string(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remainders() {
        let check = |value: u64, modulus: u64| {
            let rest = remainder(&value.to_be_bytes(), plain(&modulus.to_be_bytes()));
            let rest = rest.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
            assert_eq!(rest, value % modulus, "{value} % {modulus}");
        };
        for (value, modulus) in [(0, 1), (7, 7), (u64::MAX, 255), (u64::MAX, u64::MAX), (1 << 40, 0xfffe), (12345678901, 97)] {
            check(value, modulus);
        }
    }

    #[test]
    fn numbers_have_no_sign() {
        assert_eq!(number(&[0, 0, 0x7f]), [0, 0, 0, 1, 0x7f]);
        assert_eq!(number(&[0x80]), [0, 0, 0, 2, 0, 0x80]);
        assert_eq!(number(&[]), [0, 0, 0, 0]);
    }

    #[test]
    fn what_is_no_key_says_why() {
        let error = |text: &str| PrivateKey::read(text).err();
        assert_eq!(error("ssh-ed25519 AAAA me"), Some(BadKey::NotAKey));
        assert_eq!(error("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), Some(BadKey::NotAKey));
        assert_eq!(error("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA"), Some(BadKey::Damaged));
        assert_eq!(
            error("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"),
            Some(BadKey::Damaged)
        );
        assert_eq!(
            error("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"),
            Some(BadKey::Encrypted)
        );
        assert_eq!(error("-----BEGIN DSA PRIVATE KEY-----\nAAAA\n-----END DSA PRIVATE KEY-----\n"), Some(BadKey::Unsupported));
        let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        assert_eq!(error(old), Some(BadKey::Encrypted));
    }
}
