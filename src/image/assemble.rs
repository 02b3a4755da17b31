//! A draft and its layers become an image: history and times, config, manifest.
//!
//! Source of the rules for history and times: moby/buildkit, `exporter/containerimage/writer.go`.

use std::collections::BTreeMap;

use super::document::{Descriptor, Dialect, Manifest, compact};
use super::time::{is_later, rfc3339};
use super::{History, ImageConfig};
use crate::digest::{DiffId, Digest};

/// An image before its layers exist.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ImageDraft {
    /// All but history, layers and time; what it says of those is ignored.
    pub config: ImageConfig,
    /// What the base image says of itself, oldest first.
    pub base_history: Vec<History>,
    /// What this build adds, oldest first.
    pub history: Vec<DraftHistory>,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// Whose types the documents have.
    pub dialect: Dialect,
}

/// One instruction of this build in the history.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DraftHistory {
    /// `RUN /bin/sh -c make # buildkit`.
    pub created_by: String,
    /// `buildkit.dockerfile.v0`.
    pub comment: Option<String>,
    /// Whether the next own layer is its.
    pub layer: bool,
}

/// A layer as an image names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AssembledLayer {
    /// Digest of its tar.
    pub diff_id: DiffId,
    /// The blob.
    pub descriptor: Descriptor,
    /// When it was made, seconds since 1970; `None` where only the base's history knows.
    pub created_secs: Option<i64>,
}

/// An image's documents. Its layers are elsewhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    /// The config's bytes.
    pub config: Vec<u8>,
    /// Their digest: the image id.
    pub config_digest: Digest,
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// The manifest as an index lists it, with the platform.
    pub descriptor: Descriptor,
    /// All layers, bottom layer first.
    pub layers: Vec<AssembledLayer>,
    /// The config's time, RFC 3339.
    pub created: Option<String>,
}

/// Assembles `draft` and `layers` (the base's, then those of this build, bottom layer first).
///
/// As many layers from the top as the draft's history asks for are this build's; an item whose layer is missing becomes one
/// without a layer. Times: an item with a layer has the layer's; others that of the own layer before them, or of the first
/// own layer, or of the base; the config's time is that of the last item. Times of this build later than `epoch` (seconds
/// since 1970) become `epoch`; the base's history is left alone.
pub fn assemble(draft: &ImageDraft, layers: &[AssembledLayer], epoch: Option<i64>) -> Image {
    let wanted = draft.history.iter().filter(|item| item.layer).count();
    let (base, own) = layers.split_at(layers.len().saturating_sub(wanted));
    let mut history = base_history(&draft.base_history, base.len());
    let base_created = history.iter().rev().find_map(|item| item.created.clone());
    history.extend(own_history(&draft.history, own, base_created, epoch));

    let created = history.iter().rev().find_map(|item| item.created.clone());
    let created = match epoch {
        Some(epoch) if created.as_deref().is_none_or(|created| is_later(created, epoch)) => Some(rfc3339(epoch)),
        _ => created,
    };
    let mut config = draft.config.clone();
    config.history = history;
    config.created.clone_from(&created);
    config.rootfs = super::RootFs { diff_ids: layers.iter().map(|layer| layer.diff_id).collect(), ..Default::default() };
    let config_bytes = compact(&config);

    let manifest = Manifest {
        schema_version: 2,
        media_type: draft.dialect.manifest().to_owned(),
        config: Descriptor::of(draft.dialect.config(), &config_bytes),
        layers: layers.iter().map(|layer| layer.descriptor.clone()).collect(),
        annotations: draft.annotations.clone(),
    };
    let manifest_bytes = manifest.to_bytes();
    let mut descriptor = Descriptor::of(draft.dialect.manifest(), &manifest_bytes);
    descriptor.platform = Some(config.platform());
    Image {
        config_digest: manifest.config.digest,
        config: config_bytes,
        manifest: manifest_bytes,
        descriptor,
        layers: layers.to_vec(),
        created,
    }
}

