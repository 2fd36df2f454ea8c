//! Named tensors as clients send and receive them.

use bytes::Bytes;

use crate::engine;
use crate::error::ServeError;
use crate::parameters::bad;

/// The data type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataType {
    /// Truth values, one byte each.
    Bool,
    /// 8-bit unsigned integers.
    Uint8,
    /// 16-bit unsigned integers.
    Uint16,
    /// 32-bit unsigned integers.
    Uint32,
    /// 64-bit unsigned integers.
    Uint64,
    /// 8-bit signed integers.
    Int8,
    /// 16-bit signed integers.
    Int16,
    /// 32-bit signed integers.
    Int32,
    /// 64-bit signed integers.
    Int64,
    /// 16-bit floating point.
    Fp16,
    /// 16-bit floating point with the exponent of 32 bits.
    Bf16,
    /// 32-bit floating point.
    Fp32,
    /// 64-bit floating point.
    Fp64,
    /// Byte strings of any length.
    Bytes,
}

impl DataType {
    /// Every data type, with its name and the size of an element in bytes; the size is `None` if it varies.
    const ALL: [(Self, &'static str, Option<usize>); 14] = [
        (Self::Bool, "BOOL", Some(1)),
        (Self::Uint8, "UINT8", Some(1)),
        (Self::Uint16, "UINT16", Some(2)),
        (Self::Uint32, "UINT32", Some(4)),
        (Self::Uint64, "UINT64", Some(8)),
        (Self::Int8, "INT8", Some(1)),
        (Self::Int16, "INT16", Some(2)),
        (Self::Int32, "INT32", Some(4)),
        (Self::Int64, "INT64", Some(8)),
        (Self::Fp16, "FP16", Some(2)),
        (Self::Bf16, "BF16", Some(2)),
        (Self::Fp32, "FP32", Some(4)),
        (Self::Fp64, "FP64", Some(8)),
        (Self::Bytes, "BYTES", None),
    ];

    /// Parses the name of a data type, such as `FP32`. `field` names its place in the request.
    ///
    /// # Errors
    /// [`ServeError::BadParameter`] if there is no data type of this name.
    pub fn parse(field: &str, name: &str) -> Result<Self, ServeError> {
        let found = Self::ALL.iter().find(|(_, known, _)| *known == name);
        found.map(|(datatype, _, _)| *datatype).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|(_, name, _)| *name).collect();
            bad(field, &names.join(", "), name)
        })
    }

    /// Returns the name of the data type, such as `FP32`.
    pub fn as_str(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// Returns the size of an element in bytes. `None` if it varies.
    pub fn size(self) -> Option<usize> {
        Self::ALL[self as usize].2
    }

    /// Returns the data type of the network's outputs that have the data type `engine`.
    pub(super) fn of(engine: engine::DataType) -> Self {
        match engine {
            engine::DataType::F32 => Self::Fp32,
            engine::DataType::I64 => Self::Int64,
            engine::DataType::I32 => Self::Int32,
            engine::DataType::U8 => Self::Uint8,
        }
    }
}

/// The elements of an input tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TensorData {
    /// All elements in row-major order and little-endian byte order. Each element of [`DataType::Bytes`] follows its
    /// length, a `u32`.
    Raw(Bytes),
    /// The elements of a tensor of [`DataType::Bytes`] in row-major order.
    Elements(Vec<Bytes>),
}

/// One input tensor of a request. Nothing about it is checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputTensor {
    /// Name of the input.
    pub name: String,
    /// Data type that the client states.
    pub datatype: DataType,
    /// Sizes of the axes that the client states, the outermost first.
    pub shape: Vec<i64>,
    /// The elements.
    pub data: TensorData,
}

/// One output tensor of a response.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputTensor {
    /// Name of the output.
    pub name: String,
    /// Data type of the elements.
    pub datatype: DataType,
    /// Sizes of the axes, the outermost first, which is the batch.
    pub shape: Vec<usize>,
    /// All elements in row-major order, in the form of [`TensorData::Raw`].
    pub data: Vec<u8>,
}

/// Returns the number of elements of a tensor of `shape`. `field` names its place in the request.
///
/// # Errors
/// [`ServeError::BadParameter`] if an axis is negative or if the number has more than 63 bits.
pub fn elements(field: &str, shape: &[i64]) -> Result<u64, ServeError> {
    let count = shape.iter().try_fold(1_u64, |count, size| {
        count.checked_mul(u64::try_from(*size).ok()?)
    });
    let count = count.filter(|count| i64::try_from(*count).is_ok());
    count.ok_or_else(|| {
        let expected = "sizes of at least 0 whose product has at most 63 bits";
        bad(field, expected, &show(shape))
    })
}

