//! Checkpoints whose tensors have other names than the network's: prefixes, a `Sequential` around the
//! last layer, and the tensors of another network.

#![expect(
    clippy::unwrap_used,
    reason = "a panic in a helper of a test is the report"
)]

use std::collections::BTreeMap;

use onnx_export::architecture::Architecture;
use onnx_export::fit::{AlmostFits, almost, differences, strip_prefix};
use onnx_export::graph::StateDictError;
use onnx_export::weights::{StateDict, Tensor};
use onnx_export::{formula, tensor_shapes};

fn architecture(size: &str, classes: usize) -> Architecture {
    let text = format!(
        "num_classes = {classes}\n\
         backbone = {{ kind = \"mobilenet_v3\", size = \"{size}\", width_mult = 0.25, bn_eps = 1e-3 }}"
    );
    toml::from_str(&text).unwrap()
}

/// Returns the tensors of a small network with ten classes, renamed by `rename`.
fn renamed(rename: impl Fn(&str) -> String) -> BTreeMap<String, Tensor> {
    let shapes = tensor_shapes(&architecture("small", 10)).unwrap();
    let state = formula::state_dict(&shapes, &[]).unwrap();
    let owned = |(name, tensor): (&str, &Tensor)| (rename(name), tensor.clone());
    state.iter().map(owned).collect()
}

fn state(tensors: BTreeMap<String, Tensor>) -> StateDict {
    StateDict::from_tensors(tensors)
}

fn scalar() -> Tensor {
    Tensor::from_f32(&[1], &[1.0]).unwrap()
}

#[test]
fn a_prefix_is_removed_if_the_rest_fits() {
    let network = architecture("small", 10);
    for prefix in [
        "model.",
        "net.",
        "backbone.",
        "model._orig_mod.",
        "a.b.c.d.",
    ] {
        let (fitting, removed) =
            strip_prefix(state(renamed(|name| format!("{prefix}{name}"))), &network).unwrap();
        assert_eq!(removed.as_deref(), Some(prefix));
        assert_eq!(
            differences(&fitting, &network).unwrap(),
            StateDictError::default()
        );
    }
    // Another number of classes is an error that the builder explains.
    let of_ten = state(renamed(|name| format!("model.{name}")));
    let (_, removed) = strip_prefix(of_ten, &architecture("small", 12)).unwrap();
    assert_eq!(removed.as_deref(), Some("model."));
    let kept: [BTreeMap<String, Tensor>; 3] = [
        renamed(str::to_owned),
        renamed(|name| format!("a.b.c.d.e.{name}")),
        {
            let mut tensors = renamed(|name| format!("model.{name}"));
            tensors.insert("model.other".to_owned(), scalar());
            tensors
        },
    ];
    for tensors in kept {
        let before = state(tensors);
        let (after, removed) = strip_prefix(before.clone(), &network).unwrap();
        assert_eq!((after, removed), (before, None));
    }
    let other = state(renamed(|name| format!("model.{name}")));
    assert_eq!(
        strip_prefix(other, &architecture("large", 10)).unwrap().1,
        None
    );
}

#[test]
fn the_reason_why_a_checkpoint_almost_fits_is_found() {
    let nested = |prefix: &str| AlmostFits::Nested {
        module: format!("{prefix}classifier.3.1"),
        expected: format!("{prefix}classifier.3"),
    };
    let inside = |name: &str| name.replace("classifier.3.", "classifier.3.1.");
    let with = |name: &str, mut tensors: BTreeMap<String, Tensor>| {
        tensors.insert(name.to_owned(), scalar());
        tensors
    };
    let others = |other: &str| AlmostFits::Others {
        prefix: "model.".to_owned(),
        other: other.to_owned(),
    };
    let model = |name: &str| format!("model.{name}");
    let mut twice = renamed(model);
    twice.extend(renamed(|name| format!("ema.{name}")));
    let cases = [
        (renamed(inside), Some(nested(""))),
        (renamed(|name| model(&inside(name))), Some(nested("model."))),
        (
            with("criterion.weight", renamed(model)),
            Some(others("criterion.weight")),
        ),
        // Both copies fit.
        (twice, None),
        // The Sequential has another layer with weights.
        (with("classifier.3.0.weight", renamed(inside)), None),
        (
            renamed(|name| name.replace("classifier.3.", "classifier.3.head.")),
            None,
        ),
        (
            renamed(|name| name.replace("classifier.3.", "classifier.4.")),
            None,
        ),
        (
            renamed(|name| name.replace("classifier.3.weight", "classifier.3.1.weight")),
            Some(nested("")),
        ),
        (renamed(str::to_owned), None),
        (with("other", renamed(str::to_owned)), None),
    ];
    for (tensors, expected) in cases {
        let names: Vec<String> = tensors.keys().take(3).cloned().collect();
        let found = almost(&state(tensors), &architecture("small", 10)).unwrap();
        assert_eq!(found, expected, "{names:?}");
    }
    let of_ten = state(renamed(inside));
    let found = almost(&of_ten, &architecture("small", 12)).unwrap();
    assert_eq!(found, Some(nested("")));
    let mut narrow = renamed(inside);
    narrow.insert(
        "classifier.3.1.weight".to_owned(),
        Tensor::from_f32(&[10, 3], &[0.0; 30]).unwrap(),
    );
    assert_eq!(
        almost(&state(narrow), &architecture("small", 10)).unwrap(),
        None
    );
}

#[test]
fn differences_name_at_most_five_tensors_of_a_kind() {
    let found = differences(&state(renamed(str::to_owned)), &architecture("large", 10)).unwrap();
    assert!(!found.missing.is_empty());
    let message = found.to_string();
    let missing = message
        .lines()
        .find(|line| line.contains("missing tensors"))
        .unwrap();
    assert_eq!(missing.matches(", ").count(), 5, "{missing}");
    assert!(
        missing.ends_with(&format!("and {} more", found.missing.len() - 5)),
        "{missing}"
    );
}
