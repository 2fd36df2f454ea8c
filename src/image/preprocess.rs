//! A model's preprocessing, as its manifest describes it.

use image::RgbImage;

use super::decoded::Placement;
use super::detector::DetectorTransform;
use super::resize::resize_placed;
use super::{
    DecodedImage, DetectorResize, DetectorSize, Extent, ImageError, ImageSize, Normalizer, Planes,
    Scale, Window, short_side_size,
};
use crate::cancel::Cancel;
use crate::manifest::{ChannelOrder, Filter, Preprocess, Resize};

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
    /// Planes of normalized values, in the network's channel order: `[3, H, W]`.
    pub data: Planes,
}

impl PreparedImage {
    /// Wraps planes `[3, H, W]` of `size` without padding.
    pub fn whole(size: ImageSize, data: Vec<f32>) -> Self {
        Self {
            size,
            content: size,
            data: data.into(),
        }
    }
}

/// A model's preprocessing, with everything precomputed that does not depend on the image.
#[derive(Debug, Clone)]
pub struct Preprocessor {
    transform: Transform,
    order: ChannelOrder,
}

/// The steps of a preprocessing, which compute the planes red, green and blue.
#[derive(Debug, Clone)]
enum Transform {
    /// Resizes 8-bit pixels with antialiasing, crops and normalizes: classification, segmentation.
    Pixels(PixelTransform),
    /// Normalizes, resizes f32 planes and pads: detection.
    Floats(DetectorTransform),
}

impl Preprocessor {
    /// Builds the preprocessing of a validated manifest, whose crop does not exceed the resized
    /// short side.
    pub fn new(preprocess: &Preprocess) -> Self {
        let order = preprocess.channel_order.unwrap_or_default();
        Self {
            transform: Transform::new(preprocess, normalizer(preprocess, order)),
            order,
        }
    }

    /// Returns the resize of a detector's preprocessing. `None` for classification and
    /// segmentation.
    pub fn detector_resize(&self) -> Option<DetectorResize> {
        match &self.transform {
            Transform::Pixels(_) => None,
            Transform::Floats(transform) => Some(transform.resize()),
        }
    }

    /// Returns the size of the input tensor for an image of size `input`.
    ///
    /// # Errors
    /// The errors of [`Preprocessor::run`].
    pub fn output_size(&self, input: ImageSize) -> Result<ImageSize, ImageError> {
        match &self.transform {
            Transform::Pixels(transform) => {
                let Extent { width, height } = transform.window(input)?.size;
                Ok(ImageSize {
                    width: width as u32,
                    height: height as u32,
                })
            }
            Transform::Floats(transform) => Ok(transform.sizes(input)?.padded),
        }
    }

    /// Returns the scale at which an image of size `input` is decoded in [`DecodeMode::Fast`]: the
    /// smallest one that still leaves enough of the reduction to the resize. [`Scale::Full`] for an
    /// image that this preprocessor rejects.
    ///
    /// [`DecodeMode::Fast`]: super::DecodeMode::Fast
    pub fn fast_scale(&self, input: ImageSize) -> Scale {
        let resized = match &self.transform {
            Transform::Pixels(transform) => transform.window(input).map(|window| window.whole),
            Transform::Floats(transform) => transform.sizes(input).map(|sizes| Extent {
                width: sizes.resized.width.into(),
                height: sizes.resized.height.into(),
            }),
        };
        let Ok(Extent { width, height }) = resized else {
            return Scale::Full;
        };
        let across = f64::from(input.width) / width as f64;
        let down = f64::from(input.height) / height as f64;
        Scale::for_reduction(across.min(down))
    }

    /// Returns the size of the input tensor if it is the same for every image, or else `None`.
    pub fn fixed_size(&self) -> Option<ImageSize> {
        match &self.transform {
            Transform::Pixels(transform) => transform.crop.map(|side| ImageSize {
                width: side,
                height: side,
            }),
            Transform::Floats(transform) => transform.resize().fixed_size(),
        }
    }

