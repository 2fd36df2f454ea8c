//! Boxes that box deltas are relative to: the default boxes of SSD, which are a constant table, and
//! the anchors of a feature pyramid, which the graph computes from anchor indices.

use crate::architecture::{Anchors, DefaultBoxes};
use crate::error::BuildError;
use crate::graph::{Graph, Value};

/// The anchors of one level for the location (0, 0), as x1, y1, x2, y2 in pixels of the image.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cells(Vec<[f32; 4]>);

impl Cells {
    /// Computes the anchors of a level, rounded to whole pixels: every size with the first ratio, then every
    /// size with the next.
    ///
    /// Source: torchvision's `anchor_utils.py`, `AnchorGenerator.generate_anchors`.
    pub(super) fn of_level(anchors: &Anchors, level: usize) -> Self {
        let sizes = anchors.sizes.get(level).map_or(&[][..], Vec::as_slice);
        let cell = |ratio: f32, size: u32| {
            let down = ratio.sqrt();
            let across = 1.0 / down;
            let (width, height) = (across * size as f32, down * size as f32);
            [-width, -height, width, height].map(|edge| (edge / 2.0).round_ties_even())
        };
        let ratios = anchors.aspect_ratios.iter().map(|ratio| *ratio as f32);
        Self(
            ratios
                .flat_map(|ratio| sizes.iter().map(move |size| cell(ratio, *size)))
                .collect(),
        )
    }
}

/// A level and the image, whose heights and widths determine the locations of the level's anchors.
#[derive(Debug, Clone, Copy)]
pub(super) struct LevelGrid {
    /// Output of the level, `[1, C, h, w]`.
    pub(super) map: Value,
    /// Padded image, `[1, 3, H, W]`.
    pub(super) images: Value,
}

/// Returns the anchors `[K, 4]` (x1, y1, x2, y2 in pixels) of a level that have the given `indices`
/// `[K] i64`. Indices count the anchors of a location in the order of `cells`, and the locations
/// row by row. The distance between locations is the size of the padded image divided by the size
/// of the level's map, rounded down to whole pixels.
///
/// Source: torchvision's `anchor_utils.py`, `AnchorGenerator.grid_anchors`.
pub(super) fn anchors_at(
    g: &mut Graph,
    indices: Value,
    cells: &Cells,
    grid: LevelGrid,
) -> Result<Value, BuildError> {
    let count = g.whole(cells.0.len() as i64);
    let (point, cell) = (g.div(indices, count)?, g.modulo(indices, count)?);
    let points = g.shape_slice("", grid.map, 2..4);
    let pixels = g.shape_slice("", grid.images, 2..4);
    let strides = g.div(pixels, points)?;
    let columns = g.slice(points, 0, 1..2)?;
    let [down, across] = [g.slice(strides, 0, 0..1)?, g.slice(strides, 0, 1..2)?];
    let (column, row) = (g.modulo(point, columns)?, g.div(point, columns)?);
    let x = g.mul(column, across)?;
    let y = g.mul(row, down)?;
    let [x, y] = [g.reshape(x, &[0, 1], "")?, g.reshape(y, &[0, 1], "")?];
    let corner = g.concat_last(x, y)?;
    let corners = g.concat_last(corner, corner)?;
    let corners = g.to_f32(corners);
    let table = g.table("anchors", &[cells.0.len(), 4], cells.0.concat());
    let cells = g.gather(table, cell)?;
    g.add(corners, cells)
}

/// Returns the default boxes of SSD (x1, y1, x2, y2 in pixels of the image) for an image of `size`
/// (width, height) and feature maps of the sizes `grids` (width, height). The boxes are ordered by
/// map, then by row, then by column; the boxes of one location follow each other.
///
/// Source: torchvision's `anchor_utils.py`, `DefaultBoxGenerator` without `steps`.
pub(super) fn default_boxes(
    boxes: &DefaultBoxes,
    grids: &[[usize; 2]],
    size: [usize; 2],
) -> Vec<f32> {
    let [across, down] = size.map(|side| side as f32);
    let mut table = Vec::new();
    for (level, [columns, rows]) in grids.iter().enumerate() {
        let shapes = shapes(boxes, level);
        for point in 0..columns * rows {
            let x = ((point % columns) as f32 + 0.5) / *columns as f32;
            let y = ((point / columns) as f32 + 0.5) / *rows as f32;
            for [w, h] in &shapes {
                table.extend([
                    (x - 0.5 * w) * across,
                    (y - 0.5 * h) * down,
                    (x + 0.5 * w) * across,
                    (y + 0.5 * h) * down,
                ]);
            }
        }
    }
    table
}

/// Returns the width and height of each default box of level `level`, as fractions of the width and
/// height of the image. The fractions are computed in f64 and clipped to 0..=1 in f32, as
/// torchvision does.
fn shapes(boxes: &DefaultBoxes, level: usize) -> Vec<[f32; 2]> {
    let levels = boxes.aspect_ratios.len();
    let range = boxes.max_ratio - boxes.min_ratio;
    let scale = |k: usize| match (levels, k) {
        (0 | 1, 0) => boxes.min_ratio,
        (0 | 1, _) => boxes.max_ratio,
        _ if k == levels => 1.0,
        _ => boxes.min_ratio + range * k as f64 / (levels as f64 - 1.0),
    };
    let (own, next) = (scale(level), scale(level + 1));
    let between = (own * next).sqrt();
    let mut pairs = vec![[own, own], [between, between]];
    for ratio in &boxes.aspect_ratios[level] {
        let root = ratio.sqrt();
        pairs.extend([[own * root, own / root], [own / root, own * root]]);
    }
    let clipped = |side: f64| (side as f32).clamp(0.0, 1.0);
    pairs.iter().map(|pair| pair.map(clipped)).collect()
}
