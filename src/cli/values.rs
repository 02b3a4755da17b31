//! Reads the values of flags. Each function takes the text after the flag and says what is wrong with it in words.

use std::collections::BTreeMap;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::builder::attest::{Detail, Provenance, Reach, Sbom, Scanner, Version};
use crate::builder::{
    self, AgentSource, Asked, BadLimit, CacheSource, CacheTarget, Entitlement, FlagError, InKey, NamedContextSource, Secret,
    SecretSource, SshAgent,
};
use crate::cli::environment::Environment;
use crate::graph::{Network, Retry};
use crate::reference::{BadPlatform, BadReference, ImageRef};

/// Why a flag's value cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadValue {
    /// A `KEY=VALUE` without a key or without `=`.
    #[error("`{value}` is not of the form `{form}`")]
    Form {
        /// As written.
        value: String,
        /// What is expected.
        form: &'static str,
    },
    /// A member of a comma-separated list that does not belong there.
    #[error("unknown key `{key}` in `{value}`")]
    UnknownKey {
        /// The key.
        key: String,
        /// The whole value.
        value: String,
    },
    /// A word that is not one of a closed list.
    #[error("`{value}` is not one of {choices}")]
    Choice {
        /// As written.
        value: String,
        /// In words.
        choices: &'static str,
    },
    /// A number that does not parse or does not fit.
    #[error("`{value}` is not {expected}")]
    Number {
        /// As written.
        value: String,
        /// In words.
        expected: &'static str,
    },
    /// A variable of the environment that is not set.
    #[error("the environment has no variable `{name}`")]
    UnsetVariable {
        /// Its name.
        name: String,
    },
    /// No time limit, no number of attempts.
    #[error(transparent)]
    Limit(#[from] BadLimit),
    /// No cache.
    #[error(transparent)]
    Cache(#[from] FlagError),
    /// No platform.
    #[error(transparent)]
    Platform(#[from] BadPlatform),
    /// No image name.
    #[error(transparent)]
    Reference(#[from] BadReference),
    /// A path of this machine that cannot be used.
    #[error("cannot use `{path}`: {reason}")]
    Path {
        /// As written.
        path: String,
        /// In words.
        reason: String,
    },
    /// What croze cannot do (yet).
    #[error("{what} not available")]
    Unavailable {
        /// With its verb: `ssh key files are`.
        what: &'static str,
    },
}

/// `--build-arg`: `NAME=VALUE`; `NAME` alone takes the client's variable, and is left out where that is unset.
pub fn build_arg(text: &str, environment: &Environment) -> Result<Option<(String, String)>, BadValue> {
    match text.split_once('=') {
        Some(("", _)) => Err(BadValue::Form { value: text.to_owned(), form: "NAME=VALUE" }),
        Some((name, value)) => Ok(Some((name.to_owned(), value.to_owned()))),
        None => Ok(environment.variables.get(text).map(|value| (text.to_owned(), value.clone()))),
    }
}

/// `--step-timeout`, `--no-output-timeout`: a duration as Go writes it; zero is none.
pub fn time_limit(text: &str) -> Result<Option<Duration>, BadValue> {
    Ok(builder::time_limit(text)?)
}

/// `--retry-run`: `N` or `N:any`; zero is none.
pub fn retry(text: &str) -> Result<Option<Retry>, BadValue> {
    Ok(builder::retry(text)?)
}

/// `--label`: `KEY=VALUE`; `KEY` alone has an empty value.
pub fn label(text: &str) -> Result<(String, String), BadValue> {
    match text.split_once('=').unwrap_or((text, "")) {
        ("", _) => Err(BadValue::Form { value: text.to_owned(), form: "KEY=VALUE" }),
        (key, value) => Ok((key.to_owned(), value.to_owned())),
    }
}

/// `--build-context`: `NAME=VALUE`, the name lower-cased.
pub fn named_context(text: &str) -> Result<(String, NamedContextSource), BadValue> {
    let (name, value) = text
        .split_once('=')
        .filter(|(name, value)| !name.is_empty() && !value.is_empty())
        .ok_or_else(|| BadValue::Form { value: text.to_owned(), form: "NAME=VALUE" })?;
    let source = if let Some(image) = value.strip_prefix("docker-image://") {
        NamedContextSource::Image(image.parse()?)
    } else if let Some(layout) = value.strip_prefix("oci-layout://") {
        NamedContextSource::Layout(layout.to_owned())
    } else if is_remote(value) {
        NamedContextSource::Remote(value.to_owned())
    } else if value.starts_with("target:") || value.starts_with("input:") {
        return Err(BadValue::Unavailable { what: "contexts of the form `target:` and `input:` (bake files) are" });
    } else {
        NamedContextSource::Directory(PathBuf::from(value))
    };
    Ok((name.to_lowercase(), source))
}

/// Whether a context is fetched rather than read: the forms that Docker takes for git references and URLs.
pub fn is_remote(text: &str) -> bool {
    const SCHEMES: [&str; 5] = ["http://", "https://", "git://", "ssh://", "git@"];
    SCHEMES.iter().any(|scheme| text.starts_with(scheme)) || text.starts_with("github.com/")
}

/// `--secret`: `id=ID`, then `src=FILE` (or `source=`), `env=NAME` or neither: a variable named like the secret, else a file.
///
/// `cache-key=true` makes its value a part of the keys of steps that mount it.
///
/// A secret whose variable is unset is `None`, as if it had not been given: only a step that requires it fails.
pub fn secret(text: &str, environment: &Environment) -> Result<Option<Secret>, BadValue> {
    let form = "id=ID[,src=FILE|,env=NAME]";
    let (mut id, mut file, mut variable, mut from_variable, mut in_key) = (None, None, None, false, InKey::No);
    for field in csv_fields(text) {
        let (key, value) = field.split_once('=').ok_or(BadValue::Form { value: text.to_owned(), form })?;
        match key.to_lowercase().as_str() {
            "id" => id = Some(value.to_owned()),
            "src" | "source" => file = Some(value.to_owned()),
            "env" => variable = Some(value.to_owned()),
            "cache-key" => in_key = if boolean(value)? { InKey::Digest } else { InKey::No },
            "type" => match value {
                "file" => {}
                "env" => from_variable = true,
                _ => return Err(BadValue::Choice { value: value.to_owned(), choices: "`file`, `env`" }),
            },
            _ => return Err(BadValue::UnknownKey { key: key.to_owned(), value: text.to_owned() }),
        }
    }
    let id = id.filter(|id| !id.is_empty()).ok_or(BadValue::Form { value: text.to_owned(), form })?;
    if from_variable && variable.is_none() {
        variable = file.take();
    }
    let value_of = |name: &str| environment.variables.get(name).map(|value| value.clone().into_bytes());
    let source = match (variable, file) {
        (Some(name), _) => value_of(&name).map(SecretSource::Value),
        (None, Some(file)) => Some(SecretSource::File(PathBuf::from(file))),
        (None, None) => Some(value_of(&id).map_or_else(|| SecretSource::File(PathBuf::from(&id)), SecretSource::Value)),
    };
    Ok(source.map(|source| Secret { id, source, in_key }))
}

/// `--cache-from`.
pub fn cache_source(text: &str, environment: &Environment) -> Result<Asked<CacheSource>, BadValue> {
    Ok(CacheSource::read(&csv_fields(text), &|name| environment.get(name).map(str::to_owned))?)
}

/// `--cache-to`.
pub fn cache_target(text: &str, environment: &Environment) -> Result<Asked<CacheTarget>, BadValue> {
    Ok(CacheTarget::read(&csv_fields(text), &|name| environment.get(name).map(str::to_owned))?)
}

/// `--ssh`: `default`, `ID=SOCKET` or `ID=KEY[,KEY]`; with the name alone, the socket that `SSH_AUTH_SOCK` names.
pub fn ssh_agent(text: &str, environment: &Environment) -> Result<SshAgent, BadValue> {
    let (id, paths) = text.split_once('=').map_or((text, None), |(id, paths)| (id, Some(paths)));
    let id = if id.is_empty() { "default" } else { id }.to_owned();
    let source = match paths {
        Some(path) if is_socket(path) => AgentSource::Socket(PathBuf::from(path)),
        Some(paths) => AgentSource::Keys(paths.split(',').map(PathBuf::from).collect()),
        None => {
            let path = environment.get("SSH_AUTH_SOCK");
            let path = path.ok_or_else(|| BadValue::UnsetVariable { name: "SSH_AUTH_SOCK".to_owned() })?;
            AgentSource::Socket(PathBuf::from(path))
        }
    };
    Ok(SshAgent { id, source })
}

fn is_socket(path: &str) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

/// `--allow`.
pub fn entitlement(text: &str) -> Result<Entitlement, BadValue> {
    match text {
        "network.host" => Ok(Entitlement::NetworkHost),
        "security.insecure" => Ok(Entitlement::SecurityInsecure),
        "buildx.local.delete" => Ok(Entitlement::LocalDelete),
        _ => Err(BadValue::Choice {
            value: text.to_owned(),
            choices: "`network.host`, `security.insecure`, `buildx.local.delete`",
        }),
    }
}

/// `--network`.
pub fn network(text: &str) -> Result<Network, BadValue> {
    match text {
        "" | "default" => Ok(Network::Default),
        "none" => Ok(Network::None),
        "host" => Ok(Network::Host),
        _ => Err(BadValue::Choice { value: text.to_owned(), choices: "`default`, `none`, `host`" }),
    }
}

/// `--add-host`: `NAME:IP` or `NAME=IP`; the address may be IPv6, in brackets or not.
pub fn host(text: &str) -> Result<(String, String), BadValue> {
    let bad = || BadValue::Form { value: text.to_owned(), form: "HOST:IP" };
    let (name, address) = text.split_once('=').or_else(|| text.split_once(':')).ok_or_else(bad)?;
    let address = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    let known = address == "host-gateway" || address.parse::<std::net::IpAddr>().is_ok();
    if name.is_empty() || !known {
        return Err(bad());
    }
    Ok((name.to_owned(), address.to_owned()))
}

/// A number of bytes: `64m`, `1g`, `1.5GiB`, `4096`; units are powers of 1024, as Docker reads them.
pub fn bytes(text: &str) -> Result<u64, BadValue> {
    let bad = || BadValue::Number { value: text.to_owned(), expected: "a size such as `64m`" };
    let lower = text.trim().to_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let shift = match unit.trim().trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(bad()),
    };
    let factor = 1_u64 << shift;
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(bad);
    }
    let number: f64 = number.parse().map_err(|_| bad())?;
    let scaled = number * factor as f64;
    if scaled.is_finite() && scaled < u64::MAX as f64 { Ok(scaled as u64) } else { Err(bad()) }
}

/// Names of `setrlimit`, as Docker writes them.
const LIMIT_NAMES: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// `--ulimit`: `NAME=SOFT[:HARD]`; `-1` is unlimited (`u64::MAX`); without a hard limit it is the soft one.
pub fn ulimit(text: &str) -> Result<(String, u64, u64), BadValue> {
    let form = || BadValue::Form { value: text.to_owned(), form: "NAME=SOFT[:HARD]" };
    let (name, limits) = text.split_once('=').ok_or_else(form)?;
    if !LIMIT_NAMES.contains(&name) {
        return Err(BadValue::Choice {
            value: name.to_owned(),
            choices: "`core`, `cpu`, `data`, `fsize`, `memlock`, `nofile`, `nproc`, `stack` and the other names of setrlimit(2)",
        });
    }
    let limit = |number: &str| match number {
        "-1" => Ok(u64::MAX),
        _ => number.parse().map_err(|_| form()),
    };
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let (soft, hard) = (limit(soft)?, limit(hard)?);
    if soft > hard {
        return Err(BadValue::Number { value: text.to_owned(), expected: "a soft limit below its hard limit" });
    }
    Ok((name.to_owned(), soft, hard))
}

/// A boolean as Go's `strconv.ParseBool` reads it.
pub fn boolean(text: &str) -> Result<bool, BadValue> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(BadValue::Choice { value: text.to_owned(), choices: "`true`, `false`" }),
    }
}

