//! The options of `RUN --mount`: one CSV record of `key=value` fields.

use super::check::parse_bool;
use super::expand::{self, ExpandError};
use crate::diagnostic::{Diagnostic, Source, Span, Spanned, nearest};

/// What kind of tree or file is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum MountType {
    /// A stage, image or context; the default.
    #[default]
    Bind,
    /// A directory that outlives the build.
    Cache,
    /// An empty file system in memory.
    Tmpfs,
    /// A secret's value as a file or variable.
    Secret,
    /// An agent's socket.
    Ssh,
}

/// What several builds do with one cache at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountSharing {
    /// They all write to it; the default.
    Shared,
    /// Each gets one of its own.
    Private,
    /// They wait for each other.
    Locked,
}

/// One `--mount`, with its values expanded; what was not given, or given as empty text, is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountSpec {
    /// `type`.
    pub kind: MountType,
    /// `target`, `dst`, `destination`.
    pub target: Option<String>,
    /// `from`: stage, image or context name; never expanded.
    pub from: Option<String>,
    /// `source`, `src`.
    pub source: Option<String>,
    /// `readonly`, `ro`, or the opposite of `readwrite`, `rw`. Not given: caches and tmpfs are writable, others are not.
    pub read_only: Option<bool>,
    /// `id`.
    pub id: Option<String>,
    /// `sharing`; caches only.
    pub sharing: Option<MountSharing>,
    /// `required`; secrets and ssh only.
    pub required: bool,
    /// `size`; tmpfs only.
    pub size_bytes: Option<u64>,
    /// `mode`, as written in octal; not for bind and tmpfs.
    pub mode: Option<u32>,
    /// `uid`; not for bind and tmpfs.
    pub uid: Option<u32>,
    /// `gid`; not for bind and tmpfs.
    pub gid: Option<u32>,
    /// `env`; an empty text means the variable is named after the id.
    pub env: Option<String>,
    /// The whole value of the flag.
    pub span: Span,
}

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];

const TYPES: [(&str, MountType); 5] = [
    ("bind", MountType::Bind),
    ("cache", MountType::Cache),
    ("tmpfs", MountType::Tmpfs),
    ("secret", MountType::Secret),
    ("ssh", MountType::Ssh),
];

const SHARING: [(&str, MountSharing); 3] =
    [("shared", MountSharing::Shared), ("private", MountSharing::Private), ("locked", MountSharing::Locked)];

impl MountType {
    /// As it is written.
    pub fn name(self) -> &'static str {
        TYPES.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }

    fn takes_owner(self) -> bool {
        matches!(self, MountType::Cache | MountType::Secret | MountType::Ssh)
    }

    fn may_be_required(self) -> bool {
        matches!(self, MountType::Secret | MountType::Ssh)
    }
}

/// Reads one record. Fields are judged in order, so that `type` must come before `required` and `size`.
///
/// `expand` is called with each value after the record was split, so a variable cannot add fields.
///
/// # Errors
/// The first field that is wrong, or does not go with the type.
pub fn parse(
    raw: &Spanned<String>,
    source: &Source,
    expand: &mut dyn FnMut(&str) -> Result<String, ExpandError>,
) -> Result<MountSpec, Diagnostic> {
    let mut reader = Reader { raw, source, spec: MountSpec::new(raw.span) };
    for field in reader.fields()? {
        reader.field(&field, expand)?;
    }
    reader.finish()
}

/// What can be said about a record before variables have values: all of it if it has none, otherwise its form.
pub(super) fn check(raw: &Spanned<String>, source: &Source, escape: char) -> Result<(), Diagnostic> {
    if !raw.value.contains('$') {
        return parse(raw, source, &mut |value| expand::word(value, escape, &()).map(|expanded| expanded.text)).map(drop);
    }
    let reader = Reader { raw, source, spec: MountSpec::new(raw.span) };
    for field in reader.fields()? {
        if field.key() == "from" {
            reader.refuse_variable(&field)?;
        }
    }
    Ok(())
}

impl MountSpec {
    fn new(span: Span) -> MountSpec {
        MountSpec {
            kind: MountType::default(),
            target: None,
            from: None,
            source: None,
            read_only: None,
            id: None,
            sharing: None,
            required: false,
            size_bytes: None,
            mode: None,
            uid: None,
            gid: None,
            env: None,
            span,
        }
    }
}

/// A field of the record and where it begins in the flag's value.
struct Field {
    text: String,
    start: usize,
}

impl Field {
    fn key(&self) -> String {
        self.text.split('=').next().unwrap_or_default().to_lowercase()
    }

    fn value(&self) -> Option<&str> {
        self.text.split_once('=').map(|(_, value)| value)
    }
}

struct Reader<'a> {
    raw: &'a Spanned<String>,
    source: &'a Source,
    spec: MountSpec,
}

