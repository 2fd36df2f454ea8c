//! Checkpoints whose tensors have the right names and shapes, but values from which no network can be
//! built, and the texts of errors about hostile names.

#![expect(
    clippy::unwrap_used,
    reason = "a panic in a helper of a test is the report"
)]

use std::collections::BTreeMap;

use onnx_export::architecture::Architecture;
use onnx_export::weights::{DType, StateDict, Tensor};
use onnx_export::{DEFAULT_OPSET, build, check_weights, formula, tensor_shapes};

/// Builds a small network with the generated weights, after `change` has changed the tensors.
/// Returns the ONNX file, or the message of the error.
fn built(change: impl FnOnce(&mut BTreeMap<String, Tensor>)) -> Result<Vec<u8>, String> {
    let architecture: Architecture = toml::from_str(
        "num_classes = 10\n\
         backbone = { kind = \"mobilenet_v3\", size = \"small\", width_mult = 0.25, bn_eps = 1e-3 }",
    )
    .unwrap();
    let state = formula::state_dict(&tensor_shapes(&architecture).unwrap(), &[]).unwrap();
    let owned = |(name, tensor): (&str, &Tensor)| (name.to_owned(), tensor.clone());
    let mut tensors = state.iter().map(owned).collect();
    change(&mut tensors);
    build(
        "small",
        &architecture,
        &StateDict::from_tensors(tensors),
        DEFAULT_OPSET,
    )
    .map(|model| model.to_bytes())
    .map_err(|error| error.to_string())
}

/// Returns a change that sets the value `at` of the tensor `name` to `value`.
fn set(name: &str, at: usize, value: f32) -> impl FnOnce(&mut BTreeMap<String, Tensor>) {
    move |tensors| {
        let tensor = &tensors[name];
        let mut values = tensor.to_f32().unwrap();
        values[at] = value;
        let changed = Tensor::from_f32(tensor.shape(), &values).unwrap();
        tensors.insert(name.to_owned(), changed);
    }
}

#[test]
fn tensors_with_unusable_values_are_named() {
    let model = built(|_| {}).unwrap();
    assert_eq!(check_weights(&model), Ok(()));
    let variance = "features.0.1.running_var";
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let cases = [
        (
            "classifier.3.bias",
            3,
            nan,
            "the checkpoint has tensors that cannot be used\n  unusable tensors (1): classifier.3.bias: \
             1 of 10 values are NaN or infinite, the first is NaN at [3]; use weights from before",
        ),
        (
            "features.0.0.weight",
            28,
            -inf,
            "the first is -inf at [1, 0, 0, 1]",
        ),
        (
            "features.0.1.running_mean",
            0,
            inf,
            "features.0.1.running_mean: 1 of",
        ),
        (
            variance,
            2,
            -0.5,
            "features.0.1.running_var: the variance of channel 2 plus the batch norm's epsilon 0.001 \
             must be positive, the variance is -0.5",
        ),
        (variance, 0, -1e-3, "the variance is -0.001"),
        (
            "features.0.1.weight",
            1,
            f32::MAX,
            "of the network with batch norm folded: ",
        ),
    ];
    for (name, at, value, expected) in cases {
        let got = built(set(name, at, value)).unwrap_err();
        assert!(got.contains(expected), "{name}: {got}");
    }
    // torchvision's result for a variance above the negative epsilon is finite.
    assert!(built(set(variance, 0, -5e-4)).is_ok());
}

#[test]
fn a_double_that_is_infinite_as_float32_is_named() {
    let got = built(|tensors| {
        let bytes = [1e300_f64; 10]
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        let huge = Tensor::new(DType::F64, vec![10], bytes).unwrap();
        tensors.insert("classifier.3.bias".to_owned(), huge);
    });
    let got = got.unwrap_err();
    assert!(got.contains("classifier.3.bias: 10 of 10 values"), "{got}");
}

#[test]
fn names_from_the_file_are_escaped_and_cut() {
    let hostile = format!("a\x1b[2J\u{202e}\nerror: b{}", "x".repeat(200_000));
    let got = built(|tensors| {
        tensors.insert(hostile, Tensor::from_f32(&[1], &[0.0]).unwrap());
    });
    let got = got.unwrap_err();
    assert!(
        got.contains("unexpected tensors (1): a\\u001b[2J\\u202e\\nerror: bxxx"),
        "{got}"
    );
    assert!(got.len() < 400 && got.lines().count() == 2, "{got}");
}
