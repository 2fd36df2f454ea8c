//! Writes the files that `export` and `quantize` make, with their hashes in the manifest.

use std::path::{Path, PathBuf};

use anyhow::Result;
use onnx_export::Model;
use sightline::manifest::{ModelManifest, Precision};
use sightline::store::StoreError;

use super::keep::{Existing, Fresh, Merged, unused};
use super::output::{OutputPaths, file_name};
use super::staging::FileSet;
use super::trained::Int8;

/// Number of times that an export merges its model with the one that is there, if other writers or
/// editors change that one again and again.
const ATTEMPTS: usize = 100;
/// Note after those on what was kept.
const REPLACES: &str = "  --force replaces what was kept by a fresh export";

/// An exported model, and the contents of the files that are written with it.
pub(super) struct Exported<'a> {
    /// The manifest and labels of a fresh export. [`Exported::write`] adds the SHA-256 of the files.
    pub(super) fresh: Fresh<'a>,
    pub(super) model: &'a Model,
    /// The ONNX file of the whole detector as one graph. `None` without `--fused`.
    pub(super) fused: Option<Fused>,
    /// The int8 variant. `None` if the checkpoint has no trained int8 scales.
    pub(super) int8: Option<&'a Int8>,
    /// Whether an existing model is replaced without keeping edits (`--force`).
    pub(super) force: bool,
}

/// A detector as one graph, with its settings built in.
pub(super) struct Fused {
    pub(super) bytes: Vec<u8>,
    /// The manifest whose thresholds and resize are built in.
    pub(super) manifest: ModelManifest,
}

impl Exported<'_> {
    /// Writes every file of the model, or none. Returns messages about what was kept of the model
    /// that was there before.
    ///
    /// # Errors
    /// If a file cannot be written, or if the existing model cannot be replaced without losing edits.
    pub(super) fn write(mut self, paths: &OutputPaths) -> Result<Vec<String>> {
        let labels = self.fresh.labels.join("\n") + "\n";
        let stages = self.model.to_files();
        let mut graphs = Vec::new();
        if let Some(fused) = &self.fused {
            graphs.push((paths.fused.clone(), &fused.bytes[..]));
        }
        graphs.extend(stages.iter().map(|s| (paths.stage(s.role), &s.content[..])));
        let mut texts = Vec::new();
        if let Some(int8) = self.int8 {
            texts.push((paths.ranges.clone(), int8.ranges.as_bytes()));
            graphs.push((paths.int8(), &int8.network));
        }
        let manifest = &mut self.fresh.manifest;
        record_sha256(manifest, texts.iter().chain(&graphs));
        if self.int8.is_some() {
            record_source(manifest, Precision::Int8.as_str());
        }
        let replaced = self.force.then(|| Existing::read(paths).ok().flatten());
        let replaced = replaced.flatten();
        for _ in 0..ATTEMPTS {
            let existing = (!self.force).then(|| Existing::read(paths)).transpose()?;
            let existing = existing.flatten();
            let mut merged = self.merged(existing.as_ref(), paths)?;
            let before = existing.as_ref().or(replaced.as_ref());
            let stale_fused = before.and_then(|before| self.stale_fused(before, paths));
            let mut texts = texts.clone();
            if merged.writes_labels {
                texts.push((paths.labels.clone(), labels.as_bytes()));
            }
            let mut files = file_set(&merged.text, paths, &texts, &graphs);
            if !self.force {
                expect(&mut files, paths, existing.as_ref());
            }
            match write_set(&files, paths) {
                // Another process or an editor has changed the manifest or the labels since they were read.
                Err(error) if is_changed(&error) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    let kept = (!merged.notes.is_empty()).then(|| REPLACES.to_owned());
                    merged.notes.extend(kept);
                    merged.notes.extend(stale_fused);
                    merged.notes.extend(
                        replaced.and_then(|old| {
                            unused(&old.manifest, &merged.manifest, paths.folder())
                        }),
                    );
                    return Ok(merged.notes);
                }
            }
        }
        Err(changed(&paths.manifest))
    }

    /// Returns a message about a fused detector of the model `before` that stays in the folder although
    /// the weights change. `None` if there is none.
    fn stale_fused(&self, before: &Existing, paths: &OutputPaths) -> Option<String> {
        let stays = self.fused.is_none() && paths.fused.is_file();
        (stays && before.has_other_weights(&self.fresh.manifest)).then(|| {
            let file = paths.fused.display();
            format!("{file}: built from other weights than the model's: export with --fused, or delete the file")
        })
    }

    /// Merges the export with the model that is there.
    fn merged(&self, existing: Option<&Existing>, paths: &OutputPaths) -> Result<Merged> {
        let merged = Merged::new(existing, &self.fresh)?;
        let settings = |manifest: &ModelManifest| {
            (
                manifest.detection.clone(),
                manifest.preprocess.resize.clone(),
            )
        };
        if let Some(Fused { manifest, .. }) = &self.fused
            && settings(manifest) != settings(&merged.manifest)
        {
            // The fused detector was built for settings that have been edited since.
            return Err(changed(&paths.manifest));
        }
        Ok(merged)
    }
}

/// Records the SHA-256 of `files` in the manifest, where it names them.
pub(super) fn record_sha256<'f>(
    manifest: &mut ModelManifest,
    files: impl IntoIterator<Item = &'f (PathBuf, &'f [u8])>,
) {
    for (path, content) in files {
        manifest.record_sha256(&file_name(path), content);
    }
}

/// Records that the variant `name` was made from the fp32 files whose SHA-256 the manifest states.
pub(super) fn record_source(manifest: &mut ModelManifest, name: &str) {
    let source = manifest.fp32_sha256().unwrap_or_default();
    if let Some(variant) = manifest.variants.get_mut(name) {
        variant.source_sha256 = source;
    }
}

/// Returns the files of a model in the order in which they become visible.
pub(super) fn file_set<'f>(
    manifest: &'f str,
    paths: &OutputPaths,
    texts: &[(PathBuf, &'f [u8])],
    graphs: &[(PathBuf, &'f [u8])],
) -> FileSet<'f> {
    let mut files = FileSet::new(paths.folder());
    files.add(&paths.manifest, manifest.as_bytes());
    // Graphs are last: until the last one is in place, a hash in the manifest does not match.
    for (path, content) in texts.iter().chain(graphs) {
        files.add(path, content);
    }
    files
}

/// Requires that the model that `files` replace is still `existing`, or that there is none.
pub(super) fn expect<'f>(
    files: &mut FileSet<'f>,
    paths: &OutputPaths,
    existing: Option<&'f Existing>,
) {
    files.expect(
        &paths.manifest,
        existing.map(|existing| &existing.bytes[..]),
    );
    if let Some((path, bytes, _)) = existing.and_then(|existing| existing.labels.as_ref()) {
        files.expect(path, Some(bytes));
    }
}

/// Writes every file of the model or none.
pub(super) fn write_set(files: &FileSet<'_>, paths: &OutputPaths) -> Result<()> {
    if paths.own_folder {
        files.write_folder()
    } else {
        files.write_beside()
    }
}

fn changed(manifest: &Path) -> anyhow::Error {
    let path = manifest.to_path_buf();
    StoreError::Changed { path }.into()
}

fn is_changed(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(StoreError::Changed { .. }))
}
