//! Annotations: words on manifests and descriptors, from `--annotation` and from an output's keys.
//!
//! Source of the forms: moby/buildkit, `docs/annotations.md`.

use std::collections::BTreeMap;

use crate::reference::Platform;

/// Why a text is no annotation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationError {
    /// Not `key=value`.
    #[error("annotation `{0}` is not `key=value`")]
    Syntax(String),
    /// A place that annotations cannot have.
    #[error("annotation `{text}` is for `{place}`; known are `manifest`, `manifest-descriptor`, `index` and `index-descriptor`")]
    UnknownPlace {
        /// As written.
        text: String,
        /// The word.
        place: String,
    },
    /// A platform where all share one document.
    #[error("annotation `{0}` is for the index, which is one for all platforms")]
    PlatformOfIndex(String),
    /// Brackets without a platform.
    #[error("annotation `{0}` names no valid platform")]
    BadPlatform(String),
}

/// A word on a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotation {
    /// On which document.
    pub place: Place,
    /// Only for images of this platform.
    pub platform: Option<Platform>,
    /// `org.opencontainers.image.title`.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// Where an annotation is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The manifest itself.
    Manifest,
    /// The manifest's descriptor in the index, or in the layout's index if there is no other.
    ManifestDescriptor,
    /// The index of an image for several platforms.
    Index,
    /// The index's descriptor in the layout's index.
    IndexDescriptor,
}

impl Place {
    /// Whether only an index has it.
    pub fn is_of_index(self) -> bool {
        matches!(self, Place::Index | Place::IndexDescriptor)
    }
}

impl Annotation {
    /// Reads `--annotation`: `[PLACE[PLATFORM][,PLACE…]:]KEY=VALUE`; without a place it is the manifest.
    pub fn parse_flag(text: &str) -> Result<Vec<Annotation>, AnnotationError> {
        let (name, value) = text.split_once('=').ok_or_else(|| AnnotationError::Syntax(text.to_owned()))?;
        let (places, key) = name.split_once(':').unwrap_or(("manifest", name));
        if key.is_empty() {
            return Err(AnnotationError::Syntax(text.to_owned()));
        }
        places.split(',').map(|place| annotation(text, place, key, value)).collect()
    }

    /// Reads an output's key: `annotation.KEY`, `annotation-PLACE.KEY`, either with `[PLATFORM]` in front of the dot.
    pub fn parse_key(name: &str, value: &str) -> Result<Annotation, AnnotationError> {
        let syntax = || AnnotationError::Syntax(name.to_owned());
        let rest = name.strip_prefix("annotation").ok_or_else(syntax)?;
        // a platform may hold dots, the place may not
        let dot = match rest.find(']') {
            Some(bracket) if rest[..bracket].contains('[') && !rest[..rest.find('[').unwrap_or(0)].contains('.') => {
                bracket + rest[bracket..].find('.').ok_or_else(syntax)?
            }
            _ => rest.find('.').ok_or_else(syntax)?,
        };
        let (place, key) = (&rest[..dot], &rest[dot + 1..]);
        if key.is_empty() {
            return Err(syntax());
        }
        let place = match place.strip_prefix('-') {
            Some(place) => place.to_owned(),
            None => format!("manifest{place}"),
        };
        annotation(name, &place, key, value)
    }
}

/// Those of `annotations` for `place` on an image of `platform` (none for an index, and for an image without one), later ones winning.
pub(super) fn select(annotations: &[Annotation], place: Place, platform: Option<&Platform>) -> BTreeMap<String, String> {
    annotations
        .iter()
        .filter(|annotation| annotation.place == place)
        .filter(|annotation| annotation.platform.is_none() || annotation.platform.as_ref() == platform)
        .map(|annotation| (annotation.key.clone(), annotation.value.clone()))
        .collect()
}

fn annotation(text: &str, place: &str, key: &str, value: &str) -> Result<Annotation, AnnotationError> {
    let (word, platform) = match place.split_once('[') {
        None => (place, None),
        Some((word, rest)) => {
            let bad = || AnnotationError::BadPlatform(text.to_owned());
            let platform = rest.strip_suffix(']').ok_or_else(bad)?.parse().map_err(|_| bad())?;
            (word, Some(platform))
        }
    };
    let place = match word {
        "manifest" => Place::Manifest,
        "manifest-descriptor" => Place::ManifestDescriptor,
        "index" | "index-descriptor" if platform.is_some() => {
            return Err(AnnotationError::PlatformOfIndex(text.to_owned()));
        }
        "index" => Place::Index,
        "index-descriptor" => Place::IndexDescriptor,
        other => return Err(AnnotationError::UnknownPlace { text: text.to_owned(), place: other.to_owned() }),
    };
    Ok(Annotation { place, platform, key: key.to_owned(), value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(annotation: &Annotation) -> String {
        let platform = annotation.platform.as_ref().map(|platform| format!("[{platform}]")).unwrap_or_default();
        format!("{:?}{platform} {}={}", annotation.place, annotation.key, annotation.value)
    }

    #[track_caller]
    fn flag(text: &str, expected: &[&str]) {
        let annotations = Annotation::parse_flag(text).expect(text);
        assert_eq!(annotations.iter().map(show).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn flags() {
        flag("a.b=c=d", &["Manifest a.b=c=d"]);
        flag("manifest-descriptor:a=", &["ManifestDescriptor a="]);
        flag("manifest[linux/arm64],manifest-descriptor:a=b", &["Manifest[linux/arm64] a=b", "ManifestDescriptor a=b"]);
        assert_eq!(Annotation::parse_flag("a"), Err(AnnotationError::Syntax("a".to_owned())));
        flag("index,index-descriptor:a=b", &["Index a=b", "IndexDescriptor a=b"]);
        assert!(matches!(Annotation::parse_flag("index[linux/amd64]:a=b"), Err(AnnotationError::PlatformOfIndex(_))));
        assert!(matches!(Annotation::parse_flag("x:a=b"), Err(AnnotationError::UnknownPlace { .. })));
        assert!(matches!(Annotation::parse_flag("manifest[:a=b"), Err(AnnotationError::BadPlatform(_))));
    }

    #[test]
    fn keys() {
        let key = |name: &str| Annotation::parse_key(name, "v").map(|annotation| show(&annotation));
        assert_eq!(key("annotation.a.b"), Ok("Manifest a.b=v".to_owned()));
        assert_eq!(key("annotation-manifest-descriptor.a"), Ok("ManifestDescriptor a=v".to_owned()));
        assert_eq!(key("annotation[linux/amd64].a"), Ok("Manifest[linux/amd64] a=v".to_owned()));
        assert_eq!(key("annotation.a[b]"), Ok("Manifest a[b]=v".to_owned()));
        assert!(key("annotation-manifest").is_err());
        assert!(key("annotation.").is_err());
    }

    #[test]
    fn a_platform_selects() {
        let annotations = Annotation::parse_flag("manifest[linux/arm64]:a=b").expect("valid");
        let platform = |text: &str| text.parse::<Platform>().expect("valid");
        assert!(select(&annotations, Place::Manifest, Some(&platform("linux/amd64"))).is_empty());
        assert_eq!(select(&annotations, Place::Manifest, Some(&platform("linux/arm64"))).len(), 1);
        assert!(select(&annotations, Place::ManifestDescriptor, Some(&platform("linux/arm64"))).is_empty());
    }
}
