//! Default boxes of SSD: sized as fractions of the image, centered on every point of a level's
//! feature map.

use super::BoxXyxy;
use crate::image::ImageSize;

/// The default boxes of an SSD. A box is computed only when the box deltas relative to it are
/// decoded.
///
/// Source: torchvision's `models/detection/anchor_utils.py`, `DefaultBoxGenerator` without `steps`.
#[derive(Debug, Clone, PartialEq)]
pub struct DefaultBoxes {
    /// For each feature map level, the width and height of each default box of a point, as
    /// fractions of the image, 0..=1.
    shapes: Vec<Vec<[f32; 2]>>,
}

impl DefaultBoxes {
    /// Returns default boxes whose scales (fractions of the image) grow evenly from `min_ratio` at
    /// the first level to `max_ratio` at the last.
    ///
    /// `aspect_ratios` has one list per level. Each point of a level has two square boxes, and one
    /// wide and one tall box per aspect ratio.
    pub fn new(aspect_ratios: &[Vec<f64>], min_ratio: f64, max_ratio: f64) -> Self {
        let levels = aspect_ratios.len();
        let range = max_ratio - min_ratio;
        let mut scales: Vec<f64> = match levels {
            0 | 1 => vec![min_ratio],
            _ => (0..levels)
                .map(|k| min_ratio + range * k as f64 / (levels as f64 - 1.0))
                .collect(),
        };
        scales.push(if levels > 1 { 1.0 } else { max_ratio });
        Self::with_scales(aspect_ratios, &scales)
    }

    /// Returns default boxes with explicit `scales` (fractions of the image): one scale per level,
    /// and one more at the end. The first square box of a level has the scale of the level; the
    /// second one has the geometric mean of this scale and the next. Levels that lack one of these
    /// two scales are left out.
    pub fn with_scales(aspect_ratios: &[Vec<f64>], scales: &[f64]) -> Self {
        let levels = aspect_ratios.iter().zip(scales.windows(2));
        let shapes = levels.map(|(ratios, pair)| shapes(ratios, pair[0], pair[1]));
        Self {
            shapes: shapes.collect(),
        }
    }

    /// Returns the number of feature map levels.
    pub fn levels(&self) -> usize {
        self.shapes.len()
    }

    /// Returns the number of default boxes per point of the feature map of `level`.
    pub(super) fn per_point(&self, level: usize) -> usize {
        self.shapes[level].len()
    }

    /// Returns the default boxes of feature map level `level`, whose map has `points.width` x
    /// `points.height` points, for images padded to `padded`.
    pub(super) fn grid(&self, level: usize, points: ImageSize, padded: ImageSize) -> BoxGrid<'_> {
        BoxGrid {
            shapes: &self.shapes[level],
            points,
            padded,
        }
    }
}

/// The default boxes of one level, at every point of its feature map.
#[derive(Debug, Clone, Copy)]
pub(super) struct BoxGrid<'a> {
    shapes: &'a [[f32; 2]],
    points: ImageSize,
    padded: ImageSize,
}

impl BoxGrid<'_> {
    /// Returns a default box in pixels of the padded image. `anchor` is its index in the level:
    /// counted row by row of the feature map, then column by column, then box by box of a point.
    pub(super) fn anchor(&self, anchor: usize) -> BoxXyxy {
        let [w, h] = self.shapes[anchor % self.shapes.len()];
        let (point, columns) = (anchor / self.shapes.len(), self.points.width as usize);
        let x = ((point % columns) as f32 + 0.5) / self.points.width as f32;
        let y = ((point / columns) as f32 + 0.5) / self.points.height as f32;
        let (width, height) = (self.padded.width as f32, self.padded.height as f32);
        BoxXyxy {
            x1: (x - 0.5 * w) * width,
            y1: (y - 0.5 * h) * height,
            x2: (x + 0.5 * w) * width,
            y2: (y + 0.5 * h) * height,
        }
    }
}

/// Returns `[width, height]` of each default box of a level with the scale `scale`, as fractions of
/// the image. `next` is the scale of the next level. The sides are computed in f64 and clipped to
/// 0..=1 in f32.
fn shapes(ratios: &[f64], scale: f64, next: f64) -> Vec<[f32; 2]> {
    let between = (scale * next).sqrt();
    let mut pairs = vec![[scale, scale], [between, between]];
    for ratio in ratios {
        let root = ratio.sqrt();
        let (long, short) = (scale * root, scale / root);
        pairs.extend([[long, short], [short, long]]);
    }
    let clipped = |side: f64| (side as f32).clamp(0.0, 1.0);
    pairs.iter().map(|pair| pair.map(clipped)).collect()
}
