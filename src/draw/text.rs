//! Measures, cuts and draws lines of text in an embedded font with Latin, Greek and Cyrillic
//! letters. Letters of other scripts are drawn as empty boxes.

use std::sync::LazyLock;

use ab_glyph::{Font, FontRef, PxScale, ScaleFont, point};
use image::RgbImage;

use super::Color;
use super::canvas::{Coverage, Point};

/// The embedded font. `None` only if its file is damaged, which a test rules out.
static FONT: LazyLock<Option<FontRef<'static>>> =
    LazyLock::new(|| FontRef::try_from_slice(include_bytes!("fonts/DejaVuSans-subset.ttf")).ok());

/// Smallest and largest text size in pixels; other sizes are clamped.
const SIZES: [f32; 2] = [1.0, 400.0];

/// Draws a line of text with letters about `size` pixels high; `at` is its top left corner.
pub(super) fn draw_text(image: &mut RgbImage, at: Point, text: &str, size: f32, color: Color) {
    rasterize(text, size).paint(image, at, color);
}

/// Returns the width of a line of text with letters `size` pixels high, in pixels.
pub(super) fn text_width(text: &str, size: f32) -> f32 {
    text.chars().map(|letter| advance(letter, size)).sum()
}

/// Returns `text` unchanged if it is at most `width` pixels wide in letters `size` pixels high. A
/// wider text is cut to the letters that fit before an ellipsis. Returns an empty string if not
/// even the ellipsis fits.
pub(super) fn fit(text: &str, size: f32, width: f32) -> String {
    let mut used = 0.0;
    let room = width - advance('…', size);
    let mut cut = None;
    for (at, letter) in text.char_indices() {
        // Remember where to cut in case a later letter exceeds the width.
        if used > room && cut.is_none() {
            cut = Some(at);
        }
        used += advance(letter, size);
        if used > width {
            let mut kept = text[..cut.unwrap_or(at)].to_owned();
            while text_width(&kept, size) > room {
                if kept.pop().is_none() {
                    return String::new();
                }
            }
            return kept.trim_end().to_owned() + "…";
        }
    }
    text.to_owned()
}

/// Returns the distance from the start of a letter to the start of the next, in pixels.
fn advance(letter: char, size: f32) -> f32 {
    FONT.as_ref().map_or(0.0, |font| {
        let id = font.glyph_id(drawable(letter));
        font.as_scaled(scale(size)).h_advance(id)
    })
}

/// Returns `letter`, or a space in place of a line break or another control character.
fn drawable(letter: char) -> char {
    if letter.is_control() { ' ' } else { letter }
}

/// Converts a text size to the font's scale, clamped to [`SIZES`]; NaN becomes the smallest size.
fn scale(size: f32) -> PxScale {
    let size = if size.is_nan() { SIZES[0] } else { size };
    PxScale::from(size.clamp(SIZES[0], SIZES[1]))
}

/// Returns the pixels, with antialiasing, that a line of text with letters `size` pixels high
/// covers.
fn rasterize(text: &str, size: f32) -> Coverage {
    let Some(font) = FONT.as_ref() else {
        return Coverage::new(0, 0);
    };
    let scale = scale(size);
    let scaled = font.as_scaled(scale);
    let width = text_width(text, size).ceil() as usize;
    let height = scaled.height().ceil() as usize;
    let mut coverage = Coverage::new(width, height);
    let mut caret = point(0.0, scaled.ascent());
    for letter in text.chars() {
        let id = font.glyph_id(drawable(letter));
        if let Some(outline) = font.outline_glyph(id.with_scale_and_position(scale, caret)) {
            let corner = outline.px_bounds().min;
            outline.draw(|x, y, covered| {
                let at = Point {
                    x: corner.x as i64 + i64::from(x),
                    y: corner.y as i64 + i64::from(y),
                };
                coverage.add(at, covered);
            });
        }
        caret.x += scaled.h_advance(id);
    }
    coverage
}
