//! Compares the outputs of int8 networks that run with int8 kernels, in simulated arithmetic and in
//! a slow reference, with each other and with the fp32 networks.

use std::collections::BTreeMap;

use crate::reference::shared::skip;
use crate::reference::{images, runtime};
use onnx_export::architecture::{Architecture, Backbone};
use onnx_export::graph::ops::{Conv, ConvData};
use onnx_export::graph::{Graph, Loader, Value};
use onnx_export::quantize::{Affine, Network, Range, Recipe, Target};
use onnx_export::weights::StateDict;
use onnx_export::{DEFAULT_OPSET, formula, tensor_shapes};
use ort_int8::kernels::Isa;
use sightline::catalogue;
use sightline::cpu::int8_target;
use sightline::engine::{Arithmetic, Engine, Outputs, Tensor};
use sightline::image::PreparedImage;
use sightline::quantize::{HeldOut, Progress, Statistics, Subject, calibrate, cosine};

struct Quiet;

impl Progress for Quiet {
    fn start(&self, _: &str, _: usize) {}
    fn step(&self) {}
}

/// Runs an ONNX graph on one image and returns the output tensors.
fn outputs(graph: &[u8], arithmetic: Arithmetic, image: &PreparedImage) -> Vec<Tensor> {
    let runtime = runtime().with_arithmetic(arithmetic);
    let mut probe = runtime.probe(graph).unwrap();
    probe.run(image.clone()).unwrap().unwrap()
}

/// Returns a recipe that quantizes all layers with the activation ranges observed in calibration.
fn observed_ranges(statistics: &Statistics) -> Recipe {
    let values = statistics.values.iter();
    Recipe {
        ranges: values
            .map(|(name, value)| (name.clone(), value.range))
            .collect(),
        channel_means: statistics.channel_means.clone(),
        ..Recipe::default()
    }
}

/// Returns `count` generated network inputs of `side` x `side` pixels with values in [-2, 2).
fn inputs(count: usize, side: u32) -> Vec<PreparedImage> {
    let numbers = formula::uniform("quantized", count * 3 * (side * side) as usize);
    images(&numbers.map(|v| 2.0 * v).collect::<Vec<f32>>(), side, side)
}

/// Returns the architecture of the catalogue's network `name`. A `MobileNet` gets a width multiplier
/// of 0.25, so that the tests run faster.
fn narrow(name: &str) -> Architecture {
    let manifest = catalogue::manifest(name).unwrap().unwrap();
    let mut architecture = manifest.architecture.unwrap();
    match &mut architecture.backbone {
        Backbone::MobilenetV3(config) => config.width_mult = 0.25,
        Backbone::MobilenetV2(config) => config.width_mult = 0.25,
        _ => {}
    }
    architecture
}

/// A network with generated weights, in fp32 and int8, and images to run it on.
struct Case {
    float: Vec<u8>,
    int8: Vec<u8>,
    images: Vec<PreparedImage>,
}

impl Case {
    /// Builds the network `name` and quantizes all layers for this CPU, on images of `side` x
    /// `side` pixels. If `float_stem` is true, the first layer stays in fp32.
    fn new(name: &str, side: u32, float_stem: bool) -> Self {
        let architecture = narrow(name);
        let state = formula::state_dict(&tensor_shapes(&architecture).unwrap(), &[]).unwrap();
        let model = onnx_export::build(name, &architecture, &state, DEFAULT_OPSET).unwrap();
        let float = model.to_bytes();
        let runtime = runtime();
        let subject = Subject {
            runtime: runtime.clone(),
            network: Network::read(&float).unwrap(),
            first: None,
        };
        let images = inputs(4, side);
        let mut recipe = observed_ranges(&calibrate(&subject, &images, &Quiet).unwrap());
        let stem = subject.network.layers().first().filter(|_| float_stem);
        recipe
            .float_layers
            .extend(stem.map(|layer| layer.name.clone()));
        let int8 = subject.network.quantize(&recipe, int8_target()).unwrap();
        Self {
            float,
            int8,
            images,
        }
    }
}

