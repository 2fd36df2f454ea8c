//! Postprocessing of detection: from a detector's raw outputs to labeled boxes in the image.
//!
//! Faster R-CNN has two stages. [`Rpn`] selects region proposals from the first session's outputs,
//! [`LevelMapper`] assigns each proposal to the feature map that it is cut from, and [`BoxHead`]
//! turns the second session's outputs into detections. [`RetinaNet`] and [`Ssd`] have one stage.
//!
//! All types read one image's feature maps as the network wrote them, channels first, number anchors
//! in torchvision's order `(h, w, anchor, class)`, and compute in f32 in torchvision's order of
//! operations. Boxes are [`BoxXyxy`] in pixels.
//!
//! Scores and boxes that are NaN are dropped; torchvision would rank NaN scores first.
//!
//! What is *not* here: resizing images ([`crate::image`]), running networks, and names of classes.

mod anchors;
mod box_coder;
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

use crate::cancel::Cancelled;
use crate::engine::OutputAccessError;
use crate::image::ImageSize;

pub use anchors::AnchorGenerator;
pub use default_boxes::DefaultBoxes;
pub use detector::Detector;
pub use faster_rcnn::{BoxHead, BoxHeadOutputs};
pub use levels::LevelMapper;
pub use nms::batched_nms;
pub use proposals::Rpn;
pub use retinanet::RetinaNet;
pub use select::{DetectOptions, Detection, LabeledDetection, Thresholds};
pub use ssd::Ssd;

pub use crate::geometry::BoxXyxy;

/// The reason why no boxes can be computed from a detector's outputs.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DetectError {
    /// The number of items does not match the rest of the model.
    #[error("{what}: expected {expected}, got {got}")]
    Count {
        /// Name of the quantity that does not match.
        what: &'static str,
        /// Number that the rest of the model requires.
        expected: usize,
        /// Number in the outputs or in the model's files.
        got: usize,
    },
    /// The two feature maps of one level have different sizes.
    #[error(
        "feature maps of one level differ in size: class scores are {}x{}, box deltas {}x{}",
        .scores.width, .scores.height, .deltas.width, .deltas.height
    )]
    Sizes {
        /// Size of the class score map.
        scores: ImageSize,
        /// Size of the box delta map.
        deltas: ImageSize,
    },
    /// An output is missing or has another data type.
    #[error(transparent)]
    Access(#[from] OutputAccessError),
    /// The outputs for the gray test image contain NaN or infinity.
    #[error("the model's outputs for a uniform gray image contain NaN or infinite values")]
    NotFinite,
    /// The model's preprocessing is not a detector's, or the image has no pixels.
    #[error(
        "cannot compute the resized image size: the model needs a detector's resize (`bounded` or `fixed`) and an image that is not empty"
    )]
    Preprocess,
    /// A feature map has more elements than 32 bits can index.
    #[error(
        "a feature map of {channels} channels of {}x{} has more than 2^32 elements",
        .size.width, .size.height
    )]
    TooLarge {
        /// Number of channels.
        channels: usize,
        /// Size of each channel's plane.
        size: ImageSize,
    },
    /// The work was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Returns [`DetectError::Count`] unless `got`, the number of `what`, is `expected`.
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

/// One image's output `[C, h, w] f32` in C order: one plane per channel.
#[derive(Debug, Clone, Copy)]
pub struct FeatureMap<'a> {
    data: &'a [f32],
    channels: usize,
    size: ImageSize,
}

impl<'a> FeatureMap<'a> {
    /// Wraps `data` as `[channels, size.height, size.width]`; a map may be empty.
    ///
    /// # Errors
    /// [`DetectError`] if `data` has another length, or more elements than 32 bits can index.
    pub fn new(data: &'a [f32], channels: usize, size: ImageSize) -> Result<Self, DetectError> {
        let elements = size.pixels().saturating_mul(channels as u64);
        if elements > u64::from(u32::MAX) {
            return Err(DetectError::TooLarge { channels, size });
        }
        expect_count(
            "number of elements of a feature map",
            data.len(),
            elements as usize,
        )?;
        Ok(Self {
            data,
            channels,
            size,
        })
    }

    /// Returns the number of points in a plane, height times width.
    fn points(&self) -> usize {
        self.size.pixels() as usize
    }

    /// Returns the plane `[h, w]` of `channel`.
    fn plane(&self, channel: usize) -> &'a [f32] {
        &self.data[channel * self.points()..][..self.points()]
    }
}

/// A detector's class scores and box deltas for one feature map level.
#[derive(Debug, Clone, Copy)]
pub struct HeadLevel<'a> {
    /// Logits `[A * K, h, w]`: channel `a * K + k` is class `k` of anchor `a`. The RPN has no
    /// classes: `[A, h, w]`.
    pub scores: FeatureMap<'a>,
    /// Box deltas `[4 * A, h, w]`: channels `4 * a..4 * a + 4` are dx, dy, dw and dh of anchor `a`.
    pub deltas: FeatureMap<'a>,
}

impl HeadLevel<'_> {
    /// Checks both maps for `anchors` boxes per point and returns the number of classes.
    fn classes(&self, anchors: usize) -> Result<usize, DetectError> {
        let (scores, deltas) = (self.scores.size, self.deltas.size);
        if scores != deltas {
            return Err(DetectError::Sizes { scores, deltas });
        }
        expect_count(
            "number of channels of the box deltas",
            self.deltas.channels,
            anchors.saturating_mul(4),
        )?;
        let classes = self.scores.channels.checked_div(anchors).unwrap_or(0);
        let expected = anchors * classes.max(1);
        expect_count(
            "number of channels of the class scores",
            self.scores.channels,
            expected,
        )?;
        Ok(classes)
    }

    /// Returns the deltas of the anchor with index `anchor` in the order (row, column, anchor of the
    /// point).
    fn deltas(&self, anchor: usize, per_point: usize) -> [f32; 4] {
        let (point, a) = (anchor / per_point, anchor % per_point);
        let points = self.deltas.points();
        [0, 1, 2, 3].map(|i| self.deltas.data[(4 * a + i) * points + point])
    }
}
