//! What is refused, and what is put right.

use super::*;
use crate::proto::{
    AttributeProto, FLOAT, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto,
};

/// `y = Conv(x, w, b)`, one channel of one pixel.
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
        r#type: None,
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

type Change<T = ModelProto> = fn(&mut T);

#[test]
fn what_cannot_be_quantised_says_why() {
    let cases: [(Change, &str); 20] = [
        (|m| m.graph = None, "no Conv and no Gemm"),
        (|m| graph(m).node.clear(), "no Conv and no Gemm"),
        (|m| graph(m).initializer.clear(), "no Conv and no Gemm"),
        (
            |m| graph(m).node.push(node("QuantizeLinear", &["y"], "z")),
            "quantised already: node `QuantizeLinear_1` is a QuantizeLinear",
        ),
        (
            |m| graph(m).node[0].op_type = "QLinearConv".to_owned(),
            "quantised already: node `QLinearConv_0`",
        ),
        (
            |m| graph(m).node[0].domain = "com.microsoft".to_owned(),
            "com.microsoft::Conv",
        ),
        (
            |m| {
                graph(m).node[0].attribute.push(AttributeProto {
                    name: "then_branch".to_owned(),
                    g: Some(vec![]),
                    ..AttributeProto::default()
                });
            },
            "with a graph inside",
        ),
        (|m| m.functions.push(vec![]), "functions"),
        (|m| graph(m).sparse_initializer.push(vec![]), "sparse"),
        (
            |m| graph(m).initializer[0].data_location = 1,
            "tensor `w`, kept in another file",
        ),
        (|m| m.opset_import[0].version = 12, "opset before 13"),
        (|m| m.opset_import.clear(), "opset before 13"),
        (
            |m| {
                m.opset_import[0].domain = "ai.onnx".to_owned();
                m.opset_import[0].version = 11;
            },
            "opset before 13",
        ),
        (
            |m| graph(m).initializer[0].raw_data.truncate(7),
            "tensor `w` of shape [2, 1, 1, 1] has 7 bytes",
        ),
        (
            |m| graph(m).initializer[0].dims = vec![-2, -1, 1, 1],
            "tensor `w` of shape [-2, -1, 1, 1]",
        ),
        (
            |m| graph(m).node.insert(0, node("Relu", &["y"], "z")),
            "reads `y` before it is written",
        ),
        (
            |m| graph(m).node[0].input[0] = "y".to_owned(),
            "reads `y` before it is written",
        ),
        (
            |m| graph(m).node.push(node("Relu", &["x"], "y")),
            "value `y`, which is written twice",
        ),
        (
            |m| graph(m).node.push(node("Relu", &["x"], "w")),
            "value `w`, which is written twice",
        ),
        (
            |m| {
                let again = graph(m).initializer[0].clone();
                graph(m).initializer.push(again);
            },
            "tensor `w`, which is there twice",
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
fn what_is_no_layer_stays_in_float() {
    let cases: [Change; 6] = [
        // One number for all channels is broadcast, in a Gemm.
        |m| graph(m).initializer[1].dims = vec![2, 1],
        |m| graph(m).initializer[0].dims = vec![2, 1, 1],
        |m| graph(m).node[0].op_type = "ConvTranspose".to_owned(),
        |m| graph(m).node[0].output.clear(),
        |m| graph(m).node[0].input.truncate(1),
        // Nothing at all, in a shape whose product would overflow.
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
fn nodes_get_names_of_their_own() {
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
fn constants_are_no_inputs() {
    let network = read(|m| {
        let listed = ["w", "b"].map(|name| ValueInfoProto {
            name: name.to_owned(),
            r#type: None,
        });
        graph(m).input.extend(listed);
    });
    let network = network.unwrap();
    assert_eq!(network.inputs().collect::<Vec<_>>(), ["x"]);
    let int8 = quantized(&network, &recipe(&network, &[]), Target::Vnni);
    assert_eq!(int8.input.len(), 1);
}

#[test]
fn recipes_of_another_network_are_refused() {
    let network = read(|_| ()).unwrap();
    let whole = recipe(&network, &[]);
    let cases: [(Change<Recipe>, &str); 3] = [
        (|r| r.ranges.clear(), "none is given for `x`"),
        (
            |r| r.ranges.retain(|name, _| name != "y"),
            "none is given for `y`",
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
    // Numbers for values that it has not, and means and scales that do not fit, change nothing.
    let mut other = whole.clone();
    let range = other.ranges["x"];
    other.ranges.insert("z".to_owned(), range);
    other.channel_means.insert("x".to_owned(), vec![1.0; 5]);
    other.weight_scales.insert("w".to_owned(), vec![1.0; 5]);
    let bytes = |recipe| network.quantize(recipe, Target::Vnni).unwrap();
    assert_eq!(bytes(&other), bytes(&whole));
}

#[test]
fn groups_beyond_all_sense_are_no_panic() {
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
fn names_that_are_taken_are_refused() {
    for taken in ["x_s", "w_q", "Conv_0_bias_s", "u8_127"] {
        let network = read(|m| graph(m).node.push(node("Relu", &["x"], taken))).unwrap();
        let error = network.quantize(&recipe(&network, &[]), Target::Vnni);
        let message = error.unwrap_err().to_string();
        assert!(message.contains(taken), "{message}");
    }
}
