//! Networks that were trained for int8 against torch's own integers and logits.
//!
//! `tests/golden/README.md` says how the expected values were made. What the files say is computed in
//! floats that are rounded, so that the figures are those of the files and not of a CPU's kernels; and also
//! by those where they add 8-bit products without overflow.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

mod reference;

use std::path::Path;

use onnx_export::architecture::{Architecture, Backbone};
use onnx_export::qat::{self, Layout, Trained};
use onnx_export::quantize::{Affine, Network, Recipe, Recipes, Target};
use onnx_export::weights::StateDict;
use onnx_export::{DEFAULT_OPSET, Stages, formula};
use reference::{pictures, read_bytes, read_tensor, runtime};
use sightline::cpu::has_int8_dot;
use sightline::engine::{Arithmetic, Engine};
use sightline::image::PreparedImage;
use sightline::manifest::ModelManifest;

const LARGE: &str = "quantized_mobilenet_v3_large-width_mult_0.5-num_classes_100";
/// Some of its integers in torch.
const INTEGERS: &str = "quantized_mobilenet_v3_large-integers.safetensors";

/// A checkpoint of `tests/golden/`, and the float network of it.
struct Case {
    trained: Trained,
    network: Network,
}

impl Case {
    /// Of the catalogue's `model`, as narrow as the fixture's.
    fn new(file: &str, model: &str, width: f64, num_classes: usize) -> Self {
        let manifest = std::fs::read_to_string(format!("models/{model}/model.toml")).unwrap();
        let manifest = ModelManifest::parse(&manifest).unwrap();
        let mut architecture: Architecture = manifest.architecture.unwrap();
        architecture.num_classes = num_classes;
        match &mut architecture.backbone {
            Backbone::MobilenetV3(config) => config.width_mult = width,
            Backbone::MobilenetV2(config) => config.width_mult = width,
            other => panic!("{other:?}"),
        }
        let path = format!("tests/golden/{file}.pth");
        let state = StateDict::read(Path::new(&path)).unwrap();
        let trained = qat::import(&state, &architecture).unwrap();
        let architecture = &trained.architecture;
        let model = onnx_export::build(model, architecture, &trained.state, DEFAULT_OPSET).unwrap();
        let network = Network::read(&model.to_bytes()).unwrap();
        Self { trained, network }
    }

    fn recipe(&self) -> Recipe {
        self.trained.recipe(&self.network).unwrap()
    }

    /// Cosine similarities of the int8 network's logits with the `expected` ones, picture by picture.
    fn cosines(
        &self,
        (target, arithmetic): (Target, Arithmetic),
        pictures: Vec<PreparedImage>,
        expected: &[f32],
    ) -> Vec<f64> {
        let model = self.network.quantize(&self.recipe(), target).unwrap();
        let expected = expected.chunks(expected.len() / pictures.len());
        let logits = outputs(&model, pictures, arithmetic).into_iter();
        let pairs = logits.zip(expected);
        pairs
            .map(|(mut outputs, expected)| cosine(&outputs.remove(0), expected))
            .collect()
    }
}

/// The outputs of a network for each picture.
fn outputs(
    model: &[u8],
    pictures: Vec<PreparedImage>,
    arithmetic: Arithmetic,
) -> Vec<Vec<Vec<f32>>> {
    let runtime = runtime().with_arithmetic(arithmetic);
    let mut probe = runtime.probe(model, 2).unwrap();
    let run = |picture| {
        let outputs = probe.run(picture).unwrap().unwrap().into_iter();
        outputs.map(|output| output.data).collect()
    };
    pictures.into_iter().map(run).collect()
}

/// How this machine computes with the 8-bit weights of [`Target::Vnni`].
fn arithmetics() -> Vec<Arithmetic> {
    let kernels = has_int8_dot().then_some(Arithmetic::Kernels);
    [Arithmetic::Simulated].into_iter().chain(kernels).collect()
}

