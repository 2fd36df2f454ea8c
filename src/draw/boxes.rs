//! Boxes around objects, with their labels.

use image::RgbImage;

use super::canvas::{Area, Paint, Point, fill};
use super::place::Places;
use super::text::{draw_text, fit, text_width};
use super::{Color, Sizes, contrast};
use crate::cancel::{Cancel, Cancelled};
use crate::geometry::BoxXyxy;
use crate::image::ImageSize;

/// Opacity, 0..=255, of the thin black or white seam on both sides of a box's outline.
const SEAM_ALPHA: u8 = 130;

/// Height of the lowest image that gets labels, in plates.
const LOWEST: i64 = 4;

/// Converts a box to whole pixels, with a width and height of at least 1. Edges that are more than
/// `margin` pixels outside of the image are moved to this distance, at which the outline is not
/// visible either. NaN edges count as 0.
fn pixels(image: &RgbImage, bounding_box: BoxXyxy, margin: i64) -> Area {
    let edge = |at: f32, side: u32| (at.round() as i64).clamp(-margin, i64::from(side) + margin);
    let BoxXyxy { x1, y1, x2, y2 } = bounding_box;
    let (x1, x2) = (edge(x1, image.width()), edge(x2, image.width()));
    let (y1, y2) = (edge(y1, image.height()), edge(y2, image.height()));
    Area {
        x: x1.min(x2),
        y: y1.min(y2),
        width: (x2 - x1).abs().max(1),
        height: (y2 - y1).abs().max(1),
    }
}

/// Draws the outline of a box, which extends `thickness` pixels inwards from the box's edges. A
/// thin black or white seam on both sides of the outline separates it from any background.
pub fn rectangle(image: &mut RgbImage, bounding_box: BoxXyxy, color: Color, thickness: u32) {
    let thickness = i64::from(thickness.clamp(1, 1 << 16));
    let seam_thickness = (thickness / 4).max(1);
    let area = pixels(image, bounding_box, thickness + seam_thickness + 1);
    let seam = Paint {
        color: contrast(color),
        alpha: SEAM_ALPHA,
    };
    frame(image, area.grown(seam_thickness), seam_thickness, seam);
    frame(image, area.grown(-thickness), seam_thickness, seam);
    frame(image, area, thickness, Paint::opaque(color));
}

/// Draws a frame inside `area`: four bars of `thickness` pixels along its edges. The bars do not
/// overlap, so that a translucent frame has the same opacity everywhere.
fn frame(image: &mut RgbImage, area: Area, thickness: i64, paint: Paint) {
    if area.width <= 0 || area.height <= 0 {
        return;
    }
    let bar_width = thickness.min(area.width);
    let bar_height = thickness.min(area.height);
    let horizontal = |y: i64, height: i64| Area { y, height, ..area };
    let vertical = |x: i64, width: i64| Area {
        x,
        y: area.y + bar_height,
        width,
        height: area.height - 2 * bar_height,
    };
    // If `area` is thinner than two bars, the bottom (right) bar starts where the top (left) bar
    // ends.
    let bottom = (area.y + area.height - bar_height).max(area.y + bar_height);
    let right = (area.x + area.width - bar_width).max(area.x + bar_width);
    let bars = [
        horizontal(area.y, bar_height),
        horizontal(bottom, bar_height.min(area.height - bar_height)),
        vertical(area.x, bar_width),
        vertical(right, bar_width.min(area.width - bar_width)),
    ];
    for bar in bars {
        fill(image, bar, paint);
    }
}

/// Draws `text` on a rectangle of `color`, which is above the box, or at the top inside the box if
/// there is no room above.
///
/// The rectangle stays inside the image, and a text wider than the image is cut. If the image is lower
/// than four lines of text, nothing is drawn.
pub fn label(image: &mut RgbImage, bounding_box: BoxXyxy, text: &str, color: Color) {
    let Some(plate) = Plate::new(image, text) else {
        return;
    };
    let (width, height) = (i64::from(image.width()), i64::from(image.height()));
    let area = pixels(image, bounding_box, 0);
    let above = area.y - plate.height;
    let at = Point {
        x: area.x.min(width - plate.width).max(0),
        y: if above >= 0 {
            above
        } else {
            area.y.min(height - plate.height)
        },
    };
    plate.draw(image, at, color);
}

/// Draws a label for each of `boxes`, a box with its text and color. The labels do not overlap; the
/// first boxes have the best places, and a label without a place is left out.
///
/// # Errors
/// [`Cancelled`] if the work is cancelled, which is checked before each label.
pub fn place_labels(
    image: &mut RgbImage,
    boxes: &[(BoxXyxy, String, Color)],
    cancel: &Cancel,
) -> Result<(), Cancelled> {
    let (width, height) = image.dimensions();
    let mut places = Places::new(ImageSize { width, height });
    for (bounding_box, text, color) in boxes {
        cancel.check()?;
        let Some(plate) = Plate::new(image, text) else {
            continue;
        };
        let target = pixels(image, *bounding_box, 0);
        if let Some(Area { x, y, .. }) = places.take(target, plate.width, plate.height) {
            plate.draw(image, Point { x, y }, *color);
        }
    }
    Ok(())
}

/// A line of text on a rectangle.
struct Plate {
    text: String,
    /// Height of the letters in pixels.
    size: f32,
    /// Space at the left and right of the text in pixels.
    padding: i64,
    width: i64,
    height: i64,
}

impl Plate {
    /// Returns the plate for `text` in an image, cut to the width of the image. `None` if `text` is empty, or if the
    /// image is lower than [`LOWEST`] plates, which would hide the image.
    fn new(image: &RgbImage, text: &str) -> Option<Self> {
        let size = Sizes::of(image).text;
        let padding = (size * 0.3).ceil() as i64;
        let height = (size * 1.2).ceil() as i64;
        let room = i64::from(image.width()) - 2 * padding;
        let text = fit(text, size, room as f32);
        if i64::from(image.height()) < LOWEST * height || text.is_empty() {
            return None;
        }
        Some(Self {
            width: text_width(&text, size).ceil() as i64 + 2 * padding,
            text,
            size,
            padding,
            height,
        })
    }

    /// Draws the plate with its top left corner at the position `at`.
    fn draw(&self, image: &mut RgbImage, at: Point, color: Color) {
        let area = Area {
            x: at.x,
            y: at.y,
            width: self.width,
            height: self.height,
        };
        fill(image, area, Paint::opaque(color));
        let at = Point {
            x: at.x + self.padding,
            y: at.y + (self.height - self.size.ceil() as i64) / 2,
        };
        draw_text(image, at, &self.text, self.size, contrast(color));
    }
}
