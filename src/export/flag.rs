//! Reads `-o` from buildx's text.
//!
//! Source of the forms: docker/buildx, `docs/reference/buildx_build.md`, "--output"; of the keys: moby/buildkit, `README.md`,
//! "Output".

use super::annotation::{Annotation, AnnotationError};
use super::attestation::{AttestationForm, Reach};
use super::files::Stale;
use super::output::{Destination, FileTimes, Output, OutputKind, Push, Scope};
use super::push::PushBy;
use crate::fields::{self, FieldError, Kinds, bad, boolean};
use crate::image::Dialect;
use crate::layer::{Compression, Encoding};

/// Why a text is no output.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutputError {
    /// A word that is not understood.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// An annotation that cannot be.
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
    /// The type cannot do without a destination, or with this one.
    #[error("`type={kind}` needs {form}")]
    Destination {
        /// The type.
        kind: &'static str,
        /// What it should look like.
        form: &'static str,
    },
    /// `push-by-digest` with a tag.
    #[error("`{0}` has a tag, and a push by digest sets none; leave the tag out")]
    TaggedDigest(String),
    /// Valid for BuildKit, not available here.
    #[error("{what} is not available in this version; {instead}")]
    Unavailable {
        /// What was asked for.
        what: &'static str,
        /// What to do.
        instead: &'static str,
    },
}

const KINDS: Kinds = Kinds { noun: "output", types: &["image", "registry", "oci", "docker", "local", "tar", "cacheonly"] };
const IMAGE_KEYS: [&str; 21] = [
    "name",
    "compression",
    "compression-level",
    "force-compression",
    "oci-mediatypes",
    "oci-artifact",
    "rewrite-timestamp",
    "source-date-epoch",
    "push",
    "push-by-digest",
    "registry.insecure",
    "unpack",
    "store",
    "dangling-name-prefix",
    "danging-name-empty-only",
    "name-canonical",
    "attestation-inline",
    "attestation-prefix",
    "prefer-nondist-layers",
    "buildinfo",
    "dest",
];
const FILE_KEYS: [&str; 6] = ["dest", "source-date-epoch", "platform-split", "attestation-prefix", "mode", "type"];

impl Output {
    /// Reads `type=TYPE,key=value,…` (fields may be quoted as in CSV), `DIR` for `type=local`, `-` for a tar to stdout.
    ///
    /// # Errors
    /// Any word that is not understood; nothing is ignored silently but what has no meaning here (`unpack`, `store`).
    pub fn parse(text: &str) -> Result<Output, OutputError> {
        let fields = fields::split(text)?;
        if let [field] = fields.as_slice()
            && !field.contains('=')
        {
            let kind = match field.as_str() {
                "-" => OutputKind::FilesArchive(Destination::Stdout),
                "" => return Err(FieldError::NoType { kinds: KINDS }.into()),
                directory => OutputKind::Files(directory.into()),
            };
            return Ok(Output { kind, takes: Reach::Everywhere, ..Output::store() });
        }
        let pairs = fields::pairs(&fields)?;
        let kind = KINDS.of(&pairs)?;
        Reader::new(kind).read(pairs)
    }
}

/// Collects the values of one output.
struct Reader {
    kind: &'static str,
    output: Output,
    dest: Option<String>,
    directory: bool,
    push: bool,
    by: PushBy,
    insecure: bool,
    /// The first name with a tag.
    tagged: Option<String>,
    attestations: Option<AttestationForm>,
}

impl Reader {
    fn new(kind: &'static str) -> Reader {
        let push = kind == "registry";
        let is_image = matches!(kind, "image" | "registry");
        let takes = if is_image { Reach::Inline } else { Reach::Everywhere };
        let (output, by) = (Output { takes, ..Output::store() }, PushBy::Tag);
        Reader { kind, output, dest: None, directory: false, push, by, insecure: false, tagged: None, attestations: None }
    }

    fn read(mut self, pairs: Vec<(String, String)>) -> Result<Output, OutputError> {
        for (key, value) in pairs {
            if key != "type" {
                self.pair(key, value)?;
            }
        }
        self.finish()
    }

