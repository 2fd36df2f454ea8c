//! The outputs of a model for one image, by name, with data type and shape.

use std::fmt;
use std::sync::Arc;

use onnx_export::text::shown;
use ort::value::{DynValue, PrimitiveTensorElementType, TensorElementType, ValueType};
use thiserror::Error;

use super::{EngineError, Tensor};

/// Maximum number of outputs that an error names.
const LISTED: usize = 20;

/// The data type of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DataType {
    /// 32-bit floating point.
    F32,
    /// 64-bit signed integer.
    I64,
    /// 32-bit signed integer.
    I32,
    /// 8-bit unsigned integer.
    U8,
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::I64 => "i64",
            Self::I32 => "i32",
            Self::U8 => "u8",
        })
    }
}

impl DataType {
    /// Converts ONNX Runtime's type of a value. Returns `None` unless it is a tensor of f32, i64, i32 or u8.
    pub(super) fn of(value: &ValueType) -> Option<Self> {
        match value {
            ValueType::Tensor { ty, .. } => match ty {
                TensorElementType::Float32 => Some(Self::F32),
                TensorElementType::Int64 => Some(Self::I64),
                TensorElementType::Int32 => Some(Self::I32),
                TensorElementType::Uint8 => Some(Self::U8),
                _ => None,
            },
            _ => None,
        }
    }
}

/// The shape and elements of an output, by data type.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Values {
    /// 32-bit floating point.
    F32(Tensor),
    /// 64-bit signed integers.
    I64(Tensor<i64>),
    /// 32-bit signed integers.
    I32(Tensor<i32>),
    /// 8-bit unsigned integers.
    U8(Tensor<u8>),
}

/// One output for one image, without the batch axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Name in the ONNX file.
    pub name: Arc<str>,
    /// Shape and elements.
    pub values: Values,
}

impl Output {
    /// Creates an output of 32-bit floating point values.
    pub fn f32(name: &str, tensor: Tensor) -> Self {
        Self {
            name: name.into(),
            values: Values::F32(tensor),
        }
    }

    /// Returns the data type of the elements.
    pub fn data_type(&self) -> DataType {
        match self.values {
            Values::F32(_) => DataType::F32,
            Values::I64(_) => DataType::I64,
            Values::I32(_) => DataType::I32,
            Values::U8(_) => DataType::U8,
        }
    }

    /// Returns the sizes of the axes, the outermost first.
    pub fn shape(&self) -> &[usize] {
        match &self.values {
            Values::F32(tensor) => &tensor.shape,
            Values::I64(tensor) => &tensor.shape,
            Values::I32(tensor) => &tensor.shape,
            Values::U8(tensor) => &tensor.shape,
        }
    }

    /// Returns the total size of all elements in bytes.
    pub fn bytes(&self) -> usize {
        match &self.values {
            Values::F32(tensor) => size_of_val(&tensor.data[..]),
            Values::I64(tensor) => size_of_val(&tensor.data[..]),
            Values::I32(tensor) => size_of_val(&tensor.data[..]),
            Values::U8(tensor) => size_of_val(&tensor.data[..]),
        }
    }

    /// Returns the tensor if its elements are `f32`, and the output unchanged if not.
    pub(crate) fn into_f32(self) -> Result<Tensor, Self> {
        match self.values {
            Values::F32(tensor) => Ok(tensor),
            _ => Err(self),
        }
    }

    /// Returns the tensor if its elements are `f32`.
    ///
    /// # Errors
    /// [`OutputAccessError::DataType`] if the elements have another data type.
    pub fn as_f32(&self) -> Result<&Tensor, OutputAccessError> {
        match &self.values {
            Values::F32(tensor) => Ok(tensor),
            _ => Err(OutputAccessError::DataType {
                name: self.name.to_string(),
                expected: DataType::F32,
                got: self.data_type(),
            }),
        }
    }
}

/// The outputs of a model for one image, in the order of the ONNX file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outputs(Vec<Output>);

impl Outputs {
    /// Returns the number of outputs.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there are no outputs.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Iterates over the outputs in the order of the ONNX file.
    pub fn iter(&self) -> std::slice::Iter<'_, Output> {
        self.0.iter()
    }

    /// Appends an output after the existing ones.
    pub fn push(&mut self, output: Output) {
        self.0.push(output);
    }

    /// Removes the output called `name` and returns it. Returns `None` if no output is called `name`.
    pub fn take(&mut self, name: &str) -> Option<Output> {
        let at = self.0.iter().position(|output| &*output.name == name)?;
        Some(self.0.remove(at))
    }

    /// Returns the output called `name`.
    ///
    /// # Errors
    /// [`OutputAccessError::Missing`] if no output is called `name`; the error lists the existing
    /// outputs.
    pub fn get(&self, name: &str) -> Result<&Output, OutputAccessError> {
        let found = self.0.iter().find(|output| &*output.name == name);
        found.ok_or_else(|| OutputAccessError::Missing {
            name: name.to_owned(),
            available: self.0.iter().map(|o| o.name.to_string()).collect(),
        })
    }

    /// Returns the `f32` output called `name`.
    ///
    /// # Errors
    /// [`OutputAccessError`] if no output is called `name`, or if its data type is not `f32`.
    pub fn f32(&self, name: &str) -> Result<&Tensor, OutputAccessError> {
        self.get(name)?.as_f32()
    }

    /// Returns the `f32` output called `name`, or the first output if none has that name.
    ///
    /// # Errors
    /// [`OutputAccessError`] if the model has no outputs, or if the data type of the chosen output
    /// is not `f32`.
    pub fn f32_or_first(&self, name: &str) -> Result<&Tensor, OutputAccessError> {
        match (self.get(name), self.0.first()) {
            (Err(_), Some(first)) => first.as_f32(),
            (found, _) => found?.as_f32(),
        }
    }
}

