//! Names of images and platforms.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// A normalised image reference: `busybox` is `docker.io/library/busybox:latest`.
///
/// Grammar and normalisation are those of the distribution project's `reference` package as Docker uses it. A reference
/// with a digest is resolved by the digest alone; the tag is kept for people.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageRef {
    /// Registry host with its port, `docker.io` for Docker Hub.
    pub host: String,
    /// Repository path below the host, such as `library/busybox`.
    pub repository: String,
    /// Tag; `latest` when neither tag nor digest was written.
    pub tag: Option<String>,
    /// Digest, when written.
    pub digest: Option<Digest>,
}

/// Why a text is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadReference {
    /// Nothing was written.
    #[error("an image name is empty")]
    Empty,
    /// Upper-case letters in the repository path.
    #[error("image name `{0}` has upper-case letters; repository names are lower case")]
    UpperCase(String),
    /// Anything else that the grammar does not allow.
    #[error("`{0}` is not a valid image name")]
    Invalid(String),
}

impl ImageRef {
    /// `host/repository:tag`, with the digest if there is one: the full normalised form, used as a key.
    pub fn canonical(&self) -> String {
        let mut text = format!("{}/{}", self.host, self.repository);
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push_str(&format!("@{digest}"));
        }
        text
    }

    /// The form people write: without `docker.io/`, `library/` where Docker leaves them out; the tag stays.
    pub fn familiar(&self) -> String {
        let canonical = self.canonical();
        match canonical.strip_prefix("docker.io/") {
            Some(rest) => rest.strip_prefix("library/").filter(|short| !short.contains('/')).unwrap_or(rest).to_owned(),
            None => canonical,
        }
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.familiar())
    }
}

impl fmt::Debug for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImageRef({})", self.canonical())
    }
}

impl FromStr for ImageRef {
    type Err = BadReference;

    fn from_str(text: &str) -> Result<ImageRef, BadReference> {
        if text.is_empty() {
            return Err(BadReference::Empty);
        }
        let invalid = || BadReference::Invalid(text.to_owned());
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|_| invalid())?)),
            None => (text, None),
        };
        if rest.len() == 64 && rest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(invalid());
        }
        let (host, path) = match rest.split_once('/') {
            Some((first, path))
                if first.contains(['.', ':']) || first == "localhost" || first.chars().any(char::is_uppercase) =>
            {
                (first, path)
            }
            _ => ("docker.io", rest),
        };
        let (path, tag) = match path.rsplit_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (path, None),
        };
        if path.chars().any(|c| c.is_ascii_uppercase()) {
            return Err(BadReference::UpperCase(text.to_owned()));
        }
        let repository = match host {
            "docker.io" | "index.docker.io" if !path.contains('/') => format!("library/{path}"),
            _ => path.to_owned(),
        };
        let host = if host == "index.docker.io" { "docker.io" } else { host };
        let tag = match (tag, digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some("latest".to_owned()),
        };
        let valid = is_host(host)
            && repository.len() < 256
            && repository.split('/').all(is_component)
            && tag.as_deref().is_none_or(is_tag);
        if valid { Ok(ImageRef { host: host.to_owned(), repository, tag, digest }) } else { Err(invalid()) }
    }
}

fn is_host(host: &str) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        let port_ok = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return address.parse::<std::net::Ipv6Addr>().is_ok() && port_ok;
    }
    let (name, port_ok) = match host.split_once(':') {
        Some((name, port)) => (name, is_port(port)),
        None => (host, true),
    };
    let label_ok = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    port_ok && name.split('.').all(label_ok)
}

fn is_port(port: &str) -> bool {
    !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
}

/// `[a-z0-9]+` runs joined by `.`, `_`, `__` or any number of `-`.
fn is_component(component: &str) -> bool {
    let bytes = component.as_bytes();
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return false };
    if !is_word(first) || !is_word(last) {
        return false;
    }
    let mut separator = String::new();
    for &byte in bytes {
        if is_word(byte) {
            let ok = matches!(separator.as_str(), "" | "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-');
            if !ok {
                return false;
            }
            separator.clear();
        } else if matches!(byte, b'.' | b'_' | b'-') {
            separator.push(char::from(byte));
        } else {
            return false;
        }
    }
    true
}

