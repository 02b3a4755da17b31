//! Reads `--cache-from` and `--cache-to`.
//!
//! Source of the forms: docker/buildx, `docs/reference/buildx_build.md`; of the keys: moby/buildkit, `README.md`, "Cache".

use std::path::PathBuf;

use super::sign::Keys;
use crate::diagnostic::nearest;
use crate::digest::Digest;
use crate::image::Dialect;
use crate::layer::{Compression, Encoding};
use crate::reference::{BadReference, ImageRef};

/// A cache to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSource {
    /// Where it is.
    pub address: Address,
}

/// A cache to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheTarget {
    /// Where it goes.
    pub address: Address,
    /// Which layers go with it.
    pub mode: Mode,
    /// How these are compressed.
    pub encoding: Encoding,
    /// `force-compression=`: those of other caches too.
    pub recompress: bool,
    /// What the root document is.
    pub root: RootForm,
    /// `oci-mediatypes=`.
    pub dialect: Dialect,
    /// `mounts=`.
    pub mounts: Mounts,
    /// `ignore-error=`.
    pub on_failure: OnFailure,
}

/// Where a cache is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An OCI layout.
    Directory {
        /// The directory.
        path: PathBuf,
        /// The name in its index.
        tag: String,
        /// `digest=`: what to read whatever the name stands for.
        digest: Option<Digest>,
    },
    /// A repository.
    Registry {
        /// Its name and tag.
        image_ref: ImageRef,
        /// `registry.insecure=`.
        insecure: bool,
    },
    /// A bucket.
    Bucket(Box<BucketAddress>),
    /// The config of the image that is built.
    Image,
}

/// A bucket of S3, and where in it the cache is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketAddress {
    /// Its name.
    pub bucket: String,
    /// Where Amazon has it.
    pub region: String,
    /// Another server: `http(s)://HOST[:PORT]`.
    pub endpoint: Option<String>,
    /// Whether that server wants the bucket in the path rather than in its name.
    pub path_style: bool,
    /// Before all names.
    pub prefix: String,
    /// Before the names of documents.
    pub manifests_prefix: String,
    /// Before the names of blobs.
    pub blobs_prefix: String,
    /// The cache's own; the first is read. At least one.
    pub names: Vec<String>,
    /// Who asks; nobody in particular without.
    pub keys: Option<Keys>,
}

/// `mode=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Layers of the image; of other steps, what they came to.
    Min,
    /// Layers of all steps.
    Max,
}

/// `image-manifest=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootForm {
    /// An image manifest, which every registry takes.
    Manifest,
    /// An index whose entries are the blobs themselves, as BuildKit used to write.
    Index,
}

/// `mounts=`: which contents of `RUN --mount=type=cache` go along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mounts {
    /// None.
    None,
    /// Those that the build has.
    All,
    /// Those with these ids, `a;b`.
    Ids(Vec<String>),
}

/// What becomes of a build whose cache could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// It fails.
    Fail,
    /// It says so.
    Note,
}

/// Why a text is no cache.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// A field without `=`.
    #[error("`{0}` is not `key=value`")]
    Syntax(String),
    /// No `type=`.
    #[error("a cache needs `type=`: one of {}", TYPES.join(", "))]
    NoType,
    /// No such type.
    #[error("unknown cache type `{word}`{}", hint(*.nearest))]
    UnknownType {
        /// As written.
        word: String,
        /// What may have been meant.
        nearest: Option<&'static str>,
    },
    /// No such key for this type.
    #[error("unknown key `{key}` for `type={kind}`{}", hint(*.nearest))]
    UnknownKey {
        /// As written.
        key: String,
        /// The type.
        kind: &'static str,
        /// What may have been meant.
        nearest: Option<&'static str>,
    },
    /// A key that has to be there.
    #[error("`type={kind}` needs `{key}=`{}", variable_hint(*.variable))]
    Missing {
        /// The type.
        kind: &'static str,
        /// The key.
        key: &'static str,
        /// The variable that would do as well.
        variable: Option<&'static str>,
    },
    /// A value that the key cannot have.
    #[error("`{key}={value}` is not valid: {expected} is expected")]
    BadValue {
        /// The key.
        key: String,
        /// As written.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A name that is none.
    #[error("`ref={name}` is not valid: {reason}")]
    BadName {
        /// As written.
        name: String,
        /// Why.
        reason: BadReference,
    },
}

