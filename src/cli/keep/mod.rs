//! What `export` keeps of a model that it replaces: labels, and the settings and comments of its
//! manifest.
//!
//! A setting that still has the value that the earlier export wrote gets its new value; any other
//! value is an edit of the user and is kept. The fields [`OWNED`] always describe the new export.

mod network;
mod variants;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sightline::catalogue;
use sightline::manifest::{ManifestText, ModelManifest, Preprocess};
use sightline::store::{MAX_TEXT_BYTES, StoreError, lines, read_labels, read_regular};

use super::output::{OutputPaths, file_name};
pub(super) use variants::unused;

/// Maximum number of differing fields of a section that a message lists.
const LISTED: usize = 4;
/// Keys of a manifest that describe the network and its files. An export always sets them.
const OWNED: [&str; 6] = [
    "task",
    "stages",
    "architecture",
    "code_license",
    "weights",
    "provenance",
];

/// A model as `export` writes it into an empty folder.
pub(super) struct Fresh<'a> {
    /// Its manifest, with the SHA-256 of its files.
    pub(super) manifest: ModelManifest,
    pub(super) labels: &'a [String],
    /// The network's manifest in the catalogue, which states its presets.
    pub(super) catalogue: &'a ModelManifest,
    /// Whether the user named the model (`--as`).
    pub(super) name_given: bool,
    /// Whether the user chose the labels (`--labels`).
    pub(super) labels_given: bool,
}

/// The result of merging a fresh export with the model that it replaces.
pub(super) struct Merged {
    /// Text of the manifest to write.
    pub(super) text: String,
    /// The manifest of this text.
    pub(super) manifest: ModelManifest,
    /// Whether the labels of the fresh export are written.
    pub(super) writes_labels: bool,
    /// Messages about what was kept, each one line.
    pub(super) notes: Vec<String>,
}

/// A model in the output folder, which an export replaces.
pub(super) struct Existing {
    pub(super) path: PathBuf,
    pub(super) manifest: ModelManifest,
    pub(super) text: ManifestText,
    /// Content of the manifest as it was read.
    pub(super) bytes: Vec<u8>,
    /// The label file, its content and its labels. `None` if the file does not exist.
    pub(super) labels: Option<(PathBuf, Vec<u8>, Vec<String>)>,
}

impl Existing {
    /// Reads the manifest and the labels at `paths`. Returns `None` if there is no manifest.
    ///
    /// # Errors
    /// If the manifest or its label file cannot be read or used.
    pub(super) fn read(paths: &OutputPaths) -> Result<Option<Self>> {
        let path = &paths.manifest;
        let Some(bytes) = read_present(path)? else {
            return Ok(None);
        };
        let read = || -> Result<Self> {
            let text = str::from_utf8(&bytes)?;
            let manifest = ModelManifest::parse(text)?;
            if file_name(&manifest.labels) != manifest.labels {
                bail!("`labels` must name a file in the manifest's folder");
            }
            let file = path.with_file_name(&manifest.labels);
            let labels = read_present(&file)?;
            let labels = labels.map(|bytes| anyhow::Ok((file.clone(), bytes, read_labels(&file)?)));
            Ok(Self {
                path: path.clone(),
                text: ManifestText::parse(text)?,
                manifest,
                bytes: bytes.clone(),
                labels: labels.transpose()?,
            })
        };
        read().map(Some).with_context(|| {
            let path = path.display();
            format!("cannot keep the settings of {path}: correct the file, or replace the model with --force")
        })
    }

