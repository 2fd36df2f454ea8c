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

/// Returns the initializer `name` of `graph`.
fn initializer<'a>(graph: &'a mut GraphProto, name: &str) -> &'a mut TensorProto {
    let mut tensors = graph.initializer.iter_mut();
    tensors.find(|tensor| tensor.name == name).unwrap()
}

/// Returns the `QGemm` of `graph`.
fn gemm(graph: &mut GraphProto) -> &mut NodeProto {
    graph
        .node
        .iter_mut()
        .find(|node| node.op_type == "QGemm")
        .unwrap()
}

fn alpha(value: f32) -> AttributeProto {
    AttributeProto::new("alpha", &Attr::Float(value))
}

type Change = fn(&mut GraphProto);

#[test]
fn other_fully_connected_layers_are_left_alone() {
    let changes: [(&str, Change); 14] = [
        ("a transposed input", |g| gemm(g).attribute[0].i = Some(1)),
        ("weights that are not transposed", |g| {
            gemm(g).attribute[1].i = Some(0);
        }),
        ("a factor", |g| gemm(g).attribute.push(alpha(2.0))),
        ("another domain", |g| gemm(g).domain.clear()),
        ("no bias", |g| gemm(g).input[6].clear()),
        ("a bias that is computed", |g| {
            "computed".clone_into(&mut gemm(g).input[6]);
        }),
        ("a bias for each row", |g| {
            initializer(g, "gb").dims = vec![4, 1];
        }),
        ("a bias for each element", |g| {
            *initializer(g, "gb") = tensor("gb", INT32, &[2, 4], vec![1; 32]);
        }),
        ("a scale without a zero point", |g| {
            gemm(g).input.truncate(8);
        }),
        ("a signed input", |g| {
            *initializer(g, "z") = tensor("z", INT8, &[], vec![0]);
        }),
        ("a zero point of the weights", |g| {
            initializer(g, "gz").raw_data[3] = 1;
        }),
        ("no inputs", |g| {
            *initializer(g, "gw") = tensor("gw", INT8, &[4, 0], Vec::new());
        }),
        ("ten inputs", |g| {
            *initializer(g, "gw") = tensor("gw", INT8, &[4, 10], vec![1; 40]);
        }),
        ("more inputs than a classifier has", |g| {
            *initializer(g, "gw") = tensor("gw", INT8, &[4, 2052], vec![1; 4 * 2052]);
        }),
    ];
    for (name, change) in changes {
        let mut changed = gemm_graph(QUANTIZED);
        change(&mut changed);
        let (operators, graph) = rewritten(changed, AVX512);
        let is_left = operators.iter().any(|operator| operator == "QGemm");
        // Without a quantized input, no other node is replaced, either.
        assert!(is_left || graph.node.is_empty(), "{name}: {operators:?}");
    }
    // ONNX Runtime's kernel for AVX2 is not slower.
    let (operators, _) = rewritten(gemm_graph(QUANTIZED), ALL);
    assert!(operators.iter().any(|operator| operator == "QGemm"));
}

#[test]
fn constants_of_fully_connected_layers_may_have_several_forms() {
    let changes: [(&str, Change); 3] = [
        ("a factor of 1", |g| gemm(g).attribute.push(alpha(1.0))),
        ("a bias with two axes", |g| {
            initializer(g, "gb").dims = vec![1, 4];
        }),
        ("one scale", |g| *initializer(g, "gs") = scale("gs", 0.5)),
    ];
    for (name, change) in changes {
        let mut changed = gemm_graph(QUANTIZED);
        change(&mut changed);
        let (operators, _) = rewritten(changed, AVX512);
        assert_eq!(operators[3], POINTWISE, "{name}");
    }
}
