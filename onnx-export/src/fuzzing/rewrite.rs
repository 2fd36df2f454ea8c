//! Structure-aware mutations of small networks: the bytes of an input choose what to change, so
//! that most inputs are valid protobuf and reach the rewriting.

use prost::Message;

use super::read_onnx;
use crate::graph::Attr;
use crate::proto::{
    AttributeProto, FLOAT, GraphProto, INT64, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, ValueInfoProto,
};

/// Maximum number of mutations of one network.
const MAX_MUTATIONS: usize = 32;
/// Values that are likely to be handled wrongly as a size, an axis or a count.
const EDGES: [i64; 12] = [
    0,
    1,
    2,
    3,
    -1,
    -2,
    7,
    255,
    1 << 31,
    1 << 62,
    i64::MAX,
    i64::MIN,
];
const OPERATORS: [&str; 16] = [
    "Conv",
    "Gemm",
    "Relu",
    "Clip",
    "HardSigmoid",
    "Mul",
    "Add",
    "MaxPool",
    "GlobalAveragePool",
    "ReduceMean",
    "Flatten",
    "Concat",
    "Sigmoid",
    "DequantizeLinear",
    "If",
    "",
];

/// Mutates a small network as the bytes of `choices` say, encodes it and passes it to
/// [`read_onnx`]. Returns whether the network can be quantized.
///
/// # Panics
/// As [`read_onnx`].
pub fn rewrite_onnx(choices: &[u8]) -> bool {
    let mut choices = Choices(choices);
    let mut model = network(&mut choices);
    for _ in 0..MAX_MUTATIONS {
        if choices.0.is_empty() {
            break;
        }
        mutate(&mut model, &mut choices);
    }
    read_onnx(&model.encode_to_vec())
}

/// Decisions that the bytes of an input make. After the last byte, every decision is 0.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    /// Returns an index of a list of `len` elements; `None` if the list is empty.
    fn index(&mut self, len: usize) -> Option<usize> {
        usize::from(self.byte()).checked_rem(len)
    }

    fn one<'t, T>(&mut self, list: &'t mut [T]) -> Option<&'t mut T> {
        let index = self.index(list.len())?;
        list.get_mut(index)
    }

    fn edge(&mut self) -> i64 {
        let index = self.index(EDGES.len()).unwrap_or_default();
        EDGES[index]
    }
}

/// Returns a network with every operator that the rewriting knows: a stem, a hard swish, a squeeze
/// and excitation, a residual sum, a pooled classifier. The first choice selects the opset and the
/// form of the mean.
fn network(choices: &mut Choices<'_>) -> ModelProto {
    let kind = choices.byte();
    let opset = [13, 17, 18][usize::from(kind % 3)];
    let float = |name, value| AttributeProto::new(name, &Attr::Float(value));
    let sixth = || vec![float("alpha", 1.0 / 6.0), float("beta", 0.5)];
    let int = |name, value| vec![AttributeProto::new(name, &Attr::Int(value))];
    let mut nodes = vec![
        node("Conv", &["x", "w1", "b1"], "a", vec![]),
        node("HardSigmoid", &["a"], "a_gate", sixth()),
        node("Mul", &["a", "a_gate"], "h", vec![]),
        node("MaxPool", &["h"], "p", vec![]),
        node("Conv", &["p", "w2", "b2"], "c", vec![]),
        node("Relu", &["c"], "r", vec![]),
        node("GlobalAveragePool", &["r"], "g", vec![]),
        node("Conv", &["g", "w2", "b2"], "s", vec![]),
        node("Sigmoid", &["s"], "e", vec![]),
        node("Mul", &["r", "e"], "m", vec![]),
        node("Conv", &["m", "w3"], "d", int("group", 2)),
        node("Clip", &["d", "low", "high"], "k", vec![]),
        node("Add", &["k", "p"], "t", vec![]),
        node("Concat", &["t", "r"], "u", int("axis", 1)),
        node("Conv", &["u", "w4", "b4"], "v", vec![]),
    ];
    nodes.push(if kind & 4 == 0 {
        node("GlobalAveragePool", &["v"], "mean", vec![])
    } else if opset < 18 {
        let axes = AttributeProto::new("axes", &Attr::Ints(vec![2, 3]));
        node("ReduceMean", &["v"], "mean", vec![axes])
    } else {
        node("ReduceMean", &["v", "axes"], "mean", vec![])
    });
    nodes.push(node("Flatten", &["mean"], "f", vec![]));
    nodes.push(node("Gemm", &["f", "w5", "b5"], "y", int("transB", 1)));
    let axes = TensorProto {
        data_type: INT64,
        ..tensor(
            "axes",
            &[2],
            [2_i64, 3].iter().flat_map(|v| v.to_le_bytes()).collect(),
        )
    };
    let graph = GraphProto {
        node: nodes,
        initializer: vec![
            floats("w1", &[4, 3, 1, 1]),
            floats("b1", &[4]),
            floats("w2", &[4, 4, 1, 1]),
            floats("b2", &[4]),
            floats("w3", &[4, 2, 1, 1]),
            floats("w4", &[4, 8, 1, 1]),
            floats("b4", &[4]),
            floats("w5", &[2, 4]),
            floats("b5", &[2]),
            floats("low", &[]),
            floats("high", &[]),
            axes,
        ],
        input: vec![value("x")],
        output: vec![value("y")],
        ..GraphProto::default()
    };
    ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto {
            domain: String::new(),
            version: opset,
        }],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

