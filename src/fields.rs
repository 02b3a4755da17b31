//! Options as buildx writes them: `type=TYPE,key=value,…`.

use crate::diagnostic::nearest;
use crate::reference::{BadReference, ImageRef};

/// Why a text is no option of this kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// Quotes that do not match, an empty field, a field without `=`.
    #[error("`{0}` is not `key=value`")]
    Syntax(String),
    /// No `type=`.
    #[error("{} {} needs `type=`: one of {}", article(kinds.noun), kinds.noun, kinds.types.join(", "))]
    NoType {
        /// What the option is about.
        kinds: Kinds,
    },
    /// No such type.
    #[error("unknown {noun} type `{word}`{}", hint(*.nearest))]
    UnknownType {
        /// What the option is about.
        noun: &'static str,
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
    /// A name of an image that is none.
    #[error("`{key}={name}` is not valid: {reason}")]
    BadName {
        /// The key.
        key: &'static str,
        /// As written.
        name: String,
        /// Why.
        reason: BadReference,
    },
}

/// What an option is about, and the types that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kinds {
    /// Such as `cache`.
    pub noun: &'static str,
    /// In the order in which they are told.
    pub types: &'static [&'static str],
}

impl Kinds {
    /// The type that the last `type=` names.
    ///
    /// # Errors
    /// `NoType`, `UnknownType`.
    pub fn of(self, pairs: &[(String, String)]) -> Result<&'static str, FieldError> {
        let word = last(pairs, "type").filter(|word| !word.is_empty()).ok_or(FieldError::NoType { kinds: self })?;
        let known = self.types.iter().copied();
        known.clone().find(|kind| *kind == word).ok_or_else(|| FieldError::UnknownType {
            noun: self.noun,
            word: word.to_owned(),
            nearest: nearest(word, known),
        })
    }
}

/// The value of a key: the last one counts.
pub fn last<'a>(pairs: &'a [(String, String)], key: &str) -> Option<&'a str> {
    pairs.iter().rev().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
}

/// Keys, in lower case, and values.
///
/// # Errors
/// `Syntax` for a field without `=`.
pub fn pairs(fields: &[String]) -> Result<Vec<(String, String)>, FieldError> {
    let pair = |field: &String| {
        let (key, value) = field.split_once('=').ok_or_else(|| FieldError::Syntax(field.clone()))?;
        Ok((key.trim().to_lowercase(), value.to_owned()))
    };
    fields.iter().map(pair).collect()
}

/// That `key` is none of `known`.
pub fn unknown_key(key: &str, kind: &'static str, known: impl IntoIterator<Item = &'static str>) -> FieldError {
    FieldError::UnknownKey { key: key.to_owned(), kind, nearest: nearest(key, known) }
}

/// That a key cannot have this value.
pub fn bad(key: &str, value: &str, expected: &'static str) -> FieldError {
    FieldError::BadValue { key: key.to_owned(), value: value.to_owned(), expected }
}

/// Go's `strconv.ParseBool`, which buildx reads these with.
///
/// # Errors
/// `BadValue`.
pub fn boolean(key: &str, value: &str) -> Result<bool, FieldError> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(bad(key, value, "`true` or `false`")),
    }
}

/// The name of an image.
///
/// # Errors
/// `BadName`.
pub fn image_ref(key: &'static str, name: &str) -> Result<ImageRef, FieldError> {
    name.parse().map_err(|reason| FieldError::BadName { key, name: name.to_owned(), reason })
}

/// Splits at commas; a field in double quotes may hold commas, and quotes doubled (RFC 4180).
///
/// # Errors
/// `Syntax` for quotes that do not match.
pub fn split(text: &str) -> Result<Vec<String>, FieldError> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let field;
        (field, rest) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted).ok_or_else(|| FieldError::Syntax(text.to_owned()))?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        fields.push(field);
        match rest.strip_prefix(',') {
            Some(next) => rest = next,
            None if rest.is_empty() => return Ok(fields),
            None => return Err(FieldError::Syntax(text.to_owned())),
        }
    }
}

/// The field up to its closing quote, and what follows it.
fn quoted_field(text: &str) -> Option<(String, &str)> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let end = rest.find('"')?;
        field.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                rest = more;
            }
            None => return Some((field, rest)),
        }
    }
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map(|word| format!("; did you mean `{word}`?")).unwrap_or_default()
}

fn article(noun: &str) -> &'static str {
    if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}
