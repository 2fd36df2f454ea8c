//! Answers drawn into their picture: translucent masks, a legend, boxes with labels.
//!
//! Everything is clipped to the picture and sized to it, see [`Sizes`]; what does not fit is left
//! out. Colours are red, green and blue; positions are pixels from the upper left corner.
//!
//! What is *not* here: what is drawn, see [`crate::postprocess`].

mod boxes;
mod canvas;
mod legend;
mod overlay;
mod picture;
mod text;

#[cfg(test)]
mod tests;

use image::RgbImage;

pub use boxes::{label, rectangle};
pub use legend::legend;
pub use overlay::overlay;
pub use picture::{DrawnFormat, EncodeError, detections, encode, segmentation};
pub use text::{fit, text, text_width};

/// Red, green and blue.
pub type Colour = [u8; 3];

const BLACK: Colour = [0; 3];
const WHITE: Colour = [255; 3];

/// How large things are drawn, in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sizes {
    /// Height of a line of text, from the highest to the lowest letter.
    pub text: f32,
    /// Thickness of a line.
    pub line: u32,
}

impl Sizes {
    /// Those that look alike in small and in large pictures: by the short side, but never too small to read.
    pub fn of(image: &RgbImage) -> Self {
        let short = image.width().min(image.height()) as f32;
        Self {
            text: (short / 26.0).clamp(12.0, 400.0),
            line: (short / 220.0).round().max(1.0) as u32,
        }
    }
}

/// Black or white, whichever is easier to read on `colour`.
fn contrast(colour: Colour) -> Colour {
    // Weights of ITU-R BT.601, in thousandths.
    let [r, g, b] = colour.map(u32::from);
    if 299 * r + 587 * g + 114 * b > 140_000 {
        BLACK
    } else {
        WHITE
    }
}
