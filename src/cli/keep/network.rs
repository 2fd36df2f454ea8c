//! Comparison of the network in the output folder with the network that is exported.

use anyhow::Result;
use onnx_export::architecture::Architecture;
use sightline::catalogue;
use sightline::manifest::{ManifestText, ModelManifest};

/// Maximum number of differing fields that the error lists.
const LISTED: usize = 2;

/// Returns how the networks of two manifests differ, apart from the number of classes: both networks
/// and the first fields that differ. `None` if the networks are equal.
pub(super) fn difference(old: &ModelManifest, new: &ModelManifest) -> Result<Option<String>> {
    let (there, here) = match (&old.architecture, &new.architecture) {
        (Some(there), Some(here)) => (there, here),
        (None, None) if old.task == new.task => return Ok(None),
        (there, here) => {
            return Ok(Some(format!(
                "the model there is {}, and the new model is {}",
                origin(there.as_ref()),
                origin(here.as_ref())
            )));
        }
    };
    let there = Architecture {
        num_classes: here.num_classes,
        ..there.clone()
    };
    if there == *here {
        return Ok(None);
    }
    Ok(Some(format!(
        "the model there is another network, {} instead of {} ({})",
        name(&there),
        name(here),
        differences(old, new)?
    )))
}

/// Returns what a model is, for a message: the name of its network, or that it was not exported.
fn origin(architecture: Option<&Architecture>) -> String {
    architecture.map_or_else(
        || "an ONNX file without `architecture` in its manifest".to_owned(),
        name,
    )
}

/// Returns the name of the network in the catalogue, or the names of its backbone and head if the
/// catalogue does not have it.
fn name(architecture: &Architecture) -> String {
    let is_same = |manifest: &ModelManifest| {
        manifest.architecture.as_ref().is_some_and(|known| {
            let known = Architecture {
                num_classes: architecture.num_classes,
                ..known.clone()
            };
            known == *architecture
        })
    };
    let known = catalogue::manifests().unwrap_or_default();
    known.into_iter().find(is_same).map_or_else(
        || {
            let Architecture { backbone, head, .. } = architecture;
            format!("{} with the head {}", backbone.trunk().name(), head.name())
        },
        |manifest| manifest.name,
    )
}

/// Lists the first fields of `architecture` in which the manifests differ.
fn differences(old: &ModelManifest, new: &ModelManifest) -> Result<String> {
    let old = ManifestText::parse(&old.to_toml()?)?;
    let new = ManifestText::parse(&new.to_toml()?)?;
    let found = old.differences(&["architecture"], &new);
    let found = found
        .into_iter()
        .filter(|found| found.field != "num_classes");
    let shown = found.take(LISTED).map(|found| {
        let none = || "none".to_owned();
        let (there, here) = (
            found.first.unwrap_or_else(none),
            found.second.unwrap_or_else(none),
        );
        format!(
            "`architecture.{}` is {there} there and {here} here",
            found.field
        )
    });
    Ok(shown.collect::<Vec<_>>().join(", "))
}
