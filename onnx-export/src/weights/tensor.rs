//! A contiguous tensor: data type, shape and bytes.
//!
//! Not here: arithmetic, views and strides.

use std::fmt;

use half::{bf16, f16};

use super::{InvalidQuantizer, Quantizer, WeightsError, error::Overflowing};

/// Data type of the elements of a tensor in a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// bfloat16: the upper 16 bits of an `f32`.
    BF16,
    /// IEEE 754 double precision.
    F64,
    /// Signed 64-bit integer.
    I64,
    /// Signed 32-bit integer.
    I32,
    /// Signed 16-bit integer.
    I16,
    /// Signed 8-bit integer.
    I8,
    /// Unsigned 8-bit integer.
    U8,
    /// Boolean in one byte, 0 or 1.
    Bool,
}

impl DType {
    /// Returns the size of an element in bytes.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// Returns whether the data type is a floating-point type. [`Tensor::to_f32`] converts tensors
    /// of these types without a quantizer.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16 | Self::F64)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::F64 => "f64",
            Self::I64 => "i64",
            Self::I32 => "i32",
            Self::I16 => "i16",
            Self::I8 => "i8",
            Self::U8 => "u8",
            Self::Bool => "bool",
        })
    }
}

/// A dense tensor: little-endian elements in C order (the last axis is contiguous). The elements of a
/// quantized tensor are its integers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    bytes: Vec<u8>,
    quantizer: Option<Quantizer>,
}

impl Tensor {
    /// Creates a tensor from little-endian elements in C order. An empty shape means a scalar.
    ///
    /// # Errors
    /// Returns [`WeightsError::Shape`] if the number of bytes does not match the shape and the data
    /// type.
    pub fn new(dtype: DType, shape: Vec<usize>, bytes: Vec<u8>) -> Result<Self, WeightsError> {
        let expected = byte_count(dtype, &shape);
        if expected == Some(bytes.len()) {
            return Ok(Self {
                dtype,
                shape,
                bytes,
                quantizer: None,
            });
        }
        Err(WeightsError::Shape {
            shape,
            dtype,
            expected: Overflowing(expected),
            got: bytes.len(),
        })
    }

    /// Creates an f32 tensor from `values` in C order.
    ///
    /// # Errors
    /// Returns [`WeightsError::Shape`] if the number of values does not match the shape.
    pub fn from_f32(shape: &[usize], values: &[f32]) -> Result<Self, WeightsError> {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self::new(DType::F32, shape.to_vec(), bytes)
    }

    /// Attaches scales and zero points to a tensor of integers.
    ///
    /// # Errors
    /// Returns [`InvalidQuantizer`] if the data type is not i8, u8 or i32, a zero point is outside
    /// the range of the data type, the tensor has no axis [`Quantizer::axis`], or the number of
    /// scales is not the length of that axis.
    pub fn quantized(self, quantizer: Quantizer) -> Result<Self, InvalidQuantizer> {
        quantizer.check(self.dtype, &self.shape)?;
        let quantizer = Some(quantizer);
        Ok(Self { quantizer, ..self })
    }

    /// Returns the scales and zero points; `None` if the tensor is not quantized.
    pub fn quantizer(&self) -> Option<&Quantizer> {
        self.quantizer.as_ref()
    }

    /// Returns the data type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Returns the length of each axis, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Returns the bytes of the elements: little-endian, in C order.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the values as f32, in C order. An f64 is rounded to the nearest f32. The values of a
    /// quantized tensor are bit-identical to those of torch's `dequantize`.
    ///
    /// # Errors
    /// Returns [`WeightsError::NotFloat`] if the tensor holds integers without scales, or booleans.
    pub fn to_f32(&self) -> Result<Vec<f32>, WeightsError> {
        let bytes = &self.bytes;
        if let Some(quantizer) = &self.quantizer
            && let Some(integers) = self.to_i64()
        {
            return Ok(quantizer.dequantize(integers.into_iter(), &self.shape));
        }
        Ok(match self.dtype {
            DType::F32 => elements(bytes).map(f32::from_le_bytes).collect(),
            DType::F16 => elements(bytes)
                .map(|b| f16::from_le_bytes(b).to_f32())
                .collect(),
            DType::BF16 => elements(bytes)
                .map(|b| bf16::from_le_bytes(b).to_f32())
                .collect(),
            DType::F64 => elements(bytes)
                .map(|b| f64::from_le_bytes(b) as f32)
                .collect(),
            got => return Err(WeightsError::NotFloat { got }),
        })
    }

