//! Tests of [`rewrite`]: which nodes it replaces, and which nodes it must not change.

use onnx_export::graph::Attr;
use onnx_export::proto::{AttributeProto, FLOAT, INT8, INT32, TensorProto, UINT8, ValueInfoProto};
use prost::Message;

use super::*;
use crate::random::uniform;

mod gate;
mod gemm;
mod pointwise;

/// The operators for CPUs with AVX2, which are all but those that replace a `QGemm`.
const ALL: Operators = Operators::Avx2 {
    block: Some(8),
    additions: true,
};
const WITHOUT_ADDITIONS: Operators = Operators::Avx2 {
    block: Some(8),
    additions: false,
};

/// Every operator of this crate, for CPUs with AVX-512.
const AVX512: Operators = Operators::Avx512 { additions: true };

fn tensor(name: &str, data_type: i32, dims: &[i64], raw_data: Vec<u8>) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        data_type,
        dims: dims.to_vec(),
        raw_data,
        ..TensorProto::default()
    }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto::new(name, &Attr::Ints(values.to_vec()))
}

fn scale(name: &str, scale: f32) -> TensorProto {
    tensor(name, FLOAT, &[], scale.to_le_bytes().to_vec())
}

fn node(domain: &str, op: &str, inputs: &str, output: &str) -> NodeProto {
    NodeProto {
        op_type: op.to_owned(),
        domain: domain.to_owned(),
        name: output.to_owned(),
        input: inputs.split(' ').map(str::to_owned).collect(),
        output: vec![output.to_owned()],
        ..NodeProto::default()
    }
}

/// Returns a graph with one chain of each kind that [`rewrite`] replaces: the quantization of a
/// blocked tensor, a depthwise convolution of eight channels, and an int8 hard swish. A `Flatten`
/// reads the output of the hard swish.
fn graph() -> GraphProto {
    let mut reorder = node("com.microsoft.nchwc", "ReorderOutput", "images", "blocked");
    reorder.attribute = vec![int("channels", 8), int("channels_last", 0)];
    let mut transpose = node("", "Transpose", "quantized", "x");
    transpose.attribute = vec![ints("perm", &[0, 2, 3, 1])];
    let inputs = "x s z w ws wz s z bias";
    let mut conv = node("com.microsoft", "QLinearConv", inputs, "conv");
    conv.attribute = vec![
        int("group", 8),
        int("channels_last", 1),
        ints("kernel_shape", &[3, 3]),
        ints("strides", &[1, 1]),
        ints("pads", &[1, 1, 1, 1]),
        ints("dilations", &[1, 1]),
    ];
    GraphProto {
        node: vec![
            reorder,
            node("", "QuantizeLinear", "blocked s z", "quantized"),
            transpose,
            conv,
            node("com.microsoft", "QLinearConcat", "g z conv r z", "gate"),
            node(
                "com.microsoft",
                "QLinearMul",
                "conv s z gate g z s z",
                "swish",
            ),
            node("", "Flatten", "swish", "out"),
        ],
        initializer: vec![
            scale("s", 0.5),
            scale("g", 1.0 / 255.0),
            scale("r", 0.5 / 6.0),
            tensor("z", UINT8, &[], vec![0]),
            tensor("w", INT8, &[8, 1, 3, 3], vec![1; 72]),
            tensor("ws", FLOAT, &[], 0.25_f32.to_le_bytes().to_vec()),
            tensor("wz", INT8, &[8], vec![0; 8]),
            tensor("bias", INT32, &[8], vec![0; 32]),
        ],
        output: vec![ValueInfoProto {
            name: "out".to_owned(),
            ..ValueInfoProto::default()
        }],
        ..GraphProto::default()
    }
}

fn model(graph: GraphProto) -> ModelProto {
    ModelProto {
        graph: Some(graph),
        ..ModelProto::default()
    }
}