    /// Merges `fresh` with this model.
    ///
    /// # Errors
    /// If this model is another network, if its edited labels do not fit the classes, or if the
    /// kept settings do not fit the new network.
    fn merge(&self, fresh: &Fresh<'_>) -> Result<Merged> {
        if let Some(why) = network::difference(&self.manifest, &fresh.manifest)? {
            let folder = self.path.parent().unwrap_or(Path::new("")).display();
            bail!(
                "cannot replace the model in {folder}: {why}; choose another output with -o, or replace the model \
                 with --force"
            );
        }
        let mut notes = Vec::new();
        let keeps_labels = self.keeps_labels(fresh, &mut notes)?;
        let made: BTreeSet<&str> = variants::made(&fresh.manifest);
        let mut manifest = fresh.manifest.clone();
        let variant_notes = self.judge_variants(&mut manifest, &made);
        let new = ManifestText::parse(&manifest.to_toml()?)?;
        let base = ManifestText::parse(&self.base(fresh).to_toml()?)?;
        let mut text = self.text.clone();
        for key in self
            .text
            .keys()
            .chain(new.keys())
            .collect::<BTreeSet<&str>>()
        {
            let owned = match key {
                // Certificates name the files that they belong to.
                "variants" | "certificates" => continue,
                "labels" => !keeps_labels,
                "name" => fresh.name_given,
                _ => OWNED.contains(&key),
            };
            let differs = !self.text.differences(&[key], &new).is_empty();
            if owned || (differs && self.text.differences(&[key], &base).is_empty()) {
                text.copy(&[key], &new);
            } else if key != "labels" {
                notes.extend(self.kept(&[key], &new));
            }
        }
        for name in manifest.variants.keys() {
            if made.contains(name.as_str()) {
                text.copy(&["variants", name], &new);
            } else if self.manifest.variants.contains_key(name) {
                text.copy(&["variants", name, "source_sha256"], &new);
            }
            if fresh.manifest.variants.contains_key(name) && !made.contains(name.as_str()) {
                notes.extend(self.kept(&["variants", name], &new));
            }
        }
        notes.extend(variant_notes);
        self.checked(text.to_string(), keeps_labels, notes)
    }

    /// Checks that the merged manifest `text` is valid.
    ///
    /// # Errors
    /// If the kept settings do not fit the new network.
    fn checked(&self, text: String, keeps_labels: bool, notes: Vec<String>) -> Result<Merged> {
        let manifest = ModelManifest::parse(&text).with_context(|| {
            let path = self.path.display();
            format!("cannot keep the settings of {path}: correct them, or replace the model with --force")
        })?;
        Ok(Merged {
            text,
            manifest,
            writes_labels: !keeps_labels,
            notes,
        })
    }

    /// Checks that a copy of the model `source` with `labels` can replace this model without losing
    /// edits.
    ///
    /// # Errors
    /// If this model is another network, or its settings or labels differ from those of `source`.
    pub(super) fn check_copy(&self, source: &ModelManifest, labels: &[String]) -> Result<()> {
        let path = self.path.display();
        let advice = "quantize that model in its own folder, choose another output with -o, or replace the model with --force";
        if let Some(why) = network::difference(&self.manifest, source)? {
            bail!("cannot replace {path}: {why}; {advice}");
        }
        if let Some((file, _, own)) = &self.labels
            && own != labels
        {
            let file = file.display();
            bail!(
                "cannot replace {file}: its labels differ from those of the model to quantize; {advice}"
            );
        }
        // Both are written by the same code, so that absent defaults and the form of numbers are no
        // differences.
        let own = ManifestText::parse(&self.manifest.to_toml()?)?;
        let new = ManifestText::parse(&source.to_toml()?)?;
        let other = ["name", "labels", "variants", "default", "certificates"];
        for key in own.keys().chain(new.keys()).collect::<BTreeSet<&str>>() {
            if !OWNED.contains(&key)
                && !other.contains(&key)
                && let Some(differs) = differing(&own, &[key], &new)
            {
                bail!(
                    "cannot replace {path}: its settings differ from those of the model to quantize: {differs}; {advice}"
                );
            }
        }
        Ok(())
    }

