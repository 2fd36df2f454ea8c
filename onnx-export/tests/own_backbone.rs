//! Tests that a backbone defined outside the crate works with the heads of the crate.

use std::collections::BTreeMap;

use onnx_export::architecture::{Anchors, RetinanetHead};
use onnx_export::backbones::{FeatureMaps, Trunk};
use onnx_export::detection::{Detector, retinanet};
use onnx_export::graph::ops::Conv;
use onnx_export::graph::{Graph, Loader, Scope, Value};
use onnx_export::layers::{Activation, ConvNorm, conv_norm_activation};
use onnx_export::segmentation::{MaskHead, Segmenter, masks};
use onnx_export::weights::StateDict;
use onnx_export::{ArgumentError, BuildError, DEFAULT_OPSET, classification, formula};

/// A backbone with one convolution of stride 2 for each listed number of output channels.
struct Pyramid(Vec<usize>);

impl Trunk for Pyramid {
    fn name(&self) -> &'static str {
        "pyramid"
    }

    fn check(&self) -> Result<(), ArgumentError> {
        if self.0.is_empty() {
            return Err(ArgumentError::new("channels", "at least one", &"none"));
        }
        Ok(())
    }

    fn features(
        &self,
        g: &mut Graph,
        scope: &Scope<'_>,
        x: Value,
    ) -> Result<FeatureMaps, BuildError> {
        let (mut y, mut maps) = (x, Vec::new());
        for (index, channels) in self.0.iter().enumerate() {
            let conv = Conv::new(*channels, 3).stride(2);
            let layer = ConvNorm::new(conv, 1e-5, Activation::Silu);
            y = conv_norm_activation(g, &scope.sub(index), y, layer)?;
            maps.push(y);
        }
        let last = maps.pop().unwrap_or(y);
        Ok(FeatureMaps::new(maps, last))
    }

    fn classifier(
        &self,
        g: &mut Graph,
        root: &Scope<'_>,
        pooled: Value,
        num_classes: usize,
    ) -> Result<Value, BuildError> {
        g.gemm(&root.sub("fc"), pooled, num_classes)
    }
}

/// Returns the shapes of the values that `add` returns. `add` runs twice: first to learn which tensors the network
/// reads, then to build it with all of them.
fn outputs(
    add: impl Fn(&mut Graph, &Scope<'_>, Value) -> Result<Vec<Value>, BuildError>,
) -> Result<Vec<String>, BuildError> {
    let empty = StateDict::from_tensors(BTreeMap::new());
    let loader = Loader::new(&empty);
    let mut g = Graph::new(DEFAULT_OPSET);
    let images = g.image_input("images");
    add(&mut g, &loader.root(), images)?;
    let state = formula::state_dict(&loader.into_shapes(), &[])?;
    let loader = Loader::new(&state);
    let mut g = Graph::new(DEFAULT_OPSET);
    let images = g.image_input("images");
    let values = add(&mut g, &loader.root(), images)?;
    let shapes = values.iter().map(|value| g.show_shape(g.shape(*value)));
    let shapes = shapes.collect();
    for (index, value) in values.into_iter().enumerate() {
        g.output(value, &format!("out_{index}"));
    }
    assert!(!loader.finish("own", g)?.to_bytes().is_empty());
    Ok(shapes)
}

#[test]
fn a_backbone_of_ones_own_carries_the_heads() {
    let trunk = Pyramid(vec![8, 16, 24, 32]);
    trunk.check().unwrap();
    let shapes = outputs(|g, root, x| Ok(vec![classification::logits(g, root, x, &trunk, 5)?]));
    assert_eq!(shapes.unwrap(), ["[batch, 5]"]);
    let shapes = outputs(|g, root, x| {
        let network = Segmenter {
            trunk: &trunk,
            head: MaskHead::Fcn,
            num_classes: 3,
            aux: false,
        };
        Ok(vec![masks(g, root, x, &network)?.out])
    });
    assert_eq!(
        shapes.unwrap(),
        ["[batch, 3, ceil(height/16), ceil(width/16)]"]
    );
}

#[test]
fn a_head_that_reads_more_maps_than_there_are_is_rejected() {
    let head = RetinanetHead {
        backbone_maps: 3,
        anchors: Anchors {
            sizes: vec![vec![32]; 5],
            aspect_ratios: vec![1.0],
        },
    };
    let detect = |channels: Vec<usize>| {
        let trunk = Pyramid(channels);
        outputs(|g, root, x| {
            let detector = Detector {
                trunk: &trunk,
                head: &head,
                num_classes: 4,
            };
            let levels = retinanet(g, root, x, &detector)?;
            Ok(levels.iter().map(|level| level.scores).collect())
        })
    };
    assert_eq!(detect(vec![8, 16, 24]).unwrap().len(), 5);
    let error = detect(vec![8, 16]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the head reads feature map 3, counted from the end; the backbone has 2 feature maps"
    );
}
