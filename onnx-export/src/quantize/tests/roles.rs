//! Tests of the choice of the nodes that compute in int8, and of their roles.

use super::*;
use crate::quantize::domain::{Role, roles as roles_of};

/// Returns the name and role of every node that is not in fp32, if the layers `float_layers` are
/// kept in fp32.
fn int8(network: &Network, float_layers: &[&str]) -> Vec<String> {
    int8_by(network, &recipe(network, float_layers))
}

fn int8_by(network: &Network, recipe: &Recipe) -> Vec<String> {
    let roles = roles_of(network, recipe).into_iter();
    let named = network.nodes().iter().zip(roles);
    named
        .filter(|(_, role)| *role != Role::Float)
        .map(|(node, role)| format!("{} {role:?}", node.name))
        .collect()
}

#[test]
fn nodes_between_int8_layers_are_int8() {
    let mut b = Builder::new();
    let stem = b.conv("stem", b.images, Conv::new(8, 3));
    let stem = b.graph.relu(stem);
    let left = b.conv("left", stem, Conv::new(8, 3));
    let left = b.hard_swish(left);
    let right = b.conv("right", stem, Conv::new(8, 1));
    let sum = b.graph.add(left, right).unwrap();
    let logits = b.classify(sum);
    let network = b.finish(&[(logits, "logits")]);

    let tail = [
        "/right/Conv Layer",
        "/left/Add Arithmetic",
        "/left/ReduceMean Arithmetic",
        "/left/Flatten Rearrange",
        "/fc/Gemm Layer",
    ];
    let left = [
        "/left/Conv Layer",
        "/left/HardSigmoid Gate",
        "/left/Mul Arithmetic",
    ];
    let stem = ["/stem/Conv Layer", "/stem/Relu Limit"];
    let cases: [(&[&str], Vec<&str>); 5] = [
        (&[], [&stem[..], &left, &tail].concat()),
        (&["/stem/Conv"], [&left[..], &tail].concat()),
        // With `/left/Conv` in fp32, the sum has an fp32 operand, so the nodes from the sum to the
        // next layer stay in fp32.
        (
            &["/left/Conv"],
            [&stem[..], &["/right/Conv Layer", "/fc/Gemm Layer"]].concat(),
        ),
        (&["/right/Conv", "/fc/Gemm"], [&stem[..], &left].concat()),
        (
            &["/stem/Conv", "/left/Conv", "/right/Conv", "/fc/Gemm"],
            vec![],
        ),
    ];
    for (float, expected) in cases {
        assert_eq!(int8(&network, float), expected, "{float:?}");
    }
}

#[test]
fn only_hard_swishes_and_squeezes_become_gates() {
    // Relu reads the operand of the hard swish, too, so elements below -3 must not be clipped, and
    // the hard swish stays in fp32.
    let mut b = Builder::new();
    let x = b.conv("a", b.images, Conv::new(4, 3));
    let swish = b.hard_swish(x);
    let relu = b.graph.relu(x);
    let sum = b.graph.add(swish, relu).unwrap();
    let network = b.finish(&[(sum, "out")]);
    assert_eq!(int8(&network, &[]), ["/a/Conv Layer"]);

    // A hard sigmoid stays in fp32 if its operand or its result is an output of the network.
    for output in ["operand", "gate"] {
        let mut b = Builder::new();
        let x = b.conv("a", b.images, Conv::new(4, 3));
        let gate = b.graph.hard_sigmoid(x);
        let y = b.conv("b", gate, Conv::new(4, 1));
        let shown = if output == "gate" { gate } else { x };
        let network = b.finish(&[(y, "out"), (shown, output)]);
        assert_eq!(
            int8(&network, &[]),
            ["/a/Conv Layer", "/b/Conv Layer"],
            "{output}"
        );
    }

    // The hard sigmoid of a squeeze-and-excitation becomes a gate, too: its result multiplies
    // another value than its operand.
    let mut b = Builder::new();
    let x = b.conv("a", b.images, Conv::new(4, 3));
    let pooled = b.graph.mean_pixels(x).unwrap();
    let gate = b.conv("gate", pooled, Conv::new(4, 1));
    let gate = b.graph.hard_sigmoid(gate);
    let scaled = b.graph.mul(x, gate).unwrap();
    let network = b.finish(&[(scaled, "out")]);
    let expected = [
        "/a/Conv Layer",
        "/a/ReduceMean Arithmetic",
        "/gate/Conv Layer",
        "/gate/HardSigmoid Gate",
        "/a/Mul Arithmetic",
    ];
    assert_eq!(int8(&network, &[]), expected);
}

#[test]
fn a_trained_hard_swish_is_rounded_once() {
    let mut b = Builder::new();
    let x = b.conv("a", b.images, Conv::new(4, 3));
    let x = b.hard_swish(x);
    let gate = b.conv("gate", x, Conv::new(4, 1));
    let gate = b.graph.hard_sigmoid(gate);
    let scaled = b.graph.mul(x, gate).unwrap();
    // The result of the last hard sigmoid, `half`, is an output of the network, so the hard swish
    // to which it belongs must stay in fp32.
    let shown = b.conv("shown", scaled, Conv::new(4, 1));
    let half = b.graph.hard_sigmoid(shown);
    let swish = b.graph.mul(shown, half).unwrap();
    let network = b.finish(&[(swish, "out"), (half, "half")]);
    let mut recipe = recipe(&network, &[]);
    recipe.trained = true;
    let expected = [
        "/a/Conv Layer",
        "/a/HardSigmoid Step",
        "/a/Mul Arithmetic",
        "/gate/Conv Layer",
        "/gate/HardSigmoid Arithmetic",
        "/a/Mul_1 Arithmetic",
        "/shown/Conv Layer",
    ];
    assert_eq!(int8_by(&network, &recipe), expected);
}

#[test]
fn a_relu_is_part_of_a_layer_only_if_nothing_else_reads_the_layer() {
    let mut b = Builder::new();
    let x = b.conv("a", b.images, Conv::new(4, 3));
    let relu = b.graph.relu(x);
    let network = b.finish(&[(x, "before"), (relu, "after")]);
    assert_eq!(int8(&network, &[]), ["/a/Conv Layer"]);

    let mut b = Builder::new();
    let x = b.conv("a", b.images, Conv::new(4, 3));
    let x = b.graph.clip(x, 0.0, 6.0);
    let pool = crate::graph::ops::MaxPool {
        kernel: 3,
        stride: 2,
        padding: 1,
    };
    let x = b.graph.max_pool(x, pool).unwrap();
    let x = b.graph.sigmoid(x);
    let network = b.finish(&[(x, "out")]);
    // A sigmoid whose output is an output of the network stays in fp32.
    let expected = ["/a/Conv Layer", "/a/Clip Limit", "/a/MaxPool Rearrange"];
    assert_eq!(int8(&network, &[]), expected);
}
