//! Which nodes are replaced, and which had better not be.

use super::*;
use crate::graph::Attr;
use crate::proto::{
    AttributeProto, FLOAT, GraphProto, INT8, INT32, TensorProto, UINT8, ValueInfoProto,
};

fn tensor(name: &str, data_type: i32, dims: &[i64], raw_data: Vec<u8>) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        data_type,
        dims: dims.to_vec(),
        raw_data,
        ..TensorProto::default()
    }
}

fn int(name: &'static str, value: i64) -> AttributeProto {
    AttributeProto::from(&(name, Attr::Int(value)))
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

/// Blocked floats, rounded; a depthwise convolution of eight channels; a hard swish of 8-bit numbers; and a sum
/// of what each gave, so that it is read.
fn graph() -> GraphProto {
    let mut reorder = node("com.microsoft.nchwc", "ReorderOutput", "images", "floats");
    reorder.attribute = vec![int("channels", 8), int("channels_last", 0)];
    let mut transpose = node("", "Transpose", "numbers", "x");
    transpose.attribute = vec![AttributeProto::from(&(
        "perm",
        Attr::Ints(vec![0, 2, 3, 1]),
    ))];
    let inputs = "x s z w ws wz s z bias";
    let mut conv = node("com.microsoft", "QLinearConv", inputs, "conv");
    conv.attribute = vec![
        int("group", 8),
        int("channels_last", 1),
        AttributeProto::from(&("kernel_shape", Attr::Ints(vec![3, 3]))),
        AttributeProto::from(&("strides", Attr::Ints(vec![1, 1]))),
        AttributeProto::from(&("pads", Attr::Ints(vec![1, 1, 1, 1]))),
        AttributeProto::from(&("dilations", Attr::Ints(vec![1, 1]))),
    ];
    GraphProto {
        node: vec![
            reorder,
            node("", "QuantizeLinear", "floats s z", "numbers"),
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

/// The operators after the graph was lowered; none if it was left alone.
fn lowered(graph: GraphProto, wide: bool) -> (Vec<String>, GraphProto) {
    let model = ModelProto {
        graph: Some(graph),
        ..ModelProto::default()
    };
    let graph = RuntimeGraph::read(&model.encode_to_vec()).unwrap();
    let lowered = graph.lowered(wide).map(|lowered| lowered.to_bytes());
    let graph = lowered.map(|bytes| ModelProto::decode(&bytes[..]).unwrap());
    let graph = graph.and_then(|model| model.graph).unwrap_or_default();
    let operators = graph.node.iter().map(|node| node.op_type.clone());
    (operators.collect(), graph)
}

#[test]
fn everything_that_has_a_kernel_is_replaced() {
    let (operators, graph) = lowered(graph(), true);
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
            "sightline:conv_multipliers",
            "sightline:swish_table"
        ]
    );
    assert_eq!(conv.output, ["swish"]);
    // What is no longer read is gone.
    let names: Vec<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "w",
            "bias",
            "sightline:swish_table",
            "sightline:conv_multipliers"
        ]
    );
    let table = &graph.initializer[2].raw_data;
    // x = q / 2; the gate is 1 from 6 on.
    for (q, expected) in [(0, 0), (1, 0), (4, 1), (12, 12), (255, 255)] {
        assert_eq!(table[q], expected, "{q}");
    }
    let multipliers: Vec<u8> = 0.25_f32.to_le_bytes().repeat(8);
    assert_eq!(graph.initializer[3].raw_data, multipliers);
}

