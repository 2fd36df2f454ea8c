//! `sightline export`: converts a checkpoint to an ONNX file and its manifest.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use onnx_export::architecture::{Architecture, Backbone, Head};
use onnx_export::qat::{self, QatError, Trained};
use onnx_export::text::{cut, shown};
use onnx_export::weights::{MAX_FILE_BYTES, StateDict};
use onnx_export::{DEFAULT_OPSET, Model, Producer, fit};
use sightline::catalogue;
use sightline::manifest::{ModelManifest, Precision, Provenance, Task, sha256};
use sightline::nearest::{did_you_mean, nearest};
use sightline::store::{read_labels, read_regular};

use super::RuntimeArgs;
use super::keep::{Existing, Fresh, Merged, default_labels, preset};
use super::misfit::Attempt;
use super::output::{OutputPaths, file_name, stage_files};
use super::parity;
use super::progress::Spinner;
use super::publish::{Exported, Fused};
use super::say::say;
use super::target::TargetName;
use super::trained::{Int8, recognised};

#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each bool is a command-line flag, independent of the other flags"
)]
pub(super) struct ExportArgs {
    /// Network of the catalogue (see `sightline models`)
    name: String,
    /// Checkpoint with a state dict: .pth (zip, legacy or tar format) or .safetensors; a checkpoint
    /// from quantization-aware training is also exported as an int8 variant
    #[arg(long, env = "SIGHTLINE_WEIGHTS", value_name = "FILE")]
    weights: PathBuf,
    /// Multiplier of every channel count (MobileNetV2, MobileNetV3)
    #[arg(long, env = "SIGHTLINE_WIDTH_MULT", value_name = "F")]
    width_mult: Option<f64>,
    /// Halve the channels of the last blocks (MobileNetV3)
    #[arg(long, env = "SIGHTLINE_REDUCED_TAIL")]
    reduced_tail: bool,
    /// Use dilation instead of stride in the last blocks (MobileNetV3)
    #[arg(long, env = "SIGHTLINE_DILATED")]
    dilated: bool,
    /// Add the auxiliary head as a second output (DeepLabV3, FCN)
    #[arg(long, env = "SIGHTLINE_AUX")]
    aux: bool,
    /// Also write the detector as one self-contained file, model.fused.onnx
    #[arg(long, env = "SIGHTLINE_FUSED")]
    fused: bool,
    /// CPU family for the int8 variant of a checkpoint from quantization-aware training
    #[arg(
        long,
        env = "SIGHTLINE_TARGET",
        default_value = "auto",
        value_name = "TARGET"
    )]
    target: TargetName,
    /// Number of classes [default: the number of labels, else the catalogue's]
    #[arg(long, env = "SIGHTLINE_NUM_CLASSES", value_name = "N")]
    num_classes: Option<usize>,
    /// Class labels, one per line [default: the catalogue's, else class numbers]
    #[arg(long, env = "SIGHTLINE_LABELS", value_name = "FILE")]
    labels: Option<PathBuf>,
    /// ONNX opset, 13 to 21
    #[arg(long, env = "SIGHTLINE_OPSET", default_value_t = DEFAULT_OPSET, value_name = "N")]
    opset: i64,
    /// Name of the exported model [default: the name of OUT]
    #[arg(long = "as", env = "SIGHTLINE_AS", value_name = "NAME")]
    name_as: Option<String>,
    /// Replace an existing model without keeping the edits of its model.toml and labels.txt, even if
    /// it is another network
    #[arg(long, env = "SIGHTLINE_FORCE")]
    force: bool,
    /// Folder for model.onnx, model.toml and labels.txt, or the path of an .onnx file; these files
    /// are replaced together; other files, and your edits of an existing model, are kept
    #[arg(short = 'o', long = "out", env = "SIGHTLINE_OUT", value_name = "OUT")]
    out: PathBuf,
    #[command(flatten)]
    runtime: RuntimeArgs,
    /// SHA-256 that the checkpoint must have. `None` for any checkpoint.
    #[arg(skip)]
    sha256: Option<String>,
}

