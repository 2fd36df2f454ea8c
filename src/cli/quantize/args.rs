//! What `sightline quantize` is asked for.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use sightline::manifest::ModelManifest;
use sightline::quantize::{Goal, Method};
use sightline::store::{ModelRef, ModelSource, Origin};

use crate::cli::output::OutputPaths;
use crate::cli::target::TargetName;
use crate::cli::{RuntimeArgs, StoreArgs};

/// The percentile where none is asked for.
const DEFAULT_PERCENTILE: f64 = 99.99;

#[derive(Debug, Args)]
pub(in crate::cli) struct QuantizeArgs {
    /// Model, as NAME or a path; its float version
    pub(super) model: ModelRef,
    /// Folder of photographs like those that the model will be asked about
    #[arg(long, env = "SIGHTLINE_CALIBRATION", value_name = "DIR")]
    pub(super) calibration: PathBuf,
    /// Photographs to use [default: up to 100, fewer where the network takes large pictures]
    #[arg(long, env = "SIGHTLINE_IMAGES", value_name = "N")]
    pub(super) images: Option<usize>,
    /// How ranges are chosen [default: by whichever comes nearest to the float network]
    #[arg(long, env = "SIGHTLINE_METHOD", value_name = "METHOD")]
    method: Option<MethodName>,
    /// The percentile of `--method percentile` [default: 99.99]
    #[arg(long, env = "SIGHTLINE_PERCENTILE", value_name = "P")]
    percentile: Option<f64>,
    /// Processors that will run it; auto: such as this one
    #[arg(
        long,
        env = "SIGHTLINE_TARGET",
        default_value = "auto",
        value_name = "TARGET"
    )]
    pub(super) target: TargetName,
    /// Cosine similarity of the outputs with the float network's at which the search ends
    #[arg(
        long,
        env = "SIGHTLINE_MIN_COSINE",
        default_value_t = 0.9975,
        value_name = "C"
    )]
    min_cosine: f64,
    /// Most of the multiplications that the search may leave in float
    #[arg(
        long,
        env = "SIGHTLINE_MAX_FLOAT",
        default_value_t = 0.2,
        value_name = "SHARE"
    )]
    max_float: f64,
    /// Least agreement of answers with the float model's; below it nothing is written but the report
    #[arg(
        long,
        env = "SIGHTLINE_MIN_AGREEMENT",
        default_value_t = 0.97,
        value_name = "SHARE"
    )]
    pub(super) min_agreement: f64,
    /// Write the model even if it agrees too little or is not faster
    #[arg(long, env = "SIGHTLINE_FORCE")]
    pub(super) force: bool,
    /// Folder of the model in both precisions, or the path of its float .onnx file [default: where MODEL is]
    #[arg(short = 'o', long = "out", env = "SIGHTLINE_OUT", value_name = "OUT")]
    out: Option<PathBuf>,
    #[command(flatten)]
    pub(super) store: StoreArgs,
    #[command(flatten)]
    pub(super) runtime: RuntimeArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum MethodName {
    /// Everything that was seen
    Minmax,
    /// Without the rarest numbers
    Percentile,
    /// Least relative entropy
    Entropy,
    /// Least mean squared error
    Mse,
}

impl QuantizeArgs {
    pub(super) fn goal(&self) -> Result<Goal> {
        let shares = [
            ("--min-cosine", self.min_cosine),
            ("--max-float", self.max_float),
            ("--min-agreement", self.min_agreement),
        ];
        for (flag, share) in shares {
            if !(0.0..=1.0).contains(&share) {
                bail!("`{flag}`: expected 0 to 1, got {share}");
            }
        }
        let percentile = self.percentile.unwrap_or(DEFAULT_PERCENTILE);
        if !(50.0..=100.0).contains(&percentile) {
            bail!("`--percentile`: expected 50 to 100, got {percentile}");
        }
        let by_percentile = matches!(self.method, Some(MethodName::Percentile));
        if self.percentile.is_some() && !by_percentile {
            bail!("`--percentile` goes with `--method percentile` only");
        }
        let method = self.method.map(|name| match name {
            MethodName::Minmax => Method::Minmax,
            MethodName::Percentile => Method::Percentile(percentile),
            MethodName::Entropy => Method::Entropy,
            MethodName::Mse => Method::Mse,
        });
        Ok(Goal {
            cosine: self.min_cosine,
            max_float: self.max_float,
            method,
        })
    }

    /// Returns the manifest to write. With `-o` it is named after the output, as `export` does, because two models
    /// of one name cannot be told apart.
    pub(super) fn named(&self, source: &ModelSource, paths: &OutputPaths) -> Result<ModelManifest> {
        let mut manifest = source.manifest.clone();
        if self.out.is_some() {
            manifest.name.clone_from(&paths.name);
            // Parsed again so that a name that `serve` would reject is rejected before the work.
            ModelManifest::parse(&manifest.to_toml()?)
                .context("cannot name the quantized model after the output (-o)")?;
        }
        Ok(manifest)
    }

    /// Returns the paths of the files to write.
    pub(super) fn paths(&self, source: &ModelSource) -> Result<OutputPaths> {
        let paths = match (&self.out, &source.path, &source.origin) {
            (Some(out), ..) => OutputPaths::new(out)?,
            (None, Some(manifest), Origin::Files(files)) => {
                OutputPaths::of(manifest, files, &source.manifest.labels)
            }
            _ => bail!("{} is built in: say with -o where its files go", self.model),
        };
        paths.check()?;
        Ok(paths)
    }
}
