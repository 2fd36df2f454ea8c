//! Sizes of an image in a detector's preprocessing.

use super::preprocess::MAX_INPUT_PIXELS;
use super::{ImageError, ImageSize};

/// The size that a detector resizes images to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DetectorSize {
    /// The aspect ratio is kept; see [`bounded_size`].
    Bounded {
        /// Length in pixels of the resized image's shorter side. The side becomes shorter than this
        /// if the longer side would exceed `max`.
        min: u32,
        /// Maximum length in pixels of the resized image's longer side.
        max: u32,
    },
    /// Every image is resized to this size, whatever its aspect ratio.
    Fixed(ImageSize),
}

/// The sizes of one image before and after each step of a detector's preprocessing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DetectorSizes {
    /// Size of the decoded image.
    pub original: ImageSize,
    /// Size after the resize: boxes are clipped to it.
    pub resized: ImageSize,
    /// Size after padding, which is the size of the input tensor. Anchors and feature maps cover
    /// it.
    pub padded: ImageSize,
}

/// A detector's resize and padding, as a computation of sizes only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DetectorResize {
    size: DetectorSize,
    multiple: u32,
}

impl DetectorResize {
    /// Returns the resize to `size` with sides padded to a multiple of `multiple`: 32 for feature
    /// pyramids, 1 for no padding.
    pub fn new(size: DetectorSize, multiple: u32) -> Self {
        Self { size, multiple }
    }

    /// Returns the size of a padded image if it is the same for every image, or else `None`.
    pub fn fixed_size(self) -> Option<ImageSize> {
        match self.size {
            DetectorSize::Bounded { .. } => None,
            DetectorSize::Fixed(size) => Some(padded_size(size, self.multiple)),
        }
    }

    /// Returns the most pixels that a padded image can have, at most [`MAX_INPUT_PIXELS`].
    pub fn largest_pixels(self) -> u64 {
        let (width, height) = match self.size {
            DetectorSize::Bounded { min, max } => (max, min),
            DetectorSize::Fixed(size) => (size.width, size.height),
        };
        let padded = padded_size(ImageSize { width, height }, self.multiple);
        padded.pixels().min(MAX_INPUT_PIXELS)
    }

    /// Returns the sizes for an image of size `original`.
    ///
    /// # Errors
    /// [`ImageError::Empty`] if the image has no pixels; [`ImageError::ResizedTooLarge`] if the padded
    /// image has more than [`MAX_INPUT_PIXELS`] pixels.
    pub fn sizes(self, original: ImageSize) -> Result<DetectorSizes, ImageError> {
        if original.pixels() == 0 {
            return Err(ImageError::Empty);
        }
        let resized = match self.size {
            DetectorSize::Bounded { min, max } => bounded_size(original, min, max),
            DetectorSize::Fixed(size) => size,
        };
        let padded = padded_size(resized, self.multiple);
        if padded.pixels() > MAX_INPUT_PIXELS {
            return Err(ImageError::ResizedTooLarge {
                input: original,
                width: resized.width.into(),
                height: resized.height.into(),
                limit: MAX_INPUT_PIXELS,
            });
        }
        Ok(DetectorSizes {
            original,
            resized,
            padded,
        })
    }
}

/// Returns the size of an image that is resized, with its aspect ratio, to a shorter side of `min`
/// pixels, or of fewer pixels if the longer side would exceed `max` pixels.
///
/// Each side of the result is at least one pixel long. torchvision fails instead if a side would
/// round down to 0 pixels, as for an image of 1x4000 pixels. Source: torchvision's
/// `_resize_image_and_masks` outside of tracing, whose scale is a Python float, and
/// `recompute_scale_factor=True` of `torch.nn.functional.interpolate`, which rounds down.
pub fn bounded_size(input: ImageSize, min: u32, max: u32) -> ImageSize {
    let shorter = f64::from(input.width.min(input.height).max(1));
    let longer = f64::from(input.width.max(input.height).max(1));
    let scale = (f64::from(min) / shorter).min(f64::from(max) / longer);
    let side = |side: u32| ((f64::from(side) * scale).floor() as u32).max(1);
    ImageSize {
        width: side(input.width),
        height: side(input.height),
    }
}

/// Returns `size` with both sides rounded up to a multiple of `multiple` pixels. A `multiple` of 0
/// leaves `size` unchanged.
pub fn padded_size(size: ImageSize, multiple: u32) -> ImageSize {
    let side = |side: u32| side.checked_next_multiple_of(multiple).unwrap_or(side);
    ImageSize {
        width: side(size.width),
        height: side(size.height),
    }
}
