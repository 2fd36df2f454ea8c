//! The result of `predict` for one image, as text and as JSON.

use std::path::{Path, PathBuf};

use anyhow::Result;
use onnx_export::text::{printable, shown};
use serde::Serialize;
use serde_json::{Value, json};
use sightline::postprocess::classify::Prediction;
use sightline::postprocess::detect::{BoxXyxy, LabeledDetection};
use sightline::postprocess::segment::ClassShare;
use sightline::registry::LoadedModel;

use crate::cli::say::say;

/// The printed result for one image.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Printed<'a> {
    Classes {
        predictions: Vec<Prediction>,
    },
    Boxes {
        width: u32,
        height: u32,
        detections: Vec<LabeledDetection<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        annotated: Option<PathBuf>,
    },
    Mask {
        width: u32,
        height: u32,
        classes: Vec<ClassShare>,
        #[serde(skip_serializing_if = "Option::is_none")]
        annotated: Option<PathBuf>,
        #[serde(skip_serializing_if = "Option::is_none")]
        mask: Option<PathBuf>,
    },
}

/// Returns the JSON object of one image: `result` with the model and the image.
pub(super) fn line(result: Value, model: &LoadedModel, path: &Path) -> Value {
    let mut line = result;
    line["model"] = model.manifest.name.as_str().into();
    line["variant"] = model.variant.as_str().into();
    line["image"] = path.display().to_string().into();
    line
}

impl Printed<'_> {
    /// Prints the result for the image at `path`.
    pub(super) fn print(&self, model: &LoadedModel, path: &Path, as_json: bool) -> Result<()> {
        if as_json {
            return say!("{}", line(json!(self), model, path));
        }
        say!("{}", on_one_line(path))?;
        let line = |part: f32, label: &str, class_id: usize| {
            say!("  {:5.1} %  {} ({class_id})", part * 100.0, shown(label))
        };
        match self {
            Self::Classes { predictions } => {
                for Prediction {
                    class_id,
                    label,
                    score,
                } in predictions
                {
                    line(*score, label, *class_id)?;
                }
            }
            Self::Boxes {
                detections,
                annotated,
                ..
            } => {
                for object in detections {
                    let BoxXyxy { x1, y1, x2, y2 } = object.r#box;
                    let (score, label) = (object.score * 100.0, shown(object.label));
                    say!("  {score:5.1} %  {label} at {x1:.0}, {y1:.0} to {x2:.0}, {y2:.0}")?;
                }
                drawn_into(annotated.as_deref())?;
            }
            Self::Mask {
                classes,
                annotated,
                mask,
                ..
            } => {
                let mut largest_first: Vec<&ClassShare> = classes.iter().collect();
                largest_first.sort_by_key(|share| std::cmp::Reverse(share.pixels));
                for share in largest_first {
                    line(share.fraction, &share.label, share.class_id)?;
                }
                drawn_into(annotated.as_deref().or(mask.as_deref()))?;
            }
        }
        Ok(())
    }
}

/// Returns `path` for a line of the output. A file may have a line break in its name.
fn on_one_line(path: &Path) -> String {
    printable(&path.to_string_lossy(), &[]).into_owned()
}

fn drawn_into(path: Option<&Path>) -> Result<()> {
    match path {
        Some(path) => say!("  drawn to {}", on_one_line(path)),
        None => Ok(()),
    }
}
