//! Tests of `Network::read`: which files are rejected, and which are accepted and repaired.

use super::*;
use crate::encoding::{field, nested};
use crate::proto::{
    AttributeProto, FLOAT, OperatorSetIdProto, TensorProto, TypeProto, ValueInfoProto,
};

/// Returns a network of one Conv with a 1x1 kernel, `y = Conv(x, w, b)`.
fn tiny() -> ModelProto {
    let tensor = |name: &str, dims: Vec<i64>| TensorProto {
        name: name.to_owned(),
        data_type: FLOAT,
        raw_data: vec![0; 4 * dims.iter().product::<i64>() as usize],
        dims,
        ..TensorProto::default()
    };
    let value = |name: &str| ValueInfoProto {
        name: name.to_owned(),
        ..ValueInfoProto::default()
    };
    ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto {
            domain: String::new(),
            version: 17,
        }],
        graph: Some(GraphProto {
            node: vec![node("Conv", &["x", "w", "b"], "y")],
            initializer: vec![tensor("w", vec![2, 1, 1, 1]), tensor("b", vec![2])],
            input: vec![value("x")],
            output: vec![value("y")],
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    }
}

fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: op.to_owned(),
        input: inputs.iter().map(|name| (*name).to_owned()).collect(),
        output: vec![output.to_owned()],
        ..NodeProto::default()
    }
}

fn read(change: impl FnOnce(&mut ModelProto)) -> Result<Network, QuantizeError> {
    let mut model = tiny();
    change(&mut model);
    Network::read(&model.encode_to_vec())
}

fn graph(model: &mut ModelProto) -> &mut GraphProto {
    model.graph.as_mut().unwrap()
}

/// Adds an attribute called `value` to the Conv and returns the attribute.
fn attribute(model: &mut ModelProto) -> &mut AttributeProto {
    let attributes = &mut graph(model).node[0].attribute;
    attributes.push(AttributeProto {
        name: "value".to_owned(),
        ..AttributeProto::default()
    });
    attributes.last_mut().unwrap()
}

type Change<T = ModelProto> = fn(&mut T);

#[test]
fn files_that_cannot_be_quantized_are_rejected_by_name() {
    let cases: [(Change, &str); 20] = [
        (|m| m.graph = None, "no Conv and no Gemm"),
        (|m| graph(m).node.clear(), "no Conv and no Gemm"),
        (|m| graph(m).initializer.clear(), "no Conv and no Gemm"),
        (
            |m| graph(m).node.push(node("QuantizeLinear", &["y"], "z")),
            "quantized already: node `QuantizeLinear_1` is a QuantizeLinear",
        ),
        (
            |m| graph(m).node[0].op_type = "QLinearConv".to_owned(),
            "quantized already: node `QLinearConv_0`",
        ),
        (
            |m| graph(m).node[0].domain = "com.microsoft".to_owned(),
            "node `Conv_0` is a com.microsoft::Conv; expected an operator of ONNX's standard domain",
        ),
        (
            |m| {
                graph(m).node[0].attribute.push(AttributeProto {
                    name: "then_branch".to_owned(),
                    g: Some(vec![]),
                    ..AttributeProto::default()
                });
            },
            "node `Conv_0`: attribute `then_branch` holds a subgraph; expected a network without subgraphs",
        ),
        (|m| m.functions.push(vec![]), "the file defines functions"),
        (
            |m| graph(m).sparse_initializer.push(vec![]),
            "sparse initializers",
        ),
        (
            |m| graph(m).initializer[0].data_location = 1,
            "the tensor `w` has its elements in another file",
        ),
        (
            |m| m.opset_import[0].version = 12,
            "uses opset 12; expected opset 13 or later",
        ),
        (|m| m.opset_import.clear(), "uses opset 1;"),
        (
            |m| {
                m.opset_import[0].domain = "ai.onnx".to_owned();
                m.opset_import[0].version = 11;
            },
            "uses opset 11;",
        ),
        (
            |m| graph(m).initializer[0].raw_data.truncate(7),
            "tensor `w` has 7 bytes, expected 4 for each element of shape [2, 1, 1, 1]",
        ),
        (
            |m| graph(m).initializer[0].dims = vec![-2, -1, 1, 1],
            "expected 4 for each element of shape [-2, -1, 1, 1]",
        ),
        (
            |m| graph(m).node.insert(0, node("Relu", &["y"], "z")),
            "node `Relu_0` reads `y` before it is written",
        ),
        (
            |m| graph(m).node[0].input[0] = "y".to_owned(),
            "node `Conv_0` reads `y` before it is written",
        ),
        (
            |m| graph(m).node.push(node("Relu", &["x"], "y")),
            "value `y` is written twice",
        ),
        (
            |m| graph(m).node.push(node("Relu", &["x"], "w")),
            "value `w` is written twice",
        ),
        (
            |m| {
                let again = graph(m).initializer[0].clone();
                graph(m).initializer.push(again);
            },
            "initializer `w` has the name of another initializer",
        ),
    ];
    for (change, expected) in cases {
        let message = read(change).unwrap_err().to_string();
        assert!(message.contains(expected), "{expected}: {message}");
    }
    for bytes in [&b"not protobuf"[..], &[0xFF; 40], b"PK\x03\x04"] {
        let message = Network::read(bytes).unwrap_err().to_string();
        assert!(message.starts_with("not an ONNX file"), "{message}");
    }
    let whole = tiny().encode_to_vec();
    for length in 0..whole.len() {
        assert!(Network::read(&whole[..length]).is_err(), "{length}");
    }
}

