//! Postprocessing of detection: from a detector's raw outputs to labeled boxes in the image.
//!
//! Faster R-CNN has two stages. [`Rpn`] selects region proposals from the first session's outputs,
//! [`LevelMapper`] assigns each proposal to the feature map that it is cut from, and [`BoxHead`]
//! turns the second session's outputs into detections. [`RetinaNet`] and [`Ssd`] have one stage.
//!
//! All types read the feature maps of one image in the network's layout, channels first. Anchors
//! and their class scores are numbered in torchvision's order `(h, w, anchor, class)`, and all
//! values are computed in f32 in torchvision's order of operations. Boxes are [`BoxXyxy`] in
//! pixels.
//!
//! Scores and boxes that are NaN are dropped; torchvision would rank NaN scores first.
//!
//! This module neither resizes images ([`crate::image`]) nor runs networks.

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
    /// A count in the outputs, the label file or the settings of a detector is not the count that
    /// the model requires.
    #[error("the detector does not match its files: the {what} must be {expected}, got {got}")]
    Count {
        /// What was counted, such as `number of lines in the label file`.
        what: &'static str,
        /// The count that the model requires.
        expected: usize,
        /// The count that was found.
        got: usize,
    },
    /// The class score map and the box delta map of one level have different sizes.
    #[error(
        "feature maps of one level differ in size: class scores are {}x{}, box deltas {}x{}",
        .scores.width, .scores.height, .deltas.width, .deltas.height
    )]
    Sizes {
        /// Size of the class score map, in points.
        scores: ImageSize,
        /// Size of the box delta map, in points.
        deltas: ImageSize,
    },
    /// An output that the detector reads is missing or is not of the data type f32.
    #[error(transparent)]
    Access(#[from] OutputAccessError),
    /// The outputs for the uniform gray test image contain NaN or infinite values.
    #[error(
        "the outputs for a uniform gray test image contain NaN or infinity: check the model's weights"
    )]
    NotFinite,
    /// The size of the resized image cannot be computed: the model's preprocessing is not a
    /// detector's, the image has no pixels, or the padded image would be too large for a network.
    #[error(
        "cannot compute the size of the resized image: the model's `preprocess.resize` must be \
         `bounded` or `fixed`, and the image must have pixels and not be too large after the resize"
    )]
    Preprocess,
    /// A feature map has more elements than 32 bits can count.
    #[error(
        "a feature map of {channels} channels of {}x{} points has more than 2^32 - 1 elements",
        .size.width, .size.height
    )]
    TooLarge {
        /// Number of channels of the feature map.
        channels: usize,
        /// Width and height of the feature map, in points.
        size: ImageSize,
    },
    /// The work was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Returns [`DetectError::Count`] for the quantity `what` unless `got` equals `expected`.
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

/// One of a network's outputs for one image: `[C, h, w] f32` in C order, one plane per channel.
#[derive(Debug, Clone, Copy)]
pub struct FeatureMap<'a> {
    data: &'a [f32],
    channels: usize,
    size: ImageSize,
}

impl<'a> FeatureMap<'a> {
    /// Wraps `data` as `[channels, size.height, size.width]`; a map may have no elements.
    ///
    /// # Errors
    /// [`DetectError`] if the length of `data` does not match this shape, or if the shape has more
    /// elements than 32 bits can count.
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
    /// Class logits `[A * K, h, w]` for `A` anchors per point and `K` classes: channel `a * K + k`
    /// is class `k` of anchor `a`. A region proposal network has objectness logits `[A, h, w]`
    /// instead.
    pub scores: FeatureMap<'a>,
    /// Box deltas `[4 * A, h, w]` for `A` anchors per point: channels `4 * a..4 * a + 4` are dx,
    /// dy, dw and dh of anchor `a`.
    pub deltas: FeatureMap<'a>,
}

impl HeadLevel<'_> {
    /// Checks that the sizes and channels of both maps fit `anchors` boxes per point, and returns
    /// the number of classes.
    fn classes(&self, anchors: usize) -> Result<usize, DetectError> {
        let (scores, deltas) = (self.scores.size, self.deltas.size);
        if scores != deltas {
            return Err(DetectError::Sizes { scores, deltas });
        }
        expect_count(
            "number of channels of a level's box deltas",
            self.deltas.channels,
            anchors.saturating_mul(4),
        )?;
        let classes = self.scores.channels.checked_div(anchors).unwrap_or(0);
        let expected = anchors * classes.max(1);
        expect_count(
            "number of channels of a level's class scores",
            self.scores.channels,
            expected,
        )?;
        Ok(classes)
    }

    /// Returns the box deltas dx, dy, dw and dh of an anchor. `anchor` is its index in the level:
    /// counted row by row of the feature map, then column by column, then anchor by anchor of a
    /// point. `per_point` is the number of anchors per point.
    fn deltas(&self, anchor: usize, per_point: usize) -> [f32; 4] {
        let (point, a) = (anchor / per_point, anchor % per_point);
        let points = self.deltas.points();
        [0, 1, 2, 3].map(|i| self.deltas.data[(4 * a + i) * points + point])
    }
}