impl Reader<'_> {
    fn field(&mut self, field: &Field, expand: &mut dyn FnMut(&str) -> Result<String, ExpandError>) -> Result<(), Diagnostic> {
        let key = field.key();
        let Some(written) = field.value() else { return self.bare(&key, field) };
        if key == "from" {
            self.refuse_variable(field)?;
        }
        let value = expand(written).map_err(|error| self.error("expand", error.message, field))?;
        let given = (!value.is_empty()).then(|| value.clone());
        match key.as_str() {
            "type" => self.spec.kind = self.choice(&value, &TYPES, "unsupported mount type", field)?,
            "from" => self.spec.from = given,
            "source" | "src" => self.spec.source = given,
            "target" | "dst" | "destination" => self.spec.target = given,
            "readonly" | "ro" => self.spec.read_only = Some(self.boolean(&key, &value, field)?),
            "readwrite" | "rw" => self.spec.read_only = Some(!self.boolean(&key, &value, field)?),
            "required" => {
                self.goes_with_type(self.spec.kind.may_be_required(), &key, field)?;
                self.spec.required = self.boolean(&key, &value, field)?;
            }
            "size" => {
                self.goes_with_type(self.spec.kind == MountType::Tmpfs, &key, field)?;
                let size = parse_size(&value);
                self.spec.size_bytes =
                    Some(size.ok_or_else(|| self.invalid(&key, &value, field).help("sizes look like `64m`, `1.5g`"))?);
            }
            "id" => self.spec.id = given,
            "sharing" => self.spec.sharing = Some(self.choice(&value, &SHARING, "unsupported sharing value", field)?),
            "mode" => self.spec.mode = Some(self.number(&key, &value, 8, field)?),
            "uid" => self.spec.uid = Some(self.number(&key, &value, 10, field)?),
            "gid" => self.spec.gid = Some(self.number(&key, &value, 10, field)?),
            "env" => self.spec.env = Some(value),
            _ => return Err(self.unexpected_key(&key, field)),
        }
        Ok(())
    }

    /// A field without a value.
    fn bare(&mut self, key: &str, field: &Field) -> Result<(), Diagnostic> {
        match key {
            "readonly" | "ro" => self.spec.read_only = Some(true),
            "readwrite" | "rw" => self.spec.read_only = Some(false),
            "required" => {
                self.goes_with_type(self.spec.kind.may_be_required(), key, field)?;
                self.spec.required = true;
            }
            _ => {
                if field.text.is_empty() {
                    let error = self.error("mount-field", "an empty field in the options of a mount", field);
                    return Err(error.help("leave out the comma, or the blank behind it: a blank ends the flag"));
                }
                let message = format!("invalid field `{}` must be a key=value pair", field.text);
                let error = self.error("mount-field", message, field);
                return Err(match nearest(key, KEYS) {
                    Some(near) => error.help(format!("{near}=VALUE")),
                    None => error,
                });
            }
        }
        Ok(())
    }

    /// What depends on several fields.
    fn finish(self) -> Result<MountSpec, Diagnostic> {
        let kind = self.spec.kind;
        let owner = [("mode", self.spec.mode), ("uid", self.spec.uid), ("gid", self.spec.gid)];
        if let Some((key, _)) = owner.iter().find(|(_, value)| value.is_some())
            && !kind.takes_owner()
        {
            return Err(self.whole(format!("`{key}` not allowed for `{}` type mounts", kind.name())));
        }
        if kind == MountType::Secret {
            let MountSpec { from, sharing, source, target, id, .. } = &self.spec;
            let problem = if from.is_some() {
                "secret mount should not have a `from`"
            } else if sharing.is_some() {
                "secret mount should not define `sharing`"
            } else if source.is_none() && target.is_none() && id.is_none() {
                "invalid secret mount: one of `id`, `source`, `target` is required"
            } else if source.is_some() && id.is_some() {
                "both `source` and `id` can't be set"
            } else {
                return Ok(self.spec);
            };
            return Err(self.whole(problem));
        }
        if self.spec.sharing.is_some() && kind != MountType::Cache {
            return Err(self.whole(format!("invalid cache `sharing` set for `{}` mount", kind.name())));
        }
        Ok(self.spec)
    }

    fn goes_with_type(&self, fits: bool, key: &str, field: &Field) -> Result<(), Diagnostic> {
        if fits {
            return Ok(());
        }
        let message = format!("unexpected key `{key}` for mount type `{}`", self.spec.kind.name());
        let error = self.error("mount-key", message, field);
        let is_ahead = self.raw.value.get(..field.start).is_some_and(|before| !before.to_lowercase().contains("type="));
        Err(if is_ahead {
            error.note("`type=` must stand before the keys that depend on it")
        } else {
            let fitting = TYPES.iter().filter(|(_, kind)| match key {
                "size" => *kind == MountType::Tmpfs,
                _ => kind.may_be_required(),
            });
            let names: Vec<String> = fitting.map(|(name, _)| format!("`{name}`")).collect();
            error.note(format!("`{key}` goes with {}", names.join(" and ")))
        })
    }

    fn refuse_variable(&self, field: &Field) -> Result<(), Diagnostic> {
        let value = field.value().unwrap_or_default();
        match value.find('$') {
            Some(at) if at + 1 < value.len() => {
                let message = "`from` doesn't support variable expansion, define alias stage instead";
                Err(self.error("mount-from", message, field).help(format!("FROM {value} AS alias")))
            }
            _ => Ok(()),
        }
    }

    fn choice<T: Copy>(&self, value: &str, choices: &[(&str, T)], problem: &str, field: &Field) -> Result<T, Diagnostic> {
        let lower = value.to_lowercase();
        if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == lower) {
            return Ok(*choice);
        }
        let message = if value.is_empty() { format!("`{}` has no value", field.key()) } else { format!("{problem} `{value}`") };
        let diagnostic = self.error("mount-value", message, field);
        Err(match nearest(value, choices.iter().map(|(name, _)| *name)) {
            Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
            None => {
                let names: Vec<String> = choices.iter().map(|(name, _)| format!("`{name}`")).collect();
                diagnostic.help(format!("it is one of {}", names.join(", ")))
            }
        })
    }

    fn boolean(&self, key: &str, value: &str, field: &Field) -> Result<bool, Diagnostic> {
        parse_bool(value).ok_or_else(|| self.invalid(key, value, field).help("it is `true` or `false`"))
    }

    fn number(&self, key: &str, value: &str, radix: u32, field: &Field) -> Result<u32, Diagnostic> {
        let digits_only = value.chars().all(|c| c.is_digit(radix));
        u32::from_str_radix(value, radix).ok().filter(|_| digits_only).ok_or_else(|| {
            let help = if radix == 8 { "a mode is octal, such as 0755" } else { "it is a number: names are not looked up" };
            self.invalid(key, value, field).help(help)
        })
    }

    fn invalid(&self, key: &str, value: &str, field: &Field) -> Diagnostic {
        let message =
            if value.is_empty() { format!("`{key}` has no value") } else { format!("invalid value `{value}` for `{key}`") };
        self.error("mount-value", message, field)
    }

    fn unexpected_key(&self, key: &str, field: &Field) -> Diagnostic {
        let diagnostic = self.error("mount-key", format!("unexpected key `{key}` in `{}`", field.text), field);
        match nearest(key, KEYS) {
            Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
            None => diagnostic,
        }
    }

    fn error(&self, code: &'static str, message: impl Into<String>, field: &Field) -> Diagnostic {
        Diagnostic::error(code, message, self.source, self.place(field))
    }

    fn whole(&self, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error("mount", message, self.source, self.raw.span)
    }

    /// The field's place; the whole value's where quotes or continuations inside of it make the texts differ.
    fn place(&self, field: &Field) -> Span {
        let written = self.source.text().get(self.raw.span.range());
        let end = field.start + field.text.len();
        if written == Some(self.raw.value.as_str()) && self.raw.value.get(field.start..end) == Some(field.text.as_str()) {
            Span::new(self.raw.span.start + field.start, self.raw.span.start + end)
        } else {
            self.raw.span
        }
    }

    /// Splits the record at its commas. A field that begins with a double quote ends at the next single one.
    fn fields(&self) -> Result<Vec<Field>, Diagnostic> {
        let bad = |what: &str| {
            Diagnostic::error("mount-csv", format!("failed to parse csv mounts: {what}"), self.source, self.raw.span)
        };
        let record = self.raw.value.as_str();
        if record.is_empty() {
            return Err(bad("it is empty"));
        }
        let mut fields = Vec::new();
        let mut start = 0;
        loop {
            let rest = &record[start..];
            let (text, length) = if rest.starts_with('"') {
                quoted_field(rest).ok_or_else(|| bad("extraneous or missing \" in quoted field"))?
            } else {
                let text = rest.split(',').next().unwrap_or_default();
                if text.contains('"') {
                    return Err(bad("bare \" in non-quoted field"));
                }
                (text.to_owned(), text.len())
            };
            fields.push(Field { text, start });
            start += length;
            if start >= record.len() {
                return Ok(fields);
            }
            start += 1;
        }
    }
}

