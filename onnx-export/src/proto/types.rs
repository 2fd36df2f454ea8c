//! Messages that describe the types of values.

use prost::Message;

/// `ValueInfoProto`: the name and type of an input, an output or a value between nodes.
#[derive(Clone, PartialEq, Message)]
pub struct ValueInfoProto {
    /// Name of the value.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Type of the value.
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<TypeProto>,
    /// Description of the value.
    #[prost(string, tag = "3")]
    pub doc_string: String,
    /// Encoded `StringStringEntryProto`s: metadata of the value.
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub metadata_props: Vec<Vec<u8>>,
}

/// `TypeProto`: the type of a value. Exactly one field except `denotation` is set.
#[derive(Clone, PartialEq, Message)]
pub struct TypeProto {
    /// Data type and shape of a dense tensor.
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorTypeProto>,
    /// An encoded `TypeProto.Sequence`.
    #[prost(bytes = "vec", optional, tag = "4")]
    pub sequence_type: Option<Vec<u8>>,
    /// An encoded `TypeProto.Map`.
    #[prost(bytes = "vec", optional, tag = "5")]
    pub map_type: Option<Vec<u8>>,
    /// Meaning of the value, such as `IMAGE`; empty if it is not stated.
    #[prost(string, tag = "6")]
    pub denotation: String,
    /// An encoded `TypeProto.Opaque`.
    #[prost(bytes = "vec", optional, tag = "7")]
    pub opaque_type: Option<Vec<u8>>,
    /// An encoded `TypeProto.SparseTensor`.
    #[prost(bytes = "vec", optional, tag = "8")]
    pub sparse_tensor_type: Option<Vec<u8>>,
    /// An encoded `TypeProto.Optional`.
    #[prost(bytes = "vec", optional, tag = "9")]
    pub optional_type: Option<Vec<u8>>,
}

/// `TypeProto.Tensor`: data type and shape of a dense tensor.
#[derive(Clone, PartialEq, Message)]
pub struct TensorTypeProto {
    /// `DataType` of the elements, such as [`FLOAT`](super::FLOAT).
    #[prost(int32, tag = "1")]
    pub elem_type: i32,
    /// Shape of the tensor. `None` if the rank is unknown.
    #[prost(message, optional, tag = "2")]
    pub shape: Option<TensorShapeProto>,
}

/// `TensorShapeProto`: sizes, outermost axis first.
#[derive(Clone, PartialEq, Message)]
pub struct TensorShapeProto {
    /// The axes of the tensor, outermost first.
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<DimensionProto>,
}

/// `TensorShapeProto.Dimension`: one axis, with either a fixed size or the name of a dynamic size.
#[derive(Clone, PartialEq, Message)]
pub struct DimensionProto {
    /// The size of an axis of fixed size. `None` if the axis is dynamic.
    #[prost(int64, optional, tag = "1")]
    pub dim_value: Option<i64>,
    /// The name of a dynamic axis, whose size is known only when the model runs. `None` if the axis has a fixed size.
    #[prost(string, optional, tag = "2")]
    pub dim_param: Option<String>,
    /// Meaning of the axis, such as `DATA_BATCH`; empty if it is not stated.
    #[prost(string, tag = "3")]
    pub denotation: String,
}
