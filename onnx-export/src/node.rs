//! The fields of an encoded node that say where values come from, read without decoding the node.

use crate::wire::Reader;

/// The fields of a `NodeProto` that say where values come from.
pub(crate) struct Node<'a> {
    pub(crate) operator: &'a [u8],
    pub(crate) domain: &'a [u8],
    /// Name of the first operand.
    pub(crate) input: &'a [u8],
}

impl<'a> Node<'a> {
    pub(crate) fn read(node: Reader<'a>) -> Self {
        let content = |number| node.messages(number).map(|field| field.rest());
        Self {
            operator: content(4).last().unwrap_or_default(),
            domain: content(7).last().unwrap_or_default(),
            input: content(1).next().unwrap_or_default(),
        }
    }

    /// Returns the operator if it is one of ONNX's own.
    pub(crate) fn own_operator(&self) -> Option<&'a [u8]> {
        matches!(self.domain, b"" | b"ai.onnx").then_some(self.operator)
    }
}
