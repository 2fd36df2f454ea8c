//! Tests of the replacement of fully connected layers.

use super::*;

/// Returns `graph()` with a fully connected layer of 12 inputs and four outputs between the convolution and the hard
/// swish, or, without `output`, behind the hard swish. `Flatten` nodes stand for what is around it.
fn gemm_graph(inputs: &str) -> GraphProto {
    let mut graph = graph();
    let mut gemm = node("com.microsoft", "QGemm", inputs, "gemm");
    gemm.attribute = vec![int("transA", 0), int("transB", 1)];
    let mut swish = graph.node.split_off(4);
    for node in &mut swish[..2] {
        for input in node.input.iter_mut().filter(|input| *input == "conv") {
            "gemm".clone_into(input);
        }
    }
    graph
        .node
        .extend([node("", "Flatten", "conv", "flat"), gemm]);
    graph.node.extend(swish);
    graph.initializer.extend([
        tensor("gw", INT8, &[4, 12], (0..48).collect()),
        tensor(
            "gs",
            FLOAT,
            &[4],
            [0.5_f32, 1.0, 2.0, 4.0].map(f32::to_le_bytes).concat(),
        ),
        tensor("gz", INT8, &[4], vec![0; 4]),
        tensor("gb", INT32, &[4], vec![1; 16]),
    ]);
    graph
}

const QUANTIZED: &str = "flat s z gw gs gz gb s z";

#[test]
fn fully_connected_layers_apply_the_table_behind_them() {
    let (operators, graph) = rewritten(gemm_graph(QUANTIZED), AVX512);
    assert_eq!(
        operators,
        [QUANTIZE, DEPTHWISE, "Flatten", POINTWISE, "Flatten"]
    );
    let gemm = &graph.node[3];
    let (multipliers, table) = ("ort_int8:gemm_multipliers", "ort_int8:swish_table");
    assert_eq!(gemm.input, ["flat", "gw", "gb", multipliers, table]);
    assert_eq!(gemm.output, ["swish"]);
    let values =
        ["inputs", "has_table", "has_residual"].map(|name| gemm.attribute(name).unwrap().i);
    assert_eq!(values, [Some(12), Some(1), Some(0)]);
    let multipliers = graph
        .initializer
        .iter()
        .find(|tensor| tensor.name == multipliers);
    // The scales of input and output are the same.
    let expected = [0.5_f32, 1.0, 2.0, 4.0].map(f32::to_le_bytes).concat();
    assert_eq!(multipliers.unwrap().raw_data, expected);
}

#[test]
fn results_in_fp32_are_not_divided_by_a_scale() {
    let mut graph = gemm_graph("flat s z gw gs gz gb");
    graph.node.truncate(6);
    let (operators, graph) = rewritten(graph, AVX512);
    assert_eq!(operators, [QUANTIZE, DEPTHWISE, "Flatten", LINEAR]);
    assert_eq!(
        graph.node[3].input,
        ["flat", "gw", "gb", "ort_int8:gemm_multipliers"]
    );
    assert_eq!(graph.node[3].output, ["gemm"]);
    let multipliers = graph
        .initializer
        .iter()
        .find(|tensor| tensor.name == graph.node[3].input[3]);
    let expected = [0.25_f32, 0.5, 1.0, 2.0].map(f32::to_le_bytes).concat();
    assert_eq!(multipliers.unwrap().raw_data, expected);
}

#[test]
fn other_fully_connected_layers_are_left_alone() {
    type Change = fn(&mut GraphProto);
    let changes: [(&str, Change); 9] = [
        ("a transposed input", |g| g.node[5].attribute[0].i = Some(1)),
        ("weights that are not transposed", |g| {
            g.node[5].attribute[1].i = Some(0)
        }),
        ("a factor", |g| {
            g.node[5]
                .attribute
                .push(AttributeProto::new("alpha", &Attr::Float(2.0)))
        }),
        ("another domain", |g| g.node[5].domain.clear()),
        ("no bias", |g| g.node[5].input[6].clear()),
        ("a scale without a zero point", |g| {
            g.node[5].input.truncate(8)
        }),
        ("a zero point of the weights", |g| {
            g.initializer[10].raw_data[3] = 1;
        }),
        ("ten inputs", |g| {
            g.initializer[8] = tensor("gw", INT8, &[4, 10], vec![1; 40]);
        }),
        ("more inputs than a classifier has", |g| {
            g.initializer[8] = tensor("gw", INT8, &[4, 2052], vec![1; 4 * 2052]);
        }),
    ];
    for (name, change) in changes {
        let mut changed = gemm_graph(QUANTIZED);
        change(&mut changed);
        let (operators, _) = rewritten(changed, AVX512);
        assert!(
            operators.iter().any(|operator| operator == "QGemm"),
            "{name}: {operators:?}"
        );
    }
    // ONNX Runtime's kernel for AVX2 is not slower.
    let (operators, _) = rewritten(gemm_graph(QUANTIZED), ALL);
    assert!(operators.iter().any(|operator| operator == "QGemm"));
}
