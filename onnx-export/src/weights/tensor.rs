//! A tensor as checkpoints hold it: a type, a shape and bytes.
//!
//! Not here: arithmetic, views and strides. A tensor is always whole and contiguous.

use std::fmt;

use half::{bf16, f16};

use super::{InvalidQuantizer, Quantizer, WeightsError, error::Overflowing};

/// Element types of checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of an `f32`.
    BF16,
    /// IEEE 754 double precision.
    F64,
    /// Signed, 64 bits.
    I64,
    /// Signed, 32 bits.
    I32,
    /// Signed, 16 bits.
    I16,
    /// Signed, 8 bits.
    I8,
    /// Unsigned, 8 bits.
    U8,
    /// One byte, 0 or 1.
    Bool,
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// Whether [`Tensor::to_f32`] converts it where the tensor is not quantised.
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

/// A dense tensor: little-endian elements in C order (the last axis is contiguous). Of a quantised
/// one, the elements are its integers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    bytes: Vec<u8>,
    quantizer: Option<Quantizer>,
}

impl Tensor {
    /// A tensor of `shape` over `bytes`. An empty shape is a scalar.
    ///
    /// # Errors
    /// [`WeightsError::Shape`] unless there are exactly as many bytes as shape and type ask for.
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

    /// An f32 tensor of `shape` holding `values` in C order.
    ///
    /// # Errors
    /// [`WeightsError::Shape`] unless there are exactly as many values as the shape asks for.
    pub fn from_f32(shape: &[usize], values: &[f32]) -> Result<Self, WeightsError> {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self::new(DType::F32, shape.to_vec(), bytes)
    }

    /// The same integers, standing for floats as `quantizer` says.
    ///
    /// # Errors
    /// [`InvalidQuantizer`] for elements other than i8, u8 and i32, a zero point outside of them, an
    /// axis outside the shape, and unless there is a scale for every index of the axis.
    pub fn quantized(self, quantizer: Quantizer) -> Result<Self, InvalidQuantizer> {
        quantizer.check(self.dtype, &self.shape)?;
        let quantizer = Some(quantizer);
        Ok(Self { quantizer, ..self })
    }

    /// What the elements of a quantised tensor stand for.
    pub fn quantizer(&self) -> Option<&Quantizer> {
        self.quantizer.as_ref()
    }

    /// Type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Length of each axis, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements, little-endian, in C order.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The elements as f32, in C order. An f64 is rounded to the nearest f32; quantised integers
    /// become what they stand for, to the bit as torch's `dequantize` has it.
    ///
    /// # Errors
    /// [`WeightsError::NotFloat`] for other whole numbers and booleans, which are never weights.
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

    /// The elements of a tensor of floats as f64, in C order; none for other types.
    pub(super) fn to_f64(&self) -> Option<Vec<f64>> {
        match self.dtype {
            DType::F64 => Some(elements(&self.bytes).map(f64::from_le_bytes).collect()),
            _ => Some(self.to_f32().ok()?.into_iter().map(f64::from).collect()),
        }
    }

    /// The elements of an i64, i32, i8 or u8 tensor, in C order; none for other types.
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

/// Bytes of a tensor; none if that overflows.
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
        assert_eq!(message, "expected f32, f16, bf16 or f64 elements, got i64");
    }

    #[test]
    fn shape_and_bytes_must_agree() {
        let cases = [
            (vec![2, 3], 24, ""),
            (vec![], 4, ""),
            (vec![0, 7], 0, ""),
            (
                vec![2, 3],
                23,
                "a tensor [2, 3] f32: expected 24 bytes, got 23",
            ),
            (vec![], 0, "a tensor [] f32: expected 4 bytes, got 0"),
            (
                vec![usize::MAX, 2],
                4,
                "expected more than 2^64 bytes, got 4",
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
