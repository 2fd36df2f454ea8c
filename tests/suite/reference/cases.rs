//! Reads the classification and segmentation cases of `tests/golden/index.json`, and runs networks on their inputs.

use std::collections::BTreeMap;

use onnx_export::formula;
use serde::Deserialize;
use sightline::engine::{Engine, Outputs, Tensor};

use super::{golden, images, runtime};

/// A classification or segmentation case of `index.json`.
#[derive(Deserialize)]
pub struct Case {
    #[serde(rename = "case")]
    pub name: String,
    pub builder: String,
    pub args: Args,
    pub input: Input,
    pub params: u64,
    /// Shapes of the tensors in the network's state dict, by name, from `state_dicts.json`.
    #[serde(skip)]
    pub shapes: BTreeMap<String, Vec<usize>>,
}

/// Arguments of the torchvision function that builds the network of a case.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Args {
    pub width_mult: f64,
    pub reduced_tail: bool,
    pub dilated: bool,
    pub num_classes: usize,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            width_mult: 1.0,
            reduced_tail: false,
            dilated: false,
            num_classes: 1000,
        }
    }
}

/// An input `[N, 3, H, W]` of a network: pseudo-random values in [low, high), generated from
/// `name`.
#[derive(Deserialize)]
pub struct Input {
    pub name: String,
    pub shape: [usize; 4],
    pub low: f32,
    pub high: f32,
}

/// Returns the cases of `index.json` for `task`, which is `classification` or `segmentation`.
pub fn cases(task: &str) -> Vec<Case> {
    let entries: Vec<serde_json::Value> = serde_json::from_str(&golden("index.json")).unwrap();
    let mut shapes: BTreeMap<String, BTreeMap<String, Vec<usize>>> =
        serde_json::from_str(&golden("state_dicts.json")).unwrap();
    let entries = entries.into_iter().filter(|entry| entry["task"] == task);
    let case = |entry| {
        let mut case: Case = serde_json::from_value(entry).unwrap();
        case.shapes = shapes.remove(&case.name).unwrap();
        case
    };
    entries.map(case).collect()
}

/// Runs the ONNX file `model` on the generated `input`. Returns the output tensors of each image.
pub fn run(model: &[u8], input: &Input) -> Vec<Vec<Tensor>> {
    let [count, channels, height, width] = input.shape;
    let span = input.high - input.low;
    let pixels = formula::uniform(&input.name, count * channels * height * width)
        .map(|v| input.low + span * (v + 1.0) / 2.0);
    let data: Vec<f32> = pixels.collect();
    let batch = images(&data, width as u32, height as u32);
    let mut session = runtime().prepare(model).unwrap().session().unwrap();
    let images = session.run(batch).unwrap().into_iter();
    let tensors = |outputs: Outputs| {
        outputs
            .iter()
            .map(|o| o.as_f32().unwrap().clone())
            .collect()
    };
    images.map(tensors).collect()
}
