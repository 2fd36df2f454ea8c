//! Tests of the replacement of squeeze-and-excitation's product, and of the requantization in front of it.

use super::*;

/// Returns a graph of squeeze-and-excitation: the global average pool of `x`, a convolution, a
/// requantization, and the product of `x` with the result.
fn gate_graph() -> GraphProto {
    let mut graph = pointwise::pointwise_graph();
    graph.initializer[4] = tensor("w", INT8, &[8, 8, 1, 1], vec![1; 64]);
    graph.initializer[6] = tensor("wz", INT8, &[8], vec![0; 8]);
    graph.initializer[7] = tensor("bias", INT32, &[8], vec![0; 32]);
    let mut pool = node(
        "com.microsoft",
        "QLinearGlobalAveragePool",
        "x s z s z",
        "mean",
    );
    pool.attribute = vec![int("channels_last", 1)];
    graph.node[3].input[0] = "mean".to_owned();
    graph.node.insert(3, pool);
    graph.node[6].input[0] = "x".to_owned();
    graph
}

#[test]
fn the_product_with_a_gate_is_replaced() {
    for (operators, inputs) in [
        (ALL, "x s z gate g z s z"),
        (AVX512, "x s z gate g z s z"),
        (AVX512, "gate g z x s z s z"),
    ] {
        let mut graph = gate_graph();
        graph.node[6].input = inputs.split(' ').map(str::to_owned).collect();
        let (operators, graph) = rewritten(graph, operators);
        let expected = [
            QUANTIZE,
            "QLinearGlobalAveragePool",
            POINTWISE,
            GATE,
            "Flatten",
        ];
        assert_eq!(operators, expected);
        let gate = &graph.node[3];
        assert_eq!(gate.input, ["x", "gate"]);
        assert_eq!(
            gate.attribute("scale").unwrap().f,
            Some(0.5 * (1.0 / 255.0) / 0.5)
        );
        assert_eq!(graph.node[2].input.last().unwrap(), "ort_int8:gate_table");
    }
}

#[test]
fn other_products_are_left_alone() {
    type Change = fn(&mut GraphProto);
    let changes: [(&str, Change); 5] = [
        ("the mean of another image", |g| {
            g.node[3].input[0] = "quantized".to_owned();
        }),
        ("a mean of channels first", |g| {
            g.node[3].attribute[0].i = Some(0);
        }),
        ("no mean", |g| g.node[4].input[0] = "x".to_owned()),
        ("another operator", |g| {
            g.node[6].op_type = "QLinearAdd".to_owned();
        }),
        ("a huge scale", |g| g.initializer[1] = scale("g", 1e9)),
    ];
    for (name, change) in changes {
        let mut changed = gate_graph();
        change(&mut changed);
        let (operators, _) = rewritten(changed, AVX512);
        assert!(!operators.iter().any(|operator| operator == GATE), "{name}");
    }
    let without = Operators::Avx512 { additions: false };
    let (operators, _) = rewritten(gate_graph(), without);
    assert!(operators.iter().any(|operator| operator == "QLinearMul"));
}
