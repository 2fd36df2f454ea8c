//! Checks that the scores and masks of exported segmentation networks with generated weights equal
//! torchvision's.
//!
//! `tests/golden/README.md` describes the expected values.

use crate::reference::cases::{Case, Input, cases, run};
use crate::reference::shared::bilinear::bilinear;
use crate::reference::{Differences, read_bytes, read_tensor, relative_error};
use onnx_export::architecture::{Architecture, Head};
use onnx_export::{BuildError, DEFAULT_OPSET, OPSETS, formula};
use sightline::cancel::Cancel;
use sightline::catalogue;
use sightline::engine::Tensor;
use sightline::image::ImageSize;
use sightline::postprocess::segment::{MaskJob, segment};

/// Returns the architecture of a catalogue network. If `with_aux` is true, DeepLabV3 and FCN
/// have the scores of the auxiliary head as a second output.
fn architecture(name: &str, with_aux: bool) -> Architecture {
    let manifest = catalogue::manifest(name).unwrap().unwrap();
    let mut architecture = manifest.architecture.unwrap();
    if let Head::Deeplabv3 { aux } | Head::Fcn { aux } = &mut architecture.head {
        *aux = with_aux;
    }
    architecture
}

/// Upsamples scores `[C, h, w]` to `size` and returns the values in every fourth row and column.
fn every_fourth(scores: &Tensor, size: ImageSize) -> Vec<f32> {
    let [_, h, w] = *scores.shape.as_slice() else {
        panic!("{:?}", scores.shape);
    };
    let to = [size.height as usize, size.width as usize];
    let upsampled = bilinear(&scores.data, [h, w], to);
    let rows = upsampled.chunks_exact(to[0] * to[1]);
    let rows = rows.flat_map(|plane| plane.chunks_exact(to[1]).step_by(4));
    rows.flat_map(|row| row.iter().step_by(4).copied())
        .collect()
}

/// Returns the share (0 to 1) of pixels at which the server's mask for `scores` has the class of
/// `expected`.
fn equal_share(scores: &Tensor, size: ImageSize, expected: &[u8]) -> f64 {
    let mask = segment(scores, Some(size), MaskJob::alone(&Cancel::never())).unwrap();
    assert_eq!(mask.classes().len(), expected.len());
    let pairs = mask.classes().iter().zip(expected);
    pairs.filter(|(got, want)| got == want).count() as f64 / expected.len() as f64
}

/// Largest allowed differences of a network's scores, in standard deviations of the expected
/// scores. They are about twice the measured differences.
struct Tolerance {
    /// Limit for the largest difference from torchvision's scores, which are computed in f32.
    torchvision: f64,
    /// Limits for the differences from scores computed in f64. `None` if
    /// `double_precision.safetensors` has no scores of the network.
    exact: Option<Differences>,
}

/// Returns the tolerance for the main output of `network`.
///
/// With the generated weights of [`formula`], the last layers of MobileNetV3-Large amplify rounding
/// errors ten thousandfold. The table has the largest and the root mean square difference from
/// scores computed in f64, in standard deviations of these scores, for networks with the backbone
/// MobileNetV3-Large:
///
/// | | LR-ASPP | DeepLabV3 | FCN |
/// |---|---|---|---|
/// | torch, f32, 1 thread | 3.9e-4, 5.1e-5 | 1.4e-4, 2.5e-5 | 1.4e-4, 2.9e-5 |
/// | torch, f32, 2 threads | 9.0e-4, 1.1e-4 | 3.3e-4, 6.0e-5 | 3.2e-4, 6.7e-5 |
/// | exported network | 1.8e-3, 2.2e-4 | 6.8e-4, 1.1e-4 | 6.3e-4, 1.3e-4 |
/// | exported network, computed in f64 | 1.1e-4, 1.6e-5 | 4.6e-5, 1.2e-5 | 5.5e-5, 1.2e-5 |
///
/// The differences in the last row come from rounding the folded weights and the slope of the hard
/// sigmoid to f32; those in the row above also come from the order of sums in ONNX Runtime. Outputs
/// of earlier layers, and of networks with a ResNet backbone, differ from torchvision's f32 scores
/// by less than 6e-6.
fn tolerance(network: &str) -> Tolerance {
    let mobilenet = |torchvision, largest, rms| Tolerance {
        torchvision,
        exact: Some(Differences { largest, rms }),
    };
    match network {
        "lraspp_mobilenet_v3_large" => mobilenet(1.8e-3, 3.6e-3, 4.4e-4),
        "deeplabv3_mobilenet_v3_large" => mobilenet(7.6e-4, 1.4e-3, 2.2e-4),
        "fcn_mobilenet_v3_large" => mobilenet(6.8e-4, 1.3e-3, 2.6e-4),
        _ => Tolerance {
            torchvision: STABLE,
            exact: None,
        },
    }
}

/// Largest allowed difference from torchvision's scores, in standard deviations of these scores,
/// for outputs in which rounding errors are not amplified.
const STABLE: f64 = 1.2e-5;

