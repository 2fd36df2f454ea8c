//! Builds the network for a released checkpoint that has the backbone of MobileNetV3-Small but no
//! classifier.

use onnx_export::DEFAULT_OPSET;
use onnx_export::graph::{Graph, Loader};
use onnx_export::layers::pool_features;
use onnx_export::weights::StateDict;
use sightline::manifest::ModelManifest;

/// Returns the ONNX bytes of a network that consists of the backbone with the weights in `state`
/// and global average pooling; its output is `pooled`. `onnx_export::build` would reject `state`,
/// since the weights of the classifier are missing.
pub fn pooled(state: &StateDict, manifest: &ModelManifest) -> Vec<u8> {
    let architecture = manifest.architecture.as_ref().unwrap();
    let loader = Loader::new(state);
    let mut graph = Graph::new(DEFAULT_OPSET);
    let images = graph.image_input("images");
    let features = loader.root().sub("features");
    let trunk = architecture.backbone.trunk();
    let maps = trunk.features(&mut graph, &features, images).unwrap();
    let pooled = pool_features(&mut graph, maps.last().unwrap()).unwrap();
    graph.output(pooled, "pooled");
    loader.finish("trunk", graph).unwrap().to_bytes()
}
