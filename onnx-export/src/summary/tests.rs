use prost::Message;

use super::*;
use crate::proto::{
    DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};

fn value(name: &str, elem_type: i32, axes: &[i64]) -> ValueInfoProto {
    let dim = |(index, size): (usize, &i64)| match size {
        0 => DimensionProto {
            dim_param: Some(format!("axis_{index}")),
            ..DimensionProto::default()
        },
        size => DimensionProto {
            dim_value: Some(*size),
            ..DimensionProto::default()
        },
    };
    let shape = TensorShapeProto {
        dim: axes.iter().enumerate().map(dim).collect(),
    };
    let tensor_type = TensorTypeProto {
        elem_type,
        shape: Some(shape),
    };
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            tensor_type: Some(tensor_type),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}

fn node(op_type: &str, input: &str, output: &str) -> NodeProto {
    NodeProto {
        op_type: op_type.to_owned(),
        input: vec![input.to_owned()],
        output: vec![output.to_owned()],
        ..NodeProto::default()
    }
}

fn initializer(name: &str, data_type: i32, dims: &[i64]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        data_type,
        dims: dims.to_vec(),
        ..TensorProto::default()
    }
}

fn model() -> ModelProto {
    let graph = GraphProto {
        node: vec![
            node("Conv", "images", "a"),
            node("Conv", "a", "b"),
            node("Softmax", "b", "c"),
            node("Flatten", "c", "d"),
            node("Identity", "d", "probs"),
        ],
        initializer: vec![
            initializer("w", 1, &[4, 3]),
            initializer("v", 3, &[5]),
            initializer("shape", 7, &[2]),
        ],
        input: vec![value("images", 1, &[0, 3, 8, -1]), value("w", 1, &[4, 3])],
        output: vec![value("probs", 1, &[0, 10])],
        ..GraphProto::default()
    };
    ModelProto {
        ir_version: 3,
        producer_name: "pytorch".to_owned(),
        producer_version: "2.4.0".to_owned(),
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto {
            domain: String::new(),
            version: 17,
        }],
        metadata_props: vec![StringStringEntryProto {
            key: "Image.BitmapPixelFormat".to_owned(),
            value: "Bgr8".to_owned(),
        }],
        ..ModelProto::default()
    }
}

#[test]
fn a_file_is_summarized() {
    let summary = Summary::read(&model().encode_to_vec()).unwrap();
    assert_eq!(summary.ir_version, 3);
    assert_eq!(summary.producer, "pytorch 2.4.0");
    assert_eq!(summary.opsets, [(String::new(), 17)]);
    assert_eq!((summary.parameters, summary.nodes), (17, 5));
    assert_eq!(summary.operators["Conv"], 2);
    // The input `w` is an initializer.
    let [input] = &summary.inputs[..] else {
        panic!("{:?}", summary.inputs);
    };
    let tensor = input.tensor.as_ref().unwrap().to_string();
    assert_eq!(tensor, "float32 [axis_0, 3, 8, ?]");
    assert_eq!(summary.outputs[0].trail, ["Identity", "Flatten", "Softmax"]);
    let metadata = ("the metadata entry `Image.BitmapPixelFormat`", "Bgr8");
    let (place, text) = &summary.texts[0];
    assert_eq!((place.as_str(), text.as_str()), metadata);
}

#[test]
fn outputs_without_a_known_origin_have_short_trails() {
    let mut model = model();
    let graph = model.graph.as_mut().unwrap();
    // A cycle, which is invalid, must not make the search endless.
    graph.node = vec![node("Identity", "probs", "probs")];
    let summary = Summary::read(&model.encode_to_vec()).unwrap();
    assert_eq!(summary.outputs[0].trail.len(), 16);

    graph_of(&mut model).node = vec![node("Relu", "images", "other")];
    let summary = Summary::read(&model.encode_to_vec()).unwrap();
    assert!(summary.outputs[0].trail.is_empty());

    let mut own = node("Softmax", "b", "probs");
    own.domain = "com.example".to_owned();
    graph_of(&mut model).node = vec![own];
    let summary = Summary::read(&model.encode_to_vec()).unwrap();
    assert_eq!(summary.outputs[0].trail, ["com.example.Softmax"]);
}

fn graph_of(model: &mut ModelProto) -> &mut GraphProto {
    model.graph.as_mut().unwrap()
}

#[test]
fn other_files_are_not_summarized() {
    let no_graph = ModelProto {
        ir_version: 8,
        ..ModelProto::default()
    };
    for bytes in [
        b"".to_vec(),
        b"\x80\x02}q\0".to_vec(),
        no_graph.encode_to_vec(),
    ] {
        let shown = bytes.escape_ascii().to_string();
        assert!(Summary::read(&bytes).is_err(), "{shown}");
    }
}

#[test]
fn long_texts_are_cut_and_files_cut_anywhere_do_not_panic() {
    let mut long = model();
    let graph = long.graph.as_mut().unwrap();
    graph.input[0].name = "é".repeat(100_000);
    graph.input = vec![graph.input[0].clone(); 100];
    let summary = Summary::read(&long.encode_to_vec()).unwrap();
    assert_eq!(summary.inputs[0].name, "é".repeat(256));
    assert!(summary.texts.len() <= 66, "{}", summary.texts.len());

    let whole = model().encode_to_vec();
    for end in 0..whole.len() {
        let _ = Summary::read(&whole[..end]);
    }
}