#[test]
fn custom_kernels_are_bit_identical() {
    // Columns: network, width and height of the images in pixels, number of operators that run in
    // custom kernels with AVX-512, how many of them AVX2 does not have, and whether the network has hard
    // swishes. Hard swishes become look-up tables on every CPU. With AVX2, all pointwise convolutions are
    // replaced; with AVX-512, only those for which it gains, and fully connected layers with the tables
    // between them.
    let cases = [
        ("mobilenet_v3_small", 96, 64, 1, true),
        ("mobilenet_v3_large", 224, 73, 1, true),
        ("mobilenet_v2", 96, 53, 1, false),
        ("efficientnet_lite0", 130, 46, 1, false),
        ("lraspp_mobilenet_v3_large", 96, 74, 0, true),
        ("ssdlite320_mobilenet_v3_large", 128, 103, 0, true),
    ];
    let isa = Isa::detect();
    for (name, side, avx512, avx512_only, has_tables) in cases {
        let case = Case::new(name, side, true);
        let expected: Vec<_> = case
            .images
            .iter()
            .map(|image| outputs(&case.int8, Arithmetic::Kernels, image))
            .collect();
        let prepared = runtime().prepare(&case.int8).unwrap();
        let replaced = prepared.own_operators;
        if isa.is_avx512() {
            assert_eq!(replaced, avx512, "{name}");
        } else if matches!(isa, Isa::Scalar) {
            let what = format!("custom_kernels_are_bit_identical, kernels of {name}");
            skip::announce(&what, "this CPU has no custom int8 kernels");
            assert_eq!(replaced > 0, has_tables, "{name}");
        } else {
            assert!(replaced >= avx512 - avx512_only, "{name}: {replaced}");
        }
        for (threads, batch) in [(1, 1), (2, 1), (1, 3), (2, 4)] {
            let runtime = runtime().with_threads(threads);
            let mut session = runtime.prepare(&case.int8).unwrap().session().unwrap();
            for (images, expected) in case.images.chunks(batch).zip(expected.chunks(batch)) {
                let got = tensors(session.run(images.to_vec()).unwrap());
                assert!(bits(&got) == bits(expected), "{name} {threads} {batch}");
            }
        }
    }
    let float = Case::new("mobilenet_v3_small", 64, false).float;
    assert_eq!(runtime().prepare(&float).unwrap().own_operators, 0);
}

/// Returns the bits of every value, by image and output, so that a comparison is exact even for NaN
/// and -0.
fn bits(outputs: &[Vec<Tensor>]) -> Vec<Vec<Vec<u32>>> {
    let tensor = |tensor: &Tensor| tensor.data.iter().map(|x| x.to_bits()).collect();
    let image = |outputs: &Vec<Tensor>| outputs.iter().map(tensor).collect();
    outputs.iter().map(image).collect()
}

/// Converts the engine's outputs of each image to tensors.
fn tensors(outputs: Vec<Outputs>) -> Vec<Vec<Tensor>> {
    let tensors = |outputs: Outputs| {
        let outputs = outputs.iter();
        outputs.map(|o| o.as_f32().unwrap().clone()).collect()
    };
    outputs.into_iter().map(tensors).collect()
}

#[test]
fn kernels_agree_with_simulated_arithmetic() {
    // Columns: network, width and height of the images in pixels, and smallest cosine similarity of
    // the int8 outputs to the fp32 outputs, as a mean over the images. The mean is checked, because
    // a network with random weights amplifies rounding errors and single images may differ
    // strongly.
    let cases = [
        ("mobilenet_v3_small", 96, 0.95),
        ("mobilenet_v2", 96, 0.95),
        ("resnet18", 64, 0.99),
        ("lraspp_mobilenet_v3_large", 96, 0.9),
        ("ssdlite320_mobilenet_v3_large", 128, 0.8),
    ];
    for (name, side, least) in cases {
        let Case {
            float,
            int8,
            images,
        } = Case::new(name, side, false);
        let (mut nearest, mut kept) = (0.0_f64, 0.0);
        for image in &images {
            let exact = outputs(&float, Arithmetic::Kernels, image);
            let simulated = outputs(&int8, Arithmetic::Simulated, image);
            let kernels = outputs(&int8, Arithmetic::Kernels, image);
            let shapes = |outputs: &[Tensor]| -> Vec<Vec<usize>> {
                outputs.iter().map(|output| output.shape.clone()).collect()
            };
            assert_eq!(shapes(&kernels), shapes(&exact), "{name}");
            kept += likeness(&simulated, &exact) / images.len() as f64;
            nearest = nearest.max(likeness(&kernels, &simulated));
        }
        assert!(kept > least, "{name}: similarity to fp32 {kept}");
        // Only the image with the highest similarity between kernels and simulated arithmetic is
        // checked: a sum halfway between two integers may be rounded up or down, and a network with
        // random weights amplifies that difference, but not in every image.
        assert!(nearest > 0.999, "{name}: similarity {nearest}");
    }
}

