//! Draws the results of an image into the whole image, and encodes the drawn image as a file.

use image::RgbImage;
use thiserror::Error;

use super::boxes::place_labels;
use super::{Color, ColorScheme, LabelText, Sizes, Style, Tint, legend, overlay, rectangle};
use crate::cancel::{Cancel, Cancelled};
use crate::encode::{DrawnFormat, PngError, WriteJpegError, write_jpeg, write_png};
use crate::image::ImageSize;
use crate::postprocess::detect::Detection;
use crate::postprocess::segment::{ClassShare, Mask};

/// Opacity of a mask's colors, 0..=1.
const MASK_ALPHA: f32 = 0.55;
/// Short side in pixels of the smallest image whose masks have outlines by default.
const OUTLINED: u32 = 64;
/// JPEG quality, 1..=100; high enough that the edges of masks and letters stay clean.
const JPEG_QUALITY: u8 = 90;

/// Draws `mask` into `image`: its classes in translucent colors with an outline, and a legend of the
/// `classes` in the mask by descending area. The background is neither tinted nor listed.
///
/// # Errors
/// [`Cancelled`] if the work is cancelled.
pub fn segmentation(
    image: &mut RgbImage,
    mask: &Mask,
    classes: &[ClassShare],
    style: Style,
    cancel: &Cancel,
) -> Result<(), Cancelled> {
    let scheme = style.palette.unwrap_or(ColorScheme::Voc);
    let tint = Tint {
        palette: std::array::from_fn(|class| scheme.color(class)),
        alpha: MASK_ALPHA,
        outline: outline(image, style),
    };
    overlay(image, mask, &tint, cancel)?;
    let mut shown: Vec<&ClassShare> = classes.iter().filter(|class| class.class_id != 0).collect();
    shown.sort_by_key(|class| std::cmp::Reverse(class.pixels));
    let text = |class: &ClassShare| match style.labels {
        LabelText::Off => None,
        LabelText::Name => Some(class.label.clone()),
        LabelText::Score => Some(format!("{} {}", class.label, percent(class.fraction))),
    };
    let texts = shown
        .iter()
        .filter_map(|class| Some((text(class)?, scheme.color(class.class_id))));
    let texts: Vec<(String, Color)> = texts.collect();
    let entries: Vec<(&str, Color)> = texts
        .iter()
        .map(|(t, color)| (t.as_str(), *color))
        .collect();
    legend(image, &entries);
    cancel.check()
}

/// Returns the width of a mask's outlines in pixels. Without a chosen width, an image whose lines would cover much of
/// it has none.
fn outline(image: &RgbImage, style: Style) -> u32 {
    let short = image.width().min(image.height());
    match style.line_width {
        None if short < OUTLINED => 0,
        _ => style.line_width(Sizes::of(image)),
    }
}

/// Draws a box and a label for each of `detections`, with one color per class. `labels` holds the
/// class names by class id. The first detection is drawn last, so it is on top, and its label has the
/// best place. A label for which there is no free place is left out.
///
/// # Errors
/// [`Cancelled`] if the work is cancelled, which is checked before each box and each label.
pub fn detections(
    image: &mut RgbImage,
    detections: &[Detection],
    labels: &[String],
    style: Style,
    cancel: &Cancel,
) -> Result<(), Cancelled> {
    let scheme = style.palette.unwrap_or(ColorScheme::Bright);
    let thickness = style.line_width(Sizes::of(image));
    for detection in detections.iter().rev() {
        cancel.check()?;
        let color = scheme.color(detection.class_id);
        rectangle(image, detection.bounding_box, color, thickness);
    }
    let text = |detection: &Detection| {
        let name = detection.labeled(labels).label;
        match style.labels {
            LabelText::Off => None,
            LabelText::Name => Some(name.to_owned()),
            LabelText::Score => Some(format!("{name} {}", percent(detection.score))),
        }
    };
    let labeled = detections.iter().filter_map(|detection| {
        let color = scheme.color(detection.class_id);
        Some((detection.bounding_box, text(detection)?, color))
    });
    place_labels(image, &labeled.collect::<Vec<_>>(), cancel)?;
    cancel.check()
}

/// Returns a share, 0 to 1, as a percentage without decimals, and `<1%` for one that is not 0 but rounds to it.
fn percent(share: f32) -> String {
    if share > 0.0 && share < 0.005 {
        return "<1%".to_owned();
    }
    format!("{:.0}%", share * 100.0)
}

