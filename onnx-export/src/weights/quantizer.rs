//! The scales and zero points of a quantized tensor.

use thiserror::Error;

use super::DType;

/// The scales and zero points of a quantized tensor: the value of integer `q` is `(q - zero_point) * scale`.
///
/// Scales are finite and greater than 0, as f64 and as f32.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantizer {
    scales: Vec<f64>,
    zero_points: Vec<i64>,
    axis: Option<usize>,
}

// Equality is reflexive, since no scale is NaN.
impl Eq for Quantizer {}

/// Error: the scales or zero points are invalid or do not match the tensor.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("invalid scales or zero points: expected {expected}, got {got}")]
pub struct InvalidQuantizer {
    /// Requirement on the scales, the zero points or the tensor that is violated.
    pub expected: &'static str,
    /// Value that violates the requirement, with the tensor's axis, shape or data type if they
    /// matter.
    pub got: String,
}

impl InvalidQuantizer {
    fn new(expected: &'static str, got: &impl ToString) -> Self {
        let got = got.to_string();
        Self { expected, got }
    }
}

impl Quantizer {
    /// Creates a quantizer with one scale and zero point for all elements: torch's
    /// `per_tensor_affine`.
    ///
    /// # Errors
    /// Returns [`InvalidQuantizer`] if the scale is not finite and greater than 0.
    pub fn per_tensor(scale: f64, zero_point: i64) -> Result<Self, InvalidQuantizer> {
        Self::new(vec![scale], vec![zero_point], None)
    }

    /// Creates a quantizer with a scale and a zero point for each index of `axis`: torch's
    /// `per_channel_affine`.
    ///
    /// # Errors
    /// Returns [`InvalidQuantizer`] if a scale is not finite and greater than 0, or the numbers of
    /// scales and zero points differ.
    pub fn per_channel(
        scales: Vec<f64>,
        zero_points: Vec<i64>,
        axis: usize,
    ) -> Result<Self, InvalidQuantizer> {
        Self::new(scales, zero_points, Some(axis))
    }

    fn new(
        scales: Vec<f64>,
        zero_points: Vec<i64>,
        axis: Option<usize>,
    ) -> Result<Self, InvalidQuantizer> {
        // Torch converts scales to f32, where a very small scale becomes 0 and a very large one
        // infinite.
        let usable = |scale: &f64| (*scale as f32).is_finite() && *scale as f32 > 0.0;
        if let Some(scale) = scales.iter().find(|scale| !usable(scale)) {
            let expected = "a finite scale greater than 0";
            return Err(InvalidQuantizer::new(expected, scale));
        }
        if scales.len() != zero_points.len() {
            let got = format!(
                "{} zero points for {} scales",
                zero_points.len(),
                scales.len()
            );
            return Err(InvalidQuantizer::new("as many zero points as scales", &got));
        }
        Ok(Self {
            scales,
            zero_points,
            axis,
        })
    }

    /// Returns the scales: one for the whole tensor, or one for each index of [`Quantizer::axis`].
    pub fn scales(&self) -> &[f64] {
        &self.scales
    }

    /// Returns the zero points, one for each scale.
    pub fn zero_points(&self) -> &[i64] {
        &self.zero_points
    }

    /// Returns the axis whose indices have their own scales; `None` if all elements share one
    /// scale.
    pub fn axis(&self) -> Option<usize> {
        self.axis
    }

    /// Checks that the zero points fit into the data type of the tensor, and the axis and number of
    /// scales to its shape.
    pub(super) fn check(&self, dtype: DType, shape: &[usize]) -> Result<(), InvalidQuantizer> {
        let Some((least, most)) = range(dtype) else {
            let expected = "elements of type i8, u8 or i32";
            return Err(InvalidQuantizer::new(expected, &dtype));
        };
        let outside = |zero_point: &&i64| !(least..=most).contains(*zero_point);
        if let Some(zero_point) = self.zero_points.iter().find(outside) {
            let expected = "a zero point within the range of the data type";
            let got = format!("{zero_point} for {dtype}");
            return Err(InvalidQuantizer::new(expected, &got));
        }
        let Some(axis) = self.axis else {
            return Ok(());
        };
        let Some(&channels) = shape.get(axis) else {
            let got = format!("axis {axis} for shape {shape:?}");
            return Err(InvalidQuantizer::new("an axis of the tensor", &got));
        };
        if self.scales.len() != channels {
            let got = format!(
                "{} scales for axis {axis} of shape {shape:?}",
                self.scales.len()
            );
            return Err(InvalidQuantizer::new("a scale per index of the axis", &got));
        }
        Ok(())
    }