/// Splits one CSV record: a field that begins with `"` ends at the next lone `"`, and `""` inside it is one quote.
pub fn csv_fields(text: &str) -> Vec<String> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                field.push('"');
                chars.next();
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            _ => field.push(c),
        }
    }
    fields.push(field);
    fields
}

/// What one `--attest` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attestation {
    /// `type=provenance`; `None` for a disabled one.
    Provenance(Option<Provenance>),
    /// `type=sbom`; `None` for a disabled one.
    Sbom(Option<Sbom>),
}

/// The long form of `--provenance=VALUE` and `--sbom=VALUE`.
pub fn attestation_of(kind: &str, value: &str) -> String {
    match boolean(value) {
        Ok(wanted) => format!("type={kind},disabled={}", !wanted),
        Err(_) => format!("type={kind},{value}"),
    }
}

/// Reads `type=provenance|sbom`, `mode=`, `version=`, `generator=`, `disabled=`, `builder-id=`, `filename=`, `reproducible=`,
/// `inline-only=`; what a scanner is told beside its name goes to it as it is.
pub fn attestation(text: &str) -> Result<Attestation, BadValue> {
    let choice = |value: String, choices: &'static str| BadValue::Choice { value, choices };
    let (mut kind, mut disabled) = (String::new(), false);
    let mut provenance = Provenance::default();
    let (mut generator, mut parameters) = (None, BTreeMap::new());
    for field in csv_fields(text) {
        let (key, value) = field.split_once('=').unwrap_or((field.as_str(), "true"));
        match (key.trim(), value) {
            ("type", "provenance" | "sbom") => value.clone_into(&mut kind),
            ("type", _) => return Err(choice(field, "`type=provenance`, `type=sbom`")),
            ("disabled", _) => {
                disabled = boolean(value).map_err(|_| choice(field.clone(), "`disabled=true`, `disabled=false`"))?
            }
            ("mode", "min") => provenance.detail = Detail::Min,
            ("mode", "max" | "full") => provenance.detail = Detail::Max,
            ("mode", _) => return Err(choice(field, "`mode=min`, `mode=max`")),
            ("version", "v1") => provenance.version = Version::V1,
            ("version", "v0.2") => provenance.version = Version::V02,
            ("version", _) => return Err(choice(field, "`version=v1`, `version=v0.2`")),
            ("builder-id", _) => value.clone_into(&mut provenance.builder_id),
            ("filename", _) if kind != "sbom" => value.clone_into(&mut provenance.file_name),
            ("reproducible", _) => {
                provenance.reproducible =
                    boolean(value).map_err(|_| choice(field.clone(), "`reproducible=true`, `reproducible=false`"))?;
            }
            ("inline-only", _) => {
                let only = boolean(value).map_err(|_| choice(field.clone(), "`inline-only=true`, `inline-only=false`"))?;
                provenance.reach = if only { Reach::Inline } else { Reach::Everywhere };
            }
            ("generator", "") => {}
            ("generator", _) => generator = Some(value.parse::<ImageRef>()?),
            // more than this only a scanner can know
            (key, _) if kind == "sbom" => {
                parameters.insert(key.to_owned(), value.to_owned());
            }
            (key, _) => return Err(BadValue::UnknownKey { key: key.to_owned(), value: text.to_owned() }),
        }
    }
    match kind.as_str() {
        "provenance" => Ok(Attestation::Provenance((!disabled).then_some(provenance))),
        "sbom" => {
            let sbom = match (generator, parameters.first_key_value()) {
                (None, Some((key, _))) => return Err(BadValue::UnknownKey { key: key.clone(), value: text.to_owned() }),
                (None, None) => Sbom::BuiltIn,
                (Some(image), _) => Sbom::Scanner(Scanner { image, parameters }),
            };
            Ok(Attestation::Sbom((!disabled).then_some(sbom)))
        }
        _ => Err(choice(text.to_owned(), "`type=provenance`, `type=sbom`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<T: std::fmt::Debug>(result: Result<T, BadValue>) -> String {
        result.expect_err("refused").to_string()
    }

    #[test]
    fn a_build_arg_without_value_comes_from_the_environment() {
        let environment = Environment::with(&[("A", "env"), ("E", "")]);
        let arg = |text: &str| build_arg(text, &environment).expect(text);
        assert_eq!(arg("A=1=2"), Some(("A".into(), "1=2".into())));
        assert_eq!(arg("A="), Some(("A".into(), String::new())));
        assert_eq!(arg("A"), Some(("A".into(), "env".into())));
        assert_eq!(arg("E"), Some(("E".into(), String::new())));
        assert_eq!(arg("UNSET"), None);
        assert_eq!(message(build_arg("=1", &environment)), "`=1` is not of the form `NAME=VALUE`");
    }

    #[test]
    fn contexts_are_told_apart_by_their_prefix() {
        let source = |text: &str| named_context(text).expect(text).1;
        assert_eq!(named_context("Base=x").expect("valid").0, "base");
        assert_eq!(source("a=./dir"), NamedContextSource::Directory("./dir".into()));
        assert_eq!(source("a=docker-image://busybox"), NamedContextSource::Image("busybox".parse().expect("valid")));
        assert_eq!(source("a=oci-layout:///d:t"), NamedContextSource::Layout("/d:t".into()));
        assert_eq!(source("a=https://x/y.git#main"), NamedContextSource::Remote("https://x/y.git#main".into()));
        assert_eq!(message(named_context("a")), "`a` is not of the form `NAME=VALUE`");
    }

    #[test]
    fn secrets_have_four_forms() {
        let environment = Environment::with(&[("HOSTV", "v")]);
        let read = |text: &str| secret(text, &environment).expect(text);
        let in_key = InKey::No;
        let value = |id: &str| Some(Secret { id: id.into(), source: SecretSource::Value(b"v".to_vec()), in_key });
        let file = |id: &str, path: &str| Some(Secret { id: id.into(), source: SecretSource::File(path.into()), in_key });
        assert_eq!(read("id=a,src=/s"), file("a", "/s"));
        assert_eq!(read("type=file,id=a,source=/s"), file("a", "/s"));
        assert_eq!(read("type=env,id=b,env=HOSTV"), value("b"));
        assert_eq!(read("type=env,id=b,src=HOSTV"), value("b"));
        assert_eq!(read("id=HOSTV"), value("HOSTV"));
        assert_eq!(read("id=name"), file("name", "name"));
        assert_eq!(read("id=a,src=/s,cache-key=true").map(|secret| secret.in_key), Some(InKey::Digest));
        assert_eq!(read("\"id=a\",\"src=/with,comma\""), file("a", "/with,comma"));
        assert_eq!(message(secret("src=/s", &environment)), "`src=/s` is not of the form `id=ID[,src=FILE|,env=NAME]`");
        assert_eq!(message(secret("id=a,sorce=/s", &environment)), "unknown key `sorce` in `id=a,sorce=/s`");
        assert_eq!(read("id=a,env=NOPE"), None);
    }

    #[test]
    fn ssh_agents_default_to_the_clients() {
        let environment = Environment::with(&[("SSH_AUTH_SOCK", "/run/agent")]);
        let agent = |id: &str, source: AgentSource| Ok(SshAgent { id: id.into(), source });
        assert_eq!(ssh_agent("default", &environment), agent("default", AgentSource::Socket("/run/agent".into())));
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        let text = format!("other={}", socket.display());
        assert_eq!(ssh_agent(&text, &environment), agent("other", AgentSource::Socket(socket)));
        let keys = AgentSource::Keys(vec!["/a".into(), "b".into()]);
        assert_eq!(ssh_agent("=/a,b", &environment), agent("default", keys));
        assert_eq!(message(ssh_agent("default", &Environment::with(&[]))), "the environment has no variable `SSH_AUTH_SOCK`");
    }

    #[test]
    fn hosts_take_both_separators_and_ipv6() {
        assert_eq!(host("a.example:192.0.2.1"), Ok(("a.example".into(), "192.0.2.1".into())));
        assert_eq!(host("two=192.0.2.2"), Ok(("two".into(), "192.0.2.2".into())));
        assert_eq!(host("v6:::1"), Ok(("v6".into(), "::1".into())));
        assert_eq!(host("v6=[::1]"), Ok(("v6".into(), "::1".into())));
        assert_eq!(message(host("a:nope")), "`a:nope` is not of the form `HOST:IP`");
    }

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(bytes("4096"), Ok(4096));
        assert_eq!(bytes("64m"), Ok(64 << 20));
        assert_eq!(bytes("1.5GiB"), Ok(3 << 29));
        assert_eq!(bytes("2KB"), Ok(2048));
        for text in ["", "m", "-1", "1x", "99999999999t", "1e5"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn limits_have_a_soft_and_a_hard_side() {
        assert_eq!(ulimit("nofile=1024:4096"), Ok(("nofile".into(), 1024, 4096)));
        assert_eq!(ulimit("core=0"), Ok(("core".into(), 0, 0)));
        assert_eq!(ulimit("memlock=-1"), Ok(("memlock".into(), u64::MAX, u64::MAX)));
        assert!(ulimit("nofile=2:1").is_err() && ulimit("nope=1").is_err() && ulimit("nofile").is_err());
    }

    #[test]
    fn csv_quotes_hold_commas() {
        assert_eq!(csv_fields(r#"a,"b,c","d""e""#), ["a", "b,c", "d\"e"]);
        assert_eq!(csv_fields(""), [""]);
    }
}
