//! Tests of the replacement of pointwise convolutions, and of the additions behind them.

use super::*;

/// Returns `graph()` with a pointwise instead of a depthwise convolution, whose output has 16 channels.
pub(super) fn pointwise_graph() -> GraphProto {
    let mut graph = graph();
    let conv = &mut graph.node[3].attribute;
    conv[0].i = Some(1);
    conv[2].ints = vec![1, 1];
    conv[4].ints = vec![0; 4];
    graph.initializer[4] = tensor("w", INT8, &[16, 8, 1, 1], vec![1; 128]);
    graph.initializer[6] = tensor("wz", INT8, &[16], vec![0; 16]);
    graph.initializer[7] = tensor("bias", INT32, &[16], vec![0; 64]);
    graph
}

/// Returns `pointwise_graph()` without the hard swish. `nodes` write the value `out`.
fn residual_graph(nodes: impl IntoIterator<Item = NodeProto>) -> GraphProto {
    let mut graph = pointwise_graph();
    graph.node.splice(4.., nodes);
    graph
}

fn attribute<'a>(node: &'a NodeProto, name: &str) -> &'a AttributeProto {
    node.attribute(name).unwrap()
}

#[test]
fn pointwise_convolutions_apply_the_table_behind_them() {
    let (operators, graph) = rewritten(pointwise_graph(), ALL);
    assert_eq!(operators, [QUANTIZE, POINTWISE, "Flatten"]);
    let conv = &graph.node[1];
    let (multipliers, table) = ("ort_int8:conv_multipliers", "ort_int8:swish_table");
    assert_eq!(conv.input, ["x", "w", "bias", multipliers, table]);
    assert_eq!(conv.output, ["swish"]);
    let flags = ["inputs", "has_table", "has_residual"].map(|name| attribute(conv, name).i);
    assert_eq!(flags, [Some(8), Some(1), Some(0)]);
}

#[test]
fn pointwise_convolutions_add_the_residual_behind_them() {
    let add = |inputs| node("com.microsoft", "QLinearAdd", inputs, "out");
    for (inputs, residual_first) in [("conv s z r2 g z s z", 0), ("r2 g z conv s z s z", 1)] {
        let graph = residual_graph([add(inputs)]);
        let (operators, rewritten_graph) = rewritten(graph.clone(), ALL);
        assert_eq!(operators, [QUANTIZE, POINTWISE]);
        let conv = &rewritten_graph.node[1];
        assert_eq!(conv.input[4..], ["", "r2"]);
        assert_eq!(conv.output, ["out"]);
        assert_eq!(attribute(conv, "residual_first").i, Some(residual_first));
        let ratios = ["ratio", "residual_ratio", "offset"].map(|name| attribute(conv, name).f);
        assert_eq!(ratios, [Some(1.0), Some(1.0 / 255.0 / 0.5), Some(0.0)]);
        let (operators, _) = rewritten(graph.clone(), AVX512);
        assert_eq!(operators, [QUANTIZE, POINTWISE]);
        let without = Operators::Avx512 { additions: false };
        for selection in [WITHOUT_ADDITIONS, without] {
            let (operators, _) = rewritten(graph.clone(), selection);
            assert_eq!(operators, [QUANTIZE, POINTWISE, "QLinearAdd"]);
        }
    }
    for inputs in ["conv s z conv s z s z", "conv s computed r2 g z s z"] {
        let (operators, _) = rewritten(residual_graph([add(inputs)]), ALL);
        assert_eq!(operators, [QUANTIZE, POINTWISE, "QLinearAdd"], "{inputs}");
    }
}

#[test]
fn transposes_around_an_addition_are_removed() {
    let transpose = |input, output, order: [i64; 4]| {
        let mut transpose = node("", "Transpose", input, output);
        transpose.attribute = vec![ints("perm", &order)];
        transpose
    };
    // The other operand is the quantized stem, which the convolution reads channels-last.
    let nodes = [
        transpose("conv", "first", [0, 3, 1, 2]),
        node(
            "com.microsoft",
            "QLinearAdd",
            "first s z quantized s z s z",
            "sum",
        ),
        transpose("sum", "out", [0, 2, 3, 1]),
    ];
    let (operators, graph) = rewritten(residual_graph(nodes.clone()), ALL);
    assert_eq!(operators, [QUANTIZE, POINTWISE]);
    assert_eq!(graph.node[1].input[4..], ["", "x"]);
    assert_eq!(graph.node[1].output, ["out"]);
    // A sum that is also read channels-first keeps its layout.
    let mut read_twice = residual_graph(nodes);
    read_twice.node.push(node("", "Flatten", "sum", "flat"));
    let (operators, _) = rewritten(read_twice, ALL);
    assert!(operators.iter().any(|operator| operator == "QLinearAdd"));
    assert!(operators.iter().any(|operator| operator == "Transpose"));
}

#[test]
fn other_convolutions_of_one_pixel_are_left_alone() {
    type Change = fn(&mut GraphProto);
    let changes: [(&str, Change); 5] = [
        ("a stride", |g| g.node[3].attribute[3].ints = vec![1, 2]),
        ("padding", |g| {
            g.node[3].attribute[4].ints = vec![0, 0, 1, 0];
        }),
        ("two groups", |g| g.node[3].attribute[0].i = Some(2)),
        ("six inputs", |g| {
            g.initializer[4] = tensor("w", INT8, &[16, 6, 1, 1], vec![1; 96]);
        }),
        ("eight biases", |g| {
            g.initializer[7] = tensor("bias", INT32, &[8], vec![0; 32]);
        }),
    ];
    for (name, change) in changes {
        let mut changed = pointwise_graph();
        change(&mut changed);
        assert_eq!(rewritten(changed, ALL).0, *CONV, "{name}");
    }
}

#[test]
fn wide_convolutions_are_replaced_on_avx512_if_a_node_becomes_part_of_them() {
    let wide = |mut graph: GraphProto| {
        graph.initializer[4] = tensor("w", INT8, &[16, 260, 1, 1], vec![1; 16 * 260]);
        graph
    };
    let flatten = || residual_graph([node("", "Flatten", "conv", "out")]);
    let first = |graph, selection| rewritten(graph, selection).0.get(1).cloned();
    assert_eq!(
        first(wide(pointwise_graph()), AVX512).as_deref(),
        Some(POINTWISE)
    );
    assert_eq!(first(flatten(), AVX512).as_deref(), Some(POINTWISE));
    assert_eq!(
        first(wide(flatten()), AVX512).as_deref(),
        Some("QLinearConv")
    );
    assert_eq!(first(wide(flatten()), ALL).as_deref(), Some(POINTWISE));
}
