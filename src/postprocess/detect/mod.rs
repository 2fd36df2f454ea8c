//! From a detector's raw outputs to boxes in a picture, between and after the sessions.
//!
//! Faster R-CNN has two stages: [`Rpn`] chooses proposals, [`LevelMapper`] tells which feature map
//! each is cut from, and [`BoxHead`] makes detections of what the second session says of them.
//! [`RetinaNet`] and [`Ssd`] do it in one. All take one picture's maps as the network wrote them, in
//! channel-first order, count in torchvision's order `(h, w, anchor, class)`, and compute in f32 in
//! torchvision's order of operations. Boxes are `[x1, y1, x2, y2]` in pixels.
//!
//! What is not finite is never chosen: a NaN among the scores or a box with one in a corner is left
//! out, where torchvision would give it the first place.
//!
//! What is *not* here: resizing pictures ([`crate::image`]), running networks, and names of classes.

mod anchors;
mod boxes;
mod default_boxes;
mod detector;
mod faster_rcnn;
mod levels;
mod nms;
mod proposals;
mod retinanet;
mod select;
mod softmax;
mod ssd;
mod topk;

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod robustness_tests;

use thiserror::Error;

use crate::image::ImageSize;

pub use anchors::AnchorGenerator;
pub use default_boxes::DefaultBoxes;
pub use detector::Detector;
pub use faster_rcnn::BoxHead;
pub use levels::LevelMapper;
pub use nms::batched_nms;
pub use proposals::Rpn;
pub use retinanet::RetinaNet;
pub use select::{DetectOptions, Detection, LabelledBox, LabelledDetection, Thresholds};
pub use ssd::Ssd;

/// Opposite corners of a box, `[x1, y1, x2, y2]` in pixels.
pub type Corners = [f32; 4];

/// Outputs that cannot be a detector's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DetectError {
    /// Something comes in another number than the rest asks for.
    #[error("{what}: {got} where {expected} are needed")]
    Count {
        /// What is counted.
        what: &'static str,
        /// How many there must be.
        expected: usize,
        /// How many there are.
        got: usize,
    },
    /// Two maps of one level that do not lie over each other.
    #[error("scores of {scores:?} points and boxes of {deltas:?} in one level")]
    Sizes {
        /// Size of the map of scores.
        scores: ImageSize,
        /// Size of the map of box deltas.
        deltas: ImageSize,
    },
    /// Outputs that are not numbers.
    #[error("the network answers a grey picture with numbers that are not finite")]
    NotFinite,
    /// A picture or a manifest without the sizes that a detector needs.
    #[error("there is no size that the boxes could be in")]
    Preprocess,
    /// A map whose elements cannot be numbered in 32 bits.
    #[error("a map of {channels} channels of {}x{} is too large", .size.width, .size.height)]
    TooLarge {
        /// Planes.
        channels: usize,
        /// Columns and rows of each.
        size: ImageSize,
    },
}

/// Checks a number of things.
fn expect_count(what: &'static str, got: usize, expected: usize) -> Result<(), DetectError> {
    if got == expected {
        return Ok(());
    }
    Err(DetectError::Count {
        what,
        expected,
        got,
    })
}

/// One picture's output `[C, h, w] f32` in C order: one plane a channel.
#[derive(Debug, Clone, Copy)]
pub struct FeatureMap<'a> {
    data: &'a [f32],
    channels: usize,
    size: ImageSize,
}

impl<'a> FeatureMap<'a> {
    /// Takes `data` as `[channels, size.height, size.width]`; a map may be empty.
    ///
    /// # Errors
    /// [`DetectError`] if `data` has another length, or more elements than 32 bits can number.
    pub fn new(data: &'a [f32], channels: usize, size: ImageSize) -> Result<Self, DetectError> {
        let elements = size.pixels().saturating_mul(channels as u64);
        if elements > u64::from(u32::MAX) {
            return Err(DetectError::TooLarge { channels, size });
        }
        expect_count("elements of a map", data.len(), elements as usize)?;
        Ok(Self {
            data,
            channels,
            size,
        })
    }

    /// Points of a plane.
    fn points(&self) -> usize {
        self.size.pixels() as usize
    }

    /// Plane `channel`.
    fn plane(&self, channel: usize) -> &'a [f32] {
        &self.data[channel * self.points()..][..self.points()]
    }
}

/// A detector's two outputs over one feature map.
#[derive(Debug, Clone, Copy)]
pub struct HeadLevel<'a> {
    /// Logits `[A * K, h, w]`: channel `a * K + k` is class `k` of anchor `a`. The RPN has no
    /// classes: `[A, h, w]`.
    pub scores: FeatureMap<'a>,
    /// Box deltas `[4 * A, h, w]`: channels `4 * a..4 * a + 4` are dx, dy, dw and dh of anchor `a`.
    pub deltas: FeatureMap<'a>,
}

impl HeadLevel<'_> {
    /// Checks the maps against the number of anchors at a point; gives the number of classes.
    fn classes(&self, anchors: usize) -> Result<usize, DetectError> {
        let (scores, deltas) = (self.scores.size, self.deltas.size);
        if scores != deltas {
            return Err(DetectError::Sizes { scores, deltas });
        }
        expect_count(
            "channels of box deltas",
            self.deltas.channels,
            anchors.saturating_mul(4),
        )?;
        let classes = self.scores.channels.checked_div(anchors).unwrap_or(0);
        let expected = anchors * classes.max(1);
        expect_count("channels of scores", self.scores.channels, expected)?;
        Ok(classes)
    }

    /// The deltas of the anchor whose number is `anchor` in the order (h, w, a).
    fn deltas(&self, anchor: usize, per_point: usize) -> [f32; 4] {
        let (point, a) = (anchor / per_point, anchor % per_point);
        let points = self.deltas.points();
        [0, 1, 2, 3].map(|i| self.deltas.data[(4 * a + i) * points + point])
    }
}
