//! The part of ONNX's protobuf schema that Sightline reads and writes, and the encoding of a
//! [`Graph`]. Nothing else in the crate knows protobuf.
//!
//! Source: field numbers and types of `onnx.proto3` (ONNX IR specification, version 10).

use std::collections::HashSet;

use prost::Message;

use crate::graph::{Attr, Data, Dim, Element, Graph, Initializer, Node, Value};

/// `ModelProto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ModelProto {
    #[prost(int64, tag = "1")]
    pub(crate) ir_version: i64,
    #[prost(string, tag = "2")]
    pub(crate) producer_name: String,
    #[prost(string, tag = "3")]
    pub(crate) producer_version: String,
    #[prost(string, tag = "6")]
    pub(crate) doc_string: String,
    #[prost(string, tag = "4")]
    pub(crate) domain: String,
    #[prost(int64, tag = "5")]
    pub(crate) model_version: i64,
    #[prost(message, optional, tag = "7")]
    pub(crate) graph: Option<GraphProto>,
    #[prost(message, repeated, tag = "8")]
    pub(crate) opset_import: Vec<OperatorSetIdProto>,
    #[prost(message, repeated, tag = "14")]
    pub(crate) metadata_props: Vec<StringStringEntryProto>,
    /// `FunctionProto`s, unread: their presence is what matters.
    #[prost(bytes = "vec", repeated, tag = "25")]
    pub(crate) functions: Vec<Vec<u8>>,
}

/// `OperatorSetIdProto`; the empty domain is ONNX's own.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct OperatorSetIdProto {
    #[prost(string, tag = "1")]
    pub(crate) domain: String,
    #[prost(int64, tag = "2")]
    pub(crate) version: i64,
}

/// `StringStringEntryProto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct StringStringEntryProto {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
}

/// `GraphProto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    pub(crate) node: Vec<NodeProto>,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(message, repeated, tag = "5")]
    pub(crate) initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    pub(crate) input: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "12")]
    pub(crate) output: Vec<ValueInfoProto>,
    /// `SparseTensorProto`s, unread: their presence is what matters.
    #[prost(bytes = "vec", repeated, tag = "15")]
    pub(crate) sparse_initializer: Vec<Vec<u8>>,
}

/// `NodeProto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct NodeProto {
    #[prost(string, repeated, tag = "1")]
    pub(crate) input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(crate) output: Vec<String>,
    #[prost(string, tag = "3")]
    pub(crate) name: String,
    #[prost(string, tag = "4")]
    pub(crate) op_type: String,
    #[prost(message, repeated, tag = "5")]
    pub(crate) attribute: Vec<AttributeProto>,
    #[prost(string, tag = "7")]
    pub(crate) domain: String,
}

/// `AttributeProto`; the scalar fields are optional so that a zero is still written.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct AttributeProto {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(float, optional, tag = "2")]
    pub(crate) f: Option<f32>,
    #[prost(int64, optional, tag = "3")]
    pub(crate) i: Option<i64>,
    #[prost(bytes = "vec", optional, tag = "4")]
    pub(crate) s: Option<Vec<u8>>,
    #[prost(message, optional, tag = "5")]
    pub(crate) t: Option<TensorProto>,
    /// A `GraphProto`, unread: its presence is what matters.
    #[prost(bytes = "vec", optional, tag = "6")]
    pub(crate) g: Option<Vec<u8>>,
    #[prost(float, repeated, packed = "false", tag = "7")]
    pub(crate) floats: Vec<f32>,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub(crate) ints: Vec<i64>,
    #[prost(bytes = "vec", repeated, tag = "9")]
    pub(crate) strings: Vec<Vec<u8>>,
    #[prost(int32, tag = "20")]
    pub(crate) r#type: i32,
}

/// `TensorProto`; Sightline writes elements into `raw_data`, little-endian.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TensorProto {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub(crate) dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    pub(crate) data_type: i32,
    #[prost(float, repeated, tag = "4")]
    pub(crate) float_data: Vec<f32>,
    #[prost(int32, repeated, tag = "5")]
    pub(crate) int32_data: Vec<i32>,
    #[prost(int64, repeated, tag = "7")]
    pub(crate) int64_data: Vec<i64>,
    #[prost(string, tag = "8")]
    pub(crate) name: String,
    #[prost(bytes = "vec", tag = "9")]
    pub(crate) raw_data: Vec<u8>,
    /// `DataLocation`: 1 is another file.
    #[prost(int32, tag = "14")]
    pub(crate) data_location: i32,
}

/// `ValueInfoProto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ValueInfoProto {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) r#type: Option<TypeProto>,
}

/// `TypeProto`, tensors only.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TypeProto {
    #[prost(message, optional, tag = "1")]
    pub(crate) tensor_type: Option<TensorTypeProto>,
}

