//! The parts of a graph: values, nodes, attributes and constant tensors.

use super::Dim;
use crate::proto::Attr;

/// The shape of a value, outermost axis first.
pub type Shape = Vec<Dim>;

/// A handle to a value of a [`Graph`](super::Graph): an input, a weight or the output of a node.
///
/// A handle is valid only for the graph that returned it. Methods of another graph take it for an
/// unrelated value or panic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Value(pub(super) u32);

impl Value {
    /// Returns the value's position in the graph's list of values.
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// Name, shape and data type of a value.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ValueInfo {
    /// ONNX name, unique in the graph.
    pub name: String,
    /// Shape, outermost axis first.
    pub shape: Shape,
    /// Data type of the elements.
    pub element: Element,
    /// State dict path of the module that computes the value; empty for inputs and constants.
    pub(super) scope: String,
}

/// The data type of a value's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Element {
    /// ONNX `FLOAT`, 32 bits.
    F32,
    /// ONNX `INT64`.
    I64,
    /// ONNX `BOOL`, the result of comparisons.
    Bool,
}

impl Element {
    /// Returns the name of the data type for error messages.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::I64 => "i64",
            Self::Bool => "bool",
        }
    }
}

/// Attributes of a node, as pairs of name and value.
pub(crate) type Attrs = Vec<(&'static str, Attr)>;

/// A node: one call of an ONNX operator.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Node {
    /// Name of the ONNX operator, such as `Conv`.
    pub op: &'static str,
    /// Path-like name, such as `/features/0/0/Conv`, unique in the graph.
    pub name: String,
    /// Handles of the operands, in the order of the operator's specification.
    pub inputs: Vec<Value>,
    /// Handles of the results, in the order of the operator's specification.
    pub outputs: Vec<Value>,
    /// Attributes, as pairs of name and value.
    pub attrs: Vec<(&'static str, Attr)>,
}

/// A constant tensor.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Initializer {
    /// Handle of the tensor. [`Graph::info`](super::Graph::info) returns its name, shape and data
    /// type.
    pub value: Value,
    /// Elements of the tensor in C order.
    pub data: Data,
}

/// The elements of a constant tensor in C order.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Data {
    /// ONNX `FLOAT`: weights.
    F32(Vec<f32>),
    /// ONNX `INT64`: axes, sizes and indices.
    I64(Vec<i64>),
}

impl Data {
    /// Returns the data type of the elements.
    pub(super) fn element(&self) -> Element {
        match self {
            Self::F32(_) => Element::F32,
            Self::I64(_) => Element::I64,
        }
    }
}

/// Shape and data type of a node's output.
#[derive(Debug, Clone)]
pub(super) struct Output {
    pub(super) shape: Shape,
    pub(super) element: Element,
}

impl Output {
    pub(super) fn new(shape: Shape, element: Element) -> Self {
        Self { shape, element }
    }
}
