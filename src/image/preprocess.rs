//! A model's preprocessing, as its manifest describes it.

use image::RgbImage;

use super::detector::DetectorTransform;
use super::{
    DetectorResize, DetectorSize, Extent, ImageError, ImageSize, Normalizer, Window, resize_window,
    short_side_size,
};
use crate::cancel::Cancel;
use crate::manifest::{Filter, Preprocess, Resize};

/// Maximum number of pixels of a network's input, for one image or summed over a batch. It bounds
/// the memory for activations, which grows with the pixels: LR-ASPP needs 180 bytes per pixel. If
/// images are resized to a shorter side of 520 pixels, it admits longer sides of almost six times
/// that length.
pub const MAX_INPUT_PIXELS: u64 = 3 << 19;

/// A preprocessed image: a network's input for one image.
#[derive(Debug, Clone, PartialEq)]
pub struct PreparedImage {
    /// Size of each plane, padding included.
    pub size: ImageSize,
    /// Size of the resized image, which is at the top left of the planes. Pixels outside it are
    /// padding.
    pub content: ImageSize,
    /// Planes red, green and blue of normalized values: `[3, H, W]`.
    pub data: Vec<f32>,
}

impl PreparedImage {
    /// Wraps planes `[3, H, W]` of `size` without padding.
    pub fn whole(size: ImageSize, data: Vec<f32>) -> Self {
        Self {
            size,
            content: size,
            data,
        }
    }
}

/// A model's preprocessing, with everything precomputed that does not depend on the image.
#[derive(Debug, Clone)]
pub enum Preprocessor {
    /// Resizes 8-bit pixels with antialiasing, crops and normalizes: classification, segmentation.
    Pixels(PixelTransform),
    /// Normalizes, resizes f32 planes and pads: detection.
    Floats(DetectorTransform),
}

impl Preprocessor {
    /// Builds the preprocessing of a validated manifest, whose crop does not exceed the resized
    /// short side.
    pub fn new(preprocess: &Preprocess) -> Self {
        let normalizer = Normalizer::new(preprocess.mean, preprocess.std);
        let size = match preprocess.resize {
            Resize::ShortSide { size, filter } => {
                return Self::Pixels(PixelTransform {
                    short_side: size,
                    filter,
                    crop: preprocess.crop,
                    normalizer,
                });
            }
            Resize::Bounded { min_size, max_size } => DetectorSize::Bounded {
                min: min_size,
                max: max_size,
            },
            Resize::Fixed { width, height } => DetectorSize::Fixed(ImageSize { width, height }),
        };
        let resize = DetectorResize::new(size, preprocess.pad_to);
        Self::Floats(DetectorTransform::new(resize, normalizer))
    }

    /// Returns the resize of a detector's preprocessing. `None` for classification and
    /// segmentation.
    pub fn detector_resize(&self) -> Option<DetectorResize> {
        match self {
            Self::Pixels(_) => None,
            Self::Floats(transform) => Some(transform.resize()),
        }
    }

    /// Returns the size of the input tensor for an image of size `input`.
    ///
    /// # Errors
    /// The errors of [`Preprocessor::run`].
    pub fn output_size(&self, input: ImageSize) -> Result<ImageSize, ImageError> {
        match self {
            Self::Pixels(transform) => {
                let Extent { width, height } = transform.window(input)?.size;
                Ok(ImageSize {
                    width: width as u32,
                    height: height as u32,
                })
            }
            Self::Floats(transform) => Ok(transform.sizes(input)?.padded),
        }
    }

    /// Returns the largest number of pixels (height times width) that an input tensor of this
    /// preprocessor can have.
    pub fn largest_pixels(&self) -> u64 {
        match self {
            Self::Pixels(PixelTransform { crop: None, .. }) => MAX_INPUT_PIXELS,
            Self::Pixels(PixelTransform {
                crop: Some(crop), ..
            }) => u64::from(*crop) * u64::from(*crop),
            Self::Floats(transform) => transform.resize().largest_pixels(),
        }
    }

