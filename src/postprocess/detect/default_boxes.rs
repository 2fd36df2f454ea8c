//! Reference boxes of SSD: shares of the picture, around the middle of every cell of a level.

use super::Corners;
use crate::image::ImageSize;

/// The default boxes of a model, made when they are decoded, as [`super::AnchorGenerator`]'s.
///
/// Source: torchvision's `models/detection/anchor_utils.py`, `DefaultBoxGenerator` without `steps`.
#[derive(Debug, Clone, PartialEq)]
pub struct DefaultBoxes {
    /// Per level, widths and heights as shares of the picture, 0..=1.
    shapes: Vec<Vec<[f32; 2]>>,
}

impl DefaultBoxes {
    /// With scales that grow evenly from `min_ratio` to `max_ratio` over the levels. `aspect_ratios`
    /// has a list for each: beside two squares, each ratio gives a wide and a high box.
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

    /// With a scale for each level and one more: the second square of a level lies between its scale
    /// and the next one's. Levels without their two scales are left out.
    pub fn with_scales(aspect_ratios: &[Vec<f64>], scales: &[f64]) -> Self {
        let levels = aspect_ratios.iter().zip(scales.windows(2));
        let shapes = levels.map(|(ratios, pair)| shapes(ratios, pair[0], pair[1]));
        Self {
            shapes: shapes.collect(),
        }
    }

    /// Number of levels.
    pub fn levels(&self) -> usize {
        self.shapes.len()
    }

    /// Default boxes at each point of a level.
    pub(super) fn per_point(&self, level: usize) -> usize {
        self.shapes[level].len()
    }

    /// Box number `anchor`, in the order (h, w, a), of a level over a map of `points`, in pixels of a
    /// picture of size `padded`.
    pub(super) fn anchor(
        &self,
        level: usize,
        points: ImageSize,
        padded: ImageSize,
        anchor: usize,
    ) -> Corners {
        let shapes = &self.shapes[level];
        let (point, [w, h]) = (anchor / shapes.len(), shapes[anchor % shapes.len()]);
        let columns = points.width as usize;
        let x = ((point % columns) as f32 + 0.5) / points.width as f32;
        let y = ((point / columns) as f32 + 0.5) / points.height as f32;
        let (across, down) = (padded.width as f32, padded.height as f32);
        [
            (x - 0.5 * w) * across,
            (y - 0.5 * h) * down,
            (x + 0.5 * w) * across,
            (y + 0.5 * h) * down,
        ]
    }
}

/// Widths and heights of one level, computed in f64, clipped to the picture in f32.
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
