//! The MobileNetV3-Small trunk of the shared data, whose checkpoint has no classifier.

use onnx_export::architecture::Backbone;
use onnx_export::backbones::mobilenet_v3;
use onnx_export::graph::{Graph, Loader};
use onnx_export::weights::StateDict;
use onnx_export::{DEFAULT_OPSET, Model, ModelInfo, Stages};
use sightline::manifest::ModelManifest;

/// The trunk alone, pooled: its checkpoint has no classifier, so the graph is built by hand.
pub fn pooled(state: &StateDict, manifest: &ModelManifest) -> Vec<u8> {
    let architecture = manifest.architecture.as_ref().unwrap();
    let Backbone::MobilenetV3(config) = &architecture.backbone else {
        panic!()
    };
    let loader = Loader::new(state);
    let mut graph = Graph::new(DEFAULT_OPSET);
    let images = graph.image_input("images");
    let features = loader.root().sub("features");
    let maps = mobilenet_v3::features(&mut graph, &features, images, config).unwrap();
    let pooled = graph.mean_pixels(maps.last()).unwrap();
    let pooled = graph.flatten(pooled).unwrap();
    graph.output(pooled, "pooled");
    let parameters = loader.finish().unwrap();
    let info = ModelInfo {
        name: "trunk".to_owned(),
        opset: DEFAULT_OPSET,
        checkpoint_sha256: state.sha256().to_owned(),
        parameters,
    };
    Model {
        stages: Stages::new(graph),
        info,
    }
    .to_bytes()
}