fn node(op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        name: format!("/{output}"),
        op_type: op.to_owned(),
        input: inputs.iter().map(|name| (*name).to_owned()).collect(),
        output: vec![output.to_owned()],
        attribute,
        ..NodeProto::default()
    }
}

/// Returns an f32 tensor of `shape` whose elements are multiples of 1/8 between -1 and 1.
fn floats(name: &str, shape: &[i64]) -> TensorProto {
    let count = shape.iter().product::<i64>();
    let values = (0..count).map(|index| ((index * 5 + 3) % 17 - 8) as f32 / 8.0);
    tensor(name, shape, values.flat_map(f32::to_le_bytes).collect())
}

fn tensor(name: &str, shape: &[i64], raw_data: Vec<u8>) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        data_type: FLOAT,
        dims: shape.to_vec(),
        raw_data,
        ..TensorProto::default()
    }
}

fn value(name: &str) -> ValueInfoProto {
    ValueInfoProto {
        name: name.to_owned(),
        r#type: None,
        ..ValueInfoProto::default()
    }
}

fn mutate(model: &mut ModelProto, choices: &mut Choices<'_>) {
    let kind = choices.byte();
    let graph = model.graph.get_or_insert_default();
    match kind % 12 {
        0..=3 => mutate_nodes(graph, kind, choices),
        4 | 5 => {
            let name = name(graph, choices);
            if let Some(node) = choices.one(&mut graph.node) {
                mutate_node(node, name, choices);
            }
        }
        6 | 7 => {
            let name = name(graph, choices);
            if let Some(tensor) = choices.one(&mut graph.initializer) {
                mutate_tensor(tensor, name, choices);
            }
        }
        8 => mutate_lists(graph, choices),
        9 => rename(graph, choices),
        10 => {
            if let Some(set) = choices.one(&mut model.opset_import) {
                set.version = choices.edge();
            }
        }
        _ => match choices.byte() % 4 {
            0 => model.functions.push(vec![choices.byte()]),
            1 => model.training_info.push(vec![]),
            2 => model.opset_import.clear(),
            _ => model.graph = None,
        },
    }
}

/// Returns the name of an existing value, an empty name, or a name that the rewriting may add.
fn name(graph: &GraphProto, choices: &mut Choices<'_>) -> String {
    let outputs = graph.node.iter().flat_map(|node| &node.output);
    let constants = graph.initializer.iter().map(|tensor| &tensor.name);
    let names: Vec<&String> = outputs.chain(constants).collect();
    let Some(index) = choices.index(names.len()) else {
        return String::new();
    };
    let known = names[index];
    let added = choices.byte();
    match added % 16 {
        0..=9 => known.clone(),
        10 => String::new(),
        11 => ["u8_0", "f32_1", "zero_points_s8_4"][usize::from(added / 16 % 3)].to_owned(),
        suffix => {
            let suffixes = ["q", "dq", "s", "raw"];
            format!("{known}_{}", suffixes[usize::from(suffix % 4)])
        }
    }
}

/// Drops, duplicates, swaps or copies nodes.
fn mutate_nodes(graph: &mut GraphProto, kind: u8, choices: &mut Choices<'_>) {
    let nodes = &mut graph.node;
    let (Some(from), Some(to)) = (choices.index(nodes.len()), choices.index(nodes.len())) else {
        return;
    };
    match kind % 4 {
        0 => drop(nodes.remove(from)),
        1 => nodes.swap(from, to),
        2 => {
            let copy = nodes[from].clone();
            nodes.insert(to, copy);
        }
        // A copy that writes other values, so that the graph stays valid.
        _ => {
            let mut copy = nodes[from].clone();
            for output in &mut copy.output {
                output.push('2');
            }
            nodes.push(copy);
        }
    }
}

