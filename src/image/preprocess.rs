//! A model's whole preprocessing, as its manifest describes it.

use image::RgbImage;
use onnx_export::manifest::{Filter, Preprocess, Resize};

use super::{ImageError, ImageSize, Normalizer, Window, resize_window, short_side_size};

/// Most pixels of a preprocessed picture: a network fed more would exhaust memory first. A
/// segmentation network at a short side of 520 takes pictures 15 times as long as wide.
const MAX_OUTPUT_PIXELS: u64 = 1 << 22;

/// A preprocessed picture.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageTensor {
    /// Size of each plane.
    pub size: ImageSize,
    /// Planes red, green, blue: `[3, H, W]`.
    pub data: Vec<f32>,
}

/// Resize, crop and normalisation with everything that does not depend on the picture precomputed.
#[derive(Debug, Clone)]
pub struct Preprocessor {
    resize: Resize,
    crop: Option<u32>,
    normalizer: Normalizer,
}

impl Preprocessor {
    /// From a checked manifest: the crop does not exceed the resized short side.
    pub fn new(preprocess: &Preprocess) -> Self {
        Self {
            resize: preprocess.resize.clone(),
            crop: preprocess.crop,
            normalizer: Normalizer::new(preprocess.mean, preprocess.std),
        }
    }

    /// Size of the tensor that a picture of size `input` becomes.
    ///
    /// # Errors
    /// As [`Preprocessor::run`].
    pub fn output_size(&self, input: ImageSize) -> Result<ImageSize, ImageError> {
        let window = self.plan(input)?.0;
        Ok(ImageSize {
            width: window.size.0 as u32,
            height: window.size.1 as u32,
        })
    }

    /// Preprocesses a picture to `[3, H, W] f32`.
    ///
    /// # Errors
    /// [`ImageError::Empty`] without pixels, [`ImageError::ResizedTooLarge`] if the result would be
    /// larger than any network takes (an uncropped, very elongated picture).
    pub fn run(&self, image: &RgbImage) -> Result<ImageTensor, ImageError> {
        let (size, resized) = self.resized(image)?;
        let data = self.normalizer.apply(&resized);
        Ok(ImageTensor { size, data })
    }

    fn resized(&self, image: &RgbImage) -> Result<(ImageSize, RgbImage), ImageError> {
        let (width, height) = image.dimensions();
        let (window, filter) = self.plan(ImageSize { width, height })?;
        let resized = resize_window(image, &window, filter);
        let (width, height) = resized.dimensions();
        Ok((ImageSize { width, height }, resized))
    }

    /// The window to keep of the resized picture, and the filter that makes it.
    fn plan(&self, input: ImageSize) -> Result<(Window, Filter), ImageError> {
        if input.width == 0 || input.height == 0 {
            return Err(ImageError::Empty);
        }
        let (whole, filter) = match self.resize {
            Resize::ShortSide { size, filter } => (short_side_size(input, size), filter),
            Resize::Bounded { .. } | Resize::Fixed { .. } => {
                return Err(ImageError::DetectorResize);
            }
        };
        let window = match self.crop {
            Some(crop) => Window::central(whole, crop),
            None => Window::all(whole),
        };
        if window.pixels() > MAX_OUTPUT_PIXELS {
            return Err(ImageError::ResizedTooLarge {
                input,
                width: window.size.0,
                height: window.size.1,
                limit: MAX_OUTPUT_PIXELS,
            });
        }
        Ok((window, filter))
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
            ((1, 64), (256, 16_384)),
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
    fn elongated_pictures_cost_their_window_and_are_refused_uncropped() {
        for (width, height) in [(1, 4000), (4000, 1), (1, 1)] {
            let image = RgbImage::from_pixel(width, height, image::Rgb([255, 255, 255]));
            let tensor = preprocessor(Some(224)).run(&image).unwrap();
            assert!(tensor.data == vec![1.0; 3 * 224 * 224], "{width}x{height}");
        }
        for height in [65, 4000] {
            let result = preprocessor(None).run(&RgbImage::new(1, height));
            assert!(matches!(result, Err(ImageError::ResizedTooLarge { .. })));
        }
        let result = preprocessor(None).run(&RgbImage::new(0, 7));
        assert_eq!(result, Err(ImageError::Empty));
    }
}