fn is_tag(tag: &str) -> bool {
    let mut bytes = tag.bytes();
    tag.len() <= 128
        && bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// An operating system and CPU kind, as in OCI descriptors: `linux/arm/v7`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Platform {
    /// Go's name: `amd64`, `arm64`, `arm`. The first member of OCI's JSON.
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// `v7`, `v8`; empty for none. `arm64` is stored without its implied `v8`, `amd64` without `v1`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl Platform {
    /// The platform that this program runs on.
    pub fn host() -> Platform {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "aarch64" => ("arm64", ""),
            "arm" => ("arm", "v7"),
            "x86" => ("386", ""),
            "powerpc64" => ("ppc64le", ""),
            other => (other, ""),
        };
        Platform { os: "linux".into(), architecture: architecture.into(), variant: variant.into() }
    }

    /// Whether an image made for `image` can stand where `self` is asked for.
    pub fn accepts(&self, image: &Platform) -> bool {
        self.rank(image).is_some()
    }

    /// How far an image made for `image` is from what `self` asks for: 0 for the same; `None` if it does not run there.
    ///
    /// The order of containerd's `platforms.Only`: lower variants of the same architecture, the nearest first (`amd64/v3` takes
    /// `v2`, `arm/v7` takes `v6`, `arm64/v9` takes `v8.5`), then what the processor runs beside it (`386`, 32-bit `arm`).
    pub fn rank(&self, image: &Platform) -> Option<u32> {
        /// Behind all variants of the architecture itself.
        const OTHER_ARCHITECTURE: u32 = 100;
        if self.os != image.os {
            return None;
        }
        let (wanted, found) = (normal_arch(&self.architecture, &self.variant), normal_arch(&image.architecture, &image.variant));
        if wanted == found {
            return Some(0);
        }
        let ((wanted, mine), (found, other)) = ((wanted.0.as_str(), wanted.1.as_str()), (found.0.as_str(), found.1.as_str()));
        match (wanted, found) {
            ("amd64", "amd64") => level(mine, 1)?.0.checked_sub(level(other, 1)?.0),
            ("amd64", "386") if other.is_empty() => Some(OTHER_ARCHITECTURE),
            ("arm", "arm") => level(mine, 7)?.0.checked_sub(level(other, 7)?.0.max(5)),
            ("arm64", "arm64") => match (level(mine, 8)?, level(other, 8)?) {
                ((9, mine), (9, other)) | ((8, mine), (8, other)) => mine.checked_sub(other),
                // 9.0 is 8.5 and more
                ((9, mine), (8, other)) => Some((mine + 5).min(9).checked_sub(other)? + mine + 1),
                _ => None,
            },
            ("arm64", "arm") => Some(OTHER_ARCHITECTURE + 8_u32.checked_sub(level(other, 7)?.0.max(5))?),
            _ => None,
        }
    }
}

/// `v8.2` → (8, 2); `implied` stands for no variant.
fn level(variant: &str, implied: u32) -> Option<(u32, u32)> {
    if variant.is_empty() {
        return Some((implied, 0));
    }
    let (major, minor) = variant.strip_prefix('v')?.split_once('.').unwrap_or((&variant[1..], "0"));
    // more digits than any processor has
    let number = |digits: &str| digits.parse::<u8>().ok().map(u32::from);
    Some((number(major)?, number(minor)?))
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

/// Text that is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a platform such as `linux/amd64` or `linux/arm/v7`")]
pub struct BadPlatform(pub String);

impl FromStr for Platform {
    type Err = BadPlatform;

    /// Follows containerd's `platforms` package: one word is an OS or an architecture, aliases (`x86_64`, `aarch64`,
    /// `armhf`) are normalised.
    fn from_str(text: &str) -> Result<Platform, BadPlatform> {
        let bad = || BadPlatform(text.to_owned());
        let ok = |part: &str| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
        };
        let lower = text.to_lowercase();
        let parts: Vec<&str> = lower.split('/').collect();
        if !parts.iter().all(|part| ok(part)) {
            return Err(bad());
        }
        let host = Platform::host();
        match parts.as_slice() {
            [one] if is_known_os(one) => Ok(Platform { os: normal_os(one), ..host }),
            [one] => {
                let (architecture, variant) = normal_arch(one, "");
                if is_known_arch(&architecture) { Ok(Platform { os: host.os, architecture, variant }) } else { Err(bad()) }
            }
            [os, arch] => {
                let (architecture, variant) = normal_arch(arch, "");
                Ok(Platform { os: normal_os(os), architecture, variant })
            }
            [os, arch, variant] => {
                let (architecture, variant) = normal_arch(arch, variant);
                Ok(Platform { os: normal_os(os), architecture, variant })
            }
            _ => Err(bad()),
        }
    }
}

fn normal_os(os: &str) -> String {
    if os == "macos" { "darwin".to_owned() } else { os.to_owned() }
}