#[test]
fn content_that_rewriting_would_lose_is_rejected_by_name() {
    let cases: [(Change, &str); 11] = [
        (
            |m| graph(m).quantization_annotation.push(vec![]),
            "the file holds quantization annotations; expected an fp32 network",
        ),
        (
            |m| graph(m).node[0].device_configurations.push(vec![]),
            "node `Conv_0` is divided among devices",
        ),
        (
            |m| {
                graph(m).input[0].r#type = Some(TypeProto {
                    opaque_type: Some(vec![]),
                    ..TypeProto::default()
                });
            },
            "value `x` is an opaque value",
        ),
        (
            |m| attribute(m).graphs.push(vec![]),
            "attribute `value` holds a subgraph",
        ),
        (
            |m| attribute(m).tensors.push(vec![]),
            "node `Conv_0`: attribute `value` holds a list of tensors",
        ),
        (
            |m| attribute(m).sparse_tensor = Some(vec![]),
            "attribute `value` holds a sparse tensor",
        ),
        (
            |m| {
                attribute(m).t = Some(TensorProto {
                    double_data: vec![0.5],
                    ..TensorProto::default()
                });
            },
            "attribute `value` has its elements in `double_data`",
        ),
        (
            |m| graph(m).initializer[1].double_data.push(0.5),
            "initializer `b` has its elements in `double_data`; expected `raw_data`",
        ),
        (
            |m| graph(m).initializer[1].uint64_data.push(1),
            "initializer `b` has its elements in `uint64_data`",
        ),
        (
            |m| graph(m).initializer[1].string_data.push(vec![]),
            "initializer `b` has its elements in `string_data`",
        ),
        (
            |m| {
                graph(m).input[0].r#type = Some(TypeProto {
                    sequence_type: Some(vec![]),
                    ..TypeProto::default()
                });
            },
            "value `x` is a sequence; expected a dense tensor",
        ),
    ];
    for (change, expected) in cases {
        let message = read(change).unwrap_err().to_string();
        assert!(message.contains(expected), "{expected}: {message}");
    }
}

#[test]
fn other_nodes_are_not_layers() {
    let cases: [Change; 6] = [
        // A bias of shape `[2, 1]` instead of `[2]`, as a Gemm may broadcast it.
        |m| graph(m).initializer[1].dims = vec![2, 1],
        |m| graph(m).initializer[0].dims = vec![2, 1, 1],
        |m| graph(m).node[0].op_type = "ConvTranspose".to_owned(),
        |m| graph(m).node[0].output.clear(),
        |m| graph(m).node[0].input.truncate(1),
        // A weight without elements, the product of whose other sizes would overflow.
        |m| {
            let weight = &mut graph(m).initializer[0];
            weight.dims = vec![0, i64::MAX, i64::MAX, 1];
            weight.raw_data.clear();
        },
    ];
    for (index, change) in cases.into_iter().enumerate() {
        let error = read(change).unwrap_err();
        assert!(matches!(error, QuantizeError::NoLayers), "{index}: {error}");
    }
}

#[test]
fn nodes_get_unique_names() {
    let network = read(|m| {
        let nodes = &mut graph(m).node;
        nodes[0].name = "conv".to_owned();
        nodes.push(node("Conv", &["y", "w"], "z"));
        nodes.push(node("Conv", &["z", "w"], "u"));
        nodes[2].name = "conv".to_owned();
        nodes.push(node("Relu", &["u"], "v"));
        nodes[3].name = "Conv_1".to_owned();
    });
    let network = network.unwrap();
    let names: Vec<&str> = network.layers().iter().map(|l| l.name.as_str()).collect();
    assert_eq!(names, ["conv", "Conv_1_", "Conv_2"]);
}

#[test]
fn initializers_are_not_inputs() {
    let network = read(|m| {
        let listed = ["w", "b"].map(|name| ValueInfoProto {
            name: name.to_owned(),
            ..ValueInfoProto::default()
        });
        graph(m).input.extend(listed);
    });
    let network = network.unwrap();
    assert_eq!(network.inputs().collect::<Vec<_>>(), ["x"]);
    let int8 = quantized(&network, &recipe(&network, &[]), Target::Vnni);
    assert_eq!(int8.input.len(), 1);
}

