//! Finds tensors of an ONNX file whose elements are in another file ("external data").
//!
//! A runtime opens that other file when it loads the model, so a model from an unknown author could
//! read any file that the process can read. The messages in [`proto`](crate::proto) do not suffice
//! to find such tensors: they keep subgraphs, functions and sparse tensors encoded and drop unknown
//! fields. This module therefore walks over the encoded file. It copies no tensor data, and it
//! rejects encodings that protobuf readers interpret differently.

use thiserror::Error;

use crate::detached::LOCATION;
use crate::text::shown;
use crate::wire::{ProtobufError, Reader, Value};

/// Maximum depth of nested messages, which is the limit of protobuf's own readers. Each level of
/// subgraphs takes three: the attribute, the graph, and the node in it.
const MAX_DEPTH: usize = 100;
/// Maximum number of names, attributes, tensors and other fields of a file, in all messages that can
/// contain a tensor. A decoded message takes up to 300 times the memory of its encoded fields, so
/// this bounds the memory that decoding takes. Networks of a thousand nodes have about 10,000.
const MAX_FIELDS: usize = 1 << 19;
/// Number of `TensorProto.name`.
const TENSOR_NAME: u32 = 8;
/// Number of `AttributeProto.name`.
const ATTRIBUTE_NAME: u32 = 1;
/// Number of `TensorProto.external_data`.
const EXTERNAL_DATA: u32 = 13;
/// Number of `TensorProto.data_location`.
const DATA_LOCATION: u32 = 14;

/// The reason why [`reject_external_data`] rejects a file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ExternalDataError {
    /// A tensor's elements are in another file.
    #[error(
        "{tensor} has its elements in another file (external data): all weights must be inside the \
         model's own file; save the model as a single file, with \
         `torch.onnx.export(..., external_data=False)` or \
         `onnx.save(onnx.load(\"model.onnx\"), \"single.onnx\")`"
    )]
    External {
        /// Description of the tensor: its name, or the name of the attribute that holds it.
        tensor: String,
    },
    /// The file cannot be read.
    #[error(transparent)]
    Malformed(#[from] ProtobufError),
    /// Subgraphs are nested too deeply.
    #[error(
        "cannot read the ONNX file: its messages must be nested at most {MAX_DEPTH} deep; \
         reduce the nesting of subgraphs"
    )]
    TooDeep,
    /// The file has more fields than the decoded file may have memory for.
    #[error(
        "cannot read the ONNX file: its graphs must have at most {MAX_FIELDS} names, attributes and \
         tensors together; split the network into smaller ones"
    )]
    TooManyFields,
}

/// Rejects an ONNX file that has a tensor with external data. Looks at initializers, sparse
/// initializers and attributes, in the graph, in subgraphs, in functions, and in graphs for
/// training.
///
/// # Errors
/// [`ExternalDataError::External`] for the first tensor that has a `data_location` other than 0 or
/// any `external_data`, [`ExternalDataError::Malformed`], [`ExternalDataError::TooDeep`] or
/// [`ExternalDataError::TooManyFields`] if the file cannot be searched.
pub fn reject_external_data(model: &[u8]) -> Result<(), ExternalDataError> {
    search(model, false)
}

/// Rejects an ONNX file that has a tensor with external data, except the tensors that [`DetachedFile`] marks: their
/// location is a folder, from which no elements can be read.
///
/// [`DetachedFile`]: crate::DetachedFile
///
/// # Errors
/// As [`reject_external_data`].
pub fn reject_foreign_data(model: &[u8]) -> Result<(), ExternalDataError> {
    search(model, true)
}

fn search(model: &[u8], allow_detached: bool) -> Result<(), ExternalDataError> {
    let mut search = Search {
        fields: 0,
        allow_detached,
    };
    search.message(Message::Model, Reader::new(model), 0, &[])
}