/// The inside of a quoted field at the start of `rest`, and its length with the quotes; a comma or the end must follow.
fn quoted_field(rest: &str) -> Option<(String, usize)> {
    let mut text = String::new();
    let mut at = 1;
    loop {
        let length = rest[at..].find('"')?;
        text.push_str(&rest[at..at + length]);
        at += length + 1;
        match rest[at..].chars().next() {
            None | Some(',') => return Some((text, at)),
            Some('"') => {
                text.push('"');
                at += 1;
            }
            Some(_) => return None,
        }
    }
}

/// A number with a unit: `b`, or `k`, `m`, `g`, `t`, `p` as powers of 1024 with an optional `b` or `ib`.
fn parse_size(text: &str) -> Option<u64> {
    let number_end = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')? + 1;
    let number = text[..number_end].strip_suffix(' ').unwrap_or(&text[..number_end]);
    if !number.starts_with(|c: char| c.is_ascii_digit() || c == '.' || c == '+') {
        return None;
    }
    let size: f64 = number.parse().ok()?;
    let power = match text[number_end..].to_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        _ => return None,
    };
    let size = size * 1024f64.powi(power);
    // A size past the largest file cannot be meant; the conversion itself saturates.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    (size.is_finite() && size >= 0.0).then_some(size as u64)
}

#[cfg(test)]
mod tests;
