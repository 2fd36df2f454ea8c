//! A manifest to start from, for an ONNX file without one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use onnx_export::Stages;
use onnx_export::summary::{Axis, Summary};
use onnx_export::text::shown;

use super::{input, output};
use crate::manifest::{
    Activation, Batching, ChannelOrder, Filter, ModelManifest, Preprocess, Resize, StageFile, Task,
};

/// Mean of ImageNet's channels R, G and B.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// Standard deviation of ImageNet's channels R, G and B.
const STD: [f32; 3] = [0.229, 0.224, 0.225];
/// Side of torchvision's images for classification, in pixels.
const CROP: u64 = 224;
/// Short side of torchvision's images for segmentation, in pixels.
const SEGMENTATION_SIDE: u32 = 520;
/// Largest side of an image that a manifest can state, in pixels.
const MAX_SIDE: u64 = 4096;

/// A manifest to start from, with torchvision's preprocessing for ImageNet.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The manifest.
    pub manifest: ModelManifest,
    /// Name of the file that the manifest must be saved as, in the folder of the ONNX file.
    pub file: PathBuf,
    /// Number of classes, which is the number of lines of the label file. `None` if the ONNX file
    /// does not state it.
    pub classes: Option<u64>,
}

impl Draft {
    /// Returns the manifest of the ONNX file at `path`, with what the file needs.
    pub(super) fn new(path: &Path, task: Task, summary: &Summary) -> Self {
        let mut draft = Self::usual(path, task, summary);
        let manifest = &mut draft.manifest;
        if task == Task::Classification {
            manifest.activation = output::activation(summary);
        }
        let preprocess = &mut manifest.preprocess;
        if input::channel_order(summary).is_some() {
            preprocess.channel_order = Some(ChannelOrder::Bgr);
            preprocess.mean.reverse();
            preprocess.std.reverse();
        }
        if let Some((width, height)) = input_size(summary) {
            fit(preprocess, task, width, height);
        }
        draft
    }

    /// Returns the manifest of the ONNX file at `path`, without looking at what the file needs.
    pub(super) fn usual(path: &Path, task: Task, summary: &Summary) -> Self {
        let Names { name, file, labels } = Names::of(path);
        let stages = Stages::new(path.file_name().map(PathBuf::from).unwrap_or_default());
        let (size, crop) = if input::crops(task) {
            (input::short_side(CROP) as u32, Some(CROP as u32))
        } else {
            (SEGMENTATION_SIDE, None)
        };
        let manifest = ModelManifest {
            default: None,
            description: format!("{} of {name}", task.as_str()),
            name,
            task,
            labels,
            activation: None,
            stages: StageFile::list(&stages),
            architecture: None,
            preprocess: Preprocess {
                resize: Resize::ShortSide {
                    size,
                    filter: Filter::Bilinear,
                },
                crop,
                mean: MEAN,
                std: STD,
                scale: None,
                channel_order: None,
                pad_to: 1,
            },
            detection: None,
            variants: BTreeMap::new(),
            batching: Batching::default(),
            weights: Vec::new(),
            code_license: None,
            provenance: None,
            certificates: BTreeMap::new(),
        };
        Self {
            manifest,
            file,
            classes: output::class_count(summary, task),
        }
    }

    /// Returns the number of classes, or 1 if the file does not state it.
    pub(super) fn classes_or_one(&self) -> usize {
        let classes = self.classes.unwrap_or(1);
        usize::try_from(classes).unwrap_or(usize::MAX)
    }

    /// Returns the manifest as TOML with comments.
    pub fn to_toml(&self) -> String {
        let manifest = &self.manifest;
        let mut text = self.head();
        let Preprocess {
            resize,
            crop,
            mean,
            std,
            channel_order,
            ..
        } = &manifest.preprocess;
        let resize = match resize {
            Resize::Fixed { width, height } => {
                input::fixed_resize(u64::from(*width), u64::from(*height))
            }
            Resize::ShortSide { size, .. } | Resize::Bounded { min_size: size, .. } => {
                format!("{{ mode = \"short_side\", size = {size}, filter = \"bilinear\" }}")
            }
        };
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n# torchvision's preprocessing for ImageNet: write that of the training instead, since with \
             another\n# one the results are wrong without an error.\n[preprocess]\nresize = {resize}\n"
        );
        if let Some(crop) = crop {
            let _ = writeln!(text, "crop = {crop}");
        }
        let _ = writeln!(text, "mean = {mean:?}\nstd = {std:?}");
        text.push_str("# If mean and std are for pixels of 0..255:\n# scale = 255\n");
        text.push_str(match channel_order {
            Some(ChannelOrder::Bgr) => {
                "# The file mentions BGR. mean and std are in the same order.\nchannel_order = \"bgr\"\n"
            }
            _ => {
                "# If the network reads BGR, as with OpenCV and Caffe, with mean and std in that order:\n\
                 # channel_order = \"bgr\"\n"
            }
        });
        text
    }

    /// Returns the part of the manifest above its first section.
    fn head(&self) -> String {
        let ModelManifest {
            name,
            task,
            description,
            labels,
            stages,
            activation,
            ..
        } = &self.manifest;
        let file = stages
            .first()
            .map(|stage| quoted(&stage.file))
            .unwrap_or_default();
        let labels_file = quoted(labels);
        let lines = match self.classes {
            Some(classes) => format!("{classes} lines"),
            None => "as many lines as the network has classes".to_owned(),
        };
        let mut text = format!(
            "# Save this manifest as {} in the folder of the ONNX file. The fields are described in\n\
             # docs/adding-a-model.md.\n\
             name = \"{name}\"\ntask = \"{}\"\ndescription = \"{description}\"\n\
             stages = [{{ role = \"network\", file = {file} }}]\n\
             # One label per line, in the order of the class ids: {lines}.\nlabels = {labels_file}\n",
            shown(&self.file.to_string_lossy()),
            task.as_str(),
        );
        let comment = match activation {
            Some(Activation::Softmax) => {
                "The network ends in Softmax: its outputs are probabilities."
            }
            Some(Activation::Sigmoid) => {
                "The network ends in Sigmoid: each class has its own score."
            }
            Some(Activation::None) | None => return text,
        };
        let activation = activation.unwrap_or_default().as_str();
        let _ = write!(text, "# {comment}\nactivation = \"{activation}\"\n");
        text
    }
}