fn normal_arch(arch: &str, variant: &str) -> (String, String) {
    let (arch, variant) = match (arch, variant) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "" | "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "" | "8" | "v8") => ("arm64", ""),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        other => other,
    };
    (arch.to_owned(), variant.to_owned())
}

fn is_known_os(os: &str) -> bool {
    matches!(
        os,
        "linux" | "windows" | "darwin" | "macos" | "freebsd" | "netbsd" | "openbsd" | "solaris" | "android" | "js" | "wasip1"
    )
}

fn is_known_arch(arch: &str) -> bool {
    matches!(
        arch,
        "386"
            | "amd64"
            | "arm"
            | "arm64"
            | "loong64"
            | "mips"
            | "mipsle"
            | "mips64"
            | "mips64le"
            | "ppc64"
            | "ppc64le"
            | "riscv64"
            | "s390x"
            | "wasm"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn canonical(text: &str, expected: &str) {
        let image_ref: ImageRef = text.parse().expect(text);
        assert_eq!(image_ref.canonical(), expected);
    }

    #[test]
    fn references_normalise_as_dockers_do() {
        canonical("busybox", "docker.io/library/busybox:latest");
        canonical("conf/base:1", "docker.io/conf/base:1");
        canonical("localhost/x", "localhost/x:latest");
        canonical("127.0.0.1:5000/conf/base:1", "127.0.0.1:5000/conf/base:1");
        canonical("index.docker.io/busybox", "docker.io/library/busybox:latest");
        canonical("[::1]:5000/a/b", "[::1]:5000/a/b:latest");
        let digest = Digest::of(b"x");
        canonical(&format!("alpine@{digest}"), &format!("docker.io/library/alpine@{digest}"));
    }

    #[test]
    fn bad_references_are_refused() {
        for text in ["", "Base", "a//b", "a:", "a b", "-a", "a@sha256:12", "a/b:t@g", "http://x/y", &"a".repeat(64)] {
            assert!(text.parse::<ImageRef>().is_err(), "{text}");
        }
    }

    #[test]
    fn people_see_the_short_form() {
        assert_eq!("docker.io/library/busybox:1".parse::<ImageRef>().expect("valid").to_string(), "busybox:1");
        assert_eq!("quay.io/a/b".parse::<ImageRef>().expect("valid").to_string(), "quay.io/a/b:latest");
    }

    /// `wanted` takes these, best first, and nothing else of `others`.
    #[track_caller]
    fn takes(wanted: &str, accepted: &[&str], others: &[&str]) {
        let parse = |text: &&str| text.parse::<Platform>().expect(text);
        let platform = parse(&wanted);
        let ranks: Vec<Option<u32>> = accepted.iter().map(|text| platform.rank(&parse(text))).collect();
        assert!(ranks.iter().all(Option::is_some) && ranks.is_sorted_by(|left, right| left < right), "{ranks:?}");
        assert!(others.iter().all(|text| !platform.accepts(&parse(text))), "{wanted}");
    }

    #[test]
    fn processors_run_what_came_before_them() {
        takes("linux/amd64", &["linux/amd64/v1", "linux/386"], &["linux/amd64/v2", "linux/arm64", "windows/amd64"]);
        takes("linux/amd64/v3", &["linux/amd64/v3", "linux/amd64/v2", "linux/amd64", "linux/386"], &["linux/amd64/v4"]);
        takes("linux/386", &["linux/386"], &["linux/amd64"]);
        takes("linux/arm/v7", &["linux/arm", "linux/arm/v6", "linux/arm/v5"], &["linux/arm/v8", "linux/arm64"]);
        takes("linux/arm64", &["linux/arm64/v8", "linux/arm/v8", "linux/arm/v7", "linux/arm/v5"], &["linux/arm64/v8.1"]);
        takes(
            "linux/arm64/v9.1",
            &["linux/arm64/v9.1", "linux/arm64/v9", "linux/arm64/v8.6", "linux/arm64", "linux/arm/v8"],
            &["linux/arm64/v9.2", "linux/arm64/v8.7"],
        );
        takes("linux/riscv64/x", &["linux/riscv64/x"], &["linux/riscv64", "linux/riscv64/v1"]);
    }

    #[test]
    fn platforms_normalise() {
        let parse = |text: &str| text.parse::<Platform>().expect(text).to_string();
        assert_eq!(parse("linux/x86_64"), "linux/amd64");
        assert_eq!(parse("linux/arm64/v8"), "linux/arm64");
        assert_eq!(parse("linux/armhf"), "linux/arm/v7");
        assert_eq!(parse("arm64"), "linux/arm64");
        assert!("linux/".parse::<Platform>().is_err());
        assert!("a/b/c/d".parse::<Platform>().is_err());
    }
}
