//! ONNX's protobuf schema, as far as this crate reads and writes it.
//!
//! The messages have the names and fields of `onnx.proto3`. A message whose fields this crate does not use is
//! kept as its encoded bytes, so that a program that rewrites a file can detect the message and does not lose
//! it.
//!
//! Every field of ONNX IR versions 3 to 14 survives being decoded and encoded. Decoding drops fields of later
//! versions, so a program that rewrites a file of another author must first call [`reject_unknown_fields`].
//!
//! Source: field numbers and types of `onnx.proto3` (ONNX IR specification, versions 3 to 14).

mod attr;
#[cfg(test)]
mod tests;
mod types;
mod unknown;

use std::collections::HashSet;

use prost::Message;

pub use attr::Attr;
pub use types::{DimensionProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto};
pub use unknown::{UnknownFieldError, reject_unknown_fields};

/// `ModelProto`: an ONNX file.
#[derive(Clone, PartialEq, Message)]
pub struct ModelProto {
    /// Version of the ONNX IR specification.
    #[prost(int64, tag = "1")]
    pub ir_version: i64,
    /// Name of the tool that wrote the file.
    #[prost(string, tag = "2")]
    pub producer_name: String,
    /// Version of the tool that wrote the file.
    #[prost(string, tag = "3")]
    pub producer_version: String,
    /// Domain of the model, in reverse-DNS notation.
    #[prost(string, tag = "4")]
    pub domain: String,
    /// Version of the model.
    #[prost(int64, tag = "5")]
    pub model_version: i64,
    /// Description of the model.
    #[prost(string, tag = "6")]
    pub doc_string: String,
    /// Graph of nodes that the model computes. Every valid file has one.
    #[prost(message, optional, tag = "7")]
    pub graph: Option<GraphProto>,
    /// Operator sets, with their versions, to which the operators of the nodes belong.
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSetIdProto>,
    /// Metadata of the model, as pairs of key and value.
    #[prost(message, repeated, tag = "14")]
    pub metadata_props: Vec<StringStringEntryProto>,
    /// Encoded `TrainingInfoProto`s.
    #[prost(bytes = "vec", repeated, tag = "20")]
    pub training_info: Vec<Vec<u8>>,
    /// Encoded `FunctionProto`s: operators defined in the file.
    #[prost(bytes = "vec", repeated, tag = "25")]
    pub functions: Vec<Vec<u8>>,
    /// Encoded `DeviceConfigurationProto`s: sets of devices on which nodes can run.
    #[prost(bytes = "vec", repeated, tag = "26")]
    pub configuration: Vec<Vec<u8>>,
}

/// `OperatorSetIdProto`: an operator set and its version.
#[derive(Clone, PartialEq, Message)]
pub struct OperatorSetIdProto {
    /// Domain of the operators; empty for ONNX's own.
    #[prost(string, tag = "1")]
    pub domain: String,
    /// Version of the operator set.
    #[prost(int64, tag = "2")]
    pub version: i64,
}