/// The base's items, made to fit its number of layers: strict readers count.
fn base_history(items: &[History], layers: usize) -> Vec<History> {
    let mut history = items.to_vec();
    let told = history.iter().filter(|item| !item.empty_layer).count();
    // items of layers that are not there, oldest first, as BuildKit decides
    for item in history.iter_mut().filter(|item| !item.empty_layer).take(told.saturating_sub(layers)) {
        item.empty_layer = true;
    }
    let missing = layers.saturating_sub(told);
    let filler = History { comment: Some("buildkit.exporter.image.v0".to_owned()), ..History::default() };
    history.extend(std::iter::repeat_n(filler, missing));
    history
}

fn own_history(items: &[DraftHistory], own: &[AssembledLayer], base_created: Option<String>, epoch: Option<i64>) -> Vec<History> {
    let clamp = |seconds: i64| rfc3339(epoch.map_or(seconds, |epoch| seconds.min(epoch)));
    let mut layers = own.iter();
    let first = own.iter().find_map(|layer| layer.created_secs).map(clamp);
    let mut last = first.or_else(|| match epoch {
        Some(epoch) => Some(base_created.filter(|created| !is_later(created, epoch)).unwrap_or_else(|| rfc3339(epoch))),
        None => base_created,
    });
    let mut history = Vec::with_capacity(items.len());
    for item in items {
        let layer = if item.layer { layers.next() } else { None };
        if let Some(seconds) = layer.and_then(|layer| layer.created_secs) {
            last = Some(clamp(seconds));
        }
        history.push(History {
            created: last.clone(),
            created_by: Some(item.created_by.clone()).filter(|text| !text.is_empty()),
            author: None,
            comment: item.comment.clone(),
            empty_layer: layer.is_none(),
        });
    }
    history
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::media_type;
    use crate::reference::Platform;

    fn layer(text: &str, created_secs: Option<i64>) -> AssembledLayer {
        let digest = Digest::of(text.as_bytes());
        AssembledLayer { diff_id: DiffId(digest), descriptor: Descriptor::new(media_type::LAYER, digest, 1), created_secs }
    }

    fn item(text: &str, layer: bool) -> DraftHistory {
        DraftHistory { created_by: text.to_owned(), comment: None, layer }
    }

    fn base_item(text: &str, created: &str, empty_layer: bool) -> History {
        History {
            created: Some(created.to_owned()).filter(|created| !created.is_empty()),
            created_by: Some(text.to_owned()),
            empty_layer,
            ..History::default()
        }
    }

    fn draft(base_history: Vec<History>, history: Vec<DraftHistory>) -> ImageDraft {
        let platform = Platform { os: "linux".to_owned(), architecture: "amd64".to_owned(), variant: String::new() };
        ImageDraft {
            config: ImageConfig::scratch(&platform),
            base_history,
            history,
            annotations: BTreeMap::new(),
            dialect: Dialect::Oci,
        }
    }

    /// Each history item as `time text`, `-` behind those without layer; last line: the config's time.
    #[track_caller]
    fn check(draft: &ImageDraft, layers: &[AssembledLayer], epoch: Option<i64>, expected: &[&str]) {
        let image = assemble(draft, layers, epoch);
        let config: ImageConfig = serde_json::from_slice(&image.config).expect("config");
        let mut lines: Vec<String> = config
            .history
            .iter()
            .map(|item| {
                let time = item.created.as_deref().unwrap_or("none").trim_start_matches("1970-01-01T00:00:").to_owned();
                let mark = if item.empty_layer { " -" } else { "" };
                format!("{time} {}{mark}", item.created_by.as_deref().unwrap_or_default())
            })
            .collect();
        lines.push(config.created.as_deref().unwrap_or("none").trim_start_matches("1970-01-01T00:00:").to_owned());
        assert_eq!(lines, expected);
        assert_eq!(config.history.iter().filter(|item| !item.empty_layer).count(), layers.len());
    }

    #[test]
    fn items_without_layer_take_the_time_of_their_neighbours() {
        let history = vec![item("ENV", false), item("RUN", true), item("CMD", false), item("COPY", true), item("USER", false)];
        let base = vec![base_item("ADD", "1970-01-01T00:00:01Z", false)];
        let layers = [layer("base", None), layer("run", Some(7)), layer("copy", Some(5))];
        check(
            &draft(base, history),
            &layers,
            None,
            &["01Z ADD", "07Z ENV -", "07Z RUN", "07Z CMD -", "05Z COPY", "05Z USER -", "05Z"],
        );
    }

    #[test]
    fn without_own_layers_the_time_is_the_base_s() {
        let base = vec![base_item("ADD", "1970-01-01T00:00:01Z", false), base_item("CMD", "1970-01-01T00:00:02Z", true)];
        check(
            &draft(base, vec![item("ENV", false)]),
            &[layer("base", None)],
            None,
            &["01Z ADD", "02Z CMD -", "02Z ENV -", "02Z"],
        );
    }

    #[test]
    fn an_epoch_limits_own_times_only() {
        let base = vec![base_item("ADD", "1970-01-01T00:00:09Z", false)];
        let history = vec![item("RUN", true), item("RUN2", true), item("CMD", false)];
        let layers = [layer("base", None), layer("run", Some(3)), layer("run2", Some(8))];
        check(&draft(base.clone(), history), &layers, Some(5), &["09Z ADD", "03Z RUN", "05Z RUN2", "05Z CMD -", "05Z"]);
        check(&draft(base.clone(), vec![]), &[layer("base", None)], Some(5), &["09Z ADD", "05Z"]);
        check(&draft(base, vec![item("CMD", false)]), &[layer("base", None)], Some(5), &["09Z ADD", "05Z CMD -", "05Z"]);
    }

    #[test]
    fn an_empty_image_has_no_time_without_epoch() {
        check(&draft(vec![], vec![item("CMD", false)]), &[], None, &["none CMD -", "none"]);
        check(&draft(vec![], vec![item("CMD", false)]), &[], Some(5), &["05Z CMD -", "05Z"]);
        let image = assemble(&draft(vec![], vec![]), &[], None);
        let text = String::from_utf8(image.manifest).expect("text");
        assert!(text.contains("\"layers\": []"), "{text}");
        assert!(String::from_utf8(image.config).expect("text").contains("\"diff_ids\":[]"));
    }

    #[test]
    fn a_base_whose_history_does_not_fit_is_made_to_fit() {
        let layers = [layer("a", None), layer("b", None), layer("run", Some(3))];
        check(
            &draft(vec![base_item("one", "1970-01-01T00:00:01Z", false)], vec![item("RUN", true)]),
            &layers,
            None,
            &["01Z one", "none ", "03Z RUN", "03Z"],
        );
        let items = vec![base_item("one", "", false), base_item("two", "", false)];
        check(&draft(items, vec![]), &[layer("a", None)], None, &["none one -", "none two", "none"]);
    }

    #[test]
    fn bytes_are_those_of_go() {
        let image = assemble(&draft(vec![], vec![item("RUN a && b", true)]), &[layer("run", Some(0))], None);
        assert_eq!(
            String::from_utf8(image.config.clone()).expect("text"),
            format!(
                r#"{{"architecture":"amd64","config":{{}},"created":"1970-01-01T00:00:00Z","history":[{{"created":"1970-01-01T00:00:00Z","created_by":"RUN a \u0026\u0026 b"}}],"os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
                Digest::of(b"run")
            )
        );
        assert_eq!(image.config_digest, Digest::of(&image.config));
        assert_eq!(image.descriptor.digest, Digest::of(&image.manifest));
    }
}
