//! Arguments of `sightline quantize`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use sightline::manifest::{ModelManifest, Task};
use sightline::quantize::{Goal, Method};
use sightline::store::{ModelRef, ModelSource, Origin};

use super::gate::{Limits, MIN_AGREEMENT, MIN_COSINE};
use crate::cli::output::OutputPaths;
use crate::cli::predict::same_file;
use crate::cli::target::TargetName;
use crate::cli::{RuntimeArgs, StoreArgs};

/// Percentile that `--method percentile` uses if `--percentile` is not set.
const DEFAULT_PERCENTILE: f64 = 99.99;
/// Default of `--min-cosine`.
const DEFAULT_COSINE: f64 = 0.9975;
/// Default of `--max-float`.
const DEFAULT_FLOAT: f64 = 0.2;

#[derive(Debug, Args)]
pub(in crate::cli) struct QuantizeArgs {
    /// Model in fp32: NAME or a path
    pub(super) model: ModelRef,
    /// Folder of photographs like those that the model will be used on; every fifth is held out for the comparison of
    /// int8 and fp32
    #[arg(long, env = "SIGHTLINE_CALIBRATION", value_name = "DIR")]
    pub(super) calibration: PathBuf,
    /// Number of photographs to use [default: up to 100, fewer for networks with large inputs]
    #[arg(long, env = "SIGHTLINE_IMAGES", value_name = "N")]
    pub(super) images: Option<usize>,
    /// How activation ranges are chosen [default: the method that comes closest to the fp32 network]
    #[arg(long, env = "SIGHTLINE_METHOD", value_name = "METHOD")]
    method: Option<MethodName>,
    /// Percentage of activations below the upper end, and above the lower end, of a range, for
    /// `--method percentile` [default: 99.99]
    #[arg(long, env = "SIGHTLINE_PERCENTILE", value_name = "P")]
    percentile: Option<f64>,
    /// CPUs that will run the model; auto: CPUs like this one
    #[arg(
        long,
        env = "SIGHTLINE_TARGET",
        default_value = "auto",
        value_name = "TARGET"
    )]
    pub(super) target: TargetName,
    /// Mean cosine similarity of int8 and fp32 outputs, 0 to 1, at which the search for layers to
    /// keep in fp32 ends. On held-out photographs, the similarity must be at least 0.95, or C if C is lower
    #[arg(
        long,
        env = "SIGHTLINE_MIN_COSINE",
        default_value_t = DEFAULT_COSINE,
        value_name = "C"
    )]
    min_cosine: f64,
    /// Largest share of the network's multiplications that may stay in fp32 layers, 0 to 1
    #[arg(
        long,
        env = "SIGHTLINE_MAX_FLOAT",
        default_value_t = DEFAULT_FLOAT,
        value_name = "SHARE"
    )]
    max_float: f64,
    /// Smallest agreement of int8 and fp32 results on held-out photographs, 0 to 1; below it, the report is written but
    /// no int8 model. Without this flag, one of 10 or more photographs may have another class [default: 0.97]
    #[arg(long, env = "SIGHTLINE_MIN_AGREEMENT", value_name = "SHARE")]
    min_agreement: Option<f64>,
    /// Write the int8 model even if its results or outputs differ too much from fp32, its outputs do not depend on the
    /// image, or it is not faster than fp32, and replace a model at OUT even if its settings differ
    #[arg(long, env = "SIGHTLINE_FORCE")]
    pub(super) force: bool,
    /// Make int8 the model's default: its name without a variant then selects int8 on every CPU,
    /// unless `--precision` is set
    #[arg(long = "default", env = "SIGHTLINE_DEFAULT")]
    pub(super) is_default: bool,
    /// Output folder for the fp32 and int8 model, or path of the fp32 .onnx file [default: next to MODEL]
    #[arg(short = 'o', long = "out", env = "SIGHTLINE_OUT", value_name = "OUT")]
    out: Option<PathBuf>,
    /// Print the report as JSON instead of text
    #[arg(long, env = "SIGHTLINE_JSON")]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) store: StoreArgs,
    #[command(flatten)]
    pub(super) runtime: RuntimeArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum MethodName {
    /// From the smallest to the largest activation
    Minmax,
    /// The range without the outermost activations at each end, set by `--percentile`
    Percentile,
    /// The range with the least relative entropy between fp32 and int8 activations
    Entropy,
    /// The range with the least mean squared error between fp32 and int8 activations
    Mse,
}

