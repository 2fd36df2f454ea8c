//! Inputs and outputs of a network: name, data type and shape.

use std::fmt;

use super::name;
use crate::text::shown;
use crate::wire::{Reader, Value};

/// Maximum number of axes that a [`TensorType`] keeps; a hostile file may state millions.
const MAX_RANK: usize = 16;

/// An input or output of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Port {
    /// Name of the value.
    pub name: String,
    /// Description of the value; empty if the file has none.
    pub description: String,
    /// Type of the value. `None` if the file does not state it, or if it is no dense tensor.
    pub tensor: Option<TensorType>,
    /// Operators that compute an output, from the last one backwards to the first that changes
    /// values: `["Flatten", "Softmax"]`. Empty for an input.
    pub trail: Vec<String>,
}

/// Data type and shape of a dense tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorType {
    /// `TensorProto.DataType` of the elements, such as 1 for float32.
    pub data_type: i32,
    /// The axes, the outermost first; at most 16. `None` if the file does not state the rank.
    pub shape: Option<Vec<Axis>>,
}

/// The size of one axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Axis {
    /// The axis always has this size.
    Fixed(u64),
    /// The size is known only when the network runs. Holds the name of the size, which may be empty.
    Dynamic(String),
}

impl Axis {
    /// Returns the size of the axis, or `None` if it is dynamic.
    pub fn fixed(&self) -> Option<u64> {
        match self {
            Self::Fixed(size) => Some(*size),
            Self::Dynamic(_) => None,
        }
    }

    fn read(dimension: Reader<'_>) -> Self {
        let mut axis = Self::Dynamic(String::new());
        for field in dimension.fields() {
            match field {
                // Some exporters write -1 or 0 for a dynamic axis.
                (1, Value::Varint(size)) if size.cast_signed() > 0 => axis = Self::Fixed(size),
                (2, Value::Bytes(text)) => axis = Self::Dynamic(name(text)),
                _ => {}
            }
        }
        axis
    }
}

impl Port {
    /// Reads an encoded `ValueInfoProto`.
    pub(super) fn read(value: Reader<'_>) -> Self {
        let mut port = Self::default();
        for field in value.fields() {
            match field {
                (1, Value::Bytes(text)) => port.name = name(text),
                (2, Value::Bytes(kind)) => port.tensor = kind.messages(1).last().map(tensor),
                (3, Value::Bytes(text)) => port.description = name(text),
                _ => {}
            }
        }
        port
    }

    /// Returns the axes of the tensor, or `None` if the file does not state them.
    pub fn shape(&self) -> Option<&[Axis]> {
        self.tensor.as_ref()?.shape.as_deref()
    }
}

/// Reads an encoded `TypeProto.Tensor`.
fn tensor(kind: Reader<'_>) -> TensorType {
    let mut tensor = TensorType {
        data_type: 0,
        shape: None,
    };
    for field in kind.fields() {
        match field {
            (1, Value::Varint(code)) => tensor.data_type = i32::try_from(code).unwrap_or(0),
            (2, Value::Bytes(shape)) => {
                let axes = shape.messages(1).map(Axis::read);
                tensor.shape = Some(axes.take(MAX_RANK).collect());
            }
            _ => {}
        }
    }
    tensor
}

impl fmt::Display for TensorType {
    /// Writes data type and shape, such as `float32 [batch, 3, 224, 224]`. `?` is a dynamic axis
    /// without a name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(data_type_name(self.data_type))?;
        let Some(shape) = &self.shape else {
            return f.write_str(" of unknown shape");
        };
        let axes: Vec<String> = shape.iter().map(ToString::to_string).collect();
        write!(f, " [{}]", axes.join(", "))
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Dynamic(name) if name.is_empty() => f.write_str("?"),
            Self::Dynamic(name) => f.write_str(&shown(name)),
        }
    }
}

/// Returns the name of a `TensorProto.DataType`, such as `float32` for 1.
pub fn data_type_name(code: i32) -> &'static str {
    const NAMES: [&str; 17] = [
        "unknown",
        "float32",
        "uint8",
        "int8",
        "uint16",
        "int16",
        "int32",
        "int64",
        "string",
        "bool",
        "float16",
        "float64",
        "uint32",
        "uint64",
        "complex64",
        "complex128",
        "bfloat16",
    ];
    let name = usize::try_from(code).ok().and_then(|code| NAMES.get(code));
    name.copied().unwrap_or("unknown")
}