#[test]
fn recipes_of_another_network_are_rejected() {
    let network = read(|_| ()).unwrap();
    let whole = recipe(&network, &[]);
    let cases: [(Change<Recipe>, &str); 3] = [
        (|r| r.ranges.clear(), "no activation range for `x`"),
        (
            |r| r.ranges.retain(|name, _| name != "y"),
            "no activation range for `y`",
        ),
        (
            |r| r.float_layers.extend(["Conv_7".to_owned()]),
            "no layer `Conv_7`",
        ),
    ];
    for (change, expected) in cases {
        let mut recipe = whole.clone();
        change(&mut recipe);
        let message = network
            .quantize(&recipe, Target::Vnni)
            .unwrap_err()
            .to_string();
        assert!(message.contains(expected), "{expected}: {message}");
    }
    // Activation ranges of unknown values, and channel means and weight scales of another length
    // than the number of channels, are ignored.
    let mut other = whole.clone();
    let range = other.ranges["x"];
    other.ranges.insert("z".to_owned(), range);
    other.channel_means.insert("x".to_owned(), vec![1.0; 5]);
    other.weight_scales.insert("w".to_owned(), vec![1.0; 5]);
    let bytes = |recipe| network.quantize(recipe, Target::Vnni).unwrap();
    assert_eq!(bytes(&other), bytes(&whole));
}

#[test]
fn invalid_groups_do_not_panic() {
    for group in [0, -1, i64::MAX, 1 << 62] {
        let network = read(|m| {
            graph(m).initializer[0].dims = vec![1, 2, 1, 1];
            graph(m).initializer[1].dims = vec![1];
            graph(m).initializer[1].raw_data.truncate(4);
            graph(m).node[0].attribute.push(AttributeProto {
                name: "group".to_owned(),
                i: Some(group),
                ..AttributeProto::default()
            });
        });
        let network = network.unwrap();
        let mut recipe = recipe(&network, &[]);
        for means in [vec![], vec![1.0; 2]] {
            recipe.channel_means.insert("x".to_owned(), means);
            assert!(network.quantize(&recipe, Target::Avx2).is_ok(), "{group}");
        }
    }
}

#[test]
fn names_of_added_values_must_be_free() {
    for taken in ["x_s", "w_q", "Conv_0_bias_s", "u8_127"] {
        let network = read(|m| graph(m).node.push(node("Relu", &["x"], taken))).unwrap();
        let error = network.quantize(&recipe(&network, &[]), Target::Vnni);
        let message = error.unwrap_err().to_string();
        assert!(message.contains(taken), "{message}");
    }
}

#[test]
fn fields_that_rewriting_would_lose_are_rejected() {
    let mut file = tiny().encode_to_vec();
    file.extend(nested(&[7, 1], field(37, b"")));
    let message = Network::read(&file).unwrap_err().to_string();
    assert!(
        message.starts_with("field 37 of graph.node[0] is unknown"),
        "{message}"
    );
}

#[test]
fn descriptions_and_types_of_remaining_values_are_kept() {
    let info = |name: &str| ValueInfoProto {
        name: name.to_owned(),
        doc_string: "described".to_owned(),
        ..ValueInfoProto::default()
    };
    let entry = vec![field(1, b"key")];
    let network = read(|m| {
        m.configuration.push(field(1, b"two CPUs"));
        graph(m).node.push(node("Relu", &["y"], "z"));
        graph(m).output[0].name = "z".to_owned();
        graph(m).node[0].doc_string = "described".to_owned();
        graph(m).node[0].metadata_props.clone_from(&entry);
        graph(m).doc_string = "described".to_owned();
        graph(m).metadata_props.clone_from(&entry);
        // The int8 network has no constant `w`, and its constant `u8_0` is not the value of that name.
        graph(m).value_info = ["y", "w", "u8_0"].map(info).into();
    });
    let network = network.unwrap();
    let bytes = network
        .quantize(&recipe(&network, &[]), Target::Vnni)
        .unwrap();
    let model = ModelProto::decode(&bytes[..]).unwrap();
    assert_eq!(model.configuration.len(), 1);
    let graph = model.graph.unwrap();
    assert_eq!(
        (&*graph.doc_string, &graph.metadata_props),
        ("described", &entry)
    );
    let conv = graph
        .node
        .iter()
        .find(|node| node.op_type == "Conv")
        .unwrap();
    assert_eq!(
        (&*conv.doc_string, &conv.metadata_props),
        ("described", &entry)
    );
    assert_eq!(graph.value_info, [info("y")]);
}