impl QuantizeArgs {
    /// Returns the arguments that quantize the model `model` in its own folder, for CPUs like this one, with the
    /// photographs in the folder `calibration`.
    pub(in crate::cli) fn in_place(
        model: ModelRef,
        calibration: PathBuf,
        store: StoreArgs,
        runtime: RuntimeArgs,
    ) -> Self {
        Self {
            model,
            calibration,
            images: None,
            method: None,
            percentile: None,
            target: TargetName::default(),
            min_cosine: DEFAULT_COSINE,
            max_float: DEFAULT_FLOAT,
            min_agreement: None,
            force: false,
            is_default: false,
            json: false,
            out: None,
            store,
            runtime,
        }
    }

    /// Returns the goal and the limits of the search for a recipe: target CPU, similarity to fp32,
    /// share of fp32 layers and calibration method.
    ///
    /// # Errors
    /// If a flag is out of range.
    pub(super) fn goal(&self) -> Result<Goal> {
        let shares = [
            ("--min-cosine", self.min_cosine),
            ("--max-float", self.max_float),
            (
                "--min-agreement",
                self.min_agreement.unwrap_or(MIN_AGREEMENT),
            ),
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
            bail!("`--percentile` requires `--method percentile`");
        }
        let method = self.method.map(|name| match name {
            MethodName::Minmax => Method::Minmax,
            MethodName::Percentile => Method::Percentile(percentile),
            MethodName::Entropy => Method::Entropy,
            MethodName::Mse => Method::Mse,
        });
        Ok(Goal {
            target: self.target.target(),
            cosine: self.min_cosine,
            max_float: self.max_float,
            method,
        })
    }

    /// Returns the limits below which the int8 model is rejected. A user who ends the search at less similar outputs
    /// accepts them.
    pub(super) fn limits(&self, task: Task) -> Limits {
        Limits {
            agreement: self.min_agreement.unwrap_or(MIN_AGREEMENT),
            // The agreement that a user states is obeyed.
            may_be_one: task == Task::Classification && self.min_agreement.is_none(),
            cosine: self.min_cosine.min(MIN_COSINE),
        }
    }

    /// Returns the manifest of the model to be written. With `-o` the model's name is the name of
    /// the output path, as for `export`, because two models in the models directory must not have
    /// the same name.
    ///
    /// # Errors
    /// If the name of the output path is not a valid model name.
    pub(super) fn named(&self, source: &ModelSource, paths: &OutputPaths) -> Result<ModelManifest> {
        let mut manifest = source.manifest.clone();
        if self.out.is_some() && source.path.as_ref() != Some(&paths.manifest) {
            manifest.name.clone_from(&paths.name);
            // Parsed again so that a name that `serve` would reject is rejected before the search.
            ModelManifest::parse(&manifest.to_toml()?)
                .context("cannot name the quantized model after the output (-o)")?;
        }
        Ok(manifest)
    }

    /// Returns the paths of the files to write. They are those of the model itself if `-o` is the
    /// model's own folder, however its path is written.
    ///
    /// # Errors
    /// If the model is built in and `-o` is not set, or if the output folder is not writable.
    pub(super) fn paths(&self, source: &ModelSource) -> Result<OutputPaths> {
        let paths = match (&self.out, &source.path, &source.origin) {
            (None, Some(manifest), Origin::Files { paths, .. }) => {
                OutputPaths::of(manifest, paths, &source.manifest.labels)
            }
            (Some(out), Some(manifest), Origin::Files { paths, .. }) => {
                match OutputPaths::new(out)? {
                    new if same_file(&new.manifest, manifest) => {
                        OutputPaths::of(manifest, paths, &source.manifest.labels)
                    }
                    new => new,
                }
            }
            (Some(out), ..) => OutputPaths::new(out)?,
            _ => bail!(
                "{} is built in and has no folder: set the output path with -o",
                self.model
            ),
        };
        paths.check()?;
        Ok(paths)
    }
}