/// Returns the rewritten graph, and the operator type of each of its nodes. The list and the graph
/// are empty if [`rewrite`] replaced no node.
fn rewritten(graph: GraphProto, operators: Operators) -> (Vec<String>, GraphProto) {
    let rewritten = rewrite(model(graph), operators);
    let graph = rewritten.and_then(|rewritten| rewritten.model.graph);
    let graph = graph.unwrap_or_default();
    let operators = graph.node.iter().map(|node| node.op_type.clone());
    (operators.collect(), graph)
}

#[test]
fn every_pattern_is_replaced() {
    let (operators, graph) = rewritten(graph(), ALL);
    assert_eq!(operators, [QUANTIZE, DEPTHWISE, "Flatten"]);
    let [quantize, conv, _] = &graph.node[..] else {
        unreachable!()
    };
    assert_eq!(
        (&quantize.input[0], &quantize.output[0]),
        (&"images".to_owned(), &"x".to_owned())
    );
    assert_eq!(
        conv.input,
        [
            "x",
            "w",
            "bias",
            "ort_int8:conv_multipliers",
            "ort_int8:swish_table"
        ]
    );
    assert_eq!(conv.output, ["swish"]);
    // Initializers that nothing reads any more are removed.
    let names: Vec<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "w",
            "bias",
            "ort_int8:swish_table",
            "ort_int8:conv_multipliers"
        ]
    );
    let table = &graph.initializer[2].raw_data;
    // The gate of element q is q / 12 (scale 0.5 / 6, zero point 0), saturated to 1 from q = 12 on.
    for (q, expected) in [(0, 0), (1, 0), (4, 1), (12, 12), (255, 255)] {
        assert_eq!(table[q], expected, "{q}");
    }
    let multipliers: Vec<u8> = 0.25_f32.to_le_bytes().repeat(8);
    assert_eq!(graph.initializer[3].raw_data, multipliers);
}

#[test]
fn the_cpu_decides_about_operators() {
    let block = |operators| {
        let (_, graph) = rewritten(graph(), operators);
        graph.node[0].attribute("block").and_then(|block| block.i)
    };
    assert_eq!(block(ALL), Some(8));
    assert_eq!(block(AVX512), Some(16));
    let operators = Operators::Avx2 {
        block: None,
        additions: true,
    };
    let expected = [
        "ReorderOutput",
        "QuantizeLinear",
        "Transpose",
        DEPTHWISE,
        "Flatten",
    ];
    assert_eq!(rewritten(graph(), operators).0, expected);
    assert_eq!(
        rewritten(graph(), AVX512).0,
        [QUANTIZE, DEPTHWISE, "Flatten"]
    );
    let (operators, _) = rewritten(pointwise::pointwise_graph(), AVX512);
    assert_eq!(operators, [QUANTIZE, POINTWISE, "Flatten"]);
}

#[test]
fn weights_that_avx2_would_saturate_are_left_alone() {
    let mut large = graph();
    large.initializer[4].raw_data[..2].fill(65);
    assert_eq!(rewritten(large.clone(), ALL).0, CONV);
    assert_eq!(rewritten(large, AVX512).0, [QUANTIZE, DEPTHWISE, "Flatten"]);
    let mut large = pointwise::pointwise_graph();
    large.initializer[4].raw_data[126..].fill(65);
    assert_eq!(rewritten(large, ALL).0, CONV);
}

#[test]
fn a_max_that_quantization_makes_superfluous_is_removed() {
    // The least value that the quantized tensor represents is -75 with scale 0.5 and zero point 150.
    for (bound, is_removed) in [(f32::NEG_INFINITY, true), (-75.0, true), (-74.0, false)] {
        let mut graph = graph();
        graph.initializer[3].raw_data = vec![150];
        graph.initializer.push(scale("bound", bound));
        graph.node[1].input[0] = "clipped".to_owned();
        graph
            .node
            .insert(1, node("", "Max", "blocked bound", "clipped"));
        let (operators, _) = rewritten(graph, ALL);
        assert_eq!(operators[0] == QUANTIZE, is_removed, "{bound}");
    }
}

