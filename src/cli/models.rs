//! `sightline models`.

use anyhow::Result;
use clap::Args;
use onnx_export::manifest::ModelManifest;
use serde::Serialize;
use sightline::catalogue;
use sightline::store::{ModelSource, Origin};

use super::StoreArgs;

#[derive(Debug, Args)]
pub(super) struct ModelsArgs {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreArgs,
}

/// One line of the list: a published checkpoint, or a model of the user's own.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    task: &'static str,
    weights: String,
    parameters: Option<u64>,
    accuracy: String,
    bytes: Option<u64>,
    here: String,
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
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print_table(&rows);
    }
    Ok(())
}

fn catalogue_rows(manifest: &ModelManifest, own: Option<&ModelSource>) -> Vec<Row> {
    let sha = own.and_then(|model| model.manifest.provenance.as_ref());
    let sha = sha.map_or("", |provenance| provenance.checkpoint_sha256.as_str());
    let mut rows: Vec<Row> = Vec::new();
    for weights in &manifest.weights {
        let built_in = weights.file.is_some();
        let exported = own.filter(|_| !sha.is_empty() && sha.starts_with(&weights.sha256_prefix));
        let metrics = weights
            .metrics
            .iter()
            .map(|(name, percent)| format!("{name} {percent:.1}"));
        rows.push(Row {
            name: manifest.name.clone(),
            task: manifest.task.as_str(),
            weights: weights.name.clone(),
            parameters: Some(weights.parameters),
            accuracy: metrics.collect::<Vec<_>>().join(", "),
            bytes: exported.and_then(size),
            here: match exported {
                Some(model) => place(model),
                None if built_in => "built in".to_owned(),
                None => "-".to_owned(),
            },
        });
    }
    let listed = rows
        .iter()
        .any(|row| row.here != "-" && row.here != "built in");
    rows.extend(own.filter(|_| !listed).map(own_row));
    rows
}

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
        accuracy: String::new(),
        bytes: size(model),
        here: place(model),
    }
}

fn size(model: &ModelSource) -> Option<u64> {
    match &model.origin {
        Origin::File(path) => Some(std::fs::metadata(path).ok()?.len()),
        Origin::Embedded | Origin::Memory(_) => None,
    }
}

fn place(model: &ModelSource) -> String {
    match &model.origin {
        Origin::File(path) => path.display().to_string(),
        Origin::Embedded | Origin::Memory(_) => "built in".to_owned(),
    }
}

fn print_table(rows: &[Row]) {
    let head = [
        "MODEL",
        "TASK",
        "WEIGHTS",
        "PARAMS",
        "PUBLISHED %",
        "SIZE",
        "HERE",
    ];
    let mut lines = vec![head.map(str::to_owned)];
    for row in rows {
        let millions = row.parameters.map(|n| format!("{:.2} M", n as f64 / 1e6));
        let size = row.bytes.map(|n| format!("{:.1} MB", n as f64 / 1e6));
        lines.push([
            row.name.clone(),
            row.task.to_owned(),
            row.weights.clone(),
            millions.unwrap_or_default(),
            row.accuracy.clone(),
            size.unwrap_or_default(),
            row.here.clone(),
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
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}