    /// Returns the f32 values of the `integers` of a tensor of `shape`, in C order. The zero point
    /// is subtracted in integers, and the difference is multiplied by the scale in f32.
    ///
    /// Source: `aten/src/ATen/native/quantized/AffineQuantizerBase.cpp:dequantize_val`.
    pub(super) fn dequantize(
        &self,
        integers: impl Iterator<Item = i64>,
        shape: &[usize],
    ) -> Vec<f32> {
        // Number of consecutive elements that share a scale; all elements if there is only one
        // scale.
        let inner = match self.axis {
            // Saturating, since the product of the other axes of an empty tensor may overflow.
            Some(axis) => shape
                .iter()
                .skip(axis + 1)
                .fold(1, |product: usize, n| product.saturating_mul(*n))
                .max(1),
            None => usize::MAX,
        };
        let scales = self.scales.iter().map(|scale| *scale as f32);
        let channels: Vec<(f32, i64)> = scales.zip(self.zero_points.iter().copied()).collect();
        let value = |(at, integer): (usize, i64)| {
            let (scale, zero_point) = channels[at / inner % channels.len()];
            (integer - zero_point) as f32 * scale
        };
        integers.enumerate().map(value).collect()
    }
}

/// Returns the smallest and largest integer of a data type that stores torch's `qint8`, `quint8` or
/// `qint32`; `None` for other data types.
fn range(dtype: DType) -> Option<(i64, i64)> {
    match dtype {
        DType::I8 => Some((i8::MIN.into(), i8::MAX.into())),
        DType::U8 => Some((u8::MIN.into(), u8::MAX.into())),
        DType::I32 => Some((i32::MIN.into(), i32::MAX.into())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::Tensor;

    fn dequantized(
        dtype: DType,
        shape: &[usize],
        bytes: &[u8],
        quantizer: Quantizer,
    ) -> Result<Vec<f32>, String> {
        let tensor = Tensor::new(dtype, shape.to_vec(), bytes.to_vec()).unwrap();
        let tensor = tensor.quantized(quantizer).map_err(|e| e.to_string())?;
        Ok(tensor.to_f32().unwrap())
    }

    #[test]
    fn dequantized_values_are_bit_identical_to_torch() {
        // The expected values are those of torch.quantize_per_tensor(x, 0.1, 3,
        // torch.qint8).dequantize().
        let one = Quantizer::per_tensor(0.1, 3).unwrap();
        let got = dequantized(DType::I8, &[3], &[0x80, 3, 127], one).unwrap();
        assert_eq!(got, [-131.0 * 0.1_f32, 0.0, 124.0 * 0.1_f32]);
        let unsigned = Quantizer::per_tensor(0.5, 128).unwrap();
        let got = dequantized(DType::U8, &[2], &[0, 255], unsigned).unwrap();
        assert_eq!(got, [-64.0, 63.5]);
        let wide = Quantizer::per_tensor(1.0, i32::MIN.into()).unwrap();
        let largest = i32::MAX.to_le_bytes();
        let got = dequantized(DType::I32, &[], &largest, wide).unwrap();
        assert_eq!(got, [4_294_967_296.0]);
    }

    #[test]
    fn each_channel_uses_its_scale() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8];
        let halves = |axis| Quantizer::per_channel(vec![1.0, 0.5], vec![0, 2], axis).unwrap();
        let cases = [
            (0, [1.0, 2.0, 3.0, 4.0, 1.5, 2.0, 2.5, 3.0]),
            (1, [1.0, 2.0, 0.5, 1.0, 5.0, 6.0, 2.5, 3.0]),
            (2, [1.0, 0.0, 3.0, 1.0, 5.0, 2.0, 7.0, 3.0]),
        ];
        for (axis, expected) in cases {
            let got = dequantized(DType::I8, &[2, 2, 2], &bytes, halves(axis)).unwrap();
            assert_eq!(got, expected, "axis {axis}");
        }
        let none = Quantizer::per_channel(Vec::new(), Vec::new(), 0).unwrap();
        assert_eq!(dequantized(DType::I8, &[0, 3], &[], none), Ok(Vec::new()));
    }

    #[test]
    fn invalid_quantizers_are_rejected() {
        let scales = [0.0, -0.5, f64::NAN, f64::INFINITY, 1e-60, 1e60];
        for scale in scales {
            let error = Quantizer::per_tensor(scale, 0).unwrap_err().to_string();
            assert_eq!(
                error,
                format!(
                    "invalid scales or zero points: expected a finite scale greater than 0, \
                     got {scale}"
                )
            );
        }
        let error = Quantizer::per_channel(vec![1.0; 2], vec![0; 3], 0).unwrap_err();
        assert_eq!(error.got, "3 zero points for 2 scales");
        let per_channel = |n: usize, axis| Quantizer::per_channel(vec![1.0; n], vec![0; n], axis);
        let cases = [
            (DType::I8, Quantizer::per_tensor(1.0, 128), "got 128 for i8"),
            (DType::U8, Quantizer::per_tensor(1.0, -1), "got -1 for u8"),
            (
                DType::F32,
                Quantizer::per_tensor(1.0, 0),
                "expected elements of type i8, u8 or i32, got f32",
            ),
            (DType::I8, per_channel(2, 2), "got axis 2 for shape [2, 1]"),
            (
                DType::I8,
                per_channel(3, 0),
                "got 3 scales for axis 0 of shape [2, 1]",
            ),
        ];
        for (dtype, quantizer, expected) in cases {
            let bytes = vec![0; 2 * dtype.size()];
            let error = dequantized(dtype, &[2, 1], &bytes, quantizer.unwrap()).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