#[test]
fn without_vector_instructions_only_lookups_are_made() {
    let (operators, _) = rewritten(graph(), Operators::Lookup);
    let expected = [
        "ReorderOutput",
        "QuantizeLinear",
        "Transpose",
        "QLinearConv",
        LOOKUP,
        "Flatten",
    ];
    assert_eq!(operators, expected);
}

#[test]
fn fp32_hard_swish_between_int8_values_becomes_a_lookup() {
    let mut graph = graph();
    let mut gate = node("", "HardSigmoid", "read", "gate");
    gate.attribute = vec![
        AttributeProto::new("alpha", &Attr::Float(1.0 / 6.0)),
        AttributeProto::new("beta", &Attr::Float(0.5)),
    ];
    graph.node.splice(
        4..6,
        [
            node("", "DequantizeLinear", "conv s z", "read"),
            gate,
            node("", "Mul", "gate read", "product"),
            node("", "QuantizeLinear", "product s z", "swish"),
        ],
    );
    let (operators, rewritten) = rewritten(graph, ALL);
    assert_eq!(operators, [QUANTIZE, DEPTHWISE, "Flatten"]);
    let table = rewritten
        .initializer
        .iter()
        .find(|t| t.name == "ort_int8:swish_table");
    // Element 2 is x = 1. Its hard swish, 1 * (1 / 6 + 1 / 2) = 2 / 3, is 1.33 times the output
    // scale 0.5, which is rounded to 1.
    assert_eq!(table.unwrap().raw_data[..4], [0, 1, 1, 2]);
}

fn pad(mode: &'static str) -> AttributeProto {
    AttributeProto::new("auto_pad", &Attr::Text(mode))
}

#[test]
fn omitted_attributes_have_defaults() {
    let mut graph = graph();
    graph.node[3].attribute.truncate(2);
    graph.node[3].attribute.push(pad("SAME_UPPER"));
    let (operators, graph) = rewritten(graph, ALL);
    assert_eq!(operators, [QUANTIZE, DEPTHWISE, "Flatten"]);
    let ints = |name: &str| &graph.node[1].attribute(name).unwrap().ints;
    assert_eq!(
        (ints("kernel_shape"), ints("strides")),
        (&vec![3, 3], &vec![1, 1])
    );
    assert_eq!(
        (ints("dilations"), ints("pads")),
        (&vec![1, 1], &vec![0; 4])
    );
    assert_eq!(graph.node[1].attribute("same_upper").unwrap().i, Some(1));
}

