//! Encoding of a [`Graph`] as ONNX's protobuf messages.

use crate::graph::{Data, Dim, Element, Graph, Initializer, Node, Value};
use crate::proto::{
    AttributeProto, BOOL, DimensionProto, FLOAT, GraphProto, INT64, NodeProto, TensorProto,
    TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};

/// Returns `graph` as a `GraphProto` named `name`.
pub(crate) fn graph_proto(graph: &Graph, name: &str) -> GraphProto {
    let value_infos = |values: &[Value]| {
        let infos = values.iter().map(|value| value_info(graph, *value));
        infos.collect::<Vec<_>>()
    };
    let nodes = graph.nodes().iter();
    let initializers = graph.initializers().iter();
    GraphProto {
        node: nodes.map(|node| node_proto(graph, node)).collect(),
        name: name.to_owned(),
        initializer: initializers
            .map(|initializer| tensor_proto(graph, initializer))
            .collect(),
        input: value_infos(graph.inputs()),
        output: value_infos(graph.outputs()),
        ..GraphProto::default()
    }
}

fn node_proto(graph: &Graph, node: &Node) -> NodeProto {
    let name = |value: &Value| graph.info(*value).name.clone();
    let attributes = node.attrs.iter();
    NodeProto {
        input: node.inputs.iter().map(name).collect(),
        output: node.outputs.iter().map(name).collect(),
        name: node.name.clone(),
        op_type: node.op.to_owned(),
        attribute: attributes
            .map(|(name, value)| AttributeProto::new(name, value))
            .collect(),
        ..NodeProto::default()
    }
}

fn tensor_proto(graph: &Graph, initializer: &Initializer) -> TensorProto {
    let (data_type, raw_data) = match &initializer.data {
        Data::F32(data) => (FLOAT, data.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Data::I64(data) => (INT64, data.iter().flat_map(|v| v.to_le_bytes()).collect()),
    };
    let dims = graph.shape(initializer.value).iter();
    let dims = dims.filter_map(|dim| match dim {
        Dim::Fixed(size) => Some(*size as i64),
        Dim::Dynamic(_) => None,
    });
    TensorProto {
        dims: dims.collect(),
        data_type,
        name: graph.info(initializer.value).name.clone(),
        raw_data,
        ..TensorProto::default()
    }
}

fn value_info(graph: &Graph, value: Value) -> ValueInfoProto {
    let dim = |dim: &Dim| match dim {
        Dim::Fixed(size) => DimensionProto {
            dim_value: Some(*size as i64),
            ..DimensionProto::default()
        },
        Dim::Dynamic(_) => DimensionProto {
            dim_param: Some(graph.show_dim(*dim)),
            ..DimensionProto::default()
        },
    };
    let shape = TensorShapeProto {
        dim: graph.shape(value).iter().map(dim).collect(),
    };
    let tensor = TensorTypeProto {
        elem_type: match graph.info(value).element {
            Element::F32 => FLOAT,
            Element::I64 => INT64,
            Element::Bool => BOOL,
        },
        shape: Some(shape),
    };
    ValueInfoProto {
        name: graph.info(value).name.clone(),
        r#type: Some(TypeProto {
            tensor_type: Some(tensor),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}