#[test]
fn every_network_gives_torchvisions_masks() {
    let cases = cases("segmentation");
    assert_eq!(cases.len(), 5);
    for case in &cases {
        check(case);
    }
}

fn check(case: &Case) {
    let name = case.name.as_str();
    let architecture = architecture(name, true);
    let shapes = onnx_export::tensor_shapes(&architecture).unwrap();
    assert_eq!(shapes, case.shapes, "{name}");
    let state = formula::state_dict(&shapes, &[]).unwrap();
    let model = onnx_export::build(name, &architecture, &state, DEFAULT_OPSET).unwrap();
    assert_eq!(model.info.parameters, case.params, "{name}");
    let outputs = run(&model.to_bytes(), &case.input).remove(0);
    let [.., height, width] = case.input.shape;
    let size = ImageSize {
        width: width as u32,
        height: height as u32,
    };
    let file = format!("{name}.safetensors");
    let tolerance = tolerance(name);

    let share = equal_share(&outputs[0], size, &read_bytes(&file, "mask"));
    let expected = read_tensor(&file, "out_stride4");
    let error = relative_error(&every_fourth(&outputs[0], size), &expected);
    println!("{name}: {error:.1e} standard deviations, {share} of the mask's pixels equal");
    assert!(share >= 0.999, "{name}: {share} of pixels equal");
    assert!(error < tolerance.torchvision, "{name}: {error:.1e}");
    if let Some(allowed) = tolerance.exact {
        let expected = read_tensor("double_precision.safetensors", name);
        let error = Differences::new(&outputs[0].data, &expected);
        println!(
            "{name}: differs from f64 scores by at most {:.1e}, {:.1e} rms",
            error.largest, error.rms
        );
        assert!(error.largest < allowed.largest, "{name}: {error:?}");
        assert!(error.rms < allowed.rms, "{name}: {error:?}");
    }
    let has_aux = shapes.keys().any(|name| name.starts_with("aux_"));
    assert_eq!(outputs.len() == 2, has_aux, "{name}");
    if let Some(aux) = outputs.get(1) {
        let expected = read_tensor(&file, "aux_stride4");
        let error = relative_error(&every_fourth(aux, size), &expected);
        println!("{name}: auxiliary head {error:.1e} standard deviations");
        assert!(error < STABLE, "{name}: auxiliary head {error:.1e}");
    }
}

#[test]
fn every_opset_loads_and_gives_the_same_scores() {
    let name = "lraspp_mobilenet_v3_large";
    let case = cases("segmentation")
        .into_iter()
        .find(|case| case.name == name)
        .unwrap();
    let input = Input {
        shape: [1, 3, 65, 97],
        ..case.input
    };
    let state = formula::state_dict(&case.shapes, &[]).unwrap();
    let architecture = architecture(name, false);
    let mut first: Option<Vec<f32>> = None;
    for opset in OPSETS {
        let model = onnx_export::build(name, &architecture, &state, opset).unwrap();
        let scores = run(&model.to_bytes(), &input).remove(0).remove(0);
        assert_eq!(scores.shape, [21, 9, 13], "opset {opset}");
        let expected = first.get_or_insert_with(|| scores.data.clone());
        let error = relative_error(&scores.data, expected);
        assert!(error < 1e-4, "opset {opset}: {error:.1e}");
    }
}

#[test]
fn the_weights_of_the_auxiliary_head_are_checked_and_not_exported() {
    let name = "fcn_resnet50";
    let case = cases("segmentation")
        .into_iter()
        .find(|case| case.name == name)
        .unwrap();
    let build = |with_aux: bool, shapes| {
        let state = formula::state_dict(&shapes, &[]).unwrap();
        onnx_export::build(name, &architecture(name, with_aux), &state, DEFAULT_OPSET)
    };
    let whole = build(true, case.shapes.clone()).unwrap();
    let served = build(false, case.shapes.clone()).unwrap();
    assert_eq!(
        (
            whole.stages.network().outputs().len(),
            served.stages.network().outputs().len()
        ),
        (2, 1)
    );
    // The auxiliary head adds three nodes to the graph: a convolution, its activation, and the
    // classifier.
    assert_eq!(
        whole.stages.network().nodes().len() - served.stages.network().nodes().len(),
        3
    );
    assert_eq!(served.info.parameters, case.params);
    let without = |dropped: &str| {
        let mut shapes = case.shapes.clone();
        shapes.retain(|name, _| !name.starts_with(dropped));
        shapes
    };
    let bare = build(false, without("aux_classifier.")).unwrap();
    assert_eq!(
        bare.stages.network().nodes().len(),
        served.stages.network().nodes().len()
    );
    for (with_aux, dropped) in [(true, "aux_classifier."), (false, "aux_classifier.4.bias")] {
        let Err(BuildError::StateDict(error)) = build(with_aux, without(dropped)) else {
            panic!("{dropped}");
        };
        assert!(
            error.missing.iter().all(|name| name.starts_with(dropped)),
            "{error}"
        );
    }
}