#[test]
fn int8_outputs_that_ignore_the_image_are_found_for_every_task() {
    let cases = [
        ("mobilenet_v2", 96),
        ("lraspp_mobilenet_v3_large", 96),
        ("ssdlite320_mobilenet_v3_large", 128),
    ];
    for (name, side) in cases {
        let architecture = narrow(name);
        let state = formula::state_dict(&tensor_shapes(&architecture).unwrap(), &[]).unwrap();
        let model = onnx_export::build(name, &architecture, &state, DEFAULT_OPSET).unwrap();
        let subject = Subject {
            runtime: runtime(),
            network: Network::read(&model.to_bytes()).unwrap(),
            first: None,
        };
        let images = inputs(6, side);
        let (calibration, held_out) = images.split_at(4);
        let fine = observed_ranges(&calibrate(&subject, calibration, &Quiet).unwrap());
        let mut coarse = fine.clone();
        for range in coarse.ranges.values_mut() {
            (range.min, range.max) = (range.min * 1e5, range.max * 1e5);
        }
        let measure = |recipe, images| {
            HeldOut::measure(&subject, recipe, int8_target(), images, None).unwrap()
        };
        let good = measure(&fine, held_out);
        println!("{name}: {good:?}");
        assert!(good.variation.unwrap() > HeldOut::MIN_VARIATION, "{name}");
        // Random weights amplify rounding errors.
        assert!(good.kept_variation.unwrap() > 0.3, "{name}: {good:?}");
        let bad = measure(&coarse, held_out);
        println!("{name}: {bad:?}");
        assert!(bad.kept_variation.unwrap() < 0.1, "{name}: {bad:?}");
        let alone = measure(&fine, &held_out[..1]);
        assert_eq!((alone.variation, alone.kept_variation), (None, None));
        let twice = [held_out[0].clone(), held_out[0].clone()];
        assert_eq!(measure(&fine, &twice), alone, "{name}");
    }
}

/// Returns the smallest of the cosine similarities between each output in `one` and the
/// corresponding output in `other`.
fn likeness(one: &[Tensor], other: &[Tensor]) -> f64 {
    let pairs = one.iter().zip(other);
    let cosines = pairs.map(|(one, other)| cosine(&one.data, &other.data));
    cosines.fold(1.0, f64::min)
}

/// Adds `output` to the graph as its output `out`, and returns the graph as ONNX bytes.
fn finished(mut graph: Graph, output: Value) -> Vec<u8> {
    graph.output(output, "out");
    let state = StateDict::from_tensors(BTreeMap::new());
    let model = Loader::new(&state).finish("small", graph).unwrap();
    model.to_bytes()
}

/// Returns a graph that convolves a 3-channel image, and the value that holds the convolution's
/// result. `weights` are the weights and the biases.
fn convolution(conv: Conv, weights: (Vec<f32>, Vec<f32>)) -> (Graph, Value) {
    let mut graph = Graph::new(DEFAULT_OPSET);
    let images = graph.image_input("images");
    let data = ConvData::new(weights.0, weights.1);
    let weights = graph.conv_weights("a", 3, conv, data).unwrap();
    let x = graph.conv_with("a", images, conv, weights).unwrap();
    (graph, x)
}

fn range(min: f32, max: f32) -> Range {
    Range { min, max }
}

/// Returns the unsigned 8-bit integer to which `x` is quantized with the scale and zero point in
/// `affine`.
fn code(affine: Affine, x: f32) -> i32 {
    let q = (x / affine.scale).round_ties_even() + f32::from(affine.zero_point);
    q.clamp(0.0, 255.0) as i32
}

/// Returns the value that the unsigned 8-bit integer `code` stands for, with the scale and zero
/// point in `affine`.
fn value(affine: Affine, code: i32) -> f32 {
    (code - i32::from(affine.zero_point)) as f32 * affine.scale
}

#[test]
fn hard_swish_is_within_one_step_for_every_code() {
    for max in [3.0, 4.5, 12.0, 40.0] {
        // A 1x1 convolution with these weights returns the first channel of the image unchanged, so
        // that the hard swish gets known values.
        let (mut graph, x) = convolution(Conv::new(1, 1), (vec![1.0, 0.0, 0.0], vec![0.0]));
        let gate = graph.hard_sigmoid(x);
        let y = graph.mul(x, gate).unwrap();
        let network = Network::read(&finished(graph, y)).unwrap();
        let ranges = BTreeMap::from([
            ("images", range(-3.0 * max, max)),
            ("/a/Conv_output", range(-3.0 * max, max)),
            ("/a/HardSigmoid_output", range(0.0, 1.0)),
            ("out", range(-0.375, max)),
        ]);
        let ranges = ranges.into_iter();
        let recipe = Recipe {
            ranges: ranges.map(|(name, r)| (name.to_owned(), r)).collect(),
            ..Recipe::default()
        };
        let int8 = network.quantize(&recipe, int8_target()).unwrap();
        // The first channel of the image has 256 pixels, whose values dequantize the integers 0 to
        // 255, so that every integer is tested.
        let input = Affine::covering(range(-3.0 * max, max));
        let numbers: Vec<f32> = (0..256).map(|q| value(input, q)).collect();
        let data = [&numbers[..], &[0.0; 512]].concat();
        let image = images(&data, 16, 16).remove(0);
        let output = Affine::covering(range(-0.375, max));
        // The allowed error `slack` is the sum of half a quantization step each of the hard swish's
        // operand, of its gate (the hard sigmoid) and of its result. `operand` is the step of the
        // operand.
        let operand = (max + 3.0) / 254.0;
        for arithmetic in [Arithmetic::Kernels, Arithmetic::Simulated] {
            let got = outputs(&int8, arithmetic, &image).remove(0).data;
            for (x, got) in numbers.iter().zip(&got) {
                let exact = x * (x / 6.0 + 0.5).clamp(0.0, 1.0);
                let slope = if *x > -3.0 {
                    (2.0 * x + 3.0).abs() / 6.0
                } else {
                    0.0
                };
                let slack = operand * slope.clamp(0.5, 1.5) / 2.0
                    + x.clamp(-3.0, max).abs() / 510.0
                    + output.scale / 2.0;
                let error = (got - exact).abs();
                assert!(
                    error <= slack * 1.001,
                    "{arithmetic:?} {max}: input {x}, got {got}, exact {exact}"
                );
                if *x <= -3.0 - operand {
                    assert_eq!(*got, 0.0, "{arithmetic:?} {max}: {x}");
                }
            }
        }
    }
}

