//! Checkpoints made on the spot: a network of the catalogue with weights by formula.

use std::path::Path;

use onnx_export::formula;
use onnx_export::manifest::Head;
use safetensors::tensor::{Dtype, TensorView};
use sightline::catalogue;

/// Writes a safetensors checkpoint of `network` with another number of classes; with an auxiliary head where
/// torchvision's checkpoints have one.
pub fn write(network: &str, num_classes: usize, path: &Path) {
    let manifest = catalogue::manifest(network).unwrap().unwrap();
    let mut architecture = manifest.architecture.unwrap();
    architecture.num_classes = num_classes;
    if let Head::Deeplabv3 { aux } | Head::Fcn { aux } = &mut architecture.head {
        *aux = true;
    }
    let shapes = onnx_export::tensor_shapes(&architecture).unwrap();
    let state = formula::state_dict(&shapes, &[]).unwrap();
    let numbers: Vec<(String, Vec<u8>)> = shapes
        .keys()
        .map(|name| {
            let numbers = state.get(name).unwrap().to_f32().unwrap();
            let bytes = numbers.iter().flat_map(|number| number.to_le_bytes());
            (name.clone(), bytes.collect())
        })
        .collect();
    let views = numbers.iter().map(|(name, bytes)| {
        let view = TensorView::new(Dtype::F32, shapes[name].clone(), bytes).unwrap();
        (name.as_str(), view)
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(path, bytes).unwrap();
}