/// `StringStringEntryProto`: a pair of key and value.
#[derive(Clone, PartialEq, Message)]
pub struct StringStringEntryProto {
    /// Key of the pair.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Value of the pair.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// `GraphProto`: nodes in topological order, constants, inputs and outputs.
#[derive(Clone, PartialEq, Message)]
pub struct GraphProto {
    /// Operator calls, each after the nodes whose outputs it reads.
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<NodeProto>,
    /// Name of the graph.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Constant tensors, such as weights.
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<TensorProto>,
    /// Description of the graph.
    #[prost(string, tag = "10")]
    pub doc_string: String,
    /// Inputs of the graph.
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfoProto>,
    /// Outputs of the graph.
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfoProto>,
    /// Types of values between the nodes. Runtimes derive the types that are left out.
    #[prost(message, repeated, tag = "13")]
    pub value_info: Vec<ValueInfoProto>,
    /// Encoded `TensorAnnotation`s: names of the initializers that hold scales and zero points of values.
    #[prost(bytes = "vec", repeated, tag = "14")]
    pub quantization_annotation: Vec<Vec<u8>>,
    /// Encoded `SparseTensorProto`s: sparse constants.
    #[prost(bytes = "vec", repeated, tag = "15")]
    pub sparse_initializer: Vec<Vec<u8>>,
    /// Encoded `StringStringEntryProto`s: metadata of the graph.
    #[prost(bytes = "vec", repeated, tag = "16")]
    pub metadata_props: Vec<Vec<u8>>,
}

/// `NodeProto`: an operator call.
#[derive(Clone, PartialEq, Message)]
pub struct NodeProto {
    /// Names of the operands; an empty name stands for an optional operand that is left out.
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    /// Names of the results; an empty name stands for an optional result that is left out.
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    /// Name of the node; may be empty.
    #[prost(string, tag = "3")]
    pub name: String,
    /// Name of the operator, such as `Conv`.
    #[prost(string, tag = "4")]
    pub op_type: String,
    /// Attributes of the operator.
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<AttributeProto>,
    /// Description of the node.
    #[prost(string, tag = "6")]
    pub doc_string: String,
    /// Domain of the operator; empty for ONNX's own.
    #[prost(string, tag = "7")]
    pub domain: String,
    /// Overload of the function that the node calls; empty for operators.
    #[prost(string, tag = "8")]
    pub overload: String,
    /// Encoded `StringStringEntryProto`s: metadata of the node.
    #[prost(bytes = "vec", repeated, tag = "9")]
    pub metadata_props: Vec<Vec<u8>>,
    /// Encoded `NodeDeviceConfigurationProto`s: how the node is divided among devices.
    #[prost(bytes = "vec", repeated, tag = "10")]
    pub device_configurations: Vec<Vec<u8>>,
}

/// `AttributeProto`: a named constant of a node. The scalar fields are `Option`s, since protobuf
/// omits a plain scalar field whose value is 0.
#[derive(Clone, PartialEq, Message)]
pub struct AttributeProto {
    /// Name of the attribute, such as `kernel_shape`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The value of a FLOAT attribute.
    #[prost(float, optional, tag = "2")]
    pub f: Option<f32>,
    /// The value of an INT attribute.
    #[prost(int64, optional, tag = "3")]
    pub i: Option<i64>,
    /// The value of a STRING attribute.
    #[prost(bytes = "vec", optional, tag = "4")]
    pub s: Option<Vec<u8>>,
    /// The value of a TENSOR attribute.
    #[prost(message, optional, tag = "5")]
    pub t: Option<TensorProto>,
    /// The encoded value of a GRAPH attribute: the body of a branch or a loop.
    #[prost(bytes = "vec", optional, tag = "6")]
    pub g: Option<Vec<u8>>,
    /// The values of a FLOATS attribute.
    #[prost(float, repeated, packed = "false", tag = "7")]
    pub floats: Vec<f32>,
    /// The values of an INTS attribute.
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub ints: Vec<i64>,
    /// The values of a STRINGS attribute.
    #[prost(bytes = "vec", repeated, tag = "9")]
    pub strings: Vec<Vec<u8>>,
    /// The encoded values of a TENSORS attribute.
    #[prost(bytes = "vec", repeated, tag = "10")]
    pub tensors: Vec<Vec<u8>>,
    /// The encoded values of a GRAPHS attribute.
    #[prost(bytes = "vec", repeated, tag = "11")]
    pub graphs: Vec<Vec<u8>>,
    /// Description of the attribute.
    #[prost(string, tag = "13")]
    pub doc_string: String,
    /// The encoded value of a `TYPE_PROTO` attribute.
    #[prost(bytes = "vec", optional, tag = "14")]
    pub tp: Option<Vec<u8>>,
    /// The encoded values of a `TYPE_PROTOS` attribute.
    #[prost(bytes = "vec", repeated, tag = "15")]
    pub type_protos: Vec<Vec<u8>>,
    /// Code of the attribute's type (`AttributeType`), such as 2 for INT. It says which field holds
    /// the value.
    #[prost(int32, tag = "20")]
    pub r#type: i32,
    /// In the body of a function, the name of the function's attribute that supplies the value; empty
    /// elsewhere.
    #[prost(string, tag = "21")]
    pub ref_attr_name: String,
    /// The encoded value of a `SPARSE_TENSOR` attribute.
    #[prost(bytes = "vec", optional, tag = "22")]
    pub sparse_tensor: Option<Vec<u8>>,
    /// The encoded values of a `SPARSE_TENSORS` attribute.
    #[prost(bytes = "vec", repeated, tag = "23")]
    pub sparse_tensors: Vec<Vec<u8>>,
}

/// `TensorProto`: a constant tensor. This crate writes elements into `raw_data`.
#[derive(Clone, PartialEq, Message)]
pub struct TensorProto {
    /// Sizes of the axes, outermost axis first.
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub dims: Vec<i64>,
    /// `DataType` of the elements, such as [`FLOAT`].
    #[prost(int32, tag = "2")]
    pub data_type: i32,
    /// Encoded `Segment`: the part of a larger tensor that this message holds.
    #[prost(bytes = "vec", optional, tag = "3")]
    pub segment: Option<Vec<u8>>,
    /// Elements of a float32 tensor without `raw_data`.
    #[prost(float, repeated, tag = "4")]
    pub float_data: Vec<f32>,
    /// Elements of a tensor without `raw_data` whose data type is bool, float16, or an integer type
    /// that fits in an int32, such as int8 or uint16.
    #[prost(int32, repeated, tag = "5")]
    pub int32_data: Vec<i32>,
    /// Elements of a string tensor.
    #[prost(bytes = "vec", repeated, tag = "6")]
    pub string_data: Vec<Vec<u8>>,
    /// Elements of an int64 tensor without `raw_data`.
    #[prost(int64, repeated, tag = "7")]
    pub int64_data: Vec<i64>,
    /// Name of the tensor.
    #[prost(string, tag = "8")]
    pub name: String,
    /// Elements in C order as little-endian bytes; empty if the elements are in another field or
    /// another file.
    #[prost(bytes = "vec", tag = "9")]
    pub raw_data: Vec<u8>,
    /// Elements of a float64 tensor without `raw_data`.
    #[prost(double, repeated, tag = "10")]
    pub double_data: Vec<f64>,
    /// Elements of a uint32 or uint64 tensor without `raw_data`.
    #[prost(uint64, repeated, tag = "11")]
    pub uint64_data: Vec<u64>,
    /// Description of the tensor.
    #[prost(string, tag = "12")]
    pub doc_string: String,
    /// Location of the elements in another file, as pairs of key and value.
    #[prost(message, repeated, tag = "13")]
    pub external_data: Vec<StringStringEntryProto>,
    /// `DataLocation`: 0 if the elements are in this message, 1 if they are in another file.
    #[prost(int32, tag = "14")]
    pub data_location: i32,
    /// Encoded `StringStringEntryProto`s: metadata of the tensor.
    #[prost(bytes = "vec", repeated, tag = "16")]
    pub metadata_props: Vec<Vec<u8>>,
}

/// `TensorProto.DataType.FLOAT`: float32.
pub const FLOAT: i32 = 1;
/// `TensorProto.DataType.UINT8`.
pub const UINT8: i32 = 2;
/// `TensorProto.DataType.INT8`.
pub const INT8: i32 = 3;
/// `TensorProto.DataType.INT32`.
pub const INT32: i32 = 6;
/// `TensorProto.DataType.INT64`.
pub const INT64: i32 = 7;
/// `TensorProto.DataType.BOOL`.
pub const BOOL: i32 = 9;

impl GraphProto {
    /// Removes every initializer that no node reads and that is not an output of the graph.
    pub fn drop_unread_initializers(&mut self) {
        let operands = self.node.iter().flat_map(|node| &node.input);
        let outputs = self.output.iter().map(|output| &output.name);
        let read: HashSet<&String> = operands.chain(outputs).collect();
        self.initializer
            .retain(|tensor| read.contains(&tensor.name));
    }
}

impl NodeProto {
    /// Returns the attribute `name`. `None` if the node does not set it.
    pub fn attribute(&self, name: &str) -> Option<&AttributeProto> {
        let mut attributes = self.attribute.iter();
        attributes.find(|attribute| attribute.name == name)
    }
}
