//! Certificates: writes figures into the manifest, and compares them with a repeated evaluation.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use onnx_export::text::shown;
use sightline::engine::OnnxRuntime;
use sightline::manifest::{Certificate, ManifestText, ModelManifest, sha256};
use sightline::store::{ModelSource, Origin};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};

use super::args::EvalArgs;
use super::dataset::Dataset;
use super::figures::{Figure, Summary};
use super::run::{Evaluated, decode_name};
use crate::cli::say::say;
use crate::cli::staging::FileSet;

/// Returns the SHA-256 of each ONNX file of the model: those that the manifest states, or those of the
/// graphs.
pub(in crate::cli) fn weights_sha256(source: &ModelSource) -> Result<Vec<String>> {
    let stages = source.manifest.stages_of(&source.variant).iter();
    let stated: Option<Vec<String>> = stages.map(|stage| stage.sha256.clone()).collect();
    match stated.filter(|stated| !stated.is_empty()) {
        Some(stated) => Ok(stated
            .iter()
            .map(|hash| hash.to_ascii_lowercase())
            .collect()),
        None => Ok(source
            .graphs()?
            .iter()
            .map(|stage| sha256(stage.content))
            .collect()),
    }
}

/// Checks before the evaluation that its certificate can be written or, with `--verify`, repeated.
///
/// # Errors
/// If the model has no manifest file, or if it has no certificate that fits `args`.
pub(super) fn check(source: &ModelSource, dataset: &Dataset, args: &EvalArgs) -> Result<()> {
    let id = source.id();
    if args.certify && (source.path.is_none() || !matches!(source.origin, Origin::Files { .. })) {
        bail!("`--certify`: {id} is built in and has no manifest to write to: export it first");
    }
    if !args.verify {
        return Ok(());
    }
    let certificate = certificate(source)?;
    if certificate.dataset != dataset.kind {
        let (expected, got) = (&certificate.dataset, dataset.kind);
        bail!(
            "`--verify`: the certificate of {id} is for a data set of the kind {expected}, got {got}"
        );
    }
    let (expected, got) = (certificate.images, dataset.samples.len() as u64);
    if expected != got {
        bail!(
            "`--verify`: the certificate of {id} is for {expected} images, but the data set has {got}"
        );
    }
    Ok(())
}

fn certificate(source: &ModelSource) -> Result<&Certificate> {
    let certificate = source.manifest.certificate(&source.variant);
    certificate.with_context(|| {
        let id = source.id();
        let (any, name) = (&source.manifest.certificates, &source.variant);
        if any.contains_key(name) {
            format!("`--verify`: the certificate of {id} belongs to other weights: measure again with --certify")
        } else {
            format!("`--verify`: {id} has no certificate: write one with --certify")
        }
    })
}

/// Writes the certificate of the evaluation into the model's manifest, whose other text is kept.
///
/// # Errors
/// If the manifest was changed since the model was read, or cannot be written.
pub(super) fn certify(
    evaluated: &Evaluated,
    summary: &Summary,
    dataset: &Dataset,
    (args, runtime): (&EvalArgs, &OnnxRuntime),
) -> Result<()> {
    let source = &evaluated.source;
    let (Some(path), Some(old)) = (&source.path, &source.manifest_text) else {
        bail!("cannot certify {}: it has no manifest", source.id());
    };
    let figures = summary.figures.iter();
    let figures = figures.filter_map(|f| Some((f.name.to_owned(), rounded(f.percent?))));
    let certificate = Certificate {
        weights_sha256: evaluated.weights_sha256.clone(),
        dataset: dataset.kind.to_owned(),
        dataset_sha256: evaluated.dataset_sha256(),
        images: dataset.samples.len() as u64,
        decode: decode_name(evaluated.decode).to_owned(),
        mask_size: (dataset.kind == "voc").then(|| args.mask_size.as_str().to_owned()),
        figures: figures.collect(),
        sightline: env!("CARGO_PKG_VERSION").to_owned(),
        onnxruntime: library_name(runtime),
        date: today(),
    };
    let mut manifest = source.manifest.clone();
    manifest
        .certificates
        .insert(source.variant.clone(), certificate);
    let new = ManifestText::parse(&manifest.to_toml()?)?;
    let mut text = ManifestText::parse(old)?;
    text.copy(&["certificates", &source.variant], &new);
    let text = text.to_string();
    ModelManifest::parse(&text)
        .with_context(|| format!("cannot add a certificate to {}", path.display()))?;
    let mut files = FileSet::new(path.parent().unwrap_or(std::path::Path::new("")));
    files.add(path, text.as_bytes());
    files.expect(path, Some(old.as_bytes()));
    files.write_beside()?;
    say!(
        "{}: certificate of {} written",
        path.display(),
        source.variant
    )
}