impl FromIterator<Output> for Outputs {
    fn from_iter<I: IntoIterator<Item = Output>>(outputs: I) -> Self {
        Self(outputs.into_iter().collect())
    }
}

impl IntoIterator for Outputs {
    type Item = Output;
    type IntoIter = std::vec::IntoIter<Output>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Outputs {
    type Item = &'a Output;
    type IntoIter = std::slice::Iter<'a, Output>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// Why an output cannot be read: it is missing, or it has another data type than the reader
/// expects.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OutputAccessError {
    /// The model has no output called `name`.
    #[error("the model has no output `{}`; its outputs: {}", shown(name), show_names(.available))]
    Missing {
        /// The name that was looked up.
        name: String,
        /// Names of the outputs that the model has.
        available: Vec<String>,
    },
    /// The output called `name` has another data type than the reader expects.
    #[error(
        "the model's output `{}` has data type {got}: expected {expected}",
        shown(name)
    )]
    DataType {
        /// Name of the output.
        name: String,
        /// The data type that the reader expects.
        expected: DataType,
        /// The data type of the output.
        got: DataType,
    },
}

/// Joins the first [`LISTED`] output names for an error message, such as `` `scores`, `labels` ``; `none` if
/// there are none.
fn show_names(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    let names: Vec<String> = names.iter().take(LISTED).map(|name| shown(name)).collect();
    format!("`{}`", names.join("`, `"))
}

/// Copies the output `value`, called `name`, of a batch of `count` images, and splits it into one
/// tensor per image. Returns the index and the tensor of each image that is `wanted`.
///
/// # Errors
/// [`EngineError::Output`] if the size of the outermost axis is not `count`,
/// [`EngineError::OutputType`] if the data type is not supported.
pub(super) fn split(
    name: &str,
    value: &DynValue,
    count: usize,
    wanted: &dyn Fn(usize) -> bool,
) -> Result<Vec<(usize, Values)>, EngineError> {
    match DataType::of(value.dtype()) {
        Some(DataType::F32) => rows(value, count, wanted, Values::F32),
        Some(DataType::I64) => rows(value, count, wanted, Values::I64),
        Some(DataType::I32) => rows(value, count, wanted, Values::I32),
        Some(DataType::U8) => rows(value, count, wanted, Values::U8),
        None => Err(EngineError::OutputType {
            name: name.to_owned(),
            got: format!("{:?}", value.dtype()),
        }),
    }
}

/// Splits a tensor into `count` rows along its outermost axis, and converts each row that is `wanted` by `wrap`.
fn rows<T: PrimitiveTensorElementType + Clone>(
    value: &DynValue,
    count: usize,
    wanted: &dyn Fn(usize) -> bool,
    wrap: impl Fn(Tensor<T>) -> Values,
) -> Result<Vec<(usize, Values)>, EngineError> {
    let (shape, data) = extract::<T>(value)?;
    if count == 0 || shape.first() != Some(&count) {
        return Err(EngineError::Output { count, shape });
    }
    let length = data.len() / count;
    let row = |index: usize| {
        let data = data[index * length..][..length].to_vec();
        let shape = shape[1..].to_vec();
        (index, wrap(Tensor { shape, data }))
    };
    let wanted = (0..count).filter(|index| wanted(*index));
    Ok(wanted.map(row).collect())
}

/// Borrows the shape and the elements of a tensor of type `T`.
pub(super) fn extract<T: PrimitiveTensorElementType>(
    value: &DynValue,
) -> Result<(Vec<usize>, &[T]), EngineError> {
    let sizes = |shape: &[i64]| shape.iter().map(|size| *size as usize).collect();
    // A tensor without elements has no memory, so its elements cannot be extracted.
    let empty = value.dtype().tensor_shape();
    if let Some(shape) = empty.filter(|shape| shape.contains(&0)) {
        return Ok((sizes(shape), &[]));
    }
    let (shape, data) = value.try_extract_tensor::<T>().map_err(EngineError::Run)?;
    Ok((sizes(shape), data))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(value: f32) -> Tensor {
        Tensor {
            shape: vec![1],
            data: vec![value],
        }
    }

    #[test]
    fn outputs_are_found_by_name_or_are_the_first() {
        let labels = Output {
            name: "labels".into(),
            values: Values::I64(Tensor {
                shape: vec![2],
                data: vec![3, 4],
            }),
        };
        let outputs: Outputs = [Output::f32("scores", tensor(0.5)), labels]
            .into_iter()
            .collect();
        assert_eq!(outputs.f32("scores"), Ok(&tensor(0.5)));
        assert_eq!(outputs.f32_or_first("logits"), Ok(&tensor(0.5)));
        let labels = outputs.get("labels").unwrap();
        assert_eq!((labels.shape(), labels.bytes()), (&[2][..], 16));
        let messages = [
            outputs.f32("logits").unwrap_err(),
            outputs.f32("labels").unwrap_err(),
            Outputs::default().f32_or_first("out").unwrap_err(),
        ];
        assert_eq!(
            messages.map(|error| error.to_string()),
            [
                "the model has no output `logits`; its outputs: `scores`, `labels`",
                "the model's output `labels` has data type i64: expected f32",
                "the model has no output `out`; its outputs: none",
            ]
        );
    }
}