/// Changes the preprocessing so that its images have this size.
fn fit(preprocess: &mut Preprocess, task: Task, width: u64, height: u64) {
    // A larger size cannot be stated and remains a finding.
    if width.max(height) > MAX_SIDE {
        return;
    }
    let (width, height) = (width as u32, height as u32);
    if width == height && input::crops(task) {
        preprocess.crop = Some(width);
        preprocess.resize = Resize::ShortSide {
            size: input::short_side(u64::from(width)) as u32,
            filter: Filter::Bilinear,
        };
    } else {
        preprocess.crop = None;
        preprocess.resize = Resize::Fixed { width, height };
    }
}

/// Returns the fixed width and height of the network's input. A dynamic side is taken to be as long
/// as the other one. `None` if both are dynamic or not stated.
fn input_size(summary: &Summary) -> Option<(u64, u64)> {
    let [_, _, height, width] = summary.inputs.first()?.shape()? else {
        return None;
    };
    let (height, width) = (Axis::fixed(height), Axis::fixed(width));
    Some((width.or(height)?, height.or(width)?))
}

/// Names of a model and of the files beside its ONNX file.
struct Names {
    name: String,
    file: PathBuf,
    labels: PathBuf,
}

impl Names {
    /// Returns the names that `export` would choose: `birds/model.onnx` is the model `birds` with
    /// `model.toml` and `labels.txt`, and `birds.onnx` is the model `birds` with `birds.toml` and
    /// `birds.labels.txt`.
    fn of(path: &Path) -> Self {
        let file = path.file_name().unwrap_or_default();
        let file = PathBuf::from(file).with_extension("toml");
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        if stem != "model" {
            return Self {
                name: model_name(&stem),
                labels: file.with_extension("labels.txt"),
                file,
            };
        }
        let absolute = std::path::absolute(path).unwrap_or_default();
        let folder = absolute.parent().and_then(Path::file_name);
        Self {
            name: model_name(&folder.unwrap_or_default().to_string_lossy()),
            labels: PathBuf::from("labels.txt"),
            file,
        }
    }
}

/// Turns a file name into a model's name, `[a-z0-9_-][a-z0-9_.-]{0,63}`.
fn model_name(text: &str) -> String {
    let allowed = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9' | '_' | '-' | '.') => c,
        _ => '-',
    };
    let name: String = text.chars().map(allowed).collect();
    let name: String = name.trim_start_matches('.').chars().take(64).collect();
    if name.is_empty() {
        "model".to_owned()
    } else {
        name
    }
}

/// Returns a file name as a TOML string.
fn quoted(file: &Path) -> String {
    toml::Value::String(file.to_string_lossy().into_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_export_would_choose() {
        let cases = [
            ("/m/birds/model.onnx", "birds", "model.toml", "labels.txt"),
            ("/m/birds.onnx", "birds", "birds.toml", "birds.labels.txt"),
            (
                "/m/My Net v1.2.onnx",
                "my-net-v1.2",
                "My Net v1.2.toml",
                "My Net v1.2.labels.txt",
            ),
            ("/model.onnx", "model", "model.toml", "labels.txt"),
        ];
        for (path, name, file, labels) in cases {
            let names = Names::of(Path::new(path));
            assert_eq!(names.name, name, "{path}");
            assert_eq!(names.file, Path::new(file), "{path}");
            assert_eq!(names.labels, Path::new(labels), "{path}");
        }
    }

    #[test]
    fn file_names_cannot_add_lines() {
        let quoted = quoted(Path::new("a\"\nname = \"b"));
        assert!(
            !quoted.contains('\n') || quoted.starts_with("\"\"\""),
            "{quoted}"
        );
        let table: toml::Table = format!("file = {quoted}").parse().unwrap();
        assert_eq!(table["file"].as_str(), Some("a\"\nname = \"b"));
    }
}
