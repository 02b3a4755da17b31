//! Reads `--cache-from` and `--cache-to`.
//!
//! Source of the forms: docker/buildx, `docs/reference/buildx_build.md`; of the keys: moby/buildkit, `README.md`, "Cache".

use std::time::Duration;

use super::address::{ActionsAddress, Address, BucketAddress, ContainerAddress};
use super::azure::AccountKey;
use super::sign::Keys;
use crate::base64;
use crate::duration;
use crate::fields::{self, FieldError, Kinds};
use crate::image::Dialect;
use crate::layer::{Compression, Encoding};

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
    /// A word that is not understood.
    #[error(transparent)]
    Field(#[from] FieldError),
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
}

fn variable_hint(variable: Option<&str>) -> String {
    variable.map(|name| format!(" (or the variable `{name}`)")).unwrap_or_default()
}

const KINDS: Kinds = Kinds { noun: "cache", types: &["registry", "local", "inline", "s3", "gha", "azblob"] };
const REGISTRY_KEYS: &[&str] = &["ref", "registry.insecure"];
const LOCAL_KEYS: &[&str] = &["src", "dest", "tag", "digest"];
const BUCKET_KEYS: &[&str] = &[
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
const CONTAINER_KEYS: &[&str] =
    &["account_url", "account_name", "container", "prefix", "manifests_prefix", "blobs_prefix", "name", "secret_access_key"];
const ACTIONS_KEYS: &[&str] = &[
    "url_v2",
    "token",
    "scope",
    "timeout",
    // the first version of the service, which is no more
    "url",
    "version",
    // whom BuildKit asks which blobs are there
    "ghtoken",
    "repository",
];
/// How a cache is written, whatever its type.
const WRITING_KEYS: &[&str] = &[
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
        if let Some(ignored) = fields.unavailable("--cache-from", variable) {
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
        if let Some(ignored) = fields.unavailable("--cache-to", variable) {
            return Ok(Asked::Ignored(ignored));
        }
        let mode = match fields.value("mode").map(str::to_lowercase).as_deref() {
            None | Some("" | "min") => Mode::Min,
            Some("max") => Mode::Max,
            Some(value) => return Err(fields::bad("mode", value, "`min` or `max`").into()),
        };
        let compression = match fields.value("compression") {
            None | Some("gzip") => Compression::Gzip,
            Some("zstd") => Compression::Zstd,
            Some("uncompressed") => Compression::None,
            Some("estargz") => Compression::Estargz,
            Some(value) => return Err(fields::bad("compression", value, "`uncompressed`, `gzip`, `estargz` or `zstd`").into()),
        };
        let level = fields.value("compression-level");
        let level = level.map(|text| text.parse().map_err(|_| fields::bad("compression-level", text, "a number"))).transpose()?;
        let dialect = if fields.boolean("oci-mediatypes")?.unwrap_or(true) { Dialect::Oci } else { Dialect::Docker };
        let as_manifest = fields.boolean("image-manifest")?.unwrap_or(dialect == Dialect::Oci);
        if as_manifest && dialect == Dialect::Docker {
            return Err(fields::bad("image-manifest", "true", "with `oci-mediatypes=false`, `false`").into());
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
                return Err(FieldError::NoType { kinds: KINDS }.into());
            }
            return Ok(Fields { kind: "registry", pairs: vec![("ref".to_owned(), name.clone())] });
        }
        let pairs = fields::pairs(fields)?;
        let kind = KINDS.of(&pairs)?;
        let own = match kind {
            "registry" => REGISTRY_KEYS,
            "local" => LOCAL_KEYS,
            "s3" => BUCKET_KEYS,
            "azblob" => CONTAINER_KEYS,
            "gha" => ACTIONS_KEYS,
            _ => &[],
        };
        let known = || own.iter().chain(WRITING_KEYS).copied().chain(["type"]);
        match pairs.iter().find(|(key, _)| !known().any(|word| word == key)) {
            Some((key, _)) => Err(fields::unknown_key(key, kind, known()).into()),
            None => Ok(Fields { kind, pairs }),
        }
    }

    /// Why a cache that BuildKit has is left out.
    fn unavailable(&self, flag: &str, variable: &Variables<'_>) -> Option<String> {
        match self.kind {
            "inline" if flag == "--cache-from" => {
                Some(format!("`{flag} type=inline` is ignored: name the image that has the cache, `type=registry,ref=NAME`"))
            }
            // as by buildx, so that one command line is good in a workflow and out of it
            "gha" if self.actions(variable).is_none() => Some(format!(
                "`{flag} type=gha` is ignored: outside of GitHub Actions it takes `url_v2=` and `token=` \
                 (or the variables `ACTIONS_RESULTS_URL` and `ACTIONS_RUNTIME_TOKEN`)"
            )),
            _ => None,
        }
    }

    fn value(&self, key: &str) -> Option<&str> {
        fields::last(&self.pairs, key)
    }

    /// What is not empty.
    fn text(&self, key: &str) -> Option<String> {
        self.value(key).filter(|value| !value.is_empty()).map(str::to_owned)
    }

    fn required(&self, key: &'static str) -> Result<&str, FlagError> {
        let value = self.value(key).filter(|value| !value.is_empty());
        value.ok_or(FlagError::Missing { kind: self.kind, key, variable: None })
    }

    fn boolean(&self, key: &str) -> Result<Option<bool>, FieldError> {
        self.value(key).map(|value| fields::boolean(key, value)).transpose()
    }

    /// `path_key` names a directory's path.
    fn address(&self, path_key: &'static str, variable: &Variables<'_>) -> Result<Address, FlagError> {
        Ok(match self.kind {
            "s3" => Address::Bucket(Box::new(self.bucket(variable)?)),
            "azblob" => Address::Container(Box::new(self.container(variable)?)),
            "gha" => {
                let missing = FlagError::Missing { kind: "gha", key: "token", variable: Some("ACTIONS_RUNTIME_TOKEN") };
                Address::Actions(Box::new(self.timed(self.actions(variable).ok_or(missing)?)?))
            }
            "inline" => Address::Image,
            "local" => {
                let digest = self.text("digest").map(|text| {
                    let parsed = text.parse();
                    parsed.map_err(|_| fields::bad("digest", &text, "`sha256:` and 64 digits"))
                });
                Address::Directory {
                    path: self.required(path_key)?.into(),
                    tag: self.text("tag").unwrap_or_else(|| "latest".to_owned()),
                    digest: digest.transpose()?,
                }
            }
            _ => Address::Registry {
                image_ref: fields::image_ref("ref", self.required("ref")?)?,
                insecure: self.boolean("registry.insecure")?.unwrap_or(false),
            },
        })
    }

    /// `a;b`.
    fn names(&self) -> Vec<String> {
        self.text("name").unwrap_or_else(|| "buildkit".to_owned()).split(';').map(str::to_owned).collect()
    }

    fn bucket(&self, variable: &Variables<'_>) -> Result<BucketAddress, FlagError> {
        let either = |key: &'static str, name: &'static str| {
            let missing = FlagError::Missing { kind: self.kind, key, variable: Some(name) };
            self.text(key).or_else(|| variable(name)).ok_or(missing)
        };
        let keys = match (self.text("access_key_id"), self.text("secret_access_key")) {
            (Some(id), Some(secret)) => Some(Keys { id, secret, token: self.text("session_token") }),
            _ => variable("AWS_ACCESS_KEY_ID").zip(variable("AWS_SECRET_ACCESS_KEY")).map(|(id, secret)| Keys {
                id,
                secret,
                token: variable("AWS_SESSION_TOKEN"),
            }),
        };
        Ok(BucketAddress {
            bucket: either("bucket", "AWS_BUCKET")?,
            region: either("region", "AWS_REGION")?,
            endpoint: self.text("endpoint_url").or_else(|| variable("AWS_ENDPOINT_URL")),
            path_style: self.boolean("use_path_style")?.unwrap_or(false),
            prefix: self.text("prefix").unwrap_or_default(),
            manifests_prefix: self.value("manifests_prefix").unwrap_or("manifests/").to_owned(),
            blobs_prefix: self.value("blobs_prefix").unwrap_or("blobs/").to_owned(),
            names: self.names(),
            keys,
        })
    }

    fn container(&self, variable: &Variables<'_>) -> Result<ContainerAddress, FlagError> {
        const URL: &str = "BUILDKIT_AZURE_STORAGE_ACCOUNT_URL";
        let missing = FlagError::Missing { kind: self.kind, key: "account_url", variable: Some(URL) };
        let url = self.text("account_url").or_else(|| variable(URL)).ok_or(missing)?;
        let (account_url, signature) = match url.split_once('?') {
            Some((base, query)) => (base.to_owned(), Some(query.to_owned())),
            None => (url, None),
        };
        let host = account_url.split_once("://").map(|(_, rest)| rest).filter(|rest| !rest.is_empty());
        let host = host.ok_or_else(|| fields::bad("account_url", &account_url, "`https://ACCOUNT.blob.core.windows.net`"))?;
        let account = self.text("account_name").or_else(|| variable("BUILDKIT_AZURE_STORAGE_ACCOUNT_NAME"));
        let account = account.unwrap_or_else(|| host.split(['.', ':', '/']).next().unwrap_or_default().to_owned());
        let key = self.text("secret_access_key").map(|text| {
            let bytes = base64::decode(&text);
            // the key itself is nobody's to read
            bytes.ok_or_else(|| fields::bad("secret_access_key", "…", "base64"))
        });
        Ok(ContainerAddress {
            signature,
            container: self
                .text("container")
                .or_else(|| variable("BUILDKIT_AZURE_STORAGE_CONTAINER"))
                .unwrap_or_else(|| "buildkit-cache".to_owned()),
            prefix: self.text("prefix").or_else(|| variable("BUILDKIT_AZURE_STORAGE_PREFIX")).unwrap_or_default(),
            manifests_prefix: self.value("manifests_prefix").unwrap_or("manifests").to_owned(),
            blobs_prefix: self.value("blobs_prefix").unwrap_or("blobs").to_owned(),
            names: self.names(),
            key: key.transpose()?.map(|key| AccountKey { account, key }),
            account_url,
        })
    }

    /// `None` without the service's place and a token.
    fn actions(&self, variable: &Variables<'_>) -> Option<ActionsAddress> {
        Some(ActionsAddress {
            url: self.text("url_v2").or_else(|| variable("ACTIONS_RESULTS_URL"))?,
            token: self.text("token").or_else(|| variable("ACTIONS_RUNTIME_TOKEN"))?,
            scope: self.text("scope").unwrap_or_else(|| "buildkit".to_owned()),
            timeout: TIMEOUT,
        })
    }

    fn timed(&self, address: ActionsAddress) -> Result<ActionsAddress, FieldError> {
        let Some(text) = self.text("timeout") else { return Ok(address) };
        match duration::parse(&text) {
            Some((timeout, false)) if !timeout.is_zero() => Ok(ActionsAddress { timeout, ..address }),
            _ => Err(fields::bad("timeout", &text, "a duration such as `10m`")),
        }
    }
}

