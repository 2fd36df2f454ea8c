//! Boxes around objects, with what they hold.

use image::RgbImage;

use super::canvas::{Area, fill};
use super::text::{fit, plain_text, text_width};
use super::{Colour, Sizes, contrast};
use crate::geometry::BoxXyxy;

/// Returns the pixels of a box, at least one per side. Edges are clamped to `beyond` pixels outside of
/// the image, which looks the same as edges further away. NaN edges count as 0.
fn pixels(image: &RgbImage, bounding_box: BoxXyxy, beyond: i64) -> Area {
    let edge = |at: f32, side: u32| (at.round() as i64).clamp(-beyond, i64::from(side) + beyond);
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

/// How visible the seam beside a line is, of 255.
const SEAM: u8 = 130;

/// The outline of a box, `thickness` pixels inwards from its edges, with a thin seam of black or
/// white on both sides that sets it off from any background.
pub fn rectangle(image: &mut RgbImage, bounding_box: BoxXyxy, colour: Colour, thickness: u32) {
    let thickness = i64::from(thickness.clamp(1, 1 << 16));
    let seam = (thickness / 4).max(1);
    let area = pixels(image, bounding_box, thickness + seam + 1);
    let seam_colour = contrast(colour);
    frame(image, grown(area, seam), seam, (seam_colour, SEAM));
    frame(image, grown(area, -thickness), seam, (seam_colour, SEAM));
    frame(image, area, thickness, (colour, 255));
}

/// `area` with `by` pixels more on each side.
fn grown(area: Area, by: i64) -> Area {
    Area {
        x: area.x - by,
        y: area.y - by,
        width: area.width + 2 * by,
        height: area.height + 2 * by,
    }
}

/// Four bars along the edges of `area`, none over another.
fn frame(image: &mut RgbImage, area: Area, thickness: i64, (colour, alpha): (Colour, u8)) {
    if area.width <= 0 || area.height <= 0 {
        return;
    }
    let Area {
        x,
        y,
        width,
        height,
    } = area;
    let across = thickness.min(width);
    let down = thickness.min(height);
    let between = height - 2 * down;
    let bars = [
        (x, y, width, down),
        (
            x,
            (y + height - down).max(y + down),
            width,
            down.min(height - down),
        ),
        (x, y + down, across, between),
        (
            (x + width - across).max(x + across),
            y + down,
            across.min(width - across),
            between,
        ),
    ];
    for (x, y, width, height) in bars {
        let bar = Area {
            x,
            y,
            width,
            height,
        };
        fill(image, bar, colour, alpha);
    }
}

/// `text` on a plate of `colour`: above the box where there is room, else inside of it at its top.
///
/// The plate stays in the picture; a text wider than the picture is cut. In a picture lower than a
/// line nothing is drawn.
pub fn label(image: &mut RgbImage, bounding_box: BoxXyxy, text: &str, colour: Colour) {
    let sizes = Sizes::of(image);
    let (pad, line) = (
        (sizes.text * 0.2).ceil() as i64,
        (sizes.text * 1.1).ceil() as i64,
    );
    let (width, height) = (i64::from(image.width()), i64::from(image.height()));
    let text = fit(text, sizes.text, (width - 2 * pad) as f32);
    if height < line || text.is_empty() {
        return;
    }
    let area = pixels(image, bounding_box, 0);
    let plate_width = text_width(&text, sizes.text).ceil() as i64 + 2 * pad;
    let above = area.y - line;
    let plate = Area {
        x: area.x.min(width - plate_width).max(0),
        y: if above >= 0 {
            above
        } else {
            area.y.min(height - line)
        },
        width: plate_width,
        height: line,
    };
    fill(image, plate, colour, 255);
    let at = (
        plate.x + pad,
        plate.y + (line - sizes.text.ceil() as i64) / 2,
    );
    plain_text(image, at, &text, sizes.text, contrast(colour));
}