/// Compares the evaluation with the model's certificate and prints the differences.
///
/// # Errors
/// If the data set or the weights are others, if the certificate has other figures, or if a figure differs by more
/// than the tolerance.
pub(super) fn verify(evaluated: &Evaluated, summary: &Summary, args: &EvalArgs) -> Result<()> {
    let source = &evaluated.source;
    let certificate = certificate(source)?;
    let got = evaluated.dataset_sha256();
    if got != certificate.dataset_sha256 {
        bail!(
            "`--verify`: the images or annotations differ from those of the certificate: expected the SHA-256 {}, got {got}",
            certificate.dataset_sha256
        );
    }
    if decode_name(evaluated.decode) != certificate.decode {
        bail!(
            "`--verify`: the certificate was measured with --decode {}",
            certificate.decode
        );
    }
    if let Some(size) = &certificate.mask_size
        && size != args.mask_size.as_str()
    {
        bail!("`--verify`: the certificate was measured with --mask-size {size}");
    }
    check_weights(evaluated, certificate)?;
    check_figures(summary, certificate)?;
    let measured = |name: &str| {
        let figure = summary.figures.iter().find(|figure| figure.name == name);
        figure.and_then(|figure| figure.percent)
    };
    let mut differing = Vec::new();
    for (name, expected) in &certificate.figures {
        let got = measured(name).unwrap_or(f64::NAN);
        say!("{name:10} certificate {expected:7.3} %  now {got:7.3} %")?;
        // NaN differs, too.
        let same = (got - expected).abs() <= args.tolerance;
        if !same {
            differing.push(name.as_str());
        }
    }
    if differing.is_empty() {
        return say!(
            "verified: {} figures are within {} percentage points",
            certificate.figures.len(),
            args.tolerance
        );
    }
    bail!(
        "`--verify`: {} differ by more than {} percentage points from the certificate of {}",
        differing.join(", "),
        args.tolerance,
        source.id()
    )
}

/// Checks that the weights are those of the certificate. A manifest need not state their hashes, so that the certificate
/// was found without a comparison.
fn check_weights(evaluated: &Evaluated, certificate: &Certificate) -> Result<()> {
    let (got, expected) = (&evaluated.weights_sha256, &certificate.weights_sha256);
    let same = |(one, other): (&String, &String)| one.eq_ignore_ascii_case(other);
    if got.len() == expected.len() && got.iter().zip(expected).all(same) {
        return Ok(());
    }
    bail!(
        "`--verify`: the certificate of {} belongs to other weights: expected the SHA-256 {}, got {}",
        evaluated.source.id(),
        expected.join(", "),
        got.join(", ")
    )
}

/// Checks that the certificate has exactly the figures that were measured, so that none is left unverified.
fn check_figures(summary: &Summary, certificate: &Certificate) -> Result<()> {
    let measured = summary.figures.iter().filter(|f| f.percent.is_some());
    let measured: BTreeSet<&str> = measured.map(|figure| figure.name).collect();
    let certified: BTreeSet<&str> = certificate.figures.keys().map(String::as_str).collect();
    if measured == certified {
        return Ok(());
    }
    let list = |names: BTreeSet<&str>| names.into_iter().collect::<Vec<_>>().join(", ");
    bail!(
        "`--verify`: expected a certificate with the figures {}, got {}",
        list(measured),
        if certified.is_empty() {
            "none".to_owned()
        } else {
            shown(&list(certified))
        }
    )
}

/// Returns a figure with six digits after the point, enough for any data set.
fn rounded(percent: f64) -> f64 {
    (percent * 1e6).round() / 1e6
}

/// Returns the file name of ONNX Runtime's library, with its version if links lead to such a name.
fn library_name(runtime: &OnnxRuntime) -> String {
    let path = runtime.library();
    let real = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    real.file_name().unwrap_or_default().display().to_string()
}

/// Returns the current day in UTC, `YYYY-MM-DD`.
pub(in crate::cli) fn today() -> String {
    let mut time = String::new();
    // Writing to a String cannot fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    time.chars().take("YYYY-MM-DD".len()).collect()
}

/// Returns the published accuracy that corresponds to a figure, in percent, if the model has the weights
/// of a published checkpoint.
pub(super) fn published(source: &ModelSource, figure: &Figure) -> Option<f64> {
    let provenance = source.manifest.provenance.as_ref()?;
    let weights = source.manifest.published(&provenance.checkpoint_sha256)?;
    let name = if figure.name == "AP" {
        "box_map"
    } else {
        figure.name
    };
    weights.metrics.get(name).copied()
}