/// `TypeProto.Tensor`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TensorTypeProto {
    #[prost(int32, tag = "1")]
    pub(crate) elem_type: i32,
    #[prost(message, optional, tag = "2")]
    pub(crate) shape: Option<TensorShapeProto>,
}

/// `TensorShapeProto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TensorShapeProto {
    #[prost(message, repeated, tag = "1")]
    pub(crate) dim: Vec<DimensionProto>,
}

/// `TensorShapeProto.Dimension`: a number or a name.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct DimensionProto {
    #[prost(int64, optional, tag = "1")]
    pub(crate) dim_value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    pub(crate) dim_param: Option<String>,
}

/// `TensorProto.DataType.FLOAT`.
pub(crate) const FLOAT: i32 = 1;
/// `TensorProto.DataType.UINT8`.
pub(crate) const UINT8: i32 = 2;
/// `TensorProto.DataType.INT8`.
pub(crate) const INT8: i32 = 3;
/// `TensorProto.DataType.INT32`.
pub(crate) const INT32: i32 = 6;
/// `TensorProto.DataType.INT64`.
pub(crate) const INT64: i32 = 7;
/// `TensorProto.DataType.BOOL`.
const BOOL: i32 = 9;

impl GraphProto {
    /// Takes out the constants that no node reads and that are no outputs.
    pub(crate) fn drop_unread_constants(&mut self) {
        let operands = self.node.iter().flat_map(|node| &node.input);
        let outputs = self.output.iter().map(|output| &output.name);
        let read: HashSet<&String> = operands.chain(outputs).collect();
        self.initializer
            .retain(|tensor| read.contains(&tensor.name));
    }
}

impl NodeProto {
    /// The attribute `name`.
    pub(crate) fn attribute(&self, name: &str) -> Option<&AttributeProto> {
        let mut attributes = self.attribute.iter();
        attributes.find(|attribute| attribute.name == name)
    }
}

impl From<&(&'static str, Attr)> for AttributeProto {
    fn from((name, attr): &(&'static str, Attr)) -> Self {
        let mut proto = Self {
            name: (*name).to_owned(),
            ..Self::default()
        };
        // `AttributeProto.AttributeType`: FLOAT 1, INT 2, STRING 3, INTS 7.
        match attr {
            Attr::Float(value) => (proto.f, proto.r#type) = (Some(*value), 1),
            Attr::Int(value) => (proto.i, proto.r#type) = (Some(*value), 2),
            Attr::Text(text) => (proto.s, proto.r#type) = (Some(text.as_bytes().to_vec()), 3),
            Attr::Ints(values) => (proto.ints, proto.r#type) = (values.clone(), 7),
        }
        proto
    }
}

/// The graph as a `GraphProto` named `name`.
pub(crate) fn graph_proto(graph: &Graph, name: &str) -> GraphProto {
    let values = |list: &[Value]| {
        list.iter()
            .map(|value| value_info(graph, *value))
            .collect::<Vec<_>>()
    };
    GraphProto {
        node: graph
            .nodes()
            .iter()
            .map(|node| node_proto(graph, node))
            .collect(),
        name: name.to_owned(),
        initializer: initializers(graph),
        input: values(graph.inputs()),
        output: values(graph.outputs()),
        sparse_initializer: Vec::new(),
    }
}

fn node_proto(graph: &Graph, node: &Node) -> NodeProto {
    let name = |value: &Value| graph.info(*value).name.clone();
    NodeProto {
        input: node.inputs.iter().map(name).collect(),
        output: node.outputs.iter().map(name).collect(),
        name: node.name.clone(),
        op_type: node.op.to_owned(),
        attribute: node.attrs.iter().map(AttributeProto::from).collect(),
        domain: String::new(),
    }
}

fn initializers(graph: &Graph) -> Vec<TensorProto> {
    let dims = |value| {
        let fixed = graph.shape(value).iter().filter_map(|dim| match dim {
            Dim::Fixed(size) => Some(*size as i64),
            Dim::Dynamic(_) => None,
        });
        fixed.collect()
    };
    let tensor = |initializer: &Initializer| {
        let (data_type, raw_data) = match &initializer.data {
            Data::F32(data) => (FLOAT, data.iter().flat_map(|v| v.to_le_bytes()).collect()),
            Data::I64(data) => (INT64, data.iter().flat_map(|v| v.to_le_bytes()).collect()),
        };
        let name = graph.info(initializer.value).name.clone();
        TensorProto {
            dims: dims(initializer.value),
            data_type,
            name,
            raw_data,
            ..TensorProto::default()
        }
    };
    graph.initializers().iter().map(tensor).collect()
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
    let kind = TypeProto {
        tensor_type: Some(tensor),
    };
    ValueInfoProto {
        name: graph.info(value).name.clone(),
        r#type: Some(kind),
    }
}
