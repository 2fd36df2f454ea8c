//! Arguments of `sightline eval`.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use sightline::image::DecodeMode;
use sightline::store::ModelRef;

use crate::cli::{CacheArgs, LoadArgs, PrecisionArgs, RuntimeArgs, StoreArgs};

/// The forms of `--dataset`.
const FORMS: &str = "imagenet:DIR, coco:IMAGES,JSON or voc:IMAGES,MASKS";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(in crate::cli) struct EvalArgs {
    /// Model, as NAME, NAME@VARIANT or a path; the first one of a list, such as `serve` accepts
    /// [default: the only model of the models directory, or the built-in model without one]
    #[arg(
        long,
        env = "SIGHTLINE_MODEL",
        value_name = "NAME[@VARIANT]",
        value_delimiter = ','
    )]
    model: Vec<ModelRef>,
    /// Annotated images: imagenet:DIR (folders named by class index, WordNet id or label, or a file
    /// labels.csv), coco:IMAGES,JSON or voc:IMAGES,MASKS
    #[arg(long, env = "SIGHTLINE_DATASET", value_name = "KIND:PATHS")]
    pub(super) dataset: DatasetRef,
    /// Compare two models, variants or checkpoints on the same images, instead of `--model`
    #[arg(
        long,
        env = "SIGHTLINE_COMPARE_MODELS",
        num_args = 1..=2,
        value_name = "MODEL",
        value_delimiter = ',',
        conflicts_with_all = ["certify", "verify"]
    )]
    compare: Vec<ModelRef>,
    /// Decode images exactly or, with `fast`, JPEGs at the scale that the network needs; `exact,fast`
    /// compares both
    #[arg(
        long,
        env = "SIGHTLINE_EVAL_DECODE",
        default_value = "exact",
        value_name = "exact|fast",
        value_delimiter = ',',
        hide_possible_values = true
    )]
    decode: Vec<DecodeMode>,
    /// Number of images, spread evenly over the data set [default: all]
    #[arg(long, env = "SIGHTLINE_IMAGES", value_name = "N")]
    pub(super) images: Option<usize>,
    /// Size at which masks are compared: `input` (the size of the image) or `network` (the size after
    /// preprocessing, as torchvision's published figures)
    #[arg(
        long,
        env = "SIGHTLINE_MASK_SIZE",
        default_value = "input",
        value_name = "input|network",
        hide_possible_values = true
    )]
    pub(super) mask_size: MaskSizeName,
    /// Folder for the reports (JSON, Markdown, CSV) and the worst images (PNG); also keeps the results of
    /// an interrupted run, which the same command continues
    #[arg(short = 'o', long = "out", env = "SIGHTLINE_OUT", value_name = "OUT")]
    pub(super) out: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long, env = "SIGHTLINE_JSON")]
    pub(super) json: bool,
    /// Write the figures into the model's manifest as its certificate
    #[arg(long, env = "SIGHTLINE_CERTIFY", conflicts_with_all = ["verify", "images"])]
    pub(super) certify: bool,
    /// Repeat the evaluation of the model's certificate, and fail if a figure differs
    #[arg(long, env = "SIGHTLINE_VERIFY", conflicts_with = "images")]
    pub(super) verify: bool,
    /// Largest difference of a figure that `--verify` accepts, in percentage points
    #[arg(
        long,
        env = "SIGHTLINE_TOLERANCE",
        default_value_t = 0.1,
        value_name = "POINTS"
    )]
    pub(super) tolerance: f64,
    #[command(flatten)]
    pub(super) precision: PrecisionArgs,
    #[command(flatten)]
    pub(super) store: StoreArgs,
    #[command(flatten)]
    pub(super) runtime: RuntimeArgs,
    #[command(flatten)]
    pub(super) cache: CacheArgs,
    #[command(flatten)]
    pub(super) load: LoadArgs,
}

const AFTER_HELP: &str = "\
Exit codes: 0 success; 1 the data set, an image or the model cannot be used, or `--verify` found a
difference; 2 invalid arguments; 64 invalid configuration.";

/// The size at which masks are compared with annotations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum MaskSizeName {
    Input,
    Network,
}

impl MaskSizeName {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Network => "network",
        }
    }
}

/// A model and the decoding of its images.
#[derive(Debug, Clone, Copy)]
pub(super) struct Side<'a> {
    /// `None` for the default model.
    pub(super) model: Option<&'a ModelRef>,
    pub(super) decode: DecodeMode,
}

impl EvalArgs {
    /// Returns the one or two evaluations that the arguments ask for.
    ///
    /// # Errors
    /// If the arguments ask for none or more than two, or if a flag does not apply.
    pub(super) fn sides(&self) -> Result<Vec<Side<'_>>> {
        if self.images == Some(0) {
            bail!("`--images`: expected at least 1, got 0");
        }
        if !(0.0..=100.0).contains(&self.tolerance) {
            bail!("`--tolerance`: expected 0 to 100, got {}", self.tolerance);
        }
        let model = self.model.first();
        let side = |model, decode| Side { model, decode };
        let sides = match (&self.compare[..], &self.decode[..]) {
            ([], [decode]) => vec![side(model, *decode)],
            ([], [one, other]) if one != other => vec![side(model, *one), side(model, *other)],
            ([one, other], [decode]) => vec![side(Some(one), *decode), side(Some(other), *decode)],
            ([] | [_, _], _) => bail!(
                "`--decode`: expected exact, fast or, without `--compare`, exact,fast, got {} modes",
                self.decode.len()
            ),
            (models, _) => bail!("`--compare`: expected two models, got {}", models.len()),
        };
        if sides.len() == 2 && (self.certify || self.verify) {
            bail!("`--decode`: expected one mode with `--certify` or `--verify`, got 2");
        }
        Ok(sides)
    }
}

/// The files of a data set, as `--dataset` names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DatasetRef {
    Imagenet { folder: PathBuf },
    Coco { images: PathBuf, json: PathBuf },
    Voc { images: PathBuf, masks: PathBuf },
}

impl FromStr for DatasetRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("expected {FORMS}");
        let (kind, paths) = text.split_once(':').ok_or_else(expected)?;
        let two = || {
            // Folders of images may have commas in their names; the last comma separates the paths.
            let (one, other) = paths.rsplit_once(',').ok_or_else(expected)?;
            if one.is_empty() || other.is_empty() {
                return Err(expected());
            }
            Ok((PathBuf::from(one), PathBuf::from(other)))
        };
        match kind {
            "imagenet" if !paths.is_empty() => Ok(Self::Imagenet {
                folder: paths.into(),
            }),
            "coco" => two().map(|(images, json)| Self::Coco { images, json }),
            "voc" => two().map(|(images, masks)| Self::Voc { images, masks }),
            _ => Err(expected()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_sets_are_named_by_kind_and_paths() {
        let parse = |text: &str| text.parse::<DatasetRef>();
        let folder = PathBuf::from("a:b");
        assert_eq!(parse("imagenet:a:b"), Ok(DatasetRef::Imagenet { folder }));
        let expected = DatasetRef::Coco {
            images: "a,b".into(),
            json: "c.json".into(),
        };
        assert_eq!(parse("coco:a,b,c.json"), Ok(expected));
        let expected = DatasetRef::Voc {
            images: "a".into(),
            masks: "b".into(),
        };
        assert_eq!(parse("voc:a,b"), Ok(expected));
        for wrong in ["", "imagenet:", "coco:a", "voc:,b", "voc:a,", "other:a"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