    fn pair(&mut self, key: String, value: String) -> Result<(), OutputError> {
        self.check_key(&key)?;
        let output = &mut self.output;
        match key.as_str() {
            "dest" => self.dest = Some(value),
            "tar" => self.directory = !boolean(&key, &value)?,
            "name" => {
                for name in value.split(',').filter(|name| !name.is_empty()) {
                    output.names.push(fields::image_ref("name", name)?);
                    output.names_as_written.push(name.to_owned());
                    let last = name.rsplit('/').next().unwrap_or_default();
                    if last.contains(':') {
                        self.tagged.get_or_insert(name.to_owned());
                    }
                }
            }
            "compression" => {
                output.layers.encoding.compression = match value.as_str() {
                    "uncompressed" => Compression::None,
                    "gzip" => Compression::Gzip,
                    "zstd" => Compression::Zstd,
                    "estargz" => Compression::Estargz,
                    _ => return Err(bad(&key, &value, "`uncompressed`, `gzip`, `zstd` or `estargz`").into()),
                }
            }
            "compression-level" => {
                let level = value.parse().map_err(|_| bad(&key, &value, "a number"))?;
                output.layers.encoding.level = Some(level);
            }
            "force-compression" => output.layers.scope = if boolean(&key, &value)? { Scope::All } else { Scope::Own },
            "rewrite-timestamp" => {
                let limit = boolean(&key, &value)?;
                output.layers.times = if limit { FileTimes::LimitToEpoch } else { FileTimes::Keep };
            }
            "source-date-epoch" => {
                let epoch = value.parse().map_err(|_| bad(&key, &value, "a number of seconds since 1970"))?;
                output.epoch = Some(epoch);
            }
            "push" => self.push = boolean(&key, &value)?,
            "push-by-digest" => self.by = if boolean(&key, &value)? { PushBy::Digest } else { PushBy::Tag },
            "registry.insecure" => self.insecure = boolean(&key, &value)?,
            "oci-mediatypes" => {
                output.layers.dialect = if boolean(&key, &value)? { Dialect::Oci } else { Dialect::Docker };
            }
            "oci-artifact" => {
                let form = if boolean(&key, &value)? { AttestationForm::Artifact } else { AttestationForm::Image };
                self.attestations = Some(form);
            }
            "attestation-inline" => output.takes = if boolean(&key, &value)? { Reach::Inline } else { Reach::Everywhere },
            "platform-split" => output.files.split = Some(boolean(&key, &value)?),
            "attestation-prefix" => output.files.prefix = value,
            "mode" => {
                output.files.stale = match value.trim().to_lowercase().as_str() {
                    "" | "copy" => Stale::Keep,
                    "delete" if self.kind == "local" => Stale::Delete,
                    "delete" => return Err(bad(&key, &value, "for a tar, `copy`").into()),
                    _ => return Err(bad(&key, &value, "`copy` or `delete`").into()),
                }
            }
            _ if key.starts_with("annotation") => {
                output.annotations.push(Annotation::parse_key(&key, &value)?);
            }
            // decided otherwise here, or about things that this image does not have: attestations, several platforms
            _ => {}
        }
        Ok(())
    }

    fn check_key(&self, key: &str) -> Result<(), OutputError> {
        let known: &[&str] = match self.kind {
            "image" | "registry" | "oci" | "docker" => &IMAGE_KEYS,
            "local" | "tar" => &FILE_KEYS,
            _ => &[],
        };
        let archive = matches!(self.kind, "oci" | "docker") && matches!(key, "tar" | "context");
        let annotation =
            known.contains(&"name") && key.strip_prefix("annotation").is_some_and(|rest| rest.starts_with(['.', '-', '[']));
        if known.contains(&key) || archive || annotation {
            return Ok(());
        }
        let candidates = known.iter().copied().chain(matches!(self.kind, "oci" | "docker").then_some("tar"));
        Err(fields::unknown_key(key, self.kind, candidates).into())
    }