    /// Returns the largest number of pixels (height times width) that an input tensor of this
    /// preprocessor can have.
    pub fn largest_pixels(&self) -> u64 {
        match &self.transform {
            Transform::Pixels(PixelTransform { crop: None, .. }) => MAX_INPUT_PIXELS,
            Transform::Pixels(PixelTransform {
                crop: Some(crop), ..
            }) => u64::from(*crop) * u64::from(*crop),
            Transform::Floats(transform) => transform.resize().largest_pixels(),
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
        let placement = Placement::whole(ImageSize { width, height });
        self.run_placed(image, &placement, cancel)
    }

    /// Converts an image that was decoded at any scale to the input tensor `[3, H, W] f32`, whose
    /// size does not depend on that scale.
    ///
    /// # Errors
    /// As [`Preprocessor::run_cancellable`].
    pub fn run_decoded(
        &self,
        image: &DecodedImage,
        cancel: &Cancel,
    ) -> Result<PreparedImage, ImageError> {
        self.run_placed(&image.pixels, &image.placement, cancel)
    }

    fn run_placed(
        &self,
        pixels: &RgbImage,
        placement: &Placement,
        cancel: &Cancel,
    ) -> Result<PreparedImage, ImageError> {
        let mut prepared = self.transform.run(pixels, placement, cancel)?;
        if self.order == ChannelOrder::Bgr {
            let planes = prepared.data.to_mut();
            let plane = planes.len() / 3;
            let (red, rest) = planes.split_at_mut(plane);
            red.swap_with_slice(&mut rest[plane..]);
        }
        Ok(prepared)
    }
}

/// Returns the normalization of the channels red, green and blue for a network that reads them in
/// `order`.
fn normalizer(preprocess: &Preprocess, order: ChannelOrder) -> Normalizer {
    let Preprocess {
        mut mean, mut std, ..
    } = *preprocess;
    if order == ChannelOrder::Bgr {
        mean.reverse();
        std.reverse();
    }
    match preprocess.scale {
        Some(255) => Normalizer::unscaled(mean, std),
        _ => Normalizer::new(mean, std),
    }
}

impl Transform {
    fn new(preprocess: &Preprocess, normalizer: Normalizer) -> Self {
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

    fn run(
        &self,
        pixels: &RgbImage,
        placement: &Placement,
        cancel: &Cancel,
    ) -> Result<PreparedImage, ImageError> {
        match self {
            Self::Pixels(transform) => {
                let window = transform.window(placement.size)?;
                let filter = transform.filter;
                let resized = resize_placed(pixels, placement, &window, filter, cancel)?;
                let (width, height) = resized.dimensions();
                let data = transform.normalizer.apply(&resized);
                Ok(PreparedImage::whole(ImageSize { width, height }, data))
            }
            Self::Floats(transform) => transform.run_placed(pixels, placement, cancel),
        }
    }
}

/// Resize, crop and normalization of 8-bit pixels.
#[derive(Debug, Clone)]
struct PixelTransform {
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
            scale: None,
            channel_order: None,
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
            assert!(*tensor.data == vec![1.0; 3 * 224 * 224], "{width}x{height}");
        }
        for height in [25, 4000] {
            let result = preprocessor(None).run(&RgbImage::new(1, height));
            assert!(matches!(result, Err(ImageError::ResizedTooLarge { .. })));
        }
        let result = preprocessor(None).run(&RgbImage::new(0, 7));
        assert_eq!(result, Err(ImageError::Empty));
    }

    #[test]
    fn bgr_is_bit_identical_to_swapping_the_channels_after_decoding() {
        let image = RgbImage::from_fn(37, 29, |x, y| image::Rgb([x as u8 * 6, y as u8 * 8, 77]));
        let swapped = RgbImage::from_fn(37, 29, |x, y| {
            let [red, green, blue] = image.get_pixel(x, y).0;
            image::Rgb([blue, green, red])
        });
        let short_side = Resize::ShortSide {
            size: 24,
            filter: Filter::Bilinear,
        };
        let fixed = Resize::Fixed {
            width: 20,
            height: 31,
        };
        for (resize, pad_to) in [(short_side, 1), (fixed, 8)] {
            for scale in [None, Some(255)] {
                let run = |channel_order, image: &RgbImage| {
                    let preprocess = Preprocess {
                        resize: resize.clone(),
                        crop: None,
                        mean: [0.1, 0.2, 0.3],
                        std: [1.0, 2.0, 4.0],
                        scale,
                        channel_order,
                        pad_to,
                    };
                    Preprocessor::new(&preprocess).run(image).unwrap()
                };
                let bgr = run(Some(ChannelOrder::Bgr), &image);
                assert_eq!(bgr, run(Some(ChannelOrder::Rgb), &swapped));
                assert_ne!(bgr, run(None, &image));
            }
        }
    }

    #[test]
    fn a_scale_of_255_is_the_mean_and_deviation_of_bytes() {
        let image = RgbImage::from_pixel(8, 8, image::Rgb([200, 100, 0]));
        let preprocess = Preprocess {
            resize: Resize::ShortSide {
                size: 8,
                filter: Filter::Bilinear,
            },
            crop: None,
            mean: [123.675, 116.28, 103.53],
            std: [58.395, 57.12, 57.375],
            scale: Some(255),
            channel_order: None,
            pad_to: 1,
        };
        let data = Preprocessor::new(&preprocess).run(&image).unwrap().data;
        let expected = [
            (200.0 - 123.675) / 58.395,
            (100.0 - 116.28) / 57.12,
            (0.0 - 103.53) / 57.375,
        ];
        for (plane, expected) in data.chunks(64).zip(expected) {
            assert!(plane.iter().all(|value| *value == expected), "{expected}");
        }
    }
}
