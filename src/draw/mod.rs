//! Draws results into the image that they were computed from: translucent masks, a legend, boxes
//! with labels.
//!
//! Labels do not hide each other, and masks have outlines. Drawings are clipped to the image. The sizes of text and lines are proportional to the image,
//! see [`Sizes`]. A label or legend entry that does not fit is left out or cut. Colors are red,
//! green and blue; positions are pixels from the top left corner of the image.
//!
//! What is *not* here: which results are drawn, see [`crate::postprocess`], and image files, see
//! `encode`.

mod boxes;
mod canvas;
mod legend;
mod overlay;
mod paragraph;
mod place;
mod render;
mod style;
mod text;

#[cfg(test)]
mod tests;

use image::RgbImage;

pub use crate::encode::DrawnFormat;
pub use boxes::{label, place_labels, rectangle};
pub use legend::legend;
pub use overlay::{Tint, overlay};
pub use paragraph::Paragraph;
pub use render::{EncodeError, detections, encode, segmentation};
pub use style::{ColorScheme, Drawing, LINE_WIDTHS, LabelText, Style};

/// A color as red, green and blue.
pub type Color = [u8; 3];

const BLACK: Color = [0; 3];
const WHITE: Color = [255; 3];

/// Sizes of text and lines, in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sizes {
    /// Height of text in pixels, from the top of the tallest letters to the bottom of the lowest.
    pub text: f32,
    /// Thickness of a drawn line in pixels.
    pub line: u32,
}

impl Sizes {
    /// Returns sizes proportional to the short side of `image`, so that small and large images look
    /// alike, but never too small to read.
    pub fn of(image: &RgbImage) -> Self {
        let short = image.width().min(image.height()) as f32;
        Self {
            text: (short / 26.0).clamp(12.0, 400.0),
            line: (short / 220.0).round().max(1.0) as u32,
        }
    }
}

/// Returns black or white, whichever is easier to read on `color`.
fn contrast(color: Color) -> Color {
    // Luma weights of ITU-R BT.601, in thousandths.
    let [r, g, b] = color.map(u32::from);
    if 299 * r + 587 * g + 114 * b > 140_000 {
        BLACK
    } else {
        WHITE
    }
}