fn variable_hint(variable: Option<&str>) -> String {
    variable.map(|name| format!(" (or the variable `{name}`)")).unwrap_or_default()
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map(|word| format!("; did you mean `{word}`?")).unwrap_or_default()
}

const TYPES: [&str; 6] = ["registry", "local", "inline", "s3", "gha", "azblob"];
const REGISTRY_KEYS: [&str; 2] = ["ref", "registry.insecure"];
const LOCAL_KEYS: [&str; 4] = ["src", "dest", "tag", "digest"];
const BUCKET_KEYS: [&str; 16] = [
    "bucket",
    "region",
    "endpoint_url",
    "use_path_style",
    "prefix",
    "manifests_prefix",
    "blobs_prefix",
    "name",
    "access_key_id",
    "secret_access_key",
    "session_token",
    // how BuildKit's own client behaves
    "touch_refresh",
    "upload_parallelism",
    "disable_accept_encoding",
    "retry_mode",
    "retry_max_attempts",
];
/// How a cache is written, whatever its type.
const WRITING_KEYS: [&str; 8] = [
    "mode",
    "mounts",
    "image-manifest",
    "oci-mediatypes",
    "compression",
    "compression-level",
    "force-compression",
    "ignore-error",
];

/// What a flag asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked<T> {
    /// This.
    Known(T),
    /// Something that croze cannot do; the sentence says so.
    Ignored(String),
}

/// The client's environment: the value of a variable that is set and not empty.
pub type Variables<'a> = dyn Fn(&str) -> Option<String> + 'a;

impl CacheSource {
    /// Reads the fields of a `--cache-from`; one field without `=` is the name of an image. `variable` knows the client's
    /// environment.
    ///
    /// # Errors
    /// Any word that is not understood.
    pub fn read(fields: &[String], variable: &Variables<'_>) -> Result<Asked<CacheSource>, FlagError> {
        let fields = Fields::read(fields)?;
        if let Some(ignored) = fields.unavailable("--cache-from") {
            return Ok(Asked::Ignored(ignored));
        }
        // buildx takes one text for both flags, so what is about writing may stand here
        Ok(Asked::Known(CacheSource { address: fields.address("src", variable)? }))
    }
}

impl CacheTarget {
    /// Reads the fields of a `--cache-to`; one field without `=` is the name of an image. `variable` knows the client's
    /// environment.
    ///
    /// # Errors
    /// Any word that is not understood.
    pub fn read(fields: &[String], variable: &Variables<'_>) -> Result<Asked<CacheTarget>, FlagError> {
        let fields = Fields::read(fields)?;
        if let Some(ignored) = fields.unavailable("--cache-to") {
            return Ok(Asked::Ignored(ignored));
        }
        let mode = match fields.value("mode").map(str::to_lowercase).as_deref() {
            None | Some("" | "min") => Mode::Min,
            Some("max") => Mode::Max,
            Some(value) => return Err(bad("mode", value, "`min` or `max`")),
        };
        let compression = match fields.value("compression") {
            None | Some("gzip") => Compression::Gzip,
            Some("zstd") => Compression::Zstd,
            Some("uncompressed") => Compression::None,
            Some("estargz") => Compression::Estargz,
            Some(value) => return Err(bad("compression", value, "`uncompressed`, `gzip`, `estargz` or `zstd`")),
        };
        let level = fields.value("compression-level");
        let level = level.map(|text| text.parse().map_err(|_| bad("compression-level", text, "a number"))).transpose()?;
        let dialect = if fields.boolean("oci-mediatypes")?.unwrap_or(true) { Dialect::Oci } else { Dialect::Docker };
        let as_manifest = fields.boolean("image-manifest")?.unwrap_or(dialect == Dialect::Oci);
        if as_manifest && dialect == Dialect::Docker {
            return Err(bad("image-manifest", "true", "with `oci-mediatypes=false`, `false`"));
        }
        Ok(Asked::Known(CacheTarget {
            address: fields.address("dest", variable)?,
            mode,
            encoding: Encoding { compression, level },
            recompress: fields.boolean("force-compression")?.unwrap_or(false),
            mounts: match fields.value("mounts") {
                None | Some("") => Mounts::None,
                Some("all") => Mounts::All,
                Some(ids) => Mounts::Ids(ids.split(';').map(str::to_owned).collect()),
            },
            root: if as_manifest { RootForm::Manifest } else { RootForm::Index },
            dialect,
            on_failure: if fields.boolean("ignore-error")?.unwrap_or(false) { OnFailure::Note } else { OnFailure::Fail },
        }))
    }
}