/// The pictures of the large fixture.
fn noise(count: usize) -> Vec<PreparedImage> {
    let pixels = formula::uniform("input", count * 3 * 224 * 224);
    let pixels: Vec<f32> = pixels.map(|v| 2.0 * v).collect();
    pictures(&pixels, 224, 224)
}

/// The pictures of the small fixtures.
fn gratings() -> Vec<PreparedImage> {
    let bytes = read_bytes("gratings.safetensors", "images").into_iter();
    let pixels: Vec<f32> = bytes.map(|b| (f32::from(b) - 128.0) / 64.0).collect();
    pictures(&pixels, 64, 64)
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
        products.sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Differences of the values `value` of the large network from torch's integers, in steps: every `step`-th
/// pixel of rows of `side` pixels, of the first picture.
fn steps_apart(
    case: &Case,
    (module, value): (&str, &str),
    (step, side): (usize, usize),
    arithmetic: Arithmetic,
) -> Vec<u32> {
    let values = [format!("{value}_dq")];
    let (network, recipe) = (&case.network, case.recipe());
    let model = network.quantize_fetching(&recipe, Target::Vnni, &values);
    let mut got = outputs(&model.unwrap(), noise(1), arithmetic);
    let got = got.remove(0).remove(0);
    let rows = got.chunks(side).enumerate();
    let rows = rows.filter(|(row, _)| row % side % step == 0);
    let got = rows.flat_map(|(_, row)| row.iter().step_by(step));
    let affine = case.trained.activations[module];
    let expected = read_bytes(INTEGERS, module);
    let differences: Vec<u32> = got
        .zip(&expected)
        .map(|(got, expected)| {
            let q = (got / affine.scale).round() as i32 + i32::from(affine.zero_point);
            q.abs_diff(i32::from(*expected))
        })
        .collect();
    assert_eq!(differences.len(), expected.len(), "{module}");
    differences
}

#[test]
fn integers_are_torchs() {
    let case = Case::new(LARGE, "mobilenet_v3_large", 0.5, 100);
    let add = "/features/1/block/1/0/Add_output";
    let values = [
        ("features.0.0", "/features/0/0/Conv_output"),
        ("features.0.2", "/features/0/0/Mul_output"),
        ("features.1.skip_add", add),
    ];
    for arithmetic in arithmetics() {
        for value in values {
            let apart = steps_apart(&case, value, (4, 112), arithmetic);
            let others = apart.iter().filter(|steps| **steps > 0).count();
            let others = others as f64 / apart.len() as f64;
            let largest = apart.iter().max().copied().unwrap_or_default();
            println!("{value:?} {arithmetic:?}: {others:.5} are others, by {largest} at most");
            // Sums of floats may come to the other side of the middle between two integers.
            let (share, most) = match arithmetic {
                Arithmetic::Simulated => (0.0002, 1),
                Arithmetic::Kernels => (0.0, 0),
            };
            assert!(others <= share && largest <= most, "{value:?}");
        }
    }
}

#[test]
fn logits_of_random_weights_are_near_torchs() {
    let case = Case::new(LARGE, "mobilenet_v3_large", 0.5, 100);
    let expected = read_tensor(&format!("{LARGE}.safetensors"), "logits");
    for arithmetic in arithmetics() {
        let cosines = case.cosines((Target::Vnni, arithmetic), noise(4), &expected);
        println!("{arithmetic:?}: {cosines:.5?}");
        // Integer kernels come to torch's integers in every layer; it rounds the logits too. Floats are summed in
        // an order of their own, which moves one integer in a million, and random weights amplify
        // a single step to the last layer: 0.95 and more is what one early step leaves.
        let least = match arithmetic {
            Arithmetic::Simulated => 0.95,
            Arithmetic::Kernels => 0.99,
        };
        assert!(
            cosines.iter().all(|cosine| *cosine > least),
            "{arithmetic:?}: {cosines:?}"
        );
    }
}

#[test]
fn integer_kernels_give_torchs_logits_to_the_last() {
    // The float operators between them are known to agree on this architecture.
    if !(has_int8_dot() && cfg!(target_arch = "x86_64")) {
        return;
    }
    let large = read_tensor(&format!("{LARGE}.safetensors"), "logits");
    let [v3, v2] = ["mobilenet_v3_large", "mobilenet_v2"];
    let grating = |name: &str, last| {
        let case = Case::new(&format!("gratings_{name}"), name, 0.1, 10);
        let expected = read_tensor("gratings.safetensors", name);
        (case, last, gratings(), expected)
    };
    let noisy = Case::new(LARGE, v3, 0.5, 100);
    let cases = [
        (noisy, "classifier.3", noise(4), large),
        grating(v3, "classifier.3"),
        grating(v2, "classifier.1"),
    ];
    for (case, last, pictures, expected) in cases {
        let model = case.network.quantize(&case.recipe(), Target::Vnni).unwrap();
        let Affine { scale, zero_point } = case.trained.activations[last];
        let rounded = |logit: &f32| {
            let q = (logit / scale).round_ties_even() + f32::from(zero_point);
            q.clamp(0.0, 255.0) as u8
        };
        let expected: Vec<u8> = expected.iter().map(rounded).collect();
        let logits = outputs(&model, pictures.clone(), Arithmetic::Kernels).into_iter();
        let got: Vec<u8> = logits.flatten().flatten().map(|v| rounded(&v)).collect();
        assert_eq!(got, expected);
        // As it is served, with kernels of our own.
        let prepared = runtime().prepare(&model).unwrap();
        assert!(prepared.own_operators > 0 || !sightline::int8::is_supported());
        let mut session = prepared.session(2).unwrap();
        let logits = session.run(pictures).unwrap().into_iter().flatten();
        let got: Vec<u8> = logits
            .flat_map(|tensor| tensor.data)
            .map(|v| rounded(&v))
            .collect();
        assert_eq!(got, expected);
    }
}

#[test]
fn every_layer_is_in_int8() {
    let case = Case::new(LARGE, "mobilenet_v3_large", 0.5, 100);
    assert_eq!(case.trained.layout, Layout::Converted);
    let recipe = case.recipe();
    assert!(recipe.trained && recipe.float_layers.is_empty());
    assert_eq!(recipe.weight_scales.len(), case.network.layers().len());
    let scale = case.trained.weights["features.0.0"].scales()[0] as f32;
    assert_eq!(recipe.weight_scales["features.0.0.weight"], [scale]);
    // What the recipe says survives its file.
    let recipes = Recipes {
        target: Target::Vnni,
        stages: Stages::new(case.recipe()),
    };
    let read = Recipes::parse(&recipes.to_json().unwrap()).unwrap();
    assert_eq!(read, recipes);
}

#[test]
fn trained_networks_give_torchs_logits() {
    // With 7 bits of each weight a network comes less near.
    let cases = [
        ("mobilenet_v3_large", Layout::Prepared, Target::Vnni, 0.999),
        ("mobilenet_v3_large", Layout::Prepared, Target::Avx2, 0.98),
        ("mobilenet_v2", Layout::Converted, Target::Vnni, 0.995),
        ("mobilenet_v2", Layout::Converted, Target::Avx2, 0.98),
    ];
    for (name, layout, target, least) in cases {
        let case = Case::new(&format!("gratings_{name}"), name, 0.1, 10);
        assert_eq!(case.trained.layout, layout, "{name}");
        let expected = read_tensor("gratings.safetensors", name);
        let cosines = case.cosines((target, Arithmetic::Simulated), gratings(), &expected);
        println!("{name} for {}: {cosines:.5?}", target.as_str());
        assert!(
            cosines.iter().all(|cosine| *cosine > least),
            "{name}: {cosines:?}"
        );
    }
}