fn mutate_node(node: &mut NodeProto, name: String, choices: &mut Choices<'_>) {
    match choices.byte() % 12 {
        0 => {
            if let Some(input) = choices.one(&mut node.input) {
                *input = name;
            }
        }
        1 => node.input.push(name),
        2 => drop(node.input.pop()),
        3 => {
            if let Some(output) = choices.one(&mut node.output) {
                *output = name;
            }
        }
        4 => node.output.push(name),
        5 => node.output.clear(),
        6 => {
            let index = choices.index(OPERATORS.len()).unwrap_or_default();
            OPERATORS[index].clone_into(&mut node.op_type);
        }
        7 => node.name = name,
        8 => {
            ["ai.onnx", "com.microsoft"][usize::from(choices.byte() % 2)]
                .clone_into(&mut node.domain);
        }
        9 => node.input.reverse(),
        _ => mutate_attribute(node, choices),
    }
}

fn mutate_attribute(node: &mut NodeProto, choices: &mut Choices<'_>) {
    let names = ["group", "transB", "alpha", "axes", "keepdims", "axis"];
    if choices.byte().is_multiple_of(2) {
        let index = choices.index(names.len()).unwrap_or_default();
        let value = Attr::Int(choices.edge());
        node.attribute
            .push(AttributeProto::new(names[index], &value));
    }
    let Some(attribute) = choices.one(&mut node.attribute) else {
        return;
    };
    match choices.byte() % 8 {
        0 => attribute.i = Some(choices.edge()),
        1 => attribute.i = None,
        2 => attribute.f = Some(f32::from_bits(u32::from(choices.byte()) << 23)),
        3 => attribute.ints.push(choices.edge()),
        4 => attribute.g = Some(vec![choices.byte()]),
        5 => attribute.t = Some(floats("t", &[2])),
        6 => attribute.ref_attr_name.push('r'),
        _ => attribute.s = Some(vec![choices.byte()]),
    }
}

fn mutate_tensor(tensor: &mut TensorProto, name: String, choices: &mut Choices<'_>) {
    match choices.byte() % 10 {
        0 => {
            if let Some(size) = choices.one(&mut tensor.dims) {
                *size = choices.edge();
            }
        }
        1 => tensor.dims.push(choices.edge()),
        2 => drop(tensor.dims.pop()),
        3 => tensor.data_type = i32::from(choices.byte() % 24),
        4 => tensor.raw_data.truncate(usize::from(choices.byte())),
        5 => {
            if let Some(byte) = choices.one(&mut tensor.raw_data) {
                *byte = choices.byte();
            }
        }
        6 => {
            let (values, _) = tensor.raw_data.as_chunks::<4>();
            tensor.float_data = values.iter().map(|v| f32::from_le_bytes(*v)).collect();
            tensor.raw_data.clear();
        }
        7 => tensor.name = name,
        8 => tensor.double_data.push(f64::from(choices.byte())),
        _ => {
            tensor.data_location = i32::from(choices.byte() % 2);
            tensor.external_data.push(StringStringEntryProto::default());
        }
    }
}

fn mutate_lists(graph: &mut GraphProto, choices: &mut Choices<'_>) {
    let name = name(graph, choices);
    match choices.byte() % 8 {
        0 => graph.output.push(value(&name)),
        1 => graph.output.clear(),
        2 => graph.input.push(value(&name)),
        3 => graph.input.clear(),
        4 => graph.sparse_initializer.push(vec![]),
        5 => {
            if let Some(index) = choices.index(graph.initializer.len()) {
                graph.initializer.remove(index);
            }
        }
        6 => {
            if let Some(index) = choices.index(graph.initializer.len()) {
                let copy = graph.initializer[index].clone();
                graph.initializer.push(copy);
            }
        }
        _ => graph.initializer.push(floats(&name, &[4])),
    }
}

/// Renames a value wherever it occurs.
fn rename(graph: &mut GraphProto, choices: &mut Choices<'_>) {
    let (from, to) = (name(graph, choices), name(graph, choices));
    let nodes = graph.node.iter_mut();
    let names = nodes.flat_map(|node| node.input.iter_mut().chain(&mut node.output));
    let constants = graph.initializer.iter_mut().map(|tensor| &mut tensor.name);
    let declared = graph.input.iter_mut().chain(&mut graph.output);
    let declared = declared.map(|value| &mut value.name);
    for name in names.chain(constants).chain(declared) {
        if *name == from {
            name.clone_from(&to);
        }
    }
}

#[cfg(test)]
pub(super) fn unchanged() -> Vec<u8> {
    network(&mut Choices(&[])).encode_to_vec()
}
