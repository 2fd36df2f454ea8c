//! The detection cases of `index.json`, a slow reference implementation of torchvision's detection
//! transform, and an ONNX Runtime session with named inputs and outputs.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use onnx_export::architecture::Architecture;
use onnx_export::{DEFAULT_OPSET, Model, formula, tensor_shapes};
use ort::environment::Environment;
use ort::session::{Session, SessionInputValue};
use ort::value::Tensor as OrtTensor;
use serde::Deserialize;
use sightline::catalogue;
use sightline::engine::{Tensor, find_library};
use sightline::manifest::{ModelManifest, Resize};

use super::shared::bilinear::bilinear;
use super::{golden, read_tensor, relative_error};

/// A detection case of `index.json`.
#[derive(Deserialize)]
pub struct DetectionCase {
    #[serde(rename = "case")]
    pub name: String,
    pub args: Thresholds,
    /// Factors by which generated weights are multiplied. The key is the prefix of the names of the
    /// tensors to which the factor applies.
    pub scale: BTreeMap<String, f32>,
    pub input: ImageSides,
    /// Height and width of the resized image in pixels, before padding.
    pub resized: [usize; 2],
    /// Height and width of the network's input in pixels, which is the resized image with padding.
    pub padded: [usize; 2],
    pub params: u64,
    /// Shapes of the tensors in the network's state dict, by name, from `state_dicts.json`.
    #[serde(skip)]
    pub shapes: BTreeMap<String, Vec<usize>>,
}

/// Arguments of the torchvision function that builds the detector. A field is `None` if the case
/// keeps the default of the argument.
#[derive(Deserialize)]
pub struct Thresholds {
    pub min_size: Option<u32>,
    pub max_size: Option<u32>,
    pub box_score_thresh: Option<f64>,
    pub rpn_score_thresh: Option<f64>,
    pub score_thresh: Option<f64>,
}

/// Size of a case's image in pixels.
#[derive(Deserialize)]
pub struct ImageSides {
    pub height: usize,
    pub width: usize,
}

impl DetectionCase {
    /// Returns the f32 tensor `name` of the case's safetensors file, one of torchvision's outputs.
    pub fn tensor(&self, name: &str) -> Vec<f32> {
        read_tensor(&self.file(), name)
    }

    /// Returns the name of the safetensors file with torchvision's outputs for this case.
    pub fn file(&self) -> String {
        format!("{}.safetensors", self.name)
    }

    /// Returns the case's image, `[3, H, W]` with values in [0, 1). Cases with the same image size
    /// have the same image.
    pub fn image(&self) -> Vec<f32> {
        let ImageSides { height, width } = self.input;
        read_tensor("detection_images.safetensors", &format!("{height}x{width}"))
    }

    /// Returns the catalogue's manifest of the detector, changed to the input sizes and thresholds
    /// of the case.
    pub fn manifest(&self) -> ModelManifest {
        let mut manifest = catalogue::manifest(&self.name).unwrap().unwrap();
        let args = &self.args;
        if let Resize::Bounded { min_size, max_size } = &mut manifest.preprocess.resize {
            *min_size = args.min_size.unwrap_or(*min_size);
            *max_size = args.max_size.unwrap_or(*max_size);
        }
        let detection = manifest.detection.as_mut().unwrap();
        let score = args.box_score_thresh.or(args.score_thresh);
        detection.score_threshold = score.unwrap_or(detection.score_threshold);
        if let Some(rpn) = &mut detection.rpn {
            rpn.score_threshold = args.rpn_score_thresh.unwrap_or(rpn.score_threshold);
        }
        manifest
    }

    /// Returns the network's input `[3, H, W]`, which is the normalized, resized and padded image,
    /// and the input's largest difference from torchvision's input, in standard deviations of the
    /// latter. Every eighth row and column is compared. Panics if the difference is 1e-5 or more.
    pub fn input(&self, manifest: &ModelManifest) -> (Vec<f32>, f64) {
        let preprocess = &manifest.preprocess;
        let from = [self.input.height, self.input.width];
        let mut planes = self.image();
        for (channel, plane) in planes.chunks_mut(from[0] * from[1]).enumerate() {
            for value in plane {
                *value = (*value - preprocess.mean[channel]) / preprocess.std[channel];
            }
        }
        let to = match preprocess.resize {
            Resize::Bounded { min_size, max_size } => {
                let (short, long) = (from[0].min(from[1]) as f64, from[0].max(from[1]) as f64);
                let scale = (f64::from(min_size) / short).min(f64::from(max_size) / long);
                from.map(|side| (side as f64 * scale).floor() as usize)
            }
            Resize::Fixed { width, height } => [height as usize, width as usize],
            Resize::ShortSide { .. } => panic!("{}: detectors do not use `short_side`", self.name),
        };
        assert_eq!(to, self.resized, "{}", self.name);
        let padded = to.map(|side| side.next_multiple_of(preprocess.pad_to as usize));
        assert_eq!(padded, self.padded, "{}", self.name);
        let data = pad(&bilinear(&planes, from, to), to, padded);
        let error = self.input_error(&data);
        assert!(error < 1e-5, "{}: input {error:.1e}", self.name);
        (data, error)
    }