/// A test case: its name, a change to `graph()` after which one chain must not be replaced, and the
/// expected operator types after rewriting.
type Change = (&'static str, fn(&mut GraphProto), &'static [&'static str]);

/// The operator types of the rewritten `graph()` if everything except the convolution is replaced.
const CONV: &[&str] = &[QUANTIZE, "QLinearConv", LOOKUP, "Flatten"];

const CHANGES: &[Change] = &[
    (
        "channels first",
        |g| g.node[3].attribute[1].i = Some(0),
        CONV,
    ),
    (
        "groups of two",
        |g| g.node[3].attribute[0].i = Some(4),
        CONV,
    ),
    ("no groups", |g| drop(g.node[3].attribute.remove(0)), CONV),
    (
        "a bias at the end of the range",
        |g| g.initializer[7].raw_data[..4].copy_from_slice(&i32::MAX.to_le_bytes()),
        CONV,
    ),
    (
        "a large scale",
        |g| g.initializer[5].raw_data = 1e9_f32.to_le_bytes().to_vec(),
        CONV,
    ),
    (
        "SAME_LOWER padding",
        |g| g.node[3].attribute.push(pad("SAME_LOWER")),
        CONV,
    ),
    (
        "a window of one axis",
        |g| g.node[3].attribute[2].ints = vec![3],
        CONV,
    ),
    (
        "a huge window",
        |g| g.node[3].attribute[2].ints = vec![1 << 40, 3],
        CONV,
    ),
    (
        "a stride of 0",
        |g| g.node[3].attribute[3].ints = vec![0, 1],
        CONV,
    ),
    (
        "a negative pad",
        |g| g.node[3].attribute[4].ints[0] = -1,
        CONV,
    ),
    ("no bias", |g| drop(g.node[3].input.pop()), CONV),
    (
        "weights with a zero point",
        |g| g.initializer[6].raw_data[0] = 1,
        CONV,
    ),
    (
        "weights of another data type",
        |g| g.initializer[4].data_type = UINT8,
        CONV,
    ),
    (
        "weights in another file",
        |g| g.initializer[4].data_location = 1,
        CONV,
    ),
    (
        "too few weights",
        |g| g.initializer[4].raw_data.truncate(71),
        CONV,
    ),
    (
        "a computed bias",
        |g| g.node[3].input[8] = "elsewhere".to_owned(),
        CONV,
    ),
    (
        "seven scales",
        |g| g.initializer[5].raw_data = vec![0; 28],
        CONV,
    ),
    (
        "another reader of the convolution",
        |g| g.node[6].input.push("conv".to_owned()),
        &[QUANTIZE, DEPTHWISE, LOOKUP, "Flatten"],
    ),
    (
        "another reader of the gate",
        |g| g.node[6].input.push("gate".to_owned()),
        &[QUANTIZE, DEPTHWISE, LOOKUP, LOOKUP, "Flatten"],
    ),
    (
        "a gate of something else",
        |g| g.node[4].input[2] = "x".to_owned(),
        &[QUANTIZE, DEPTHWISE, LOOKUP, "QLinearMul", "Flatten"],
    ),
    (
        "another reader of the fp32 value",
        |g| g.node[6].input.push("blocked".to_owned()),
        &[
            "ReorderOutput",
            "QuantizeLinear",
            "Transpose",
            DEPTHWISE,
            "Flatten",
        ],
    ),
    (
        "another order of axes",
        |g| g.node[2].attribute[0].ints = vec![0, 3, 1, 2],
        &[
            "ReorderOutput",
            "QuantizeLinear",
            "Transpose",
            DEPTHWISE,
            "Flatten",
        ],
    ),
    (
        "an output of the graph",
        |g| g.output[0].name = "conv".to_owned(),
        &[QUANTIZE, DEPTHWISE, LOOKUP, "Flatten"],
    ),
];

#[test]
fn nodes_of_another_form_are_left_alone() {
    for (name, change, expected) in CHANGES {
        let mut changed = graph();
        change(&mut changed);
        assert_eq!(rewritten(changed, ALL).0, *expected, "{name}");
    }
}

#[test]
fn fp32_graphs_and_subgraphs_are_left_alone() {
    let mut float = graph();
    float.node.truncate(3);
    assert_eq!(rewritten(float, ALL).0, [""; 0]);
    let mut branching = graph();
    let mut body = int("then_branch", 0);
    body.g = Some(Vec::new());
    branching.node[6].attribute.push(body);
    assert_eq!(rewritten(branching, ALL).0, [""; 0]);
    assert_eq!(rewritten(GraphProto::default(), ALL).0, [""; 0]);
    assert!(rewrite(ModelProto::default(), ALL).is_none());
}

#[test]
fn damaged_graphs_never_panic() {
    let whole = model(graph()).encode_to_vec();
    let mut noise = uniform(0);
    let mut rewritten = 0;
    for _ in 0..20_000 {
        let (place, byte) = (noise.next().unwrap(), noise.next().unwrap());
        let mut damaged = whole.clone();
        let place = (place.abs() * whole.len() as f32) as usize % whole.len();
        damaged[place] = (byte * 255.0) as i32 as u8;
        let model = ModelProto::decode(&damaged[..]).ok();
        let model = model.and_then(|model| rewrite(model, ALL));
        rewritten += usize::from(model.is_some());
    }
    // Enough of the 20,000 damaged files must decode and be rewritten, since a file that does not
    // decode does not test `rewrite`.
    assert!(rewritten > 1000, "{rewritten}");
}
