//! The published tables: `models/published.toml`, completed by the other networks of the catalogue.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Deserialize;
use sightline::catalogue;
use sightline::manifest::{ModelManifest, Precision, Task};
use sightline::store::{FP32, ModelRef};

const TEXT: &str = include_str!("../../../../models/published.toml");

/// The content of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    table: Vec<Table>,
}

/// The networks of one task.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    pub(super) task: Task,
    pub(super) title: String,
    /// Columns of accuracy, the most important one first.
    pub(super) metrics: Vec<Metric>,
    #[serde(rename = "row")]
    pub(super) rows: Vec<Row>,
}

/// A column of accuracy.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Metric {
    /// Name in manifests.
    pub(super) name: String,
    /// Head of the column.
    pub(super) label: String,
    /// Name in certificates.
    pub(super) certificate: String,
}

/// A network or a variant of one, and what is published about it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    pub(super) title: String,
    pub(super) model: String,
    #[serde(default = "fp32")]
    pub(super) variant: String,
    /// Published accuracy in percent, by the name of the metric.
    #[serde(default)]
    pub(super) metrics: BTreeMap<String, f64>,
    /// Published time per image, in seconds.
    #[serde(default)]
    pub(super) seconds: Option<f64>,
    /// Published number of parameters, in millions.
    #[serde(default)]
    pub(super) parameters: Option<f64>,
}

fn fp32() -> String {
    FP32.to_owned()
}

impl Row {
    pub(super) fn reference(&self) -> ModelRef {
        ModelRef {
            name: self.model.clone(),
            variant: Some(self.variant.clone()),
        }
    }
}

/// Returns the tables with all networks of the catalogue.
///
/// # Errors
/// If a file of `models/` is malformed, which a test rules out.
pub(super) fn tables() -> Result<Vec<Table>> {
    let File { table: mut tables } = toml::from_str(TEXT)?;
    for manifest in catalogue::manifests()? {
        let table = tables.iter_mut().find(|table| table.task == manifest.task);
        if let Some(table) = table {
            table.append(&manifest);
        }
    }
    Ok(tables)
}

impl Table {
    /// Adds the rows of the network that `manifest` describes, unless they are there.
    fn append(&mut self, manifest: &ModelManifest) {
        let variants = std::iter::once(FP32).chain(manifest.variants.keys().map(String::as_str));
        for name in variants {
            let is_there = |row: &Row| row.model == manifest.name && row.variant == name;
            if self.rows.iter().any(is_there) {
                continue;
            }
            let variant = manifest.variants.get(name);
            let is_int8 = variant.is_some_and(|variant| variant.precision == Some(Precision::Int8));
            let published = manifest.weights.first().filter(|_| name == FP32);
            let title = title(manifest, name);
            self.rows.push(Row {
                title: if is_int8 {
                    format!("Quantized {}", title.trim_end_matches(", int8"))
                } else {
                    title
                },
                model: manifest.name.clone(),
                variant: name.to_owned(),
                metrics: published.map_or_else(BTreeMap::new, |weights| weights.metrics.clone()),
                seconds: None,
                parameters: published.map(|weights| weights.parameters as f64 / 1e6),
            });
        }
    }
}

/// Returns the begin of the description of the model, and the variant.
fn title(manifest: &ModelManifest, variant: &str) -> String {
    let name = manifest.description.split(':').next().unwrap_or_default();
    if variant == FP32 {
        name.to_owned()
    } else {
        format!("{name}, {variant}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_network_and_variant_of_the_catalogue_has_a_row() {
        let tables = tables().unwrap();
        for manifest in catalogue::manifests().unwrap() {
            let table = tables.iter().find(|table| table.task == manifest.task);
            let rows = &table.unwrap().rows;
            let variants = manifest.variants.keys().map(String::as_str);
            for variant in variants.chain([FP32]) {
                let count = rows
                    .iter()
                    .filter(|row| row.model == manifest.name && row.variant == variant)
                    .count();
                assert_eq!(count, 1, "{}@{variant}", manifest.name);
            }
        }
        for row in tables.iter().flat_map(|table| &table.rows) {
            let manifest = catalogue::manifest(&row.model).unwrap();
            assert!(manifest.is_some(), "{}", row.model);
        }
    }

    #[test]
    fn published_accuracies_agree_with_the_catalogue() {
        for table in tables().unwrap() {
            let first = &table.rows[0];
            assert!(first.seconds.is_some(), "speeds are relative to this row");
            for row in table.rows.iter().filter(|row| row.variant == FP32) {
                let manifest = catalogue::manifest(&row.model).unwrap().unwrap();
                for (name, percent) in &row.metrics {
                    assert!(
                        table.metrics.iter().any(|metric| metric.name == *name),
                        "{name}"
                    );
                    let Some(weights) = manifest.weights.first() else {
                        continue;
                    };
                    let difference = (weights.metrics[name] - percent).abs();
                    assert!(difference < 0.021, "{} {name}", row.model);
                }
            }
        }
    }
}
