//! Lines of text in an embedded font: Latin, Greek and Cyrillic; other letters are drawn as boxes.

use std::sync::LazyLock;

use ab_glyph::{Font, FontRef, PxScale, ScaleFont, point};
use image::RgbImage;

use super::canvas::Coverage;
use super::{Colour, contrast};

/// None only if the embedded file is damaged, which a test rules out.
static FONT: LazyLock<Option<FontRef<'static>>> =
    LazyLock::new(|| FontRef::try_from_slice(include_bytes!("fonts/DejaVuSans-subset.ttf")).ok());

/// The smallest and the largest text, in pixels; others are drawn in the nearer of the two.
const SIZES: [f32; 2] = [1.0, 400.0];

/// `text` with its letters about `size` pixels high, outlined so that it is readable on anything.
///
/// `x, y` is the upper left corner of its first letter. What would go past the right edge is cut
/// with an ellipsis.
pub fn text(image: &mut RgbImage, (x, y): (i64, i64), text: &str, size: f32, colour: Colour) {
    let size = usable(size);
    let width = i64::from(image.width());
    let room = width.saturating_sub(x).clamp(0, 2 * width);
    let text = fit(text, size, room as f32);
    let radius = (size / 14.0).round().max(1.0) as usize;
    let letters = rasterize(&text, size, radius);
    let at = (
        x.saturating_sub(radius as i64),
        y.saturating_sub(radius as i64),
    );
    letters.grown(radius).paint(image, at, contrast(colour));
    letters.paint(image, at, colour);
}

/// The same without an outline, on a background that is already plain.
pub(super) fn plain_text(
    image: &mut RgbImage,
    at: (i64, i64),
    text: &str,
    size: f32,
    colour: Colour,
) {
    rasterize(text, size, 0).paint(image, at, colour);
}

/// How wide a line of `size` pixels' height is, in pixels.
pub fn text_width(text: &str, size: f32) -> f32 {
    text.chars().map(|letter| advance(letter, size)).sum()
}

/// `text` if it is at most `width` pixels wide; else as much of it as fits before an ellipsis, or
/// nothing where not even that fits.
pub fn fit(text: &str, size: f32, width: f32) -> String {
    let mut used = 0.0;
    let room = width - advance('…', size);
    let mut cut = None;
    for (at, letter) in text.char_indices() {
        // Where the text must be cut, if it must.
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

/// Pixels from the start of a letter to the start of the next.
fn advance(letter: char, size: f32) -> f32 {
    FONT.as_ref().map_or(0.0, |font| {
        let id = font.glyph_id(drawable(letter));
        font.as_scaled(scale(size)).h_advance(id)
    })
}

/// Line breaks and other controls are spaces.
fn drawable(letter: char) -> char {
    if letter.is_control() { ' ' } else { letter }
}

fn scale(size: f32) -> PxScale {
    PxScale::from(usable(size))
}

/// A size within [`SIZES`], the smallest for what is not a number.
fn usable(size: f32) -> f32 {
    if size.is_nan() {
        return SIZES[0];
    }
    size.clamp(SIZES[0], SIZES[1])
}

/// The shape of a line, with `margin` pixels around it.
fn rasterize(text: &str, size: f32, margin: usize) -> Coverage {
    let Some(font) = FONT.as_ref() else {
        return Coverage::new(0, 0);
    };
    let scale = scale(size);
    let scaled = font.as_scaled(scale);
    let width = text_width(text, size).ceil() as usize + 2 * margin;
    let height = scaled.height().ceil() as usize + 2 * margin;
    let mut coverage = Coverage::new(width, height);
    let mut caret = point(margin as f32, margin as f32 + scaled.ascent());
    for letter in text.chars() {
        let id = font.glyph_id(drawable(letter));
        if let Some(outline) = font.outline_glyph(id.with_scale_and_position(scale, caret)) {
            let corner = outline.px_bounds().min;
            outline.draw(|x, y, covered| {
                let (x, y) = (i64::from(x), i64::from(y));
                coverage.add(corner.x as i64 + x, corner.y as i64 + y, covered);
            });
        }
        caret.x += scaled.h_advance(id);
    }
    coverage
}