    fn finish(mut self) -> Result<Output, OutputError> {
        if self.push
            && self.by == PushBy::Digest
            && let Some(name) = self.tagged.take()
        {
            return Err(OutputError::TaggedDigest(name));
        }
        if self.push && matches!(self.kind, "image" | "registry") {
            self.output.push = Some(Push { by: self.by, insecure: self.insecure });
        }
        let Encoding { compression, level } = self.output.layers.encoding;
        let is_gzip = matches!(compression, Compression::Gzip | Compression::Estargz);
        if is_gzip && level.is_some_and(|level| !(0..=9).contains(&level)) {
            return Err(bad("compression-level", &level.unwrap_or_default().to_string(), "for gzip, 0 to 9").into());
        }
        // as BuildKit has it: Docker's own types know no zstd, and their descriptors no annotations
        if matches!(compression, Compression::Zstd | Compression::Estargz) {
            self.output.layers.dialect = Dialect::Oci;
        }
        self.output.layers.attestations = match (self.output.layers.dialect, self.attestations) {
            (Dialect::Docker, Some(AttestationForm::Artifact)) => {
                return Err(bad("oci-artifact", "true", "without `oci-mediatypes=false`").into());
            }
            (Dialect::Docker, None) => AttestationForm::Image,
            (_, asked) => asked.unwrap_or(AttestationForm::Artifact),
        };
        let destination = self.destination()?;
        let stdout = destination == Some(Destination::Stdout);
        let kind = match (self.kind, destination) {
            ("image" | "registry", _) => OutputKind::Image,
            ("cacheonly", _) => OutputKind::Nothing,
            ("local", Some(Destination::File(path))) => OutputKind::Files(path),
            ("local", _) => return Err(OutputError::Destination { kind: "local", form: "`dest=DIRECTORY`" }),
            ("tar", destination) => OutputKind::FilesArchive(destination.unwrap_or(Destination::Stdout)),
            ("oci", Some(Destination::File(path))) if self.directory => OutputKind::OciDirectory(path),
            (kind, _) if self.directory && (stdout || kind == "oci") => {
                return Err(OutputError::Destination { kind, form: "`dest=DIRECTORY` with `tar=false`" });
            }
            ("docker", _) if self.directory => {
                let what = "a docker archive as a directory";
                return Err(OutputError::Unavailable { what, instead: "`type=oci,tar=false` writes an OCI layout" });
            }
            ("oci", destination) => OutputKind::OciArchive(destination.unwrap_or(Destination::Stdout)),
            ("docker", Some(destination)) => OutputKind::DockerArchive(destination),
            (_, _) => OutputKind::Load,
        };
        Ok(Output { kind, ..self.output })
    }