    /// Returns the values of a floating-point or quantized tensor as f64, in C order; `None` for
    /// other tensors.
    pub(super) fn to_f64(&self) -> Option<Vec<f64>> {
        match self.dtype {
            DType::F64 => Some(elements(&self.bytes).map(f64::from_le_bytes).collect()),
            _ => Some(self.to_f32().ok()?.into_iter().map(f64::from).collect()),
        }
    }

    /// Returns the elements of an i64, i32, i8 or u8 tensor, in C order; `None` for other data
    /// types. The elements of a quantized tensor are its integers.
    pub fn to_i64(&self) -> Option<Vec<i64>> {
        let bytes = &self.bytes;
        Some(match self.dtype {
            DType::I64 => elements(bytes).map(i64::from_le_bytes).collect(),
            DType::I32 => elements(bytes)
                .map(|b| i32::from_le_bytes(b).into())
                .collect(),
            DType::I8 => elements(bytes)
                .map(|b| i8::from_le_bytes(b).into())
                .collect(),
            DType::U8 => bytes.iter().copied().map(i64::from).collect(),
            _ => return None,
        })
    }
}

/// Returns the size in bytes of a tensor of data type `dtype`; `None` on overflow.
pub(super) fn byte_count(dtype: DType, shape: &[usize]) -> Option<usize> {
    shape
        .iter()
        .try_fold(dtype.size(), |bytes, &n| bytes.checked_mul(n))
}

fn elements<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_of_every_width_convert() {
        let value = -1.5_f32;
        let cases = [
            (DType::F32, value.to_le_bytes().to_vec()),
            (DType::F16, f16::from_f32(value).to_le_bytes().to_vec()),
            (DType::BF16, bf16::from_f32(value).to_le_bytes().to_vec()),
            (DType::F64, f64::from(value).to_le_bytes().to_vec()),
        ];
        for (dtype, bytes) in cases {
            let tensor = Tensor::new(dtype, vec![1], bytes).unwrap();
            assert_eq!(tensor.to_f32().unwrap(), [value], "{dtype}");
        }
        let whole = Tensor::new(DType::I64, vec![], vec![0; 8]).unwrap();
        let message = whole.to_f32().unwrap_err().to_string();
        let expected = "cannot convert the tensor to f32: expected f32, f16, bf16, f64 or \
                        quantized elements, got i64";
        assert_eq!(message, expected);
    }

    #[test]
    fn the_number_of_bytes_must_match_the_shape() {
        let cases = [
            (vec![2, 3], 24, ""),
            (vec![], 4, ""),
            (vec![0, 7], 0, ""),
            (
                vec![2, 3],
                23,
                "tensor of shape [2, 3] and type f32 must have 24 bytes, got 23",
            ),
            (
                vec![],
                0,
                "tensor of shape [] and type f32 must have 4 bytes, got 0",
            ),
            (
                vec![usize::MAX, 2],
                4,
                "must have more than 2^64 bytes, got 4",
            ),
        ];
        for (shape, bytes, message) in cases {
            let got = Tensor::new(DType::F32, shape.clone(), vec![0; bytes]);
            let text = got.err().map(|e| e.to_string()).unwrap_or_default();
            assert!(text.contains(message), "{shape:?}: {text}");
            assert_eq!(text.is_empty(), message.is_empty(), "{shape:?}: {text}");
        }
    }
}