#[test]
fn without_wide_vectors_there_are_tables_alone() {
    let (operators, _) = lowered(graph(), false);
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
fn floats_between_8_bit_numbers_are_a_table() {
    let mut graph = graph();
    let mut gate = node("", "HardSigmoid", "read", "gate");
    gate.attribute = vec![
        AttributeProto::from(&("alpha", Attr::Float(1.0 / 6.0))),
        AttributeProto::from(&("beta", Attr::Float(0.5))),
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
    let (operators, lowered) = lowered(graph, true);
    assert_eq!(operators, [QUANTIZE, DEPTHWISE, "Flatten"]);
    let table = lowered
        .initializer
        .iter()
        .find(|t| t.name == "sightline:swish_table");
    // 1 * (1 / 6 + 1 / 2) is two thirds: 1.33 halves.
    assert_eq!(table.unwrap().raw_data[..4], [0, 1, 1, 2]);
}

fn pad(mode: &'static str) -> AttributeProto {
    AttributeProto::from(&("auto_pad", Attr::Text(mode)))
}

#[test]
fn attributes_may_be_left_out() {
    let mut graph = graph();
    graph.node[3].attribute.truncate(2);
    graph.node[3].attribute.push(pad("SAME_UPPER"));
    let (operators, graph) = lowered(graph, true);
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

/// Something about a graph that its nodes cannot be replaced with, and the operators that are left.
type Change = (&'static str, fn(&mut GraphProto), &'static [&'static str]);

/// Where the convolution is left alone.
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
        "a bias at the end",
        |g| g.initializer[7].raw_data[..4].copy_from_slice(&i32::MAX.to_le_bytes()),
        CONV,
    ),
    (
        "a small step",
        |g| g.initializer[5].raw_data = 1e9_f32.to_le_bytes().to_vec(),
        CONV,
    ),
    (
        "padding at the start",
        |g| g.node[3].attribute.push(pad("SAME_LOWER")),
        CONV,
    ),
    (
        "a window of other size",
        |g| g.node[3].attribute[2].ints = vec![3],
        CONV,
    ),
    (
        "a huge window",
        |g| g.node[3].attribute[2].ints = vec![1 << 40, 3],
        CONV,
    ),
    (
        "no step",
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
        "a zero point of weights",
        |g| g.initializer[6].raw_data[0] = 1,
        CONV,
    ),
    (
        "weights of another type",
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
        &[QUANTIZE, DEPTHWISE, "QLinearConcat", LOOKUP, "Flatten"],
    ),
    (
        "a gate of something else",
        |g| g.node[4].input[2] = "x".to_owned(),
        &[
            QUANTIZE,
            DEPTHWISE,
            "QLinearConcat",
            "QLinearMul",
            "Flatten",
        ],
    ),
    (
        "another reader of the floats",
        |g| g.node[6].input.push("floats".to_owned()),
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
fn what_has_another_form_is_left_alone() {
    for (name, change, expected) in CHANGES {
        let mut changed = graph();
        change(&mut changed);
        assert_eq!(lowered(changed, true).0, *expected, "{name}");
    }
}

#[test]
fn graphs_without_8_bit_numbers_are_left_alone() {
    let mut float = graph();
    float.node.truncate(3);
    assert_eq!(lowered(float, true).0, [""; 0]);
    let mut branching = graph();
    let mut body = int("then_branch", 0);
    body.g = Some(Vec::new());
    branching.node[6].attribute.push(body);
    assert_eq!(lowered(branching, true).0, [""; 0]);
    assert_eq!(lowered(GraphProto::default(), true).0, [""; 0]);
    assert!(RuntimeGraph::read(b"\xff\xff").is_err());
    assert!(RuntimeGraph::read(b"").unwrap().lowered(true).is_none());
}

#[test]
fn damaged_graphs_never_panic() {
    let model = ModelProto {
        graph: Some(graph()),
        ..ModelProto::default()
    };
    let whole = model.encode_to_vec();
    let noise: Vec<f32> = crate::formula::uniform("damage", 40_000).collect();
    let mut lowered = 0;
    for pair in noise.chunks_exact(2) {
        let mut damaged = whole.clone();
        let place = (pair[0].abs() * whole.len() as f32) as usize % whole.len();
        damaged[place] = (pair[1] * 255.0) as i32 as u8;
        let graph = RuntimeGraph::read(&damaged).ok();
        let graph = graph.and_then(|graph| graph.lowered(true));
        lowered += usize::from(graph.is_some());
    }
    // Most are still graphs: the rest of the code was reached.
    assert!(lowered > 1000, "{lowered}");
}
