//! Writes and exports checkpoints of catalogue networks with the generated weights of [`onnx_export::formula`].

use std::path::Path;

use onnx_export::architecture::Head;
use onnx_export::formula;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use sightline::catalogue;

/// Writes a safetensors checkpoint of `network` with `num_classes` classes and the weights of [`formula`] to `path`.
/// A checkpoint of DeepLabV3 or FCN has an auxiliary head, as torchvision's checkpoints do.
pub fn write(network: &str, num_classes: usize, path: &Path) {
    let manifest = catalogue::manifest(network).unwrap().unwrap();
    let mut architecture = manifest.architecture.unwrap();
    architecture.num_classes = num_classes;
    if let Head::Deeplabv3 { aux } | Head::Fcn { aux } = &mut architecture.head {
        *aux = true;
    }
    let shapes = onnx_export::tensor_shapes(&architecture).unwrap();
    let state = formula::state_dict(&shapes, &factors(network)).unwrap();
    let views = state.iter().map(|(name, tensor)| {
        let shape = tensor.shape().to_vec();
        (
            name,
            TensorView::new(Dtype::F32, shape, tensor.bytes()).unwrap(),
        )
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Returns `(prefix, factor)` pairs from the network's case in `tests/golden/index.json`: weights
/// whose name starts with `prefix` are multiplied by `factor`, so that the scores of a detector
/// with random weights do not saturate. Empty for all other networks.
fn factors(network: &str) -> Vec<(String, f32)> {
    let index = super::read("golden/index.json");
    let cases: Vec<Value> = serde_json::from_slice(&index).unwrap();
    let case = cases.into_iter().find(|case| case["case"] == network);
    let scale = case.and_then(|case| case["scale"].as_object().cloned());
    let factors = scale.unwrap_or_default().into_iter();
    factors
        .map(|(prefix, factor)| (prefix, factor.as_f64().unwrap() as f32))
        .collect()
}

/// Writes a checkpoint of `network` and exports the checkpoint as the model folder
/// `directory/name`. The model has one class per label of `labels`, or the classes and labels of
/// the catalogue if `labels` is `None`.
pub fn export(network: &str, labels: Option<&[&str]>, directory: &Path, name: &str) {
    let at = |name: String| directory.join(name).to_str().unwrap().to_owned();
    let weights = at(format!("{name}.safetensors"));
    let (list, out) = (at(format!("{name}.txt")), at(name.to_owned()));
    let mut args = vec!["export", network, "--weights", &weights, "-o", &out];
    let known = catalogue::manifest(network).unwrap().unwrap().architecture;
    let mut classes = known.unwrap().num_classes;
    if let Some(labels) = labels {
        std::fs::write(&list, labels.join("\n")).unwrap();
        classes = labels.len();
        args.extend(["--labels", &list]);
    }
    write(network, classes, weights.as_ref());
    let (code, stdout, stderr) = super::run(&args);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    std::fs::remove_file(&weights).unwrap();
}
