//! Attribute values that the graph builder writes.

use super::AttributeProto;

/// The value of a node's attribute.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Attr {
    /// ONNX `FLOAT`.
    Float(f32),
    /// ONNX `INT`.
    Int(i64),
    /// ONNX `INTS`.
    Ints(Vec<i64>),
    /// ONNX `STRING`.
    Text(&'static str),
}

impl AttributeProto {
    /// Creates the attribute called `name` with the type and content of `value`.
    pub fn new(name: &str, value: &Attr) -> Self {
        let mut proto = Self {
            name: name.to_owned(),
            ..Self::default()
        };
        // Codes of `AttributeProto.AttributeType`: FLOAT 1, INT 2, STRING 3, INTS 7.
        match value {
            Attr::Float(value) => (proto.f, proto.r#type) = (Some(*value), 1),
            Attr::Int(value) => (proto.i, proto.r#type) = (Some(*value), 2),
            Attr::Text(text) => (proto.s, proto.r#type) = (Some(text.as_bytes().to_vec()), 3),
            Attr::Ints(values) => (proto.ints, proto.r#type) = (values.clone(), 7),
        }
        proto
    }
}
