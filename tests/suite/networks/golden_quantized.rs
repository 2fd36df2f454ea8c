//! Checks that networks imported from torch's quantized checkpoints have the same quantized
//! activations and logits as in torch.
//!
//! `tests/golden/README.md` describes the expected values. Networks run in simulated arithmetic,
//! which does not depend on the CPU, and also with int8 kernels if the CPU has VNNI, whose
//! instructions sum products of 8-bit weights without overflow.

use std::path::Path;

use crate::reference::shared::skip;
use crate::reference::{images, read_bytes, read_tensor, runtime};
use onnx_export::architecture::{Architecture, Backbone};
use onnx_export::qat::{self, Layout, Trained};
use onnx_export::quantize::{Affine, Network, Recipe, Recipes, Target};
use onnx_export::weights::StateDict;
use onnx_export::{DEFAULT_OPSET, Stages, formula};
use ort_int8::kernels::Isa;
use sightline::cpu::has_int8_dot;
use sightline::engine::{Arithmetic, Engine};
use sightline::image::PreparedImage;
use sightline::manifest::ModelManifest;

const LARGE: &str = "quantized_mobilenet_v3_large-width_mult_0.5-num_classes_100";
/// File with the quantized outputs (u8) of three modules of the network [`LARGE`], computed by
/// torch.
const INTEGERS: &str = "quantized_mobilenet_v3_large-integers.safetensors";

/// A quantized checkpoint of `tests/golden/` and the fp32 network built from the checkpoint.
struct Case {
    trained: Trained,
    network: Network,
}

impl Case {
    /// Reads `tests/golden/FILE.pth`, a checkpoint of the catalogue's network `model` with the
    /// width multiplier `width` and `num_classes` classes.
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

    /// Quantizes the network for the given target and runs it in the given arithmetic. Returns, for
    /// each image, the cosine similarity of the network's logits to torch's logits `expected`.
    fn cosines(
        &self,
        (target, arithmetic): (Target, Arithmetic),
        images: Vec<PreparedImage>,
        expected: &[f32],
    ) -> Vec<f64> {
        let model = self.network.quantize(&self.recipe(), target).unwrap();
        let expected = expected.chunks(expected.len() / images.len());
        let logits = outputs(&model, images, arithmetic).into_iter();
        let pairs = logits.zip(expected);
        pairs
            .map(|(mut outputs, expected)| cosine(&outputs.remove(0), expected))
            .collect()
    }
}

/// Runs the ONNX file `model` on each image. Returns, for each image, the values of each output.
fn outputs(model: &[u8], images: Vec<PreparedImage>, arithmetic: Arithmetic) -> Vec<Vec<Vec<f32>>> {
    let runtime = runtime().with_arithmetic(arithmetic);
    let mut probe = runtime.probe(model).unwrap();
    let run = |image| {
        let outputs = probe.run(image).unwrap().unwrap().into_iter();
        outputs.map(|output| output.data).collect()
    };
    images.into_iter().map(run).collect()
}

/// Returns the arithmetics in which this CPU can run the 8-bit weights of [`Target::Vnni`]. If the
/// CPU has no VNNI, announces that `test` is skipped for int8 kernels.
fn arithmetics(test: &str) -> Vec<Arithmetic> {
    if has_int8_dot() {
        return vec![Arithmetic::Simulated, Arithmetic::Kernels];
    }
    skip::announce(&format!("{test}, with int8 kernels"), NO_VNNI);
    vec![Arithmetic::Simulated]
}

/// Reason that is announced if tests with int8 kernels are skipped.
const NO_VNNI: &str = "this CPU has no VNNI";

/// Returns the first `count` generated images for which torch's logits of the network [`LARGE`] are
/// stored.
fn noise(count: usize) -> Vec<PreparedImage> {
    let pixels = formula::uniform("input", count * 3 * 224 * 224);
    let pixels: Vec<f32> = pixels.map(|v| 2.0 * v).collect();
    images(&pixels, 224, 224)
}