    fn destination(&self) -> Result<Option<Destination>, OutputError> {
        match self.dest.as_deref() {
            None => Ok(None),
            Some("") => Err(bad("dest", "", "a path").into()),
            Some("-") => Ok(Some(Destination::Stdout)),
            Some(path) => Ok(Some(Destination::File(path.into()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::output::LayerOptions;
    use super::*;

    #[track_caller]
    fn check(text: &str, kind: OutputKind) -> Output {
        let output = Output::parse(text).expect(text);
        assert_eq!(output.kind, kind);
        output
    }

    #[track_caller]
    fn refused(text: &str, message: &str) {
        assert_eq!(Output::parse(text).expect_err(text).to_string(), message);
    }

    fn file(path: &str) -> Destination {
        Destination::File(path.into())
    }

    #[test]
    fn short_forms() {
        check("out", OutputKind::Files("out".into()));
        check("-", OutputKind::FilesArchive(Destination::Stdout));
    }

    #[test]
    fn types_and_destinations() {
        check("type=local,dest=out", OutputKind::Files("out".into()));
        check("type=tar,dest=-", OutputKind::FilesArchive(Destination::Stdout));
        check("type=tar,dest=x.tar", OutputKind::FilesArchive(file("x.tar")));
        check("type=oci", OutputKind::OciArchive(Destination::Stdout));
        check("type=oci,dest=x.tar", OutputKind::OciArchive(file("x.tar")));
        check("dest=d,type=oci,tar=false", OutputKind::OciDirectory("d".into()));
        check("type=docker,dest=x.tar", OutputKind::DockerArchive(file("x.tar")));
        check("type=image", OutputKind::Image);
        check("type=image,unpack=true,store=true,push=false", OutputKind::Image);
        check("type=cacheonly", OutputKind::Nothing);
        check("type=docker", OutputKind::Load);
    }

    #[test]
    fn levels_and_dialects() {
        let layers = |text: &str| Output::parse(text).expect(text).layers;
        let level = layers("type=oci,compression-level=9").encoding;
        assert_eq!(level, Encoding { compression: Compression::Gzip, level: Some(9) });
        assert_eq!(layers("type=oci,oci-mediatypes=false").dialect, Dialect::Docker);
        assert_eq!(layers("type=oci,oci-mediatypes=false,compression=zstd,compression-level=19").dialect, Dialect::Oci);
        refused("type=oci,compression-level=10", "`compression-level=10` is not valid: for gzip, 0 to 9 is expected");
        refused("type=oci,compression-level=x", "`compression-level=x` is not valid: a number is expected");
        assert_eq!(Output::parse("type=local,dest=o,platform-split=false").expect("valid").files.split, Some(false));
        assert_eq!(Output::parse("type=local,dest=o,mode=delete").expect("valid").files.stale, Stale::Delete);
        refused("type=tar,mode=delete", "`mode=delete` is not valid: for a tar, `copy` is expected");
        refused("type=local,dest=o,mode=x", "`mode=x` is not valid: `copy` or `delete` is expected");
    }

    #[test]
    fn pushes() {
        let push = |text: &str| check(text, OutputKind::Image).push;
        let plain = Push { by: PushBy::Tag, insecure: false };
        assert_eq!(push("type=registry,name=x"), Some(plain));
        assert_eq!(push("type=image,push=true"), Some(plain));
        assert_eq!(push("type=image"), None);
        assert_eq!(push("type=registry,push=false"), None);
        let by_digest = push("type=image,name=h/x,push=true,push-by-digest=true,name-canonical=true,registry.insecure=true");
        assert_eq!(by_digest, Some(Push { by: PushBy::Digest, insecure: true }));
        refused(
            "type=registry,name=h:5000/x:1,push-by-digest=1",
            "`h:5000/x:1` has a tag, and a push by digest sets none; leave the tag out",
        );
    }

    #[test]
    fn blobs_are_wanted_where_they_go_somewhere() {
        let form = |text: &str| Output::parse(text).expect(text).form(Some(7));
        for text in ["type=oci,dest=f", "type=docker", "type=registry,name=h/n", "type=image,name=h/n,push=true"] {
            assert_eq!(form(text).map(|form| form.epoch), Some(None), "{text}");
        }
        assert_eq!(form("type=oci,dest=f,rewrite-timestamp=true").and_then(|form| form.epoch), Some(7));
        for text in ["type=image,name=n", "type=tar,dest=f", "out", "type=cacheonly"] {
            assert_eq!(form(text), None, "{text}");
        }
    }

    #[test]
    fn attributes() {
        let output = check(
            r#"type=oci,"name=a:1,b/c",compression=zstd,force-compression=true,rewrite-timestamp=1,source-date-epoch=7,annotation.k=v=w"#,
            OutputKind::OciArchive(Destination::Stdout),
        );
        assert_eq!(output.names.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a:1", "b/c:latest"]);
        let expected = LayerOptions {
            encoding: Compression::Zstd.into(),
            scope: Scope::All,
            times: FileTimes::LimitToEpoch,
            dialect: Dialect::Oci,
            attestations: AttestationForm::Artifact,
        };
        assert_eq!((output.layers, output.epoch, output.annotations.len()), (expected, Some(7), 1));
    }

    #[test]
    fn statements_are_artifacts_unless_types_are_docker_s() {
        let form = |text: &str| Output::parse(text).expect(text).layers.attestations;
        assert_eq!(form("type=oci"), AttestationForm::Artifact);
        assert_eq!(form("type=oci,oci-artifact=false"), AttestationForm::Image);
        assert_eq!(form("type=oci,oci-mediatypes=false"), AttestationForm::Image);
        refused(
            "type=oci,oci-artifact=true,oci-mediatypes=false",
            "`oci-artifact=true` is not valid: without `oci-mediatypes=false` is expected",
        );
        let takes = |text: &str| Output::parse(text).expect(text).takes;
        assert_eq!(
            (takes("type=registry,name=x"), takes("type=oci"), takes("out")),
            (Reach::Inline, Reach::Everywhere, Reach::Everywhere)
        );
        assert_eq!(takes("type=oci,attestation-inline=true"), Reach::Inline);
    }

    #[test]
    fn quotes() {
        check(r#""type=local","dest=a,""b""""#, OutputKind::Files(r#"a,"b""#.into()));
        refused(r#""type=local"#, r#"`"type=local` is not `key=value`"#);
    }

    #[test]
    fn slips_are_named() {
        refused("type=oic", "unknown output type `oic`; did you mean `oci`?");
        refused("type=oci,dst=x", "unknown key `dst` for `type=oci`; did you mean `dest`?");
        refused("type=local,dest=x,compression=gzip", "unknown key `compression` for `type=local`");
        refused("dest=x", "an output needs `type=`: one of image, registry, oci, docker, local, tar, cacheonly");
        refused("type=oci,x", "`x` is not `key=value`");
        refused("type=oci,tar=yes", "`tar=yes` is not valid: `true` or `false` is expected");
        refused(
            "type=oci,name=A",
            "`name=A` is not valid: image name `A` has upper-case letters; repository names are lower case",
        );
    }

    #[test]
    fn what_cannot_be_done_says_so() {
        refused("type=local", "`type=local` needs `dest=DIRECTORY`");
        refused("type=local,dest=-", "`type=local` needs `dest=DIRECTORY`");
        refused("type=oci,tar=false", "`type=oci` needs `dest=DIRECTORY` with `tar=false`");
    }
}
