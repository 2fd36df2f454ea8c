//! Variants of the model that an export replaces. A variant with ONNX files of its own was made from
//! the fp32 weights of an earlier export, and is stale if the new weights differ.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sightline::manifest::{ModelManifest, Variant, same_sha256, sha256};
use sightline::store::{INT8, MAX_ONNX_BYTES, read_regular};

use super::Existing;

/// A value that no file has as its SHA-256, for a variant whose fp32 file does not exist any more.
const UNKNOWN: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Returns the names of the variants that come with the export `manifest`, with ONNX files of their
/// own.
pub(super) fn made(manifest: &ModelManifest) -> BTreeSet<&str> {
    let variants = manifest.variants.iter();
    let made = variants.filter(|(_, variant)| !variant.stages.is_empty());
    made.map(|(name, _)| name.as_str()).collect()
}

/// Returns a message about the files of the variants of `old` that exist in `folder` and that `new`
/// does not name. `None` if there are no such files.
pub(in crate::cli) fn unused(
    old: &ModelManifest,
    new: &ModelManifest,
    folder: &Path,
) -> Option<String> {
    let used: BTreeSet<&PathBuf> = files(new).collect();
    let gone = files(old).filter(|file| !used.contains(file) && folder.join(file).is_file());
    let gone: Vec<String> = gone.map(|file| file.display().to_string()).collect();
    let (folder, gone) = (
        folder.display(),
        (!gone.is_empty()).then(|| gone.join(", "))?,
    );
    Some(format!("{folder}: no longer used: {gone}"))
}

fn files(manifest: &ModelManifest) -> impl Iterator<Item = &PathBuf> {
    manifest.variants.values().flat_map(|variant| {
        let stages = variant.stages.iter().map(|stage| &stage.file);
        stages.chain(&variant.ranges)
    })
}

/// Returns whether two lists of SHA-256 are known and equal, in upper or lower case.
fn same(one: Option<&[String]>, other: Option<&[String]>) -> bool {
    matches!((one, other), (Some(one), Some(other)) if same_sha256(one, other))
}

impl Existing {
    /// Adds the variants with ONNX files of their own that the command keeps to its manifest `new`, each
    /// with the SHA-256 of the fp32 files that it was made from. `made` are the variants that the command
    /// replaces.
    /// Returns a message for each variant that it adds.
    pub(in crate::cli) fn judge_variants(
        &self,
        new: &mut ModelManifest,
        made: &BTreeSet<&str>,
    ) -> Vec<String> {
        let mut notes = Vec::new();
        let (before, now) = (self.fp32_sha256(), new.fp32_sha256());
        let checkpoint = |manifest: &ModelManifest| {
            let provenance = manifest.provenance.as_ref();
            provenance.map(|from| from.checkpoint_sha256.clone())
        };
        let old_checkpoint = checkpoint(&self.manifest);
        let same_checkpoint = old_checkpoint.is_some() && old_checkpoint == checkpoint(new);
        for (name, variant) in &self.manifest.variants {
            if variant.stages.is_empty() || made.contains(name.as_str()) {
                continue;
            }
            let stated = Some(&variant.source_sha256).filter(|stated| !stated.is_empty());
            let source = stated.cloned().or_else(|| before.clone());
            let was_fresh = same(source.as_deref(), before.as_deref());
            // The file of one checkpoint can differ between versions and opsets.
            let source = if was_fresh && same_checkpoint {
                now.clone()
            } else {
                source
            };
            let is_stale = !same(source.as_deref(), now.as_deref());
            let unknown = || vec![UNKNOWN.to_owned(); variant.stages.len()];
            let kept = Variant {
                source_sha256: source.unwrap_or_else(unknown),
                ..variant.clone()
            };
            new.variants.insert(name.clone(), kept);
            notes.push(self.note(name, is_stale));
        }
        notes
    }

    /// Returns the message about the variant `name`, which is kept.
    fn note(&self, name: &str, is_stale: bool) -> String {
        let file = self.path.display();
        if !is_stale {
            return format!("{file}: kept `variants.{name}`, which was made from the same weights");
        }
        let default = if self.text.is_text("default", name) {
            format!(" (`default = \"{name}\"` names it, so `serve` does not start until then)")
        } else {
            String::new()
        };
        let stale = format!(
            "{file}: `variants.{name}` is stale: it was made from other weights and is not served; renew it{default}: "
        );
        if name == INT8 {
            return stale + &format!("sightline quantize {file} --calibration DIR");
        }
        stale + "make its ONNX files from the new weights, and remove its `source_sha256`"
    }

    /// Returns whether the fp32 files of this model are others than those of `new`, or unknown.
    pub(in crate::cli) fn has_other_weights(&self, new: &ModelManifest) -> bool {
        !same(self.fp32_sha256().as_deref(), new.fp32_sha256().as_deref())
    }

    /// Returns the SHA-256 of the model's fp32 files: the stated ones, or those of the files. `None` if
    /// a file cannot be read.
    fn fp32_sha256(&self) -> Option<Vec<String>> {
        let read = |file: &PathBuf| {
            let path = self.path.with_file_name(file.file_name()?);
            Some(sha256(&read_regular(&path, MAX_ONNX_BYTES).ok()?))
        };
        let stages = self.manifest.stages.iter();
        let read = || stages.map(|stage| read(&stage.file)).collect();
        self.manifest.fp32_sha256().or_else(read)
    }
}