#[test]
fn a_convolution_equals_the_integer_reference() {
    const SIDE: usize = 9;
    let conv = Conv::new(5, 3);
    let weight = formula::fill("a.weight", &conv.weight_shape(3));
    let bias = formula::fill("a.bias", &[5]);
    let (graph, x) = convolution(conv, (weight.clone(), bias.clone()));
    let network = Network::read(&finished(graph, x)).unwrap();
    let (input, output) = (range(-1.9, 2.0), range(-3.0, 3.5));
    let ranges = [("images", input), ("out", output)];
    let recipe = Recipe {
        ranges: ranges.map(|(name, r)| (name.to_owned(), r)).into(),
        ..Recipe::default()
    };
    let image = inputs(1, SIDE as u32).remove(0);
    let (input, output) = (Affine::covering(input), Affine::covering(output));
    let codes: Vec<i32> = image.data.iter().map(|x| code(input, *x)).collect();
    for (target, limit) in [(Target::Vnni, 127.0), (Target::Avx2, 64.0)] {
        let int8 = network.quantize(&recipe, target).unwrap();
        let simulated = outputs(&int8, Arithmetic::Simulated, &image).remove(0).data;
        let kernels =
            (target == int8_target()).then(|| outputs(&int8, Arithmetic::Kernels, &image));
        for channel in 0..5 {
            let weight = &weight[channel * 27..][..27];
            let scale = weight.iter().fold(0.0_f32, |most, w| most.max(w.abs())) / limit;
            let weight: Vec<i32> = weight
                .iter()
                .map(|w| (w / scale).round_ties_even() as i32)
                .collect();
            let step = scale * input.scale;
            let bias = (f64::from(bias[channel]) / f64::from(step)).round_ties_even() as i32;
            for at in 0..SIDE * SIDE {
                let sum = bias + products(&codes, i32::from(input.zero_point), &weight, at, SIDE);
                let exact = f64::from(sum) * f64::from(step);
                let index = channel * SIDE * SIDE + at;
                let steps = exact / f64::from(output.scale);
                let expected = value(output, code(output, exact as f32));
                // A result about halfway between two output integers may be rounded up or down, so
                // it is not compared.
                let on_edge = (steps - steps.floor() - 0.5).abs() < 1e-3;
                let wrong = |got: f32| got != expected && !on_edge;
                assert!(
                    !wrong(simulated[index]),
                    "{target:?} {channel} {at}: got {}, expected {expected}",
                    simulated[index]
                );
                if let Some(kernels) = &kernels {
                    let got = kernels[0].data[index];
                    assert!(
                        !wrong(got),
                        "kernels {target:?} {channel} {at}: got {got}, expected {expected}"
                    );
                }
            }
        }
    }
}

/// Returns the integer dot product of `weight` (3 channels x 3 x 3) and the 3x3 window around pixel
/// `at` of the quantized image `codes` (3 channels), from which `zero_point` is subtracted. Pixels
/// outside the image add nothing.
fn products(codes: &[i32], zero_point: i32, weight: &[i32], at: usize, side: usize) -> i32 {
    let mut sum = 0;
    for (tap, weight) in weight.iter().enumerate() {
        let (channel, dy, dx) = (tap / 9, tap / 3 % 3, tap % 3);
        let (y, x) = (at / side + dy, at % side + dx);
        if (1..=side).contains(&y) && (1..=side).contains(&x) {
            let code = codes[channel * side * side + (y - 1) * side + x - 1];
            sum += (code - zero_point) * weight;
        }
    }
    sum
}