impl ExportArgs {
    /// Returns the arguments that export the catalogue's network `name` from the checkpoint `weights`, whose SHA-256 must
    /// be `sha256`, into the folder `out`. With `force`, the edits of a model there are not kept. `runtime` checks the
    /// parity.
    pub(super) fn verified(
        name: &str,
        (weights, sha256): (PathBuf, String),
        out: PathBuf,
        force: bool,
        runtime: RuntimeArgs,
    ) -> Self {
        Self {
            name: name.to_owned(),
            weights,
            width_mult: None,
            reduced_tail: false,
            dilated: false,
            aux: false,
            fused: false,
            target: TargetName::default(),
            num_classes: None,
            labels: None,
            opset: DEFAULT_OPSET,
            name_as: None,
            force,
            out,
            runtime,
            sha256: Some(sha256),
        }
    }

    /// Returns what the error of a checkpoint `state` that does not fit `architecture` describes.
    fn attempt<'a>(&'a self, architecture: &'a Architecture, state: &'a StateDict) -> Attempt<'a> {
        Attempt {
            name: &self.name,
            weights: &self.weights,
            out: &self.out,
            architecture,
            state,
            by_labels: self.labels.is_some() && self.num_classes.is_none(),
        }
    }
}

/// An exported model, and what there is to say about it.
pub(super) struct Converted {
    paths: OutputPaths,
    pub(super) model: Model,
    /// The int8 variant, if the checkpoint has trained int8 scales.
    int8: Option<Int8>,
    /// Prefix that was removed from the names of the tensors.
    prefix: Option<String>,
    /// Messages about what was kept of the model that was there before, and about the parity check, each one line.
    pub(super) notes: Vec<String>,
}

/// Exports the model and prints what was written.
pub(super) fn run(args: &ExportArgs) -> Result<()> {
    convert(args)?.report(args)
}

/// Reads the checkpoint, builds the ONNX graphs, and writes all files of the model. Writes no file
/// if a step fails.
pub(super) fn convert(args: &ExportArgs) -> Result<Converted> {
    let Some(catalogue) = catalogue::manifest(&args.name)? else {
        let meant = nearest(cut(&args.name, 64), catalogue::names());
        bail!(
            "the catalogue has no network `{}`{}; `sightline models` lists the networks",
            args.name,
            did_you_mean(meant)
        );
    };
    let mut manifest = catalogue.clone();
    let paths = OutputPaths::new(&args.out)?;
    paths.check()?;
    manifest.name = args.name_as.clone().unwrap_or_else(|| paths.name.clone());
    let labels = args.labels.as_deref().map(read_labels).transpose()?;
    let Some(architecture) = &mut manifest.architecture else {
        bail!(
            "cannot export `{}`: its manifest has no `architecture`",
            args.name
        );
    };
    apply(architecture, args, labels.as_ref().map(Vec::len))?;
    let options = || format!("cannot export {} with these options", args.name);
    // Checked before a label is created for each class.
    architecture.check().with_context(options)?;
    if args.fused && manifest.task != Task::Detection {
        bail!("`--fused` applies to detectors, not to {}", args.name);
    }
    let classes = architecture.num_classes;
    let labels = labels.unwrap_or_else(|| default_labels(&manifest.labels, classes));
    if labels.len() != classes {
        bail!(
            "the file of `--labels` must have {classes} lines, one per class, got {}",
            labels.len()
        );
    }
    // Parsed again so that a manifest that `serve` would reject is rejected before the model is built.
    ModelManifest::parse(&manifest.to_toml()?).with_context(options)?;
    let spinner = Spinner::new(format!(
        "reading {}",
        shown(&file_name(&args.weights).display().to_string())
    ));
    let (state, prefix) = read_checkpoint(args, &manifest)?;
    spinner.next(format!("building {}", args.name));
    let trained = take_apart(&mut manifest, &state, args)?;
    let state = trained.as_ref().map_or(&state, |trained| &trained.state);
    let mut model = build(&manifest, state, args)?;
    model.info.producer = producer();
    complete(&mut manifest, &model, &paths, args);
    let published = catalogue.published(&model.info.checkpoint_sha256);
    let parity = published.map(|published| {
        let library = args.runtime.onnxruntime.as_deref();
        parity::check(published, &manifest, &model, library)
    });
    let parity = parity.transpose()?;
    let int8 = trained.as_ref();
    let int8 = int8.map(|trained| Int8::new(trained, &model, args.target.target()));
    let int8 = int8.transpose()?;
    if int8.is_some() {
        let name = Precision::Int8.as_str().to_owned();
        manifest.variants.insert(name, Int8::variant(&paths));
    }
    spinner.next(format!("writing {}", shown(&paths.name)));
    let fresh = Fresh {
        manifest,
        labels: &labels,
        catalogue: &catalogue,
        name_given: args.name_as.is_some(),
        labels_given: args.labels.is_some(),
    };
    let fused = args.fused.then(|| fused(&fresh, &paths, state, args));
    let exported = Exported {
        fused: fused.transpose()?,
        fresh,
        model: &model,
        int8: int8.as_ref(),
        force: args.force,
    };
    let mut notes = exported.write(&paths)?;
    notes.extend(parity);
    Ok(Converted {
        paths,
        model,
        int8,
        prefix,
        notes,
    })
}