    fn input_error(&self, data: &[f32]) -> f64 {
        let [height, width] = self.padded;
        let rows = data
            .chunks_exact(height * width)
            .flat_map(|plane| plane.chunks_exact(width).step_by(8));
        let got: Vec<f32> = rows
            .flat_map(|row| row.iter().step_by(8).copied())
            .collect();
        relative_error(&got, &self.tensor("preprocessed_stride8"))
    }

    /// Builds the network with the generated weights of the case. Panics if the shapes of the
    /// tensors or the parameter count of the network differ from torchvision's.
    pub fn model(&self, architecture: &Architecture) -> Model {
        let shapes = tensor_shapes(architecture).unwrap();
        assert_eq!(shapes, self.shapes, "{}", self.name);
        let scale: Vec<(String, f32)> = self.scale.clone().into_iter().collect();
        let state = formula::state_dict(&self.shapes, &scale).unwrap();
        let model = onnx_export::build(&self.name, architecture, &state, DEFAULT_OPSET).unwrap();
        assert_eq!(model.info.parameters, self.params, "{}", self.name);
        model
    }
}

/// Returns all detection cases of `index.json`.
pub fn detection_cases() -> Vec<DetectionCase> {
    let entries: Vec<serde_json::Value> = serde_json::from_str(&golden("index.json")).unwrap();
    let mut shapes: BTreeMap<String, BTreeMap<String, Vec<usize>>> =
        serde_json::from_str(&golden("state_dicts.json")).unwrap();
    let entries = entries
        .into_iter()
        .filter(|entry| entry["task"] == "detection");
    let case = |entry| {
        let mut case: DetectionCase = serde_json::from_value(entry).unwrap();
        case.shapes = shapes.remove(&case.name).unwrap();
        case
    };
    entries.map(case).collect()
}

/// Pads every plane of size `from` (height, width) to size `to` (height, width) with zeros on the
/// right and at the bottom.
pub fn pad(planes: &[f32], from: [usize; 2], to: [usize; 2]) -> Vec<f32> {
    let mut out = vec![0.0; planes.len() / (from[0] * from[1]) * to[0] * to[1]];
    let rows = planes.chunks_exact(from[1]).enumerate();
    for (index, row) in rows {
        let (plane, y) = (index / from[0], index % from[0]);
        let start = (plane * to[0] + y) * to[1];
        out[start..start + from[1]].copy_from_slice(row);
    }
    out
}

/// An ONNX Runtime session that runs a graph directly, without the server's engine.
pub struct Runner(Session);

impl Runner {
    pub fn new(model: &[u8]) -> Self {
        static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
        let environment = ENVIRONMENT.get_or_init(|| {
            let library = find_library(None).unwrap_or_else(|error| panic!("{error}"));
            ort::init_from(library).unwrap().build().unwrap()
        });
        let builder = Session::builder(environment).unwrap();
        let mut builder = builder.with_intra_threads(2).unwrap();
        Self(builder.commit_from_memory(model).unwrap())
    }

    /// Runs the graph on `inputs`, pairs of an input's name and tensor. Returns the outputs by
    /// name, with i64 values converted to f32.
    pub fn run(&mut self, inputs: Vec<(String, Input)>) -> BTreeMap<String, Tensor> {
        let value = |(name, input)| {
            let value: SessionInputValue<'static> = match input {
                Input::F32(shape, data) => OrtTensor::from_array((shape, data)).unwrap().into(),
                Input::I64(data) => OrtTensor::from_array(([data.len()], data)).unwrap().into(),
            };
            (name, value)
        };
        let inputs: Vec<(String, SessionInputValue<'static>)> =
            inputs.into_iter().map(value).collect();
        let outputs = self.0.run(inputs).unwrap();
        let output = |(name, value): (&str, ort::value::ValueRef<'_>)| {
            let sizes = |shape: &[i64]| shape.iter().map(|size| *size as usize).collect();
            let (shape, data) = if let Ok((shape, data)) = value.try_extract_tensor::<f32>() {
                (sizes(shape), data.to_vec())
            } else {
                let (shape, data) = value.try_extract_tensor::<i64>().unwrap();
                (sizes(shape), data.iter().map(|n| *n as f32).collect())
            };
            (name.to_owned(), Tensor { shape, data })
        };
        outputs.iter().map(output).collect()
    }
}

/// An input tensor of a graph. `F32` holds a shape and the values, `I64` the values of a
/// one-dimensional tensor.
pub enum Input {
    F32(Vec<usize>, Vec<f32>),
    I64(Vec<i64>),
}
