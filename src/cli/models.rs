//! `sightline models`: lists the catalogue and the installed models, or shows one model.

mod detail;
mod table;

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;
use sightline::catalogue;
use sightline::manifest::{Certificate, ModelManifest};
use sightline::nearest::did_you_mean;
use sightline::registry::default_variant;
use sightline::store::{FP32, ModelSource, ModelStore, Origin, StoreError};

use super::StoreArgs;
use super::say::say;

#[derive(Debug, Args)]
pub(super) struct ModelsArgs {
    /// Show this model in detail [default: list all models]
    name: Option<String>,
    /// Print only the URL of the model's official checkpoint, the newest if there are several
    #[arg(long, env = "SIGHTLINE_URL_ONLY", requires = "name")]
    url: bool,
    /// Print JSON instead of text
    #[arg(long, env = "SIGHTLINE_JSON", conflicts_with = "url")]
    json: bool,
    #[command(flatten)]
    store: StoreArgs,
}

/// Text that is printed instead of a path if the weights are embedded in the binary.
const BUILT_IN: &str = "built in";
/// Text that is printed instead of the name of a checkpoint if the weights are not published.
const OWN_WEIGHTS: &str = "your own";

/// One element of the list: a published checkpoint of a network, or an installed model with weights
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
    /// License of the code that describes the network. `None` if it is not known.
    code_license: Option<String>,
    /// License of the weights. `None` if it is not known.
    license: Option<String>,
    /// Data set that the weights were trained on. `None` if it is not known.
    training_data: Option<String>,
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
    /// Names of the variants, the one that the model's name selects first: those of the installed
    /// model, or those that the catalogue's model will have when it is exported.
    variants: Vec<String>,
    /// Names of those of the variants that were made from other weights than the installed model's, and
    /// therefore cannot be used.
    stale: Vec<String>,
    /// Accuracy that `eval --certify` measured with the installed model's files, by variant.
    certificates: BTreeMap<String, Certificate>,
}

impl Row {
    /// Returns the names of the variants, those of stale ones with a mark.
    fn marked_variants(&self) -> Vec<String> {
        let mark = |name: &String| {
            let mark = if self.stale.contains(name) {
                " (stale)"
            } else {
                ""
            };
            format!("{name}{mark}")
        };
        self.variants.iter().map(mark).collect()
    }
}

/// Prints every model of the catalogue and of the models directory, or the model that `args` names.
///
/// # Errors
/// If no model has the name, or, after the output, if the models directory has entries that cannot be
/// used and one of them may be meant.
pub(super) fn run(args: &ModelsArgs) -> Result<()> {
    let store = args.store.store();
    if let Some(name) = args.name.as_ref().filter(|_| args.url)
        && let Some(manifest) = catalogue::manifest(name)?
    {
        // The URL does not depend on the models directory, so that broken entries of it do not matter.
        return print_url(name, &catalogue_rows(&manifest, None));
    }
    let (installed, broken) = store.installed()?;
    let named = |model: &ModelSource| Some(&model.manifest.name) == args.name.as_ref();
    let broken = broken.filter(|_| !installed.iter().any(named));
    let mut rows = rows(&installed)?;
    if let Some(name) = &args.name {
        rows.retain(|row| row.name == *name);
        if rows.is_empty() {
            let broken = broken.map(|error| StoreError::from(error).into());
            return Err(broken.unwrap_or_else(|| unknown(name, &store)));
        }
        if args.url {
            return print_url(name, &rows);
        }
    }
    print(args, &rows, &installed)?;
    broken.map_or(Ok(()), |error| Err(StoreError::from(error).into()))
}

/// Prints `rows` as `args` say. `installed` are the models of the models directory.
fn print(args: &ModelsArgs, rows: &[Row], installed: &[ModelSource]) -> Result<()> {
    if args.json {
        return say!("{}", serde_json::to_string_pretty(&rows)?);
    }
    let Some(name) = &args.name else {
        return table::print(rows);
    };
    let own = installed.iter().find(|model| model.manifest.name == *name);
    let listed = catalogue::manifest(name)?;
    let manifest = own.map(|model| &model.manifest).or(listed.as_ref());
    detail::print(manifest.context("the model has no manifest")?, rows)
}