impl Converted {
    /// Prints what was written.
    fn report(&self, args: &ExportArgs) -> Result<()> {
        if let Some(prefix) = &self.prefix {
            say!(
                "{}: removed the prefix `{}` from the names of the tensors",
                args.weights.display(),
                shown(prefix)
            )?;
        }
        if let Some(int8) = &self.int8 {
            int8.report(&args.weights, &self.paths)?;
        }
        report(&self.model, &self.paths, &self.notes)?;
        if args.fused {
            say!(
                "{}: the whole detector with suppression, for any ONNX Runtime",
                self.paths.fused.display()
            )?;
        }
        Ok(())
    }
}

/// Splits the checkpoint `state` into fp32 weights and trained int8 scales, and sets the
/// architecture in the manifest to the trained one. `None` if the checkpoint has no trained int8
/// scales.
fn take_apart(
    manifest: &mut ModelManifest,
    state: &StateDict,
    args: &ExportArgs,
) -> Result<Option<Trained>> {
    let (Some(layout), Some(architecture)) =
        (qat::Layout::of(state), manifest.architecture.as_mut())
    else {
        return Ok(None);
    };
    if args.fused {
        bail!("`--fused` does not apply to checkpoints that were trained for int8");
    }
    let trained = qat::import(state, architecture).map_err(|error| {
        let error = match error {
            QatError::Build(error) => args.attempt(architecture, state).explain(error),
            error => anyhow::Error::new(error).context(args.attempt(architecture, state).what()),
        };
        error.context(format!(
            "cannot import {}, which is {}",
            args.weights.display(),
            recognised(layout)
        ))
    })?;
    *architecture = trained.architecture.clone();
    Ok(Some(trained))
}

/// Reads the checkpoint of `args`, which must be a regular file. Removes the prefix of all tensor
/// names if the rest fits the network of `manifest`, and returns the prefix.
fn read_checkpoint(
    args: &ExportArgs,
    manifest: &ModelManifest,
) -> Result<(StateDict, Option<String>)> {
    let path = &args.weights;
    let context = || format!("cannot read the checkpoint {}", path.display());
    if path.is_dir() {
        // This error says what to do with a folder, such as an unpacked checkpoint.
        return Ok((StateDict::read(path).with_context(context)?, None));
    }
    let bytes = read_regular(path, MAX_FILE_BYTES)?;
    if args
        .sha256
        .as_ref()
        .is_some_and(|expected| sha256(&bytes) != *expected)
    {
        bail!(
            "{} was changed after it was verified: try again",
            path.display()
        );
    }
    let state = StateDict::from_bytes(&bytes).with_context(context)?;
    match &manifest.architecture {
        Some(architecture) => Ok(fit::strip_prefix(state, architecture)?),
        None => Ok((state, None)),
    }
}

