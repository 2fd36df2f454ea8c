//! A tensor that a client has preprocessed, as the bytes in which it arrived.

use std::sync::Arc;

use bytes::Bytes;

use crate::budget::Permit;
use crate::image::{ImageSize, MAX_INPUT_PIXELS, Planes, PreparedImage};
use crate::pool::JobCost;

/// Size in bytes of an element.
const ELEMENT: usize = size_of::<f32>();
/// Maximum size in bytes of a tensor that is copied on the thread that serves the connection. That takes at most
/// a tenth of a millisecond.
const INLINE_TENSOR: usize = 1 << 20;
/// Predicted time to copy a tensor, in nanoseconds per byte.
const NANOS_PER_BYTE: f64 = 0.2;

/// The little-endian bytes of a tensor `[3, H, W] f32` of 1 to [`MAX_INPUT_PIXELS`] pixels. They become the network's input
/// without a copy if they are aligned. Others are copied only when memory for tensors is reserved, so that a request does
/// not hold its elements twice while it waits.
#[derive(Debug, Clone)]
pub struct RawTensor {
    size: ImageSize,
    bytes: Bytes,
    /// Memory of the request's body, reserved in the budget for bodies. All tensors of the request share it, and the last
    /// one that is dropped releases it: after its run, for which the memory is reserved in the budget for tensors, too, if
    /// the tensor is not copied. `None` until the pipeline runs.
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
        let is_long = bytes > INLINE_TENSOR && !Planes::can_share(&self.bytes);
        is_long.then(|| JobCost::time((bytes as f64 * NANOS_PER_BYTE) as u64))
    }

    /// Returns the bytes as the tensor. Elements may be NaN or infinite: load generators send random bytes.
    pub(super) fn prepare(self) -> PreparedImage {
        let Self {
            size,
            bytes,
            memory,
        } = self;
        PreparedImage {
            size,
            content: size,
            data: Planes::of_le_bytes(Bytes::from_owner(Held {
                bytes,
                _memory: memory,
            })),
        }
    }
}

/// Bytes whose memory stays reserved until they are dropped.
struct Held {
    bytes: Bytes,
    _memory: Option<Arc<Permit>>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;

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
        let tensor = RawTensor::new(SIZE, bytes(values)).unwrap().prepare();
        assert_eq!(tensor, PreparedImage::whole(SIZE, values.into()));
    }

    #[test]
    fn memory_is_reserved_as_long_as_the_tensor_shares_it() {
        let budget = Budget::new("bodies", 1, 100);
        for offset in 0..8 {
            let body = Bytes::from([vec![0; offset], bytes([1.0; 6]).to_vec()].concat());
            let body = body.slice(offset..);
            let is_shared = body.as_ptr().align_offset(ELEMENT) == 0;
            let mut tensor = RawTensor::new(SIZE, body).unwrap();
            tensor.memory = Some(Arc::new(budget.try_acquire(24).unwrap()));
            let prepared = tensor.prepare();
            assert_eq!(budget.used(), if is_shared { 24 } else { 0 }, "{offset}");
            assert_eq!(*prepared.data, [1.0; 6]);
            drop(prepared);
            assert_eq!(budget.used(), 0);
        }
    }

    #[test]
    fn only_large_copies_take_the_image_pool() {
        let (small, large) = (
            ImageSize {
                width: 2,
                height: 1,
            },
            ImageSize {
                width: 400,
                height: 300,
            },
        );
        for size in [small, large] {
            for offset in 0..8 {
                let body =
                    Bytes::from(vec![0; offset + 12 * size.pixels() as usize]).slice(offset..);
                let is_copied = body.as_ptr().align_offset(ELEMENT) != 0;
                let tensor = RawTensor::new(size, body).unwrap();
                assert_eq!(tensor.cost().is_some(), size == large && is_copied);
            }
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