    /// Returns whether the label file is kept: if the user has edited it, or if it equals the
    /// fresh one.
    ///
    /// # Errors
    /// If edited labels do not have one line per class.
    fn keeps_labels(&self, fresh: &Fresh<'_>, notes: &mut Vec<String>) -> Result<bool> {
        let Some((path, _, labels)) = &self.labels else {
            return Ok(false);
        };
        let (path, count, classes) = (path.display(), labels.len(), fresh.labels.len());
        if fresh.labels_given || labels == fresh.labels {
            return Ok(!fresh.labels_given);
        }
        if *labels == default_labels(&fresh.catalogue.labels, count) {
            return Ok(false);
        }
        if count != classes {
            bail!(
                "cannot keep the labels in {path}: the file has {count} labels, which are not those of a fresh export, \
                 and the network has {classes} classes; set new labels with --labels, or replace the file with --force"
            );
        }
        notes.push(format!(
            "{path}: kept {count} labels, which are not those of a fresh export"
        ));
        Ok(true)
    }

    /// Returns the manifest that an export of the existing model's checkpoint would have written, as
    /// far as it can be known: `fresh` with the presets for that checkpoint.
    fn base(&self, fresh: &Fresh<'_>) -> ModelManifest {
        let provenance = self.manifest.provenance.as_ref();
        let checkpoint = provenance.map_or("", |from| from.checkpoint_sha256.as_str());
        ModelManifest {
            preprocess: preset(fresh.catalogue, checkpoint),
            ..fresh.manifest.clone()
        }
    }

    /// Returns a message about the fields at `path` of the existing manifest that differ from those
    /// in `new`. `None` if no field differs.
    fn kept(&self, path: &[&str], new: &ManifestText) -> Option<String> {
        let differs = differing(&self.text, path, new)?;
        Some(format!("{}: kept {differs}", self.path.display()))
    }
}

/// Lists the fields at `path` of the manifest `text` that differ from those in `new`. `None` if no
/// field differs.
fn differing(text: &ManifestText, path: &[&str], new: &ManifestText) -> Option<String> {
    let differences = text.differences(path, new);
    let shown = differences.iter().take(LISTED).map(ToString::to_string);
    let mut shown: Vec<String> = shown.collect();
    if differences.len() > LISTED {
        shown.push(format!("and {} more", differences.len() - LISTED));
    }
    let key = path.join(".");
    (!shown.is_empty()).then(|| format!("`{key}`: {}", shown.join(", ")))
}

impl Merged {
    /// Merges `fresh` with the model that is there. Without one, or with `--force`, `existing` is
    /// `None` and nothing is kept.
    ///
    /// # Errors
    /// As [`Existing::merge`].
    pub(super) fn new(existing: Option<&Existing>, fresh: &Fresh<'_>) -> Result<Self> {
        if let Some(existing) = existing {
            return existing.merge(fresh);
        }
        Ok(Self {
            text: fresh.manifest.to_toml()?,
            manifest: fresh.manifest.clone(),
            writes_labels: true,
            notes: Vec::new(),
        })
    }
}

/// Returns the preprocessing that belongs to the checkpoint with the SHA-256 `checkpoint`: the
/// preset of the network in the `catalogue`, with the resize of a published checkpoint.
pub(super) fn preset(catalogue: &ModelManifest, checkpoint: &str) -> Preprocess {
    let mut preset = catalogue.preprocess.clone();
    let published = catalogue.published(checkpoint);
    if let Some(resize) = published.and_then(|weights| weights.resize.clone()) {
        preset.resize = resize;
    }
    preset
}

/// Returns the labels in the catalogue's label file `file` if their number is `classes`, or else
/// `class 0`, `class 1` and so on.
pub(super) fn default_labels(file: &Path, classes: usize) -> Vec<String> {
    let known = catalogue::labels(file)
        .map(lines)
        .filter(|labels| labels.len() == classes);
    known.unwrap_or_else(|| (0..classes).map(|class| format!("class {class}")).collect())
}

/// Returns the content of a regular file, or `None` if there is no regular file at `path`.
fn read_present(path: &Path) -> Result<Option<Vec<u8>>> {
    match read_regular(path, MAX_TEXT_BYTES) {
        // A folder or a pipe is rejected when the files are written.
        Err(StoreError::NotRegular { .. }) => Ok(None),
        Err(StoreError::Io { source, .. })
            if matches!(
                source.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        read => Ok(Some(read?)),
    }
}
