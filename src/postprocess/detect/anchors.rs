//! Anchors of Faster R-CNN and `RetinaNet`: the same few boxes, centered on every point of a level's
//! feature map.
//!
//! Each anchor is computed when its box is decoded, which takes two additions per axis. A table of
//! all anchors, as torchvision builds it, would hold 268,569 boxes for an image of 1088x800, of which
//! at most 5,000 are used.

use super::{BoxXyxy, DetectError, expect_count};
use crate::image::ImageSize;

/// The anchors of a model, one set per feature map level.
#[derive(Debug, Clone, PartialEq)]
pub struct AnchorGenerator {
    /// For each level, the anchors centered on the point 0, 0.
    cells: Vec<Vec<BoxXyxy>>,
}

impl AnchorGenerator {
    /// Returns the anchors for the side lengths (in pixels) and aspect ratios (height / width) of
    /// each level. At a point, anchors are in the order: every size with the first ratio, then every
    /// size with the next.
    ///
    /// # Errors
    /// [`DetectError`] if `sizes` and `aspect_ratios` have different numbers of levels.
    ///
    /// Source: torchvision's `models/detection/anchor_utils.py`, `AnchorGenerator.generate_anchors`.
    pub fn new(sizes: &[Vec<f32>], aspect_ratios: &[Vec<f32>]) -> Result<Self, DetectError> {
        expect_count(
            "number of levels with aspect ratios",
            aspect_ratios.len(),
            sizes.len(),
        )?;
        let levels = sizes.iter().zip(aspect_ratios);
        let cells = levels.map(|(sizes, ratios)| {
            let ratios = ratios.iter();
            ratios.flat_map(|ratio| cell(*ratio, sizes)).collect()
        });
        Ok(Self {
            cells: cells.collect(),
        })
    }

    /// Returns the number of feature map levels.
    pub fn levels(&self) -> usize {
        self.cells.len()
    }

    /// Returns the anchors of a level whose feature map has `points.width` x `points.height` points,
    /// in images padded to `padded`.
    pub(super) fn grid(&self, level: usize, points: ImageSize, padded: ImageSize) -> Grid<'_> {
        let stride = |pixels: u32, points: u32| pixels.checked_div(points).unwrap_or(0);
        Grid {
            cell: &self.cells[level],
            columns: points.width as usize,
            x_stride: stride(padded.width, points.width),
            y_stride: stride(padded.height, points.height),
        }
    }
}

/// Returns the anchors of one aspect ratio and each of `sizes`, centered on 0, 0, with edges rounded
/// to whole pixels.
fn cell(ratio: f32, sizes: &[f32]) -> impl Iterator<Item = BoxXyxy> {
    let height_ratio = ratio.sqrt();
    let width_ratio = 1.0 / height_ratio;
    sizes.iter().map(move |size| {
        let (width, height) = (width_ratio * size, height_ratio * size);
        let edges = [-width, -height, width, height];
        BoxXyxy::from(edges.map(|edge| (edge / 2.0).round_ties_even()))
    })
}

/// The anchors of one level, with the distances between its points.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid<'a> {
    cell: &'a [BoxXyxy],
    columns: usize,
    /// Pixels between neighboring points of a row.
    x_stride: u32,
    /// Pixels between neighboring points of a column.
    y_stride: u32,
}

impl Grid<'_> {
    /// Returns the number of anchors per point.
    pub(super) fn per_point(&self) -> usize {
        self.cell.len()
    }

    /// Returns the anchor with index `anchor` in the order (row, column, anchor of the point), in
    /// pixels of the padded image.
    ///
    /// Source: `AnchorGenerator.grid_anchors`.
    pub(super) fn anchor(&self, anchor: usize) -> BoxXyxy {
        let (point, a) = (anchor / self.cell.len(), anchor % self.cell.len());
        let shift = |at: usize, stride: u32| (at as u64 * u64::from(stride)) as f32;
        let x = shift(point % self.columns, self.x_stride);
        let y = shift(point / self.columns, self.y_stride);
        self.cell[a].shifted(x, y)
    }
}
