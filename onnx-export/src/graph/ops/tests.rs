//! Tests of the operators: bad attributes and operands are rejected, and outputs have the right
//! shape.

use super::super::{Dim, Element, Graph, Loader, Value};
use super::{Conv, ConvData, MaxPool, Padding, Regions, RoiAlign};
use crate::error::BuildError;
use crate::weights::StateDict;

/// Returns a graph of opset 17 and its image input `[batch, 3, height, width]`.
fn graph() -> (Graph, Value) {
    let mut g = Graph::new(17);
    let images = g.image_input("images");
    (g, images)
}

/// Adds the convolution `config` of the image input, with weights of zero, and returns the shape of
/// the output.
fn convolve(config: Conv) -> Result<Vec<Dim>, BuildError> {
    let (mut g, images) = graph();
    let elements = config.weight_shape(3).iter().product();
    let data = ConvData::new(vec![0.0; elements], vec![0.0; config.out]);
    let weights = g.conv_weights("conv", 3, config, data)?;
    let y = g.conv_with("conv", images, config, weights)?;
    Ok(g.shape(y).to_vec())
}

#[test]
fn convolutions_with_attributes_out_of_range_are_rejected() {
    let conv = Conv::new(6, 3);
    let cases = [
        (Conv { kernel: 0, ..conv }, "kernel_shape"),
        (Conv { kernel: 2, ..conv }, "kernel_shape"),
        (conv.stride(0), "strides"),
        (conv.dilation(0), "dilations"),
        (conv.dilation(usize::MAX), "dilations"),
        (Conv { groups: 0, ..conv }, "group"),
        (Conv { groups: 2, ..conv }, "group"),
        (Conv { out: 0, ..conv }, "group"),
        (
            Conv {
                out: 4,
                groups: 3,
                ..conv
            },
            "group",
        ),
        (conv.padding(Padding::Explicit(usize::MAX)), "pads"),
    ];
    for (config, name) in cases {
        match convolve(config) {
            Err(BuildError::Attribute { attribute, .. }) => assert_eq!(attribute, name),
            other => panic!("{config:?}: expected an attribute error, got {other:?}"),
        }
    }
}

#[test]
fn data_that_does_not_fill_the_weight_is_rejected() {
    let (mut g, _) = graph();
    let data = ConvData::new(vec![0.0; 8], vec![0.0]);
    let error = g
        .conv_weights("conv", 3, Conv::new(1, 3), data)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "Conv in module `conv`: shape of `weight` must be [1, 3, 3, 3], got 8 elements"
    );
}

#[test]
fn padding_sets_the_output_size() {
    let size = |conv: Conv| {
        let mut g = Graph::new(17);
        let shape = vec![Dim::Fixed(1), Dim::Fixed(3), Dim::Fixed(9), Dim::Fixed(9)];
        let x = g.input("x", shape, Element::F32);
        let elements = conv.weight_shape(3).iter().product();
        let data = ConvData::new(vec![0.0; elements], vec![0.0; conv.out]);
        let weights = g.conv_weights("conv", 3, conv, data).unwrap();
        let y = g.conv_with("conv", x, conv, weights).unwrap();
        let Dim::Fixed(height) = g.shape(y)[2] else {
            panic!("the output height is dynamic")
        };
        height
    };
    let conv = |kernel, stride| Conv::new(2, kernel).stride(stride);
    let cases = [
        (conv(3, 1), 9),
        (conv(3, 2), 5),
        (conv(4, 1).same_upper(), 9),
        (conv(2, 2).same_upper(), 5),
        (conv(4, 4).padding(Padding::Explicit(0)), 2),
        (conv(3, 1).padding(Padding::Explicit(2)), 11),
    ];
    for (config, expected) in cases {
        assert_eq!(size(config), expected, "{config:?}");
    }
}

#[test]
fn pooling_with_attributes_out_of_range_is_rejected() {
    let (mut g, images) = graph();
    for (kernel, stride, padding) in [(0, 1, 0), (2, 0, 0), (3, 2, 2)] {
        let config = MaxPool {
            kernel,
            stride,
            padding,
        };
        let error = g.max_pool(images, config).unwrap_err();
        assert!(matches!(error, BuildError::Attribute { .. }), "{config:?}");
    }
}

#[test]
fn region_pooling_with_attributes_of_zero_is_rejected() {
    let (mut g, images) = graph();
    let count = g.axis("count");
    let regions = Regions {
        boxes: g.input("boxes", vec![count, Dim::Fixed(4)], Element::F32),
        batch_indices: g.input("batch", vec![count], Element::I64),
    };
    for (output, sampling_ratio, stride) in [(0, 2, 16), (7, 0, 16), (7, 2, 0)] {
        let config = RoiAlign {
            output,
            sampling_ratio,
            stride,
        };
        assert!(g.roi_align(images, regions, config).is_err(), "{config:?}");
    }
}

#[test]
fn concatenations_of_nothing_are_rejected() {
    let (mut g, _) = graph();
    let errors = [g.concat_rows(&[], "n"), g.concat_channels("head", &[])];
    for error in errors {
        assert!(matches!(error, Err(BuildError::NoOperands { .. })));
    }
}

#[test]
fn scalars_are_rejected_where_an_axis_is_needed() {
    let (mut g, _) = graph();
    let scalar = g.scalar(1.0);
    let index = g.whole(0);
    let results = [
        g.flatten(scalar),
        g.concat_rows(&[scalar, scalar], "n"),
        g.concat_last(scalar, scalar),
        g.sum_last(scalar),
        g.mean_last(scalar),
        g.gather(scalar, index),
        g.repeat_like(scalar, scalar),
        g.mean_pixels(scalar),
    ];
    for (case, result) in results.into_iter().enumerate() {
        assert!(
            matches!(result, Err(BuildError::Shape { .. })),
            "no shape error for operator {case}"
        );
    }
}

#[test]
fn operands_of_different_data_types_are_rejected() {
    let (mut g, images) = graph();
    let index = g.whole(1);
    let results = [
        g.add(images, index),
        g.modulo(images, images),
        g.gather(images, images),
        g.choose(images, images, images),
    ];
    for (case, result) in results.into_iter().enumerate() {
        assert!(
            matches!(result, Err(BuildError::Type { .. })),
            "no data type error for operator {case}"
        );
    }
}

#[test]
fn reshapes_that_do_not_fit_are_rejected() {
    let mut g = Graph::new(17);
    let x = g.input("x", vec![Dim::Fixed(2), Dim::Fixed(6)], Element::F32);
    for sizes in [
        &[5, -1][..],
        &[-1, -1],
        &[0, 0, 0],
        &[-2, 6],
        &[13],
        &[0, -1, 0],
    ] {
        assert!(g.reshape(x, sizes, "n").is_err(), "{sizes:?}");
    }
    let y = g.reshape(x, &[0, 3, -1], "n").unwrap();
    assert_eq!(g.shape(y), [2, 3, 2].map(Dim::Fixed));
}

#[test]
fn layer_norm_is_one_node_from_opset_17_on() {
    let state = StateDict::from_tensors(std::collections::BTreeMap::new());
    for (opset, nodes) in [(16, 9), (17, 1)] {
        let loader = Loader::new(&state);
        let mut g = Graph::new(opset);
        let batch = g.axis("batch");
        let x = g.input("x", vec![batch, Dim::Fixed(8)], Element::F32);
        let y = g.layer_norm(&loader.root().sub("norm"), x, 1e-6).unwrap();
        assert_eq!(g.shape(y), g.shape(x));
        assert_eq!(g.nodes().len(), nodes, "opset {opset}");
    }
}
