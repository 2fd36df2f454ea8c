//! Boxes around objects, with their labels.

use image::RgbImage;

use super::canvas::{Area, Paint, Point, fill};
use super::text::{draw_text, fit, text_width};
use super::{Color, Sizes, contrast};
use crate::geometry::BoxXyxy;

/// Opacity, 0..=255, of the thin black or white seam on both sides of a box's outline.
const SEAM_ALPHA: u8 = 130;

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
/// than a line of text, nothing is drawn.
pub fn label(image: &mut RgbImage, bounding_box: BoxXyxy, text: &str, color: Color) {
    let sizes = Sizes::of(image);
    let padding = (sizes.text * 0.2).ceil() as i64;
    let line_height = (sizes.text * 1.1).ceil() as i64;
    let (width, height) = (i64::from(image.width()), i64::from(image.height()));
    let text = fit(text, sizes.text, (width - 2 * padding) as f32);
    if height < line_height || text.is_empty() {
        return;
    }
    let area = pixels(image, bounding_box, 0);
    let plate_width = text_width(&text, sizes.text).ceil() as i64 + 2 * padding;
    let above = area.y - line_height;
    let plate = Area {
        x: area.x.min(width - plate_width).max(0),
        y: if above >= 0 {
            above
        } else {
            area.y.min(height - line_height)
        },
        width: plate_width,
        height: line_height,
    };
    fill(image, plate, Paint::opaque(color));
    let at = Point {
        x: plate.x + padding,
        y: plate.y + (line_height - sizes.text.ceil() as i64) / 2,
    };
    draw_text(image, at, &text, sizes.text, contrast(color));
}