/// Returns the normalized images of `gratings.safetensors`, the inputs of the networks in the
/// `gratings` files.
fn gratings() -> Vec<PreparedImage> {
    let bytes = read_bytes("gratings.safetensors", "images").into_iter();
    let pixels: Vec<f32> = bytes.map(|b| (f32::from(b) - 128.0) / 64.0).collect();
    images(&pixels, 64, 64)
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
        products.sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Runs the network [`LARGE`] on its first image. Returns the absolute differences, in quantization
/// steps, between the stored output of torch's `module` and the graph's tensor `value`. Both are
/// feature maps of `side` x `side` pixels; every `step`-th row and column is compared.
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
fn integers_equal_torchs() {
    let case = Case::new(LARGE, "mobilenet_v3_large", 0.5, 100);
    let add = "/features/1/block/1/0/Add_output";
    let values = [
        ("features.0.0", "/features/0/0/Conv_output"),
        ("features.0.2", "/features/0/0/Mul_output"),
        ("features.1.skip_add", add),
    ];
    for arithmetic in arithmetics("integers_equal_torchs") {
        for value in values {
            let apart = steps_apart(&case, value, (4, 112), arithmetic);
            let others = apart.iter().filter(|steps| **steps > 0).count();
            let others = others as f64 / apart.len() as f64;
            let largest = apart.iter().max().copied().unwrap_or_default();
            println!(
                "{value:?} {arithmetic:?}: a share of {others:.5} differs, by up to {largest} steps"
            );
            // In simulated arithmetic, an fp32 sum about halfway between two integers may be
            // rounded up or down, so a few integers may differ by one step.
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
    for arithmetic in arithmetics("logits_of_random_weights_are_near_torchs") {
        let cosines = case.cosines((Target::Vnni, arithmetic), noise(4), &expected);
        println!("{arithmetic:?}: {cosines:.5?}");
        // The int8 kernels compute the same integers as torch in every layer. In simulated
        // arithmetic, the rounding of fp32 sums changes about one integer in a million by one step.
        // Random weights amplify a difference in an early layer until the logits have a cosine
        // similarity to torch's of only 0.95.
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
fn integer_kernels_give_torchs_logits_exactly() {
    // Only x86-64 is tested: on other architectures, the fp32 operators between the int8 kernels
    // may round differently.
    if !(has_int8_dot() && cfg!(target_arch = "x86_64")) {
        skip::announce("integer_kernels_give_torchs_logits_exactly", NO_VNNI);
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
    for (case, last, images, expected) in cases {
        let model = case.network.quantize(&case.recipe(), Target::Vnni).unwrap();
        let Affine { scale, zero_point } = case.trained.activations[last];
        let rounded = |logit: &f32| {
            let q = (logit / scale).round_ties_even() + f32::from(zero_point);
            q.clamp(0.0, 255.0) as u8
        };
        let expected: Vec<u8> = expected.iter().map(rounded).collect();
        let logits = outputs(&model, images.clone(), Arithmetic::Kernels).into_iter();
        let got: Vec<u8> = logits.flatten().flatten().map(|v| rounded(&v)).collect();
        assert_eq!(got, expected);
        // The server runs custom int8 kernels instead of ONNX Runtime's operators; check them too.
        let prepared = runtime().prepare(&model).unwrap();
        // The weights have 8 bits, which the AVX2 kernels do not support.
        assert!(prepared.own_operators > 0 || !Isa::detect().is_avx512());
        let mut session = prepared.session().unwrap();
        let logits = session.run(images).unwrap().into_iter().flatten();
        let got: Vec<u8> = logits
            .flat_map(|output| output.as_f32().unwrap().data.clone())
            .map(|v| rounded(&v))
            .collect();
        assert_eq!(got, expected);
    }
}

#[test]
fn every_layer_is_quantized() {
    let case = Case::new(LARGE, "mobilenet_v3_large", 0.5, 100);
    assert_eq!(case.trained.layout, Layout::Converted);
    let recipe = case.recipe();
    assert!(recipe.trained && recipe.float_layers.is_empty());
    assert_eq!(recipe.weight_scales.len(), case.network.layers().len());
    let scale = case.trained.weights["features.0.0"].scales()[0] as f32;
    assert_eq!(recipe.weight_scales["features.0.0.weight"], [scale]);
    // Writing a recipe as JSON and parsing the JSON returns an equal recipe.
    let recipes = Recipes {
        target: Target::Vnni,
        stages: Stages::new(case.recipe()),
    };
    let read = Recipes::parse(&recipes.to_json().unwrap()).unwrap();
    assert_eq!(read, recipes);
}

#[test]
fn trained_networks_give_torchs_logits() {
    // The last value of a case is the smallest cosine similarity to torch's logits. AVX2 has a
    // lower value, since it needs 7-bit weights while torch's weights have 8 bits.
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
        println!(
            "{name} for {}: cosine similarity {cosines:.5?}",
            target.as_str()
        );
        assert!(
            cosines.iter().all(|cosine| *cosine > least),
            "{name}: {cosines:?}"
        );
    }
}