    /// Converts an image to the input tensor `[3, H, W] f32`.
    ///
    /// # Errors
    /// [`ImageError::Empty`] if the image has no pixels; [`ImageError::ResizedTooLarge`] if the
    /// tensor would have more than [`MAX_INPUT_PIXELS`] pixels, as for a very elongated image
    /// without a crop.
    pub fn run(&self, image: &RgbImage) -> Result<PreparedImage, ImageError> {
        self.run_cancellable(image, &Cancel::never())
    }

    /// Converts an image to the input tensor `[3, H, W] f32` as [`Preprocessor::run`] does, and
    /// stops early once `cancel` is cancelled.
    ///
    /// # Errors
    /// The errors of [`Preprocessor::run`], and [`ImageError::Cancelled`] if the work is cancelled.
    pub fn run_cancellable(
        &self,
        image: &RgbImage,
        cancel: &Cancel,
    ) -> Result<PreparedImage, ImageError> {
        let (width, height) = image.dimensions();
        let input = ImageSize { width, height };
        match self {
            Self::Pixels(transform) => {
                let window = transform.window(input)?;
                let resized = resize_window(image, &window, transform.filter, cancel)?;
                let (width, height) = resized.dimensions();
                let data = transform.normalizer.apply(&resized);
                Ok(PreparedImage::whole(ImageSize { width, height }, data))
            }
            Self::Floats(transform) => transform.run(image, cancel),
        }
    }
}

/// Resize, crop and normalization of 8-bit pixels.
#[derive(Debug, Clone)]
pub struct PixelTransform {
    short_side: u32,
    filter: Filter,
    crop: Option<u32>,
    normalizer: Normalizer,
}

impl PixelTransform {
    /// Returns the window of the resized image that the crop keeps, for an image of size `input`.
    fn window(&self, input: ImageSize) -> Result<Window, ImageError> {
        if input.width == 0 || input.height == 0 {
            return Err(ImageError::Empty);
        }
        let whole = short_side_size(input, self.short_side);
        let window = match self.crop {
            Some(crop) => Window::central(whole, crop),
            None => Window::all(whole),
        };
        if window.pixels() > MAX_INPUT_PIXELS {
            return Err(ImageError::ResizedTooLarge {
                input,
                width: window.size.width,
                height: window.size.height,
                limit: MAX_INPUT_PIXELS,
            });
        }
        Ok(window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preprocessor(crop: Option<u32>) -> Preprocessor {
        Preprocessor::new(&Preprocess {
            resize: Resize::ShortSide {
                size: 256,
                filter: Filter::Bilinear,
            },
            crop,
            mean: [0.5; 3],
            std: [0.5; 3],
            pad_to: 1,
        })
    }

    #[test]
    fn output_sizes_are_torchvisions() {
        let cases = [
            ((500, 375), (341, 256)),
            ((375, 500), (256, 341)),
            ((256, 256), (256, 256)),
            ((1, 1), (256, 256)),
            ((1, 24), (256, 6_144)),
        ];
        for ((width, height), expected) in cases {
            let input = ImageSize { width, height };
            let size = preprocessor(None).output_size(input).unwrap();
            assert_eq!((size.width, size.height), expected, "{width}x{height}");
            let size = preprocessor(Some(224)).output_size(input).unwrap();
            assert_eq!((size.width, size.height), (224, 224), "{width}x{height}");
        }
    }

    #[test]
    fn elongated_images_are_cropped_cheaply_and_rejected_without_a_crop() {
        for (width, height) in [(1, 4000), (4000, 1), (1, 1)] {
            let image = RgbImage::from_pixel(width, height, image::Rgb([255, 255, 255]));
            let tensor = preprocessor(Some(224)).run(&image).unwrap();
            assert!(tensor.data == vec![1.0; 3 * 224 * 224], "{width}x{height}");
        }
        for height in [25, 4000] {
            let result = preprocessor(None).run(&RgbImage::new(1, height));
            assert!(matches!(result, Err(ImageError::ResizedTooLarge { .. })));
        }
        let result = preprocessor(None).run(&RgbImage::new(0, 7));
        assert_eq!(result, Err(ImageError::Empty));
    }
}
