//! Postprocessing of segmentation: from logits to a mask, and from a mask to its encodings.
//!
//! [`segment()`] computes a [`Mask`] of any size from a network's scores for one image.
//! [`class_shares`] counts the pixels of each class; [`mask_png`] and [`mask_rle`] encode the mask.
//!
//! Drawing a mask over its image is *not* here, but in [`crate::draw`].

mod encoding;
mod mask;
mod palette;
mod png;
mod rle;
mod shared;
mod taps;
mod upsample;

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod reference;

use thiserror::Error;

use crate::cancel::{Cancel, Cancelled};
use crate::engine::Tensor;
use crate::image::ImageSize;

pub use crate::encode::PngError;
pub use crate::helpers::Helpers;
pub use encoding::{EncodedMask, MaskEncoding};
pub use mask::{ClassShare, Mask, class_shares};
pub use palette::{Palette, VOC_PALETTE};
pub use png::mask_png;
pub use rle::{RleMask, mask_rle};
pub use upsample::{argmax, argmax_upsampled};

/// Maximum number of classes of a mask, which stores the class of a pixel in one byte.
pub const MAX_CLASSES: usize = 256;

/// The reason why no mask can be computed from a network's scores.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SegmentError {
    /// The network's output has no class, or more than [`MAX_CLASSES`].
    #[error("a segmentation output must have 1..={MAX_CLASSES} classes, got {got}")]
    Classes {
        /// Number of classes in the network's output.
        got: usize,
    },
    /// The tensor of class scores does not have the shape `[C, h, w]`.
    #[error("a segmentation output must have the shape [classes, height, width], got {got:?}")]
    Shape {
        /// Shape of the tensor of class scores.
        got: Vec<usize>,
    },
    /// The mask or the class scores have a side of 0 pixels.
    #[error("a mask and its class scores must have at least 1x1 pixels, got {width}x{height}")]
    EmptySize {
        /// Width of the mask or of the class scores, in pixels.
        width: u32,
        /// Height of the mask or of the class scores, in pixels.
        height: u32,
    },
    /// The number of elements of a mask or of class scores does not match their shape.
    #[error("a mask or its class scores must have {expected} elements for their shape, got {got}")]
    Length {
        /// Number of elements that the shape requires: classes times height times width for class
        /// scores, height times width for a mask.
        expected: u64,
        /// Number of elements of the mask or of the class scores.
        got: usize,
    },
    /// The mask does not fit into memory.
    #[error("cannot allocate a mask of {width}x{height} pixels")]
    Memory {
        /// Width of the mask in pixels.
        width: u32,
        /// Height of the mask in pixels.
        height: u32,
    },
    /// The work was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Options for computing a mask: how to cancel the computation, and which helper threads share it.
#[derive(Clone, Copy)]
pub struct MaskJob<'a> {
    /// Signal that stops the computation with [`SegmentError::Cancelled`].
    pub cancel: &'a Cancel,
    /// Threads that share the work of a large mask. `None` to compute on the calling thread only.
    pub helpers: Option<&'a dyn Helpers>,
}

impl<'a> MaskJob<'a> {
    /// Returns a job that runs on the calling thread only.
    pub fn alone(cancel: &'a Cancel) -> Self {
        Self {
            cancel,
            helpers: None,
        }
    }
}

/// Returns the class with the highest score at each pixel of a mask of `size`. If `size` is `None`,
/// the mask has one pixel for each point of the scores.
///
/// `scores` is `[C, h, w] f32`.
///
/// # Errors
/// [`SegmentError`] if the scores have a wrong shape, if the mask does not fit into memory, or if
/// the work is cancelled.
pub fn segment(
    scores: &Tensor,
    size: Option<ImageSize>,
    job: MaskJob<'_>,
) -> Result<Mask, SegmentError> {
    let shape = || SegmentError::Shape {
        got: scores.shape.clone(),
    };
    let [classes, height, width] = *scores.shape.as_slice() else {
        return Err(shape());
    };
    let side = |side: usize| u32::try_from(side).map_err(|_| shape());
    let (width, height) = (side(width)?, side(height)?);
    let logits = Logits::new(&scores.data, classes, ImageSize { width, height })?;
    match size {
        Some(size) => argmax_upsampled(&logits, size, job),
        None => argmax(&logits),
    }
}

/// Class scores `[C, h, w] f32` of one image in C order: one plane per class.
#[derive(Debug, Clone, Copy)]
pub struct Logits<'a> {
    data: &'a [f32],
    classes: usize,
    size: ImageSize,
}

impl<'a> Logits<'a> {
    /// Wraps `data` as `[classes, size.height, size.width]`.
    ///
    /// # Errors
    /// [`SegmentError`] if there are no classes, more than [`MAX_CLASSES`], or no pixels, or if the
    /// length of `data` does not match this shape.
    pub fn new(data: &'a [f32], classes: usize, size: ImageSize) -> Result<Self, SegmentError> {
        if !(1..=MAX_CLASSES).contains(&classes) {
            return Err(SegmentError::Classes { got: classes });
        }
        not_empty(size)?;
        let expected = size.pixels().saturating_mul(classes as u64);
        if data.len() as u64 != expected {
            let got = data.len();
            return Err(SegmentError::Length { expected, got });
        }
        Ok(Self {
            data,
            classes,
            size,
        })
    }

    /// Returns the number of classes, `1..=MAX_CLASSES`.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Returns width and height of each class's plane, in points.
    pub fn size(&self) -> ImageSize {
        self.size
    }

    /// Returns row `y` of the plane of `class`.
    #[expect(
        clippy::inline_always,
        reason = "functions that a SIMD kernel calls must be inlined to use its instruction set"
    )]
    #[inline(always)]
    fn row(&self, class: usize, y: usize) -> &'a [f32] {
        let (width, height) = (self.size.width as usize, self.size.height as usize);
        &self.data[(class * height + y) * width..][..width]
    }
}

/// Returns [`SegmentError::EmptySize`] if a side of `size` is 0.
fn not_empty(size: ImageSize) -> Result<(), SegmentError> {
    let ImageSize { width, height } = size;
    if width == 0 || height == 0 {
        return Err(SegmentError::EmptySize { width, height });
    }
    Ok(())
}
