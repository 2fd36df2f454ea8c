//! The SHA-256 of a model's files in its manifest.

use std::path::Path;

use onnx_export::weights::sha256;

use super::{InvalidField, ModelManifest, require};

/// Field with the SHA-256 of an ONNX file.
const STAGES: &str = "stages.sha256";
/// Field with the SHA-256 of a ranges file.
const RANGES: &str = "variants.NAME.ranges_sha256";
/// Field with the SHA-256 of the fp32 ONNX files that a variant was made from.
const SOURCE: &str = "variants.NAME.source_sha256";

impl ModelManifest {
    /// Sets the SHA-256 of every entry that names `file` as an ONNX file or ranges file. Label files
    /// have none, because they are meant to be edited.
    pub fn record_sha256(&mut self, file: &Path, content: &[u8]) {
        let hash = sha256(content);
        let variants = self.variants.values_mut();
        let (mut ranges, mut stages) = (Vec::new(), vec![&mut self.stages]);
        for variant in variants {
            stages.push(&mut variant.stages);
            ranges.push((&variant.ranges, &mut variant.ranges_sha256));
        }
        for stage in stages.into_iter().flatten().filter(|s| s.file == file) {
            stage.sha256 = Some(hash.clone());
        }
        for (_, recorded) in ranges.into_iter().filter(|r| r.0.as_deref() == Some(file)) {
            *recorded = Some(hash.clone());
        }
    }

    /// Returns the field and the value of every SHA-256 that the manifest states for `file`. Empty
    /// if the file is not to be checked.
    pub fn stated_sha256(&self, file: &Path) -> impl Iterator<Item = (&'static str, &str)> {
        self.hashes()
            .filter(move |(named, ..)| *named == file)
            .map(|(_, field, hash)| (field, hash))
    }

    /// Returns the SHA-256 of the fp32 ONNX file of each stage, or `None` if the manifest does not
    /// state it for every stage.
    pub fn fp32_sha256(&self) -> Option<Vec<String>> {
        let stages = self.stages.iter();
        stages.map(|stage| stage.sha256.clone()).collect()
    }

    /// Returns the file, field and value of every SHA-256 of a file in the manifest.
    fn hashes(&self) -> impl Iterator<Item = (&Path, &'static str, &str)> {
        let variants = self.variants.values();
        let stages = variants.clone().flat_map(|variant| &variant.stages);
        let stages = self.stages.iter().chain(stages);
        let stages = stages
            .filter_map(|stage| Some((stage.file.as_path(), STAGES, stage.sha256.as_deref()?)));
        let ranges = variants.filter_map(|variant| {
            let hash = variant.ranges_sha256.as_deref()?;
            Some((variant.ranges.as_deref()?, RANGES, hash))
        });
        stages.chain(ranges)
    }

    /// Checks the form of every SHA-256, and that each belongs to a file.
    pub(super) fn check_sha256(&self) -> Result<(), InvalidField> {
        for (_, field, hash) in self.hashes() {
            check_form(field, hash)?;
        }
        for variant in self.variants.values() {
            let source = &variant.source_sha256;
            let (expected, count) = ("one per entry of `stages`", source.len());
            let fits = source.is_empty() || count == variant.stages.len();
            require(fits, SOURCE, expected, &count)?;
            source
                .iter()
                .try_for_each(|hash| check_form(SOURCE, hash))?;
        }
        let mut variants = self.variants.values();
        let orphan = variants.find(|v| v.ranges_sha256.is_some() && v.ranges.is_none());
        require(
            orphan.is_none(),
            RANGES,
            "none without `ranges`",
            &"a value",
        )
    }
}

fn check_form(field: &'static str, hash: &str) -> Result<(), InvalidField> {
    let valid = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
    require(valid, field, "64 hexadecimal digits", &hash)
}
/// Returns whether two lists of SHA-256 are equal, in upper or lower case.
pub fn same_sha256(one: &[String], other: &[String]) -> bool {
    let equal = |(one, other): (&String, &String)| one.eq_ignore_ascii_case(other);
    one.len() == other.len() && one.iter().zip(other).all(equal)
}
