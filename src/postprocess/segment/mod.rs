//! Logits to a mask, and a mask to what is sent.
//!
//! [`segment()`] makes a [`Mask`] of what a network gives for one picture, at any size; [`class_shares`] counts it, [`mask_png`] and [`mask_rle`] encode it.
//!
//! What is *not* here: drawing a mask into its picture, see [`crate::draw`].

mod encoding;
mod mask;
mod palette;
mod png;
mod rle;
mod taps;
mod upsample;

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod reference;

use thiserror::Error;

use crate::engine::Tensor;
use crate::image::ImageSize;

pub use encoding::{EncodedMask, MaskEncoding};
pub use mask::{ClassShare, Mask, class_shares};
pub use palette::{Palette, VOC_PALETTE};
pub use png::mask_png;
pub use rle::{RleMask, mask_rle};
pub use upsample::{argmax, argmax_upsampled};

/// Classes that a mask of one byte a pixel can tell apart.
pub const MAX_CLASSES: usize = 256;

/// Logits or a mask that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SegmentError {
    /// A network with no class, or with more than [`MAX_CLASSES`].
    #[error("a segmentation network of {got} classes; from 1 to {MAX_CLASSES} are possible")]
    Classes {
        /// Classes of the output.
        got: usize,
    },
    /// A tensor that is not `[C, h, w]`.
    #[error("scores of shape {got:?}; expected [classes, height, width]")]
    Shape {
        /// The tensor's shape.
        got: Vec<usize>,
    },
    /// A side of zero pixels.
    #[error("a size of {width}x{height} pixels holds nothing")]
    EmptySize {
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// The values are not as many as the shape says.
    #[error("{got} values where the shape asks for {expected}")]
    Length {
        /// Classes times height times width; for masks, height times width.
        expected: u64,
        /// Values given.
        got: usize,
    },
    /// The memory for a mask cannot be had.
    #[error("no memory for a mask of {width}x{height} pixels")]
    Memory {
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
    },
}

/// The best class of each pixel of a picture of `size`, or of each of the scores' own points.
///
/// `scores` is `[C, h, w] f32`; at most `threads` threads share the work.
///
/// # Errors
/// [`SegmentError`] for scores that no mask can be made of, or without the memory for one.
pub fn segment(
    scores: &Tensor,
    size: Option<ImageSize>,
    threads: usize,
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
        Some(size) => argmax_upsampled(&logits, size, threads),
        None => argmax(&logits),
    }
}

/// Scores `[C, h, w] f32` of one picture, in C order: one plane a class.
#[derive(Debug, Clone, Copy)]
pub struct Logits<'a> {
    data: &'a [f32],
    classes: usize,
    size: ImageSize,
}

impl<'a> Logits<'a> {
    /// Takes `data` as `[classes, size.height, size.width]`.
    ///
    /// # Errors
    /// [`SegmentError`] where there is no class or no pixel, where classes do not fit into a byte, or
    /// where `data` has another length.
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

    /// Number of classes, `1..=MAX_CLASSES`.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Columns and rows of a plane.
    pub fn size(&self) -> ImageSize {
        self.size
    }

    /// Row `y` of the plane of `class`.
    #[expect(
        clippy::inline_always,
        reason = "what a kernel calls must be compiled for its instruction set"
    )]
    #[inline(always)]
    fn row(&self, class: usize, y: usize) -> &'a [f32] {
        let (width, height) = (self.size.width as usize, self.size.height as usize);
        &self.data[(class * height + y) * width..][..width]
    }
}

/// # Errors
/// [`SegmentError::EmptySize`] if a side is zero.
fn not_empty(size: ImageSize) -> Result<(), SegmentError> {
    let ImageSize { width, height } = size;
    if width == 0 || height == 0 {
        return Err(SegmentError::EmptySize { width, height });
    }
    Ok(())
}
