//! A tensor that a client has preprocessed, as the bytes in which it arrived.

use std::sync::Arc;

use crate::budget::Permit;
use crate::image::{ImageSize, MAX_INPUT_PIXELS, PreparedImage};
use crate::pool::JobCost;
use crate::segments::Segments;

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
    bytes: Segments,
    /// Memory of the request's body, reserved in the budget for bodies. All tensors of the request share it, and the last
    /// one that is dropped releases it. `None` until the pipeline runs.
    pub(super) memory: Option<Arc<Permit>>,
}

impl RawTensor {
    /// Wraps `bytes`, the planes `[3, H, W] f32` of `size`. Returns `None` if their number does not fit the size, or if
    /// the size is not within 1 to [`MAX_INPUT_PIXELS`] pixels.
    pub fn new(size: ImageSize, bytes: Segments) -> Option<Self> {
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

    /// Converts the bytes to the tensor. Elements may be NaN or infinite: load generators send random bytes.
    pub(super) fn prepare(&self) -> PreparedImage {
        PreparedImage::whole(self.size, self.bytes.to_floats())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

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
        let tensor = RawTensor::new(SIZE, bytes(values).into())
            .unwrap()
            .prepare();
        assert_eq!(tensor, PreparedImage::whole(SIZE, values.into()));
    }

    #[test]
    fn sizes_that_do_not_fit_the_bytes_are_rejected() {
        let of =
            |width, height, bytes| RawTensor::new(ImageSize { width, height }, Bytes::into(bytes));
        let six = bytes([0.0; 6]);
        assert!(of(2, 1, six.slice(1..)).is_none());
        assert!(of(1, 1, six.clone()).is_none());
        assert!(of(0, 0, Bytes::new()).is_none());
        assert!(of(u32::MAX, u32::MAX, six).is_none());
    }
}
