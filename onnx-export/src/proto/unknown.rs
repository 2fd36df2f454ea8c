//! Finds fields of an encoded ONNX file that would be lost if the file were decoded and encoded again.
//!
//! `prost` skips fields that a message does not declare, so decoding loses the fields that a later version of ONNX
//! may add. This module walks over the encoded file and reports the first of them with its path. Messages that
//! [`proto`](super) keeps encoded are not walked: they survive with all of their fields.

use thiserror::Error;

use crate::text::shown;
use crate::wire::{ProtobufError, Reader, Value};

/// The reason why [`reject_unknown_fields`] rejects a file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UnknownFieldError {
    /// The file has a field that is not part of ONNX IR version 14.
    #[error(
        "field {field} of {path} is unknown to this version of Sightline, and rewriting the file would lose it; \
         export the model without this field, or use a version of Sightline that knows it"
    )]
    Unknown {
        /// Path of the message that has the field, such as `graph.node[3] "conv1"`.
        path: String,
        /// Number of the field.
        field: u32,
    },
    /// A message sets several fields of which it may set one, or sets that field twice. Programs that read the
    /// file disagree on the value, and rewriting the file would lose one of them.
    #[error(
        "{path} has two values, the second in field {field}, and rewriting the file would lose one of them; \
         export the model again"
    )]
    TwoValues {
        /// Path of the message.
        path: String,
        /// Number of the field with the second value.
        field: u32,
    },
    /// The file cannot be read.
    #[error(transparent)]
    Malformed(#[from] ProtobufError),
}

/// Rejects an ONNX file with a field that the messages of [`proto`](super) do not have. Every program that decodes a
/// file of another author and encodes it again calls this function before decoding.
///
/// # Errors
/// [`UnknownFieldError::Unknown`] for the first unknown field, [`UnknownFieldError::TwoValues`] for the first message
/// with two values in place of one, [`UnknownFieldError::Malformed`] if the bytes are not protobuf.
pub fn reject_unknown_fields(model: &[u8]) -> Result<(), UnknownFieldError> {
    walk(&MODEL, Reader::new(model)).map_err(|error| {
        error.at(|path| match path {
            "" => "the model".to_owned(),
            path => path.to_owned(),
        })
    })
}

/// The fields of a message that survive being decoded and encoded.
struct Schema {
    /// Numbers of the fields that hold no message, or a message that is kept encoded.
    kept: &'static [u32],
    /// Fields that hold messages.
    messages: &'static [Inner],
    /// Numbers of the fields of which only one may be set, and only once: the members of a `oneof`, and messages
    /// that are kept encoded and not repeated, whose parts other readers would merge.
    single: &'static [u32],
    /// Number of the field with the message's name, which a path shows. `None` if the message has no name.
    name: Option<u32>,
}

/// A field that holds a message or a list of messages.
struct Inner {
    number: u32,
    /// Name of the field in `onnx.proto3`.
    name: &'static str,
    is_list: bool,
    schema: &'static Schema,
}

const fn one(number: u32, name: &'static str, schema: &'static Schema) -> Inner {
    Inner {
        number,
        name,
        is_list: false,
        schema,
    }
}

const fn list(number: u32, name: &'static str, schema: &'static Schema) -> Inner {
    Inner {
        number,
        name,
        is_list: true,
        schema,
    }
}

/// A message without inner messages and without a name.
const fn plain(kept: &'static [u32]) -> Schema {
    Schema {
        kept,
        messages: &[],
        single: &[],
        name: None,
    }
}

static MODEL: Schema = Schema {
    messages: &[
        one(7, "graph", &GRAPH),
        list(8, "opset_import", &PAIR),
        list(14, "metadata_props", &PAIR),
    ],
    ..plain(&[1, 2, 3, 4, 5, 6, 20, 25, 26])
};

/// `OperatorSetIdProto` and `StringStringEntryProto`.
static PAIR: Schema = plain(&[1, 2]);

