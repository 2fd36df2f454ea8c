//! A tensor that a client has preprocessed, as the bytes in which it arrived.

use std::sync::Arc;

use bytes::Bytes;

use crate::budget::Permit;
use crate::error::ServeError;
use crate::image::{ImageSize, MAX_INPUT_PIXELS, PreparedImage};
use crate::pool::JobCost;

/// Size in bytes of an element.
const ELEMENT: usize = size_of::<f32>();
/// Maximum size in bytes of a tensor that is converted on the thread that serves the connection. That takes at most
/// a tenth of a millisecond.
const INLINE_TENSOR: usize = 1 << 20;
/// Predicted time to convert a tensor, in nanoseconds per byte.
const NANOS_PER_BYTE: f64 = 0.2;

/// The little-endian bytes of a tensor `[3, H, W] f32` of 1 to [`MAX_INPUT_PIXELS`] pixels. They are converted only
/// when memory for tensors is reserved, so that a request does not hold its elements twice while it waits.
#[derive(Debug, Clone)]
pub struct RawTensor {
    size: ImageSize,
    bytes: Bytes,
    /// Memory of the request's body, reserved in the budget for bodies. All tensors of the request share it, and the last
    /// one that is dropped releases it. `None` until the pipeline runs.
    pub(super) memory: Option<Arc<Permit>>,
}

impl RawTensor {
    /// Wraps `bytes`, the planes `[3, H, W] f32` of `size`. Returns `None` if their number does not fit the size, or if
    /// the size is not within 1 to [`MAX_INPUT_PIXELS`] pixels.
    pub fn new(size: ImageSize, bytes: Bytes) -> Option<Self> {
        let pixels = size.pixels();
        let fits = (1..=MAX_INPUT_PIXELS).contains(&pixels)
            && bytes.len() as u64 == pixels * (3 * ELEMENT) as u64;
        fits.then_some(Self {
            size,
            bytes,
            memory: None,
        })
    }

    /// Returns the size of each plane.
    pub(crate) fn size(&self) -> ImageSize {
        self.size
    }

    /// Predicts the cost of [`RawTensor::prepare`]. `None` if it is so low that the calling thread can do it.
    pub(super) fn cost(&self) -> Option<JobCost> {
        let bytes = self.bytes.len();
        (bytes > INLINE_TENSOR).then(|| JobCost::time((bytes as f64 * NANOS_PER_BYTE) as u64))
    }

    /// Converts the bytes to the tensor of image `index` of the request.
    ///
    /// # Errors
    /// [`ServeError::BadParameter`] if an element is NaN or infinite: the results would be, too.
    pub(super) fn prepare(self, index: usize) -> Result<PreparedImage, ServeError> {
        let (chunks, _) = self.bytes.as_chunks::<ELEMENT>();
        let data: Vec<f32> = chunks
            .iter()
            .map(|chunk| f32::from_le_bytes(*chunk))
            .collect();
        // Without an early end, so that the loop is vectorized.
        let wrong = data
            .iter()
            .fold(false, |wrong, value| wrong | !value.is_finite());
        if !wrong {
            return Ok(PreparedImage::whole(self.size, data));
        }
        let wrong = data.iter().position(|value| !value.is_finite());
        let wrong = wrong.unwrap_or_default();
        Err(ServeError::BadParameter {
            field: format!("input, image {index}"),
            expected: "finite values".to_owned(),
            got: format!("{} at element {wrong}", data[wrong]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: ImageSize = ImageSize {
        width: 2,
        height: 1,
    };

    fn bytes(values: [f32; 6]) -> Bytes {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    }

    #[test]
    fn bytes_become_a_tensor() {
        let values = [1.0, -2.5, 0.0, -0.0, f32::MAX, f32::MIN_POSITIVE];
        let tensor = RawTensor::new(SIZE, bytes(values)).unwrap().prepare(0);
        assert_eq!(tensor.unwrap(), PreparedImage::whole(SIZE, values.into()));
    }

    #[test]
    fn values_that_are_not_finite_are_rejected() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let tensor = RawTensor::new(SIZE, bytes([0.0, 1.0, value, 1.0, 0.0, 0.0])).unwrap();
            let error = tensor.prepare(3).unwrap_err().to_string();
            let expected =
                format!("`input, image 3`: expected finite values, got {value} at element 2");
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn sizes_that_do_not_fit_the_bytes_are_rejected() {
        let of = |width, height, bytes| RawTensor::new(ImageSize { width, height }, bytes);
        let six = bytes([0.0; 6]);
        assert!(of(2, 1, six.slice(1..)).is_none());
        assert!(of(1, 1, six.clone()).is_none());
        assert!(of(0, 0, Bytes::new()).is_none());
        assert!(of(u32::MAX, u32::MAX, six).is_none());
    }
}
