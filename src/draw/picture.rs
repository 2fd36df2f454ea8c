//! Whole pictures: an answer drawn in, and the bytes of a file.

use image::RgbImage;
use libjpeg_turbo_rs::{JpegError, PixelFormat, Subsampling, compress};
use thiserror::Error;

use super::{Colour, Sizes, label, legend, overlay, rectangle};
use crate::image::ImageSize;
use crate::image::png_file::write_png;
use crate::postprocess::detect::Detection;
use crate::postprocess::segment::{ClassShare, Mask, VOC_PALETTE};

/// How much of a mask's colour is mixed in.
const MASK_ALPHA: f32 = 0.55;
/// High enough that the edges of masks and letters stay clean.
const JPEG_QUALITY: u8 = 90;

/// A format for drawn pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrawnFormat {
    /// Every pixel as drawn.
    Png,
    /// A tenth of the size.
    Jpeg,
}

impl DrawnFormat {
    /// What a route offers, the best first.
    pub const OFFERS: [(&'static str, Self); 2] =
        [("image/png", Self::Png), ("image/jpeg", Self::Jpeg)];

    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
        }
    }

    /// Most columns and rows. Source: libpng's `PNG_UINT_31_MAX`, libjpeg's `JPEG_MAX_DIMENSION`.
    fn longest_side(self) -> u32 {
        match self {
            Self::Png => (1 << 31) - 1,
            Self::Jpeg => 65_500,
        }
    }
}

/// Mixes `mask` into `image` in VOC's colours and adds a legend of its `classes`, the largest first.
/// The background is left as it is and out of the legend.
pub fn segmentation(image: &mut RgbImage, mask: &Mask, classes: &[ClassShare]) {
    overlay(image, mask, &VOC_PALETTE, MASK_ALPHA);
    let mut shown: Vec<&ClassShare> = classes.iter().filter(|class| class.class_id != 0).collect();
    shown.sort_by_key(|class| std::cmp::Reverse(class.pixels));
    let entries: Vec<(&str, Colour)> = shown
        .iter()
        .map(|class| (class.label.as_str(), VOC_PALETTE[class.class_id]))
        .collect();
    legend(image, &entries);
}

/// Draws a box and its label for each of `detections`, the best on top, each class in its colour.
pub fn detections(image: &mut RgbImage, detections: &[Detection], labels: &[String]) {
    let thickness = Sizes::of(image).line;
    for detection in detections.iter().rev() {
        // Class 0 is the background, whose black no object should get.
        let colour = VOC_PALETTE[(detection.class_id % VOC_PALETTE.len()).max(1)];
        rectangle(image, detection.bounding_box, colour, thickness);
        let name = detection.labelled(labels).label;
        let text = format!("{name} {:.0} %", detection.score * 100.0);
        label(image, detection.bounding_box, &text, colour);
    }
}

/// A drawn picture that has no file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// The format cannot hold as many columns or rows.
    #[error("{} holds no picture of {width}x{height} pixels", format.media_type())]
    Size {
        /// The format.
        format: DrawnFormat,
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// The encoder failed.
    #[error("no {}: {reason}", format.media_type())]
    Encoder {
        /// The format.
        format: DrawnFormat,
        /// What the encoder says.
        reason: String,
    },
}

/// The bytes of an image file.
///
/// # Errors
/// [`EncodeError`].
pub fn encode(image: &RgbImage, format: DrawnFormat) -> Result<Vec<u8>, EncodeError> {
    let (width, height) = image.dimensions();
    let sides = 1..=format.longest_side();
    if !sides.contains(&width) || !sides.contains(&height) {
        return Err(EncodeError::Size {
            format,
            width,
            height,
        });
    }
    let failed = |reason: String| EncodeError::Encoder { format, reason };
    match format {
        DrawnFormat::Png => {
            let size = ImageSize { width, height };
            write_png(size, None, image.as_raw()).map_err(|error| failed(error.to_string()))
        }
        DrawnFormat::Jpeg => jpeg(image).map_err(|error| failed(error.to_string())),
    }
}

fn jpeg(image: &RgbImage) -> Result<Vec<u8>, JpegError> {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let (pixels, kind) = (image.as_raw(), PixelFormat::Rgb);
    compress(pixels, width, height, kind, JPEG_QUALITY, Subsampling::S444)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_hold_the_picture() {
        for (width, height) in [(1, 1), (17, 5), (1, 300)] {
            let image = RgbImage::from_fn(width, height, |x, y| {
                image::Rgb([x as u8 * 9, y as u8, (x + y) as u8])
            });
            let bytes = encode(&image, DrawnFormat::Png).unwrap();
            let decoded = image::load_from_memory(&bytes).unwrap().into_rgb8();
            assert_eq!(decoded, image, "{width}x{height}");
            let bytes = encode(&image, DrawnFormat::Jpeg).unwrap();
            assert!(bytes.starts_with(&[0xFF, 0xD8]) && bytes.ends_with(&[0xFF, 0xD9]));
        }
    }

    #[test]
    fn a_picture_too_large_for_its_format_is_told_from_a_failure() {
        let (png, jpeg) = (DrawnFormat::Png, DrawnFormat::Jpeg);
        for (width, height, format, possible) in [
            (70_000, 1, png, true),
            (65_500, 1, jpeg, true),
            (65_501, 1, jpeg, false),
            (1, 65_501, jpeg, false),
            (0, 1, png, false),
            (1, 0, jpeg, false),
        ] {
            let got = encode(&RgbImage::new(width, height), format).map(|_| ());
            let error = EncodeError::Size {
                format,
                width,
                height,
            };
            assert_eq!(got, if possible { Ok(()) } else { Err(error) });
        }
        let error = encode(&RgbImage::new(1, 70_000), jpeg).unwrap_err();
        let expected = "image/jpeg holds no picture of 1x70000 pixels";
        assert_eq!(error.to_string(), expected);
    }
}