/// Applies the flags to the architecture. `labels` is the number of lines in the file of
/// `--labels`.
///
/// # Errors
/// If a flag does not apply to the architecture.
fn apply(architecture: &mut Architecture, args: &ExportArgs, labels: Option<usize>) -> Result<()> {
    let Architecture {
        num_classes,
        backbone,
        head,
    } = architecture;
    *num_classes = args.num_classes.or(labels).unwrap_or(*num_classes);
    if args.aux {
        match head {
            Head::Deeplabv3 { aux } | Head::Fcn { aux } => *aux = true,
            _ => {
                bail!("`--aux` applies to DeepLabV3 and FCN, not to {}", args.name)
            }
        }
    }
    match backbone {
        Backbone::MobilenetV3(config) => {
            config.reduced_tail |= args.reduced_tail;
            config.dilated |= args.dilated;
        }
        _ if args.reduced_tail || args.dilated => bail!(
            "`--reduced-tail` and `--dilated` apply to MobileNetV3, not to {}",
            args.name
        ),
        _ => {}
    }
    let Some(wish) = args.width_mult else {
        return Ok(());
    };
    let Some(width_mult) = backbone.trunk_mut().width_mult() else {
        bail!("`--width-mult` does not apply to {}", args.name)
    };
    *width_mult = wish;
    Ok(())
}

/// Builds the network that the manifest describes, with the weights in `state`.
fn build(manifest: &ModelManifest, state: &StateDict, args: &ExportArgs) -> Result<Model> {
    let Some(architecture) = &manifest.architecture else {
        bail!(
            "cannot export `{}`: its manifest has no `architecture`",
            args.name
        )
    };
    let built = onnx_export::build(&manifest.name, architecture, state, args.opset);
    built.map_err(|error| args.attempt(architecture, state).explain(error))
}

/// Builds the whole detector as one graph, with suppression, and the settings that the manifest at
/// `paths` will have.
fn fused(
    fresh: &Fresh<'_>,
    paths: &OutputPaths,
    state: &StateDict,
    args: &ExportArgs,
) -> Result<Fused> {
    let existing = (!args.force).then(|| Existing::read(paths)).transpose()?;
    let manifest = Merged::new(existing.flatten().as_ref(), fresh)?.manifest;
    let (Some(architecture), Some(options)) = (&manifest.architecture, manifest.fused_options())
    else {
        bail!("`--fused` applies to detectors, not to {}", args.name);
    };
    let name = format!("{}_fused", manifest.name);
    let mut model = onnx_export::build_fused(&name, architecture, &options, state, args.opset)?;
    model.info.producer = producer();
    let bytes = model.to_bytes();
    Ok(Fused { bytes, manifest })
}

/// Returns the program name and version that exported ONNX files record.
fn producer() -> Producer {
    Producer {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Turns the catalogue's manifest into the manifest of the exported model: sets the names of the
/// model's files, its checkpoint, and, for a published checkpoint, the resize that belongs to it.
fn complete(manifest: &mut ModelManifest, model: &Model, paths: &OutputPaths, args: &ExportArgs) {
    manifest.preprocess = preset(manifest, &model.info.checkpoint_sha256);
    let published = manifest.published(&model.info.checkpoint_sha256).cloned();
    manifest.weights = Vec::new();
    // The catalogue's activation ranges were calibrated for the embedded weights, not for this
    // checkpoint.
    let variants = &mut manifest.variants;
    variants.retain(|_, variant| variant.ranges.is_none());
    manifest.stages = stage_files(model.stages.as_ref().map(|role, _| paths.stage(role)));
    manifest.labels = file_name(&paths.labels);
    manifest.provenance = Some(Provenance {
        checkpoint: file_name(&args.weights).display().to_string(),
        checkpoint_sha256: model.info.checkpoint_sha256.clone(),
        license: published
            .as_ref()
            .and_then(|weights| weights.license.clone()),
        training_data: published.and_then(|weights| weights.training_data),
        parameters: model.info.parameters,
    });
}

/// Prints the exported files, the `notes` on what was kept, and commands that use the model.
fn report(model: &Model, paths: &OutputPaths, notes: &[String]) -> Result<()> {
    let size = std::fs::metadata(paths.onnx())?.len() as f64 / 1e6;
    let parameters = model.info.parameters as f64 / 1e6;
    say!(
        "{}: {parameters:.2} M parameters, {size:.1} MB",
        paths.onnx().display()
    )?;
    for note in notes {
        say!("{note}")?;
    }
    say!(
        "{}: edit it to change labels, preprocessing or batching",
        paths.manifest.display()
    )?;
    say!("try: sightline serve --model {}", paths.manifest.display())?;
    say!(
        " or: sightline predict --model {} photo.jpg",
        paths.manifest.display()
    )
}