/// Why a drawn image cannot be encoded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// A side of the drawn image is 0 pixels, or longer than the format allows.
    #[error(
        "cannot encode an image of {width}x{height} pixels as {}: sides must be 1..={}",
        format.media_type(),
        format.longest_side()
    )]
    Size {
        /// File format of the drawn image.
        format: DrawnFormat,
        /// Width of the drawn image in pixels.
        width: u32,
        /// Height of the drawn image in pixels.
        height: u32,
    },
    /// The PNG or JPEG encoder returned an error.
    #[error("the {} encoder failed on the drawn image: {reason}", format.media_type())]
    Encoder {
        /// File format of the drawn image.
        format: DrawnFormat,
        /// Error message of the encoder.
        reason: String,
    },
    /// Encoding the drawn image was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Encodes a drawn image as a file of format `format`.
///
/// # Errors
/// [`EncodeError`] if a side of the image is 0 or too long for the format, if the encoder fails, or
/// if `cancel` is cancelled.
pub fn encode(
    image: &RgbImage,
    format: DrawnFormat,
    cancel: &Cancel,
) -> Result<Vec<u8>, EncodeError> {
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
            write_png(size, None, image.as_raw(), cancel).map_err(|error| match error {
                PngError::Cancelled(cancelled) => cancelled.into(),
                PngError::Encoder(error) => failed(error.to_string()),
            })
        }
        DrawnFormat::Jpeg => write_jpeg(image, JPEG_QUALITY, cancel).map_err(|error| match error {
            WriteJpegError::Cancelled(cancelled) => cancelled.into(),
            WriteJpegError::Encoder(error) => failed(error),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn png_files_decode_to_the_image_and_jpeg_files_are_complete() {
        for (width, height) in [(1, 1), (17, 5), (1, 300)] {
            let image = RgbImage::from_fn(width, height, |x, y| {
                image::Rgb([x as u8 * 9, y as u8, (x + y) as u8])
            });
            let bytes = encode(&image, DrawnFormat::Png, &Cancel::never()).unwrap();
            let mut reader = png::Decoder::new(std::io::Cursor::new(&bytes))
                .read_info()
                .unwrap();
            let mut decoded = vec![0; image.as_raw().len()];
            reader.next_frame(&mut decoded).unwrap();
            assert_eq!(&decoded, image.as_raw(), "{width}x{height}");
            let bytes = encode(&image, DrawnFormat::Jpeg, &Cancel::never()).unwrap();
            assert!(bytes.starts_with(&[0xFF, 0xD8]) && bytes.ends_with(&[0xFF, 0xD9]));
        }
    }

    #[test]
    fn small_shares_are_not_called_nothing() {
        for (share, expected) in [
            (0.0, "0%"),
            (0.000_1, "<1%"),
            (0.004_9, "<1%"),
            (0.006, "1%"),
            (0.994, "99%"),
            (1.0, "100%"),
        ] {
            assert_eq!(percent(share), expected);
        }
    }

    #[test]
    fn masks_of_tiny_images_have_no_outlines() {
        let width = |side, line_width| {
            let style = Style {
                line_width,
                ..Style::default()
            };
            outline(&RgbImage::new(side, 2 * side), style)
        };
        assert_eq!(
            [width(8, None), width(64, None), width(4400, None)],
            [0, 1, 20]
        );
        assert_eq!(width(8, Some(3)), 3);
    }

    #[test]
    fn sizes_beyond_the_format_are_rejected() {
        let (png, jpeg) = (DrawnFormat::Png, DrawnFormat::Jpeg);
        for (width, height, format, possible) in [
            (70_000, 1, png, true),
            (65_500, 1, jpeg, true),
            (65_501, 1, jpeg, false),
            (1, 65_501, jpeg, false),
            (0, 1, png, false),
            (1, 0, jpeg, false),
        ] {
            let got = encode(&RgbImage::new(width, height), format, &Cancel::never()).map(|_| ());
            let error = EncodeError::Size {
                format,
                width,
                height,
            };
            assert_eq!(got, if possible { Ok(()) } else { Err(error) });
        }
        let error = encode(&RgbImage::new(1, 70_000), jpeg, &Cancel::never()).unwrap_err();
        let expected =
            "cannot encode an image of 1x70000 pixels as image/jpeg: sides must be 1..=65500";
        assert_eq!(error.to_string(), expected);
    }
}
