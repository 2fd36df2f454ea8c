//! Conversion of a detector's outputs into boxes: thresholds and limits, which a deployment may change.

use onnx_export::architecture::Head;
use onnx_export::{FusedOptions, ProposalOptions, Role};
use serde::{Deserialize, Serialize};

use super::{InvalidField, Resize, require};

/// Maximum value of the fields that limit a number of boxes; it bounds the cost of suppression.
const MAX_BOXES: usize = 100_000;

/// Thresholds and limits that turn a detector's outputs into boxes.
///
/// Thresholds are `f64` because torchvision's are: 0.55 rounds to a different value in `f32`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detection {
    /// Score, 0 to 1, that a detection must exceed to be returned.
    pub score_threshold: f64,
    /// Intersection over union, 0 to 1, above which the lower-scoring of two boxes of one class is
    /// suppressed.
    pub iou_threshold: f64,
    /// Maximum number of detections per image.
    pub max_detections: usize,
    /// Number of best-scored boxes per feature level (`RetinaNet`) or per class (`SSDlite`) that
    /// enter suppression. `None` for Faster R-CNN, which does not limit the boxes before
    /// suppression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topk_candidates: Option<usize>,
    /// Divisors of the predicted box offsets (x, y, width, height).
    /// Source: `torchvision.models.detection._utils.BoxCoder`.
    pub box_weights: [f32; 4],
    /// Selection of region proposals. `None` unless the head is Faster R-CNN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpn: Option<Rpn>,
}

/// Limits and thresholds for the selection of region proposals. Source:
/// `torchvision.models.detection.rpn`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rpn {
    /// Number of best-scored anchors per feature level that enter suppression.
    pub pre_nms_top_n: usize,
    /// Maximum number of proposals per image after suppression.
    pub post_nms_top_n: usize,
    /// Intersection over union, 0 to 1, above which the lower-scoring of two proposals of one
    /// feature level is suppressed.
    pub iou_threshold: f64,
    /// Minimum score of a proposal, 0 to 1. A proposal with exactly this score is kept.
    pub score_threshold: f64,
}

impl Detection {
    /// Converts the settings to the exporter's options for a detector graph that includes
    /// suppression. `resize` is the resize in the model's preprocessing.
    pub(super) fn fused_options(&self, resize: &Resize) -> FusedOptions {
        FusedOptions {
            score_threshold: self.score_threshold,
            iou_threshold: self.iou_threshold,
            max_detections: self.max_detections,
            topk_candidates: self.topk_candidates,
            box_weights: self.box_weights,
            proposals: self.rpn.as_ref().map(Rpn::proposal_options),
            fixed_size: match *resize {
                Resize::Fixed { width, height } => Some([width, height]),
                Resize::ShortSide { .. } | Resize::Bounded { .. } => None,
            },
        }
    }

    /// Checks that every value is in its range, and that exactly the optional fields that `head`
    /// needs are set.
    pub(super) fn check(&self, head: &Head) -> Result<(), InvalidField> {
        check_share("detection.score_threshold", self.score_threshold)?;
        check_share("detection.iou_threshold", self.iou_threshold)?;
        check_count("detection.max_detections", self.max_detections)?;
        let weights_ok = self.box_weights.iter().all(|w| w.is_finite() && *w > 0.0);
        require(
            weights_ok,
            "detection.box_weights",
            "finite values above 0",
            &format!("{:?}", self.box_weights),
        )?;
        if head.roles().contains(&Role::BoxHead) {
            self.check_two_stages()
        } else {
            self.check_one_stage()
        }
    }

    fn check_two_stages(&self) -> Result<(), InvalidField> {
        let topk = self.topk_candidates.unwrap_or_default();
        require(
            self.topk_candidates.is_none(),
            "detection.topk_candidates",
            "none for faster_rcnn",
            &topk,
        )?;
        match &self.rpn {
            Some(rpn) => rpn.check(),
            None => require(false, "detection.rpn", "a table for faster_rcnn", &"none"),
        }
    }

    fn check_one_stage(&self) -> Result<(), InvalidField> {
        let (field, expected) = ("detection.rpn", "none except for faster_rcnn");
        require(self.rpn.is_none(), field, expected, &"a table")?;
        let field = "detection.topk_candidates";
        match self.topk_candidates {
            Some(topk) => check_count(field, topk),
            None => require(false, field, "a count for retinanet and ssdlite", &"none"),
        }
    }
}

impl Rpn {
    fn proposal_options(&self) -> ProposalOptions {
        ProposalOptions {
            pre_nms_top_n: self.pre_nms_top_n,
            post_nms_top_n: self.post_nms_top_n,
            iou_threshold: self.iou_threshold,
            score_threshold: self.score_threshold,
        }
    }

    fn check(&self) -> Result<(), InvalidField> {
        check_count("detection.rpn.pre_nms_top_n", self.pre_nms_top_n)?;
        check_count("detection.rpn.post_nms_top_n", self.post_nms_top_n)?;
        check_share("detection.rpn.iou_threshold", self.iou_threshold)?;
        check_share("detection.rpn.score_threshold", self.score_threshold)
    }
}

/// Returns an error about `field` unless `value` is 0 to 1.
fn check_share(field: &'static str, value: f64) -> Result<(), InvalidField> {
    require((0.0..=1.0).contains(&value), field, "0 to 1", &value)
}

/// Returns an error about `field` unless `value` is 1 to [`MAX_BOXES`].
fn check_count(field: &'static str, value: usize) -> Result<(), InvalidField> {
    require(
        (1..=MAX_BOXES).contains(&value),
        field,
        "1 to 100000",
        &value,
    )
}
