//! `sightline models`: lists the catalogue and the installed models.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::Args;
use onnx_export::text::{printable, shown};
use serde::Serialize;
use sightline::catalogue;
use sightline::manifest::ModelManifest;
use sightline::store::{ModelSource, Origin};

use super::StoreArgs;
use super::say::say;

#[derive(Debug, Args)]
pub(super) struct ModelsArgs {
    /// Print JSON instead of a table
    #[arg(long, env = "SIGHTLINE_JSON")]
    json: bool,
    #[command(flatten)]
    store: StoreArgs,
}

/// Text that is printed instead of a path if the weights are embedded in the binary.
const BUILT_IN: &str = "built in";

/// One line of the list: a published checkpoint of a network, or an installed model with weights
/// that are not published.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    task: &'static str,
    /// Name of the published checkpoint, `your own` for other weights, or `none published`.
    weights: String,
    /// Number of trained parameters. `None` if neither a published checkpoint nor the installed
    /// model's manifest states it.
    parameters: Option<u64>,
    /// Published accuracy in percent, by the name of the metric. Empty if the weights are not a
    /// published checkpoint.
    accuracy: BTreeMap<String, f64>,
    /// URL of the published checkpoint. `None` if the weights are not published or have no URL.
    url: Option<String>,
    /// Size of the installed ONNX files in bytes. `None` if the model is built in or not installed.
    bytes: Option<u64>,
    /// Path of the installed model's first ONNX file, or [`BUILT_IN`] for embedded weights. `None`
    /// if the model is not installed.
    here: Option<String>,
    /// Path of the first ONNX file of the installed int8 variant. `None` if no int8 variant is
    /// installed.
    int8: Option<String>,
}

/// Prints every model of the catalogue and of the models directory.
pub(super) fn run(args: &ModelsArgs) -> Result<()> {
    let here = args.store.store().list()?;
    let mut rows = Vec::new();
    for manifest in catalogue::manifests()? {
        let own = here
            .iter()
            .find(|model| model.manifest.name == manifest.name);
        rows.extend(catalogue_rows(&manifest, own));
    }
    let known = |name: &str| rows.iter().any(|row| row.name == name);
    let others: Vec<Row> = here
        .iter()
        .filter(|m| !known(&m.manifest.name))
        .map(own_row)
        .collect();
    rows.extend(others);
    if args.json {
        say!("{}", serde_json::to_string_pretty(&rows)?)
    } else {
        print_table(&rows)
    }
}

/// Returns the rows of the catalogue's model `manifest`, at least one. `own` is the installed model
/// of the same name, if any.
fn catalogue_rows(manifest: &ModelManifest, own: Option<&ModelSource>) -> Vec<Row> {
    let sha = own.and_then(|model| model.manifest.provenance.as_ref());
    let sha = sha.map_or("", |provenance| provenance.checkpoint_sha256.as_str());
    let mut listed = false;
    let mut rows: Vec<Row> = Vec::new();
    for weights in &manifest.weights {
        let exported = own.filter(|_| !sha.is_empty() && sha.starts_with(&weights.sha256_prefix));
        listed |= exported.is_some();
        let built_in = weights.file.as_ref().map(|_| BUILT_IN.to_owned());
        rows.push(Row {
            name: manifest.name.clone(),
            task: manifest.task.as_str(),
            weights: weights.name.clone(),
            parameters: Some(weights.parameters),
            accuracy: weights.metrics.clone(),
            url: weights.url.clone(),
            bytes: exported.and_then(size),
            here: exported.map(place).or(built_in),
            int8: exported.and_then(int8_place),
        });
    }
    rows.extend(own.filter(|_| !listed).map(own_row));
    if rows.is_empty() {
        rows.push(Row {
            name: manifest.name.clone(),
            task: manifest.task.as_str(),
            weights: "none published".to_owned(),
            parameters: None,
            accuracy: BTreeMap::new(),
            url: None,
            bytes: None,
            here: None,
            int8: None,
        });
    }
    rows
}

/// Returns the row of an installed model whose weights are not a published checkpoint.
fn own_row(model: &ModelSource) -> Row {
    let ModelSource { manifest, .. } = model;
    Row {
        name: manifest.name.clone(),
        task: manifest.task.as_str(),
        weights: "your own".to_owned(),
        parameters: manifest
            .provenance
            .as_ref()
            .map(|provenance| provenance.parameters),
        accuracy: BTreeMap::new(),
        url: None,
        bytes: size(model),
        here: Some(place(model)),
        int8: int8_place(model),
    }
}

/// Returns the size of the model's ONNX files in bytes. `None` if one of these files is missing, or
/// if the model is not stored in files.
fn size(model: &ModelSource) -> Option<u64> {
    match &model.origin {
        Origin::Files { paths, .. } => {
            let size = |path| Some(std::fs::metadata(path).ok()?.len());
            paths.iter().map(|stage| size(stage.content)).sum()
        }
        Origin::Embedded | Origin::Memory(_) => None,
    }
}

/// Returns the path of the model's first ONNX file, or [`BUILT_IN`] if the model is not stored in
/// files.
fn place(model: &ModelSource) -> String {
    match &model.origin {
        Origin::Files { paths, .. } => paths.network().display().to_string(),
        Origin::Embedded | Origin::Memory(_) => BUILT_IN.to_owned(),
    }
}

/// Returns the path of the first ONNX file of the model's int8 variant. `None` if the model has no
/// int8 variant, or if a file of the variant is missing.
fn int8_place(model: &ModelSource) -> Option<String> {
    let int8 = model.int8()?;
    size(&int8)?;
    Some(place(&int8))
}

fn print_table(rows: &[Row]) -> Result<()> {
    let head = [
        "MODEL",
        "TASK",
        "WEIGHTS",
        "OFFICIAL FILE",
        "PARAMS",
        "PUBLISHED %",
        "SIZE",
        "HERE",
    ];
    let mut lines = vec![head.map(str::to_owned)];
    for row in rows {
        let file = row
            .url
            .as_deref()
            .and_then(|url| url.rsplit('/').next())
            .unwrap_or("-");
        let accuracy = row
            .accuracy
            .iter()
            .map(|(name, percent)| format!("{name} {percent:.1}"));
        let accuracy: Vec<String> = accuracy.collect();
        let millions = row.parameters.map(|n| format!("{:.2} M", n as f64 / 1e6));
        let here = row.here.as_deref().unwrap_or("-");
        let and_int8 = if row.int8.is_some() { ", int8" } else { "" };
        let size = row.bytes.map(|n| format!("{:.1} MB", n as f64 / 1e6));
        lines.push([
            row.name.clone(),
            row.task.to_owned(),
            shown(&row.weights),
            shown(file),
            millions.unwrap_or_default(),
            shown(&accuracy.join(", ")),
            size.unwrap_or_default(),
            printable(&format!("{here}{and_int8}"), &[]).into_owned(),
        ]);
    }
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].len())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    for line in &lines {
        let cells = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        say!("{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}