/// Returns `shape` as text for an error message.
pub(super) fn show(shape: &[i64]) -> String {
    // More axes than this do not fit into an error message.
    let shown = shape.get(..16).unwrap_or(shape);
    format!("{shown:?}")
}

/// Splits the elements of a tensor of [`DataType::Bytes`] in the form of [`TensorData::Raw`]. The elements share the
/// memory of `data`. `field` names the tensor in the request, and `count` is the number of its elements.
///
/// # Errors
/// [`ServeError::BadParameter`] if the length of an element runs past the end, or if there are not exactly `count`
/// elements.
pub(crate) fn split_elements(
    field: &str,
    data: &Bytes,
    count: usize,
) -> Result<Vec<Bytes>, ServeError> {
    let expected = format!("{count} elements, each after its length in 4 bytes");
    let wrong = |got: String| bad(field, &expected, &got);
    // Every element takes 4 bytes at least, so that a large count cannot allocate much.
    if count > data.len() / 4 {
        return Err(wrong(format!("{} bytes", data.len())));
    }
    let mut parts = Vec::with_capacity(count);
    let mut at = 0;
    for index in 0..count {
        let length = data.get(at..).and_then(|rest| rest.first_chunk());
        let length = length.map(|length| u32::from_le_bytes(*length) as usize);
        let start = at + 4;
        let end = length.and_then(|length| start.checked_add(length));
        let Some(end) = end.filter(|end| *end <= data.len()) else {
            let length = length.map_or("no length".to_owned(), |n| format!("{n} bytes"));
            let left = data.len().saturating_sub(start);
            return Err(wrong(format!(
                "{length} for element {index}, of which {left} follow"
            )));
        };
        parts.push(data.slice(start..end));
        at = end;
    }
    if at < data.len() {
        return Err(wrong(format!("{} bytes more", data.len() - at)));
    }
    Ok(parts)
}

impl OutputTensor {
    /// Creates a tensor of [`DataType::Bytes`] from its elements in row-major order.
    pub(super) fn strings<'a>(
        name: &str,
        shape: Vec<usize>,
        elements: impl Iterator<Item = &'a str>,
    ) -> Self {
        let mut data = Vec::new();
        for element in elements {
            data.extend_from_slice(&(element.len() as u32).to_le_bytes());
            data.extend_from_slice(element.as_bytes());
        }
        Self {
            name: name.to_owned(),
            datatype: DataType::Bytes,
            shape,
            data,
        }
    }

    /// Iterates over the elements of a tensor of [`DataType::Bytes`].
    pub fn byte_elements(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.data[..];
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first_chunk()?;
            let (element, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            rest = after;
            Some(element)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_types_are_found_by_their_names() {
        for (datatype, name, size) in DataType::ALL {
            assert_eq!(DataType::parse("datatype", name).unwrap(), datatype);
            assert_eq!((datatype.as_str(), datatype.size()), (name, size));
        }
        let error = DataType::parse("datatype", "fp32").unwrap_err().to_string();
        assert!(error.starts_with("`datatype`: expected BOOL, "), "{error}");
    }

    #[test]
    fn elements_do_not_overflow() {
        let cases: [(&[i64], Option<u64>); 6] = [
            (&[], Some(1)),
            (&[2, 3], Some(6)),
            (&[0, i64::MAX], Some(0)),
            (&[-1, 3], None),
            (&[i64::MAX, 2], None),
            (&[1 << 32, 1 << 32, 2], None),
        ];
        for (shape, expected) in cases {
            assert_eq!(elements("shape", shape).ok(), expected, "{shape:?}");
        }
    }

    #[test]
    fn lengths_of_elements_are_checked() {
        let split = |data: &'static [u8], count| {
            split_elements("image", &Bytes::from_static(data), count).map_err(|e| e.to_string())
        };
        assert_eq!(split(b"\x01\0\0\0a\0\0\0\0", 2).unwrap(), ["a", ""]);
        assert_eq!(split(b"", 0).unwrap(), [""; 0]);
        for (data, count) in [
            (&b"\x02\0\0\0a"[..], 1),
            (b"\xff\xff\xff\xffa", 1),
            (b"\x01\0\0\0a", 2),
            (b"\x01\0\0\0ab", 1),
            (b"\x01\0\0", 1),
            (b"\x01\0\0\0a", usize::MAX),
        ] {
            let error = split(data, count).unwrap_err();
            assert!(error.starts_with("`image`: expected "), "{error}");
        }
    }

    #[test]
    fn elements_of_outputs_are_read_back() {
        let words = ["tabby", "", "é"];
        let tensor = OutputTensor::strings("labels", vec![3], words.into_iter());
        let read: Vec<&[u8]> = tensor.byte_elements().collect();
        assert_eq!(read, words.map(str::as_bytes));
    }
}