/// The messages of `onnx.proto3` that are a tensor or can contain one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Message {
    Model,
    TrainingInfo,
    Function,
    Graph,
    Node,
    Attribute,
    SparseTensor,
    Tensor,
}

impl Message {
    /// Returns the type of the message in the field `number`. `None` if the field cannot contain a
    /// tensor.
    fn field(self, number: u32) -> Option<Self> {
        Some(match (self, number) {
            // graph; initialization, algorithm; g, graphs
            (Self::Model, 7) | (Self::TrainingInfo, 1 | 2) | (Self::Attribute, 6 | 11) => {
                Self::Graph
            }
            (Self::Model, 20) => Self::TrainingInfo,
            (Self::Model, 25) => Self::Function,
            // node; node
            (Self::Graph, 1) | (Self::Function, 7) => Self::Node,
            // attribute; attribute_proto
            (Self::Node, 5) | (Self::Function, 11) => Self::Attribute,
            // sparse_initializer; sparse_tensor, sparse_tensors
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Self::SparseTensor,
            // initializer; t, tensors; values, indices
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::SparseTensor, 1 | 2) => {
                Self::Tensor
            }
            _ => return None,
        })
    }
}

/// State of the search through one file.
struct Search {
    /// Number of fields so far, see [`MAX_FIELDS`].
    fields: usize,
    /// Whether tensors that [`DetachedFile`](crate::DetachedFile) marks are accepted.
    allow_detached: bool,
}

impl Search {
    /// Searches the encoded `message`, which is inside of `depth` other messages. `attribute` is
    /// the name of the attribute that contains the message; empty if no attribute does.
    fn message(
        &mut self,
        message: Message,
        mut fields: Reader<'_>,
        depth: usize,
        attribute: &[u8],
    ) -> Result<(), ExternalDataError> {
        if depth > MAX_DEPTH {
            return Err(ExternalDataError::TooDeep);
        }
        if message == Message::Tensor {
            return self.check_tensor(fields, attribute);
        }
        let mut attribute = attribute;
        while let Some((number, value)) = fields.next_field()? {
            // Messages are length-delimited. Readers skip a field with another wire type as
            // unknown.
            let Value::Bytes(content) = value else {
                continue;
            };
            self.fields += 1;
            if self.fields > MAX_FIELDS {
                return Err(ExternalDataError::TooManyFields);
            }
            if message == Message::Attribute && number == ATTRIBUTE_NAME {
                attribute = content.rest();
            }
            if let Some(inner) = message.field(number) {
                self.message(inner, content, depth + 1, attribute)?;
            }
        }
        Ok(())
    }

    /// Rejects an encoded `TensorProto` whose elements are in another file. Stricter than ONNX: a
    /// tensor with both its own elements and a location is also rejected.
    fn check_tensor(
        &self,
        mut fields: Reader<'_>,
        attribute: &[u8],
    ) -> Result<(), ExternalDataError> {
        let mut name: &[u8] = &[];
        let mut is_external = false;
        while let Some((number, value)) = fields.next_field()? {
            match (number, value) {
                (TENSOR_NAME, Value::Bytes(content)) => name = content.rest(),
                (DATA_LOCATION, Value::Varint(0)) => {}
                (DATA_LOCATION, Value::Varint(1)) if self.allow_detached => {}
                (EXTERNAL_DATA, Value::Bytes(content))
                    if self.allow_detached && content.rest() == LOCATION => {}
                (DATA_LOCATION | EXTERNAL_DATA, _) => is_external = true,
                _ => {}
            }
        }
        if !is_external {
            return Ok(());
        }
        let text = |name| shown(&String::from_utf8_lossy(name));
        let tensor = match (name, attribute) {
            ([], []) => "a tensor without a name".to_owned(),
            ([], attribute) => format!("a tensor in the attribute `{}`", text(attribute)),
            (name, _) => format!("the tensor `{}`", text(name)),
        };
        Err(ExternalDataError::External { tensor })
    }
}

#[cfg(test)]
mod tests;