/// A flag's keys and values, all of them known.
struct Fields {
    kind: &'static str,
    pairs: Vec<(String, String)>,
}

impl Fields {
    fn read(fields: &[String]) -> Result<Fields, FlagError> {
        if let [name] = fields
            && !name.contains('=')
        {
            if name.is_empty() {
                return Err(FlagError::NoType);
            }
            return Ok(Fields { kind: "registry", pairs: vec![("ref".to_owned(), name.clone())] });
        }
        let mut pairs = Vec::new();
        for field in fields {
            let (key, value) = field.split_once('=').ok_or_else(|| FlagError::Syntax(field.clone()))?;
            pairs.push((key.trim().to_lowercase(), value.to_owned()));
        }
        let word = pairs.iter().rev().find(|(key, _)| key == "type").map(|(_, value)| value.as_str());
        let word = word.filter(|word| !word.is_empty()).ok_or(FlagError::NoType)?;
        let kind = TYPES.into_iter().find(|kind| *kind == word);
        let Some(kind) = kind else {
            return Err(FlagError::UnknownType { word: word.to_owned(), nearest: nearest(word, TYPES) });
        };
        let own: &[&str] = match kind {
            "registry" => &REGISTRY_KEYS,
            "local" => &LOCAL_KEYS,
            "inline" => &[],
            "s3" => &BUCKET_KEYS,
            // what is not available has its keys elsewhere
            _ => return Ok(Fields { kind, pairs }),
        };
        let known = || own.iter().copied().chain(WRITING_KEYS).chain(["type"]);
        for (key, _) in &pairs {
            if !known().any(|word| word == key) {
                return Err(FlagError::UnknownKey { key: key.clone(), kind, nearest: nearest(key, known()) });
            }
        }
        Ok(Fields { kind, pairs })
    }

    /// Why a type that BuildKit has is left out.
    fn unavailable(&self, flag: &str) -> Option<String> {
        let kind = self.kind;
        match kind {
            "registry" | "local" | "s3" => None,
            "inline" if flag == "--cache-to" => None,
            "inline" => {
                Some(format!("`{flag} type=inline` is ignored: name the image that has the cache, `type=registry,ref=NAME`"))
            }
            _ => {
                Some(format!("`{flag} type={kind}` is ignored: croze has no such cache; `registry`, `local` and `s3` are there"))
            }
        }
    }