static GRAPH: Schema = Schema {
    messages: &[
        list(1, "node", &NODE),
        list(5, "initializer", &TENSOR),
        list(11, "input", &VALUE_INFO),
        list(12, "output", &VALUE_INFO),
        list(13, "value_info", &VALUE_INFO),
    ],
    ..plain(&[2, 10, 14, 15, 16])
};

static NODE: Schema = Schema {
    messages: &[list(5, "attribute", &ATTRIBUTE)],
    name: Some(3),
    ..plain(&[1, 2, 3, 4, 6, 7, 8, 9, 10])
};

static ATTRIBUTE: Schema = Schema {
    messages: &[one(5, "t", &TENSOR)],
    // g, tp, sparse_tensor
    single: &[6, 14, 22],
    name: Some(1),
    ..plain(&[1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 13, 14, 15, 20, 21, 22, 23])
};

static TENSOR: Schema = Schema {
    messages: &[list(13, "external_data", &PAIR)],
    // segment
    single: &[3],
    name: Some(8),
    ..plain(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16])
};

static VALUE_INFO: Schema = Schema {
    messages: &[one(2, "type", &TYPE)],
    name: Some(1),
    ..plain(&[1, 3, 4])
};

static TYPE: Schema = Schema {
    messages: &[one(1, "tensor_type", &TENSOR_TYPE)],
    single: &[1, 4, 5, 7, 8, 9],
    ..plain(&[4, 5, 6, 7, 8, 9])
};

static TENSOR_TYPE: Schema = Schema {
    messages: &[one(2, "shape", &SHAPE)],
    ..plain(&[1])
};

static SHAPE: Schema = Schema {
    messages: &[list(1, "dim", &DIMENSION)],
    ..plain(&[])
};

static DIMENSION: Schema = Schema {
    // dim_value, dim_param
    single: &[1, 2],
    ..plain(&[1, 2, 3])
};

/// Checks the encoded message `fields` and the messages in it. The path of an error is relative to the message.
fn walk(schema: &Schema, mut fields: Reader<'_>) -> Result<(), UnknownFieldError> {
    let mut counts = vec![0_usize; schema.messages.len()];
    let mut has_value = false;
    while let Some((field, value)) = fields.next_field()? {
        let mut inner = schema.messages.iter().zip(&mut counts);
        let inner = inner.find(|(inner, _)| inner.number == field);
        let path = String::new();
        if inner.is_none() && !schema.kept.contains(&field) {
            return Err(UnknownFieldError::Unknown { path, field });
        }
        if schema.single.contains(&field) {
            if has_value {
                return Err(UnknownFieldError::TwoValues { path, field });
            }
            has_value = true;
        }
        // Decoding rejects a message with another wire type.
        if let (Some((inner, count)), Value::Bytes(content)) = (inner, value) {
            walk(inner.schema, content)
                .map_err(|error| error.at(|path| join(&inner.place(*count, content), path)))?;
            *count += 1;
        }
    }
    Ok(())
}

impl Inner {
    /// Returns the path of the message `content`, the message number `index` in this field, such as `graph` or
    /// `node[3] "conv1"`.
    fn place(&self, index: usize, mut content: Reader<'_>) -> String {
        let place = if self.is_list {
            format!("{}[{index}]", self.name)
        } else {
            self.name.to_owned()
        };
        while let Ok(Some((number, value))) = content.next_field() {
            if let (true, Value::Bytes(name)) = (self.schema.name == Some(number), value) {
                let name = String::from_utf8_lossy(name.rest());
                return format!("{place} \"{}\"", shown(&name));
            }
        }
        place
    }
}

fn join(outer: &str, inner: &str) -> String {
    match inner {
        "" => outer.to_owned(),
        inner => format!("{outer}.{inner}"),
    }
}

impl UnknownFieldError {
    /// Returns the error with the path that `change` returns for its path.
    fn at(self, change: impl FnOnce(&str) -> String) -> Self {
        match self {
            Self::Unknown { path, field } => Self::Unknown {
                path: change(&path),
                field,
            },
            Self::TwoValues { path, field } => Self::TwoValues {
                path: change(&path),
                field,
            },
            Self::Malformed(error) => Self::Malformed(error),
        }
    }
}