/// Returns the error for a name that neither the catalogue nor the models directory has.
fn unknown(name: &str, store: &ModelStore) -> anyhow::Error {
    let meant = did_you_mean(store.nearest(name).as_deref());
    anyhow::anyhow!(
        "neither the catalogue nor the models directory has a model `{name}`{meant}; \
         `sightline models` lists the models"
    )
}

/// Prints the URL of the newest official checkpoint among `rows`, the rows of the model `name`.
fn print_url(name: &str, rows: &[Row]) -> Result<()> {
    match rows.iter().rev().find_map(|row| row.url.as_deref()) {
        Some(url) => say!("{url}"),
        None => bail!("the model `{name}` has no official checkpoint with a URL"),
    }
}

/// Returns the rows of all models, those of the catalogue first. `installed` are the models of the
/// models directory.
fn rows(installed: &[ModelSource]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for manifest in catalogue::manifests()? {
        let own = installed
            .iter()
            .find(|model| model.manifest.name == manifest.name);
        rows.extend(catalogue_rows(&manifest, own));
    }
    let known = |name: &str| rows.iter().any(|row| row.name == name);
    let others: Vec<Row> = installed
        .iter()
        .filter(|m| !known(&m.manifest.name))
        .map(own_row)
        .collect();
    rows.extend(others);
    Ok(rows)
}

/// Returns the rows of the catalogue's model `manifest`, at least one. `own` is the installed model
/// of the same name, if any.
fn catalogue_rows(manifest: &ModelManifest, own: Option<&ModelSource>) -> Vec<Row> {
    let sha = own.and_then(|model| model.manifest.provenance.as_ref());
    let sha = sha.map_or("", |provenance| provenance.checkpoint_sha256.as_str());
    let variants = variants(own.map_or(manifest, |model| &model.manifest));
    let stale = own.map(stale).unwrap_or_default();
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
            code_license: manifest.code_license.clone(),
            license: weights.license.clone(),
            training_data: weights.training_data.clone(),
            url: weights.url.clone(),
            bytes: exported.and_then(size),
            here: exported.map(place).or(built_in),
            int8: exported.and_then(int8_place),
            variants: variants.clone(),
            stale: stale.clone(),
            certificates: exported.map(certificates).unwrap_or_default(),
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
            code_license: manifest.code_license.clone(),
            license: None,
            training_data: None,
            url: None,
            bytes: None,
            here: None,
            int8: None,
            variants,
            stale,
            certificates: BTreeMap::new(),
        });
    }
    rows
}

/// Returns the row of an installed model whose weights are not a published checkpoint.
fn own_row(model: &ModelSource) -> Row {
    let ModelSource { manifest, .. } = model;
    let from = manifest.provenance.as_ref();
    Row {
        name: manifest.name.clone(),
        task: manifest.task.as_str(),
        weights: OWN_WEIGHTS.to_owned(),
        parameters: from.map(|from| from.parameters),
        accuracy: BTreeMap::new(),
        code_license: manifest.code_license.clone(),
        license: from.and_then(|from| from.license.clone()),
        training_data: from.and_then(|from| from.training_data.clone()),
        url: None,
        bytes: size(model),
        here: Some(place(model)),
        int8: int8_place(model),
        variants: variants(manifest),
        stale: stale(model),
        certificates: certificates(model),
    }
}

/// Returns the certificates that belong to the files of `model`, by variant.
fn certificates(model: &ModelSource) -> BTreeMap<String, Certificate> {
    let names = model.manifest.certificates.keys();
    let valid = names.filter_map(|name| {
        let certificate = model.manifest.certificate(name)?;
        Some((name.clone(), certificate.clone()))
    });
    valid.collect()
}

/// Returns the names of the variants of `model` that were made from other weights.
fn stale(model: &ModelSource) -> Vec<String> {
    let stale = model.stale().into_iter().filter_map(|error| match error {
        StoreError::Stale { variant, .. } => Some(variant),
        _ => None,
    });
    stale.collect()
}

/// Returns the names of the model's variants, the one that the model's name selects first.
fn variants(manifest: &ModelManifest) -> Vec<String> {
    let default = default_variant(manifest, None);
    let all = std::iter::once(FP32).chain(manifest.variants.keys().map(String::as_str));
    let others = all.filter(|name| *name != default);
    let names = std::iter::once(default).chain(others);
    names.map(str::to_owned).collect()
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