    /// The last value counts.
    fn value(&self, key: &str) -> Option<&str> {
        self.pairs.iter().rev().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    fn required(&self, key: &'static str) -> Result<&str, FlagError> {
        let value = self.value(key).filter(|value| !value.is_empty());
        value.ok_or(FlagError::Missing { kind: self.kind, key, variable: None })
    }

    fn boolean(&self, key: &str) -> Result<Option<bool>, FlagError> {
        match self.value(key) {
            None => Ok(None),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Some(true)),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Some(false)),
            Some(value) => Err(bad(key, value, "`true` or `false`")),
        }
    }

    /// `path_key` names a directory's path.
    fn address(&self, path_key: &'static str, variable: &Variables<'_>) -> Result<Address, FlagError> {
        if self.kind == "s3" {
            return Ok(Address::Bucket(Box::new(self.bucket(variable)?)));
        }
        if self.kind == "inline" {
            return Ok(Address::Image);
        }
        if self.kind == "local" {
            let digest = self.value("digest").filter(|text| !text.is_empty());
            let digest =
                digest.map(|text| text.parse().map_err(|_| bad("digest", text, "`sha256:` and 64 digits"))).transpose()?;
            return Ok(Address::Directory {
                path: self.required(path_key)?.into(),
                tag: self.value("tag").filter(|tag| !tag.is_empty()).unwrap_or("latest").to_owned(),
                digest,
            });
        }
        let name = self.required("ref")?;
        let image_ref = name.parse().map_err(|reason| FlagError::BadName { name: name.to_owned(), reason })?;
        Ok(Address::Registry { image_ref, insecure: self.boolean("registry.insecure")?.unwrap_or(false) })
    }
}

impl Fields {
    fn bucket(&self, variable: &Variables<'_>) -> Result<BucketAddress, FlagError> {
        let text = |key: &str| self.value(key).filter(|value| !value.is_empty()).map(str::to_owned);
        let either = |key: &'static str, name: &'static str| {
            let missing = FlagError::Missing { kind: self.kind, key, variable: Some(name) };
            text(key).or_else(|| variable(name)).ok_or(missing)
        };
        let names: Vec<String> = text("name").unwrap_or_else(|| "buildkit".to_owned()).split(';').map(str::to_owned).collect();
        let keys = match (text("access_key_id"), text("secret_access_key")) {
            (Some(id), Some(secret)) => Some(Keys { id, secret, token: text("session_token") }),
            _ => variable("AWS_ACCESS_KEY_ID").zip(variable("AWS_SECRET_ACCESS_KEY")).map(|(id, secret)| Keys {
                id,
                secret,
                token: variable("AWS_SESSION_TOKEN"),
            }),
        };
        Ok(BucketAddress {
            bucket: either("bucket", "AWS_BUCKET")?,
            region: either("region", "AWS_REGION")?,
            endpoint: text("endpoint_url").or_else(|| variable("AWS_ENDPOINT_URL")),
            path_style: self.boolean("use_path_style")?.unwrap_or(false),
            prefix: text("prefix").unwrap_or_default(),
            manifests_prefix: self.value("manifests_prefix").unwrap_or("manifests/").to_owned(),
            blobs_prefix: self.value("blobs_prefix").unwrap_or("blobs/").to_owned(),
            names,
            keys,
        })
    }
}

