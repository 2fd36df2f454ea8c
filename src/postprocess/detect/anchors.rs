//! Reference boxes of Faster R-CNN and `RetinaNet`: the same few around every point of a level.
//!
//! An anchor is two additions, so it is made when its box is decoded. A table of all of them, as
//! torchvision makes one, would hold 268,569 boxes for a picture of 1088x800, of which at most
//! 5,000 are looked at; keeping tables per shape would only keep that memory.

use super::{Corners, DetectError, expect_count};
use crate::image::ImageSize;

/// The anchors of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct AnchorGenerator {
    /// Per level, the anchors around the point 0, 0.
    cells: Vec<Vec<Corners>>,
}

impl AnchorGenerator {
    /// Of each level, side lengths in pixels and aspect ratios (height / width): every size with the
    /// first ratio, then every size with the next.
    ///
    /// # Errors
    /// [`DetectError`] unless there are as many levels of ratios as of sizes.
    ///
    /// Source: torchvision's `models/detection/anchor_utils.py`, `AnchorGenerator.generate_anchors`.
    pub fn new(sizes: &[Vec<f32>], aspect_ratios: &[Vec<f32>]) -> Result<Self, DetectError> {
        expect_count("levels of aspect ratios", aspect_ratios.len(), sizes.len())?;
        let levels = sizes.iter().zip(aspect_ratios);
        let cells = levels.map(|(sizes, ratios)| {
            let ratios = ratios.iter();
            ratios.flat_map(|ratio| cell(*ratio, sizes)).collect()
        });
        Ok(Self {
            cells: cells.collect(),
        })
    }

    /// Number of levels.
    pub fn levels(&self) -> usize {
        self.cells.len()
    }

    /// The anchors of a level over a map of `points`, for pictures padded to `padded`.
    pub(super) fn grid(&self, level: usize, points: ImageSize, padded: ImageSize) -> Grid<'_> {
        let stride = |pixels: u32, points: u32| pixels.checked_div(points).unwrap_or(0);
        Grid {
            cell: &self.cells[level],
            columns: points.width as usize,
            stride: [
                stride(padded.width, points.width),
                stride(padded.height, points.height),
            ],
        }
    }
}

/// The anchors of one aspect ratio around the point 0, 0, with corners rounded to whole pixels.
fn cell(ratio: f32, sizes: &[f32]) -> impl Iterator<Item = Corners> {
    let down = ratio.sqrt();
    let across = 1.0 / down;
    sizes.iter().map(move |size| {
        let (width, height) = (across * size, down * size);
        [-width, -height, width, height].map(|edge| (edge / 2.0).round_ties_even())
    })
}

/// The anchors of one level.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid<'a> {
    cell: &'a [Corners],
    columns: usize,
    /// Whole pixels from one point to the next, across and down.
    stride: [u32; 2],
}

impl Grid<'_> {
    /// Anchors at each point.
    pub(super) fn per_point(&self) -> usize {
        self.cell.len()
    }

    /// Anchor number `anchor` in the order (h, w, a).
    ///
    /// Source: `AnchorGenerator.grid_anchors`.
    pub(super) fn anchor(&self, anchor: usize) -> Corners {
        let (point, a) = (anchor / self.cell.len(), anchor % self.cell.len());
        let shift = |at: usize, stride: u32| (at as u64 * u64::from(stride)) as f32;
        let x = shift(point % self.columns, self.stride[0]);
        let y = shift(point / self.columns, self.stride[1]);
        let [x1, y1, x2, y2] = self.cell[a];
        [x + x1, y + y1, x + x2, y + y2]
    }
}