/// BuildKit's for its questions to the service.
const TIMEOUT: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

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

    #[test]
    fn a_container_is_named_by_its_url() {
        let url = "https://mine.blob.core.windows.net";
        let Ok(Asked::Known(CacheSource { address: Address::Container(found) })) =
            from(&format!("type=azblob,account_url={url}?sig=x,prefix=p,secret_access_key=a2V5"))
        else {
            panic!("a container")
        };
        let expected = ContainerAddress {
            account_url: url.into(),
            signature: Some("sig=x".into()),
            container: "buildkit-cache".into(),
            prefix: "p".into(),
            manifests_prefix: "manifests".into(),
            blobs_prefix: "blobs".into(),
            names: vec!["buildkit".into()],
            key: Some(AccountKey { account: "mine".into(), key: b"key".to_vec() }),
        };
        assert_eq!(*found, expected);
    }

    #[test]
    fn outside_of_a_workflow_its_cache_is_left_out() {
        let Ok(Asked::Ignored(why)) = from("type=gha") else { panic!("ignored") };
        assert!(why.starts_with("`--cache-from type=gha` is ignored: outside of GitHub Actions"), "{why}");
        let variable = |name: &str| match name {
            "ACTIONS_RESULTS_URL" => Some("https://results/".to_owned()),
            "ACTIONS_RUNTIME_TOKEN" => Some("t".to_owned()),
            _ => None,
        };
        let read = CacheSource::read(&fields("type=gha,scope=s,timeout=90s"), &variable);
        let Ok(Asked::Known(CacheSource { address: Address::Actions(found) })) = read else { panic!("a service") };
        let timeout = Duration::from_secs(90);
        let expected = ActionsAddress { url: "https://results/".into(), token: "t".into(), scope: "s".into(), timeout };
        assert!(*found == expected, "{found:?}");
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
        refused("type=azblob", "`type=azblob` needs `account_url=` (or the variable `BUILDKIT_AZURE_STORAGE_ACCOUNT_URL`)");
        refused("type=gha,url_v2=u,token=t,timeout=x", "`timeout=x` is not valid: a duration such as `10m` is expected");
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