fn bad(key: &str, value: &str, expected: &'static str) -> FlagError {
    FlagError::BadValue { key: key.to_owned(), value: value.to_owned(), expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Vec<String> {
        text.split(',').map(str::to_owned).collect()
    }

    fn from(text: &str) -> Result<Asked<CacheSource>, FlagError> {
        CacheSource::read(&fields(text), &|_| None)
    }

    #[track_caller]
    fn to(text: &str) -> CacheTarget {
        match CacheTarget::read(&fields(text), &|_| None).expect(text) {
            Asked::Known(target) => target,
            Asked::Ignored(why) => panic!("{why}"),
        }
    }

    #[test]
    fn short_and_long_forms_are_one() {
        assert_eq!(from("example.com/app:cache"), from("type=registry,ref=example.com/app:cache"));
        assert_eq!(to("example.com/app"), to("ref=example.com/app:latest,type=registry,mode=min"));
    }

    #[test]
    fn a_directory_is_read_and_written_by_different_keys() {
        let address = |digest| Address::Directory { path: "d".into(), tag: "latest".into(), digest };
        let Ok(Asked::Known(source)) = from("type=local,src=d") else { panic!("known") };
        assert_eq!(source.address, address(None));
        assert_eq!(to("type=local,dest=d").address, address(None));
        let digest = Digest::of(b"");
        let Ok(Asked::Known(source)) = from(&format!("type=local,src=d,digest={digest}")) else { panic!("known") };
        assert_eq!(source.address, address(Some(digest)));
    }

    #[test]
    fn how_a_cache_is_written() {
        let target = to("type=local,dest=d,mode=max,compression=zstd,compression-level=9,force-compression=true,ignore-error=1");
        assert_eq!(target.encoding, Encoding { compression: Compression::Zstd, level: Some(9) });
        assert_eq!((target.mode, target.recompress, target.on_failure), (Mode::Max, true, OnFailure::Note));
        assert_eq!((target.root, target.dialect), (RootForm::Manifest, Dialect::Oci));
        assert_eq!(target.mounts, Mounts::None);
        assert_eq!(to("type=inline").address, Address::Image);
        assert_eq!(to("type=local,dest=d,mounts=all").mounts, Mounts::All);
        assert_eq!(to("type=local,dest=d,mounts=a;/b").mounts, Mounts::Ids(vec!["a".into(), "/b".into()]));
        let target = to("type=registry,ref=a,oci-mediatypes=false");
        assert_eq!((target.root, target.dialect), (RootForm::Index, Dialect::Docker));
    }

    #[test]
    fn a_bucket_takes_what_is_missing_from_the_environment() {
        let text = fields("type=s3,bucket=b,prefix=p/,name=one;two,endpoint_url=http://127.0.0.1:1,use_path_style=true");
        let variable = |name: &str| match name {
            "AWS_REGION" => Some("eu-west-1".to_owned()),
            "AWS_ACCESS_KEY_ID" => Some("id".to_owned()),
            "AWS_SECRET_ACCESS_KEY" => Some("secret".to_owned()),
            _ => None,
        };
        let Ok(Asked::Known(CacheSource { address: Address::Bucket(found) })) = CacheSource::read(&text, &variable) else {
            panic!("a bucket")
        };
        let expected = BucketAddress {
            bucket: "b".into(),
            region: "eu-west-1".into(),
            endpoint: Some("http://127.0.0.1:1".into()),
            path_style: true,
            prefix: "p/".into(),
            manifests_prefix: "manifests/".into(),
            blobs_prefix: "blobs/".into(),
            names: vec!["one".into(), "two".into()],
            keys: Some(Keys { id: "id".into(), secret: "secret".into(), token: None }),
        };
        assert_eq!(*found, expected);
    }

    #[track_caller]
    fn refused(text: &str, message: &str) {
        assert_eq!(CacheTarget::read(&fields(text), &|_| None).expect_err(text).to_string(), message);
    }

    #[test]
    fn slips_are_named() {
        refused("type=registri,ref=a", "unknown cache type `registri`; did you mean `registry`?");
        refused("type=registry,reff=a", "unknown key `reff` for `type=registry`; did you mean `ref`?");
        refused("type=registry", "`type=registry` needs `ref=`");
        refused("type=local,src=d", "`type=local` needs `dest=`");
        refused("ref=a", "a cache needs `type=`: one of registry, local, inline, s3, gha, azblob");
        refused("", "a cache needs `type=`: one of registry, local, inline, s3, gha, azblob");
        refused("type=s3,bucket=b", "`type=s3` needs `region=` (or the variable `AWS_REGION`)");
        refused("type=local,x", "`x` is not `key=value`");
        refused("type=local,dest=d,mode=mid", "`mode=mid` is not valid: `min` or `max` is expected");
        refused(
            "type=registry,ref=A",
            "`ref=A` is not valid: image name `A` has upper-case letters; repository names are lower case",
        );
        refused(
            "type=local,dest=d,oci-mediatypes=false,image-manifest=true",
            "`image-manifest=true` is not valid: with `oci-mediatypes=false`, `false` is expected",
        );
    }
}
