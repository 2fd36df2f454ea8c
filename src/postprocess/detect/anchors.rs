//! Anchors of Faster R-CNN and `RetinaNet`: each feature map level has a fixed set of boxes, which
//! is centered on every point of its map.
//!
//! An anchor is computed only when the box deltas relative to it are decoded, which takes two
//! additions per axis. A table of all anchors, as torchvision builds it, would hold 268,569 boxes
//! for an image of 1088x800 pixels, and at most 5,000 of them would be used.

use super::{BoxXyxy, DetectError, expect_count};
use crate::image::ImageSize;

/// The anchors of a model, one set per feature map level.
#[derive(Debug, Clone, PartialEq)]
pub struct AnchorGenerator {
    /// For each level, the anchors of a point at the origin (0, 0), in pixels.
    cells: Vec<Vec<BoxXyxy>>,
}

impl AnchorGenerator {
    /// Returns the generator of anchors with the side lengths `sizes` (in pixels) and the ratios
    /// `aspect_ratios` (height / width). Both have one list per feature map level. The anchors of a
    /// point are ordered by aspect ratio and then by size, in the order of the lists.
    ///
    /// # Errors
    /// [`DetectError`] if `sizes` and `aspect_ratios` have different numbers of levels.
    ///
    /// Source: torchvision's `models/detection/anchor_utils.py`,
    /// `AnchorGenerator.generate_anchors`.
    pub fn new(sizes: &[Vec<f32>], aspect_ratios: &[Vec<f32>]) -> Result<Self, DetectError> {
        expect_count(
            "number of aspect ratio lists for the anchors",
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

    /// Returns the anchors of feature map level `level`, whose map has `points.width` x
    /// `points.height` points, for images padded to `padded`.
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

/// Returns one anchor for each side length in `sizes` (in pixels), all with the aspect ratio
/// `ratio` (height / width). The anchors are centered on the origin, with edges rounded to whole
/// pixels.
fn cell(ratio: f32, sizes: &[f32]) -> impl Iterator<Item = BoxXyxy> {
    let height_ratio = ratio.sqrt();
    let width_ratio = 1.0 / height_ratio;
    sizes.iter().map(move |size| {
        let (width, height) = (width_ratio * size, height_ratio * size);
        let edges = [-width, -height, width, height];
        BoxXyxy::from(edges.map(|edge| (edge / 2.0).round_ties_even()))
    })
}

/// The anchors of one feature map level, with the distances between the points of its map.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid<'a> {
    cell: &'a [BoxXyxy],
    columns: usize,
    /// Distance between neighboring points of a feature map row, in pixels of the padded image.
    x_stride: u32,
    /// Distance between neighboring points of a feature map column, in pixels of the padded image.
    y_stride: u32,
}

impl Grid<'_> {
    /// Returns the number of anchors per point of the feature map.
    pub(super) fn per_point(&self) -> usize {
        self.cell.len()
    }

    /// Returns an anchor in pixels of the padded image. `anchor` is its index in the level: counted
    /// row by row of the feature map, then column by column, then anchor by anchor of a point.
    ///
    /// Source: torchvision's `AnchorGenerator.grid_anchors`.
    pub(super) fn anchor(&self, anchor: usize) -> BoxXyxy {
        let (point, a) = (anchor / self.cell.len(), anchor % self.cell.len());
        let shift = |at: usize, stride: u32| (at as u64 * u64::from(stride)) as f32;
        let x = shift(point % self.columns, self.x_stride);
        let y = shift(point / self.columns, self.y_stride);
        self.cell[a].shifted(x, y)
    }
}
