//! How a detector's raw numbers become boxes: thresholds and limits, which a deployment may change.

use serde::{Deserialize, Serialize};

use super::{Head, Invalid, require};

/// Most boxes that any step keeps: bounds what suppression costs.
const MAX_BOXES: usize = 100_000;

/// From a detector's outputs to its answer. All comparisons with thresholds are strict.
///
/// Thresholds are `f64` as torchvision's are: 0.55 in `f32` is another number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detection {
    /// Boxes score above this.
    pub score_threshold: f64,
    /// Of two boxes of one class that overlap more than this, the better one stays.
    pub iou_threshold: f64,
    /// Most boxes of a picture.
    pub max_detections: usize,
    /// Boxes that compete in suppression: of a level (`RetinaNet`) or a class (`SSDlite`). Faster R-CNN has no such limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topk_candidates: Option<usize>,
    /// What the network's corrections (x, y, width, height) of boxes are divided by.
    /// Source: `torchvision.models.detection._utils.BoxCoder`.
    pub box_weights: [f32; 4],
    /// The region proposal network; Faster R-CNN only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpn: Option<Rpn>,
}

/// From anchors to proposals. Source: `torchvision.models.detection.rpn`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rpn {
    /// Anchors of a level that compete in suppression.
    pub pre_nms_top_n: usize,
    /// Proposals of a picture that go on to the box head.
    pub post_nms_top_n: usize,
    /// Of two proposals of one level that overlap more than this, the better one stays.
    pub iou_threshold: f64,
    /// Proposals score at least this: the one comparison that is not strict.
    pub score_threshold: f64,
}

impl Detection {
    /// Checks the numbers, and that they are those which `head` needs.
    pub(super) fn check(&self, head: &Head) -> Result<(), Invalid> {
        check_share("detection.score_threshold", self.score_threshold)?;
        check_share("detection.iou_threshold", self.iou_threshold)?;
        check_count("detection.max_detections", self.max_detections)?;
        let weights_ok = self.box_weights.iter().all(|w| w.is_finite() && *w > 0.0);
        require(
            weights_ok,
            "detection.box_weights",
            "numbers above 0",
            &format!("{:?}", self.box_weights),
        )?;
        self.check_parts(head.has_box_head())
    }

    fn check_parts(&self, two_stages: bool) -> Result<(), Invalid> {
        let given = |given: bool| if given { "one" } else { "none" };
        let (topk, rpn) = (self.topk_candidates, &self.rpn);
        let (topk_words, rpn_words) = if two_stages {
            ("none for faster_rcnn", "a table for faster_rcnn")
        } else {
            (
                "a number for retinanet and ssdlite",
                "none without faster_rcnn",
            )
        };
        let (topk_given, rpn_given) = (topk.is_some(), rpn.is_some());
        require(
            topk_given != two_stages,
            "detection.topk_candidates",
            topk_words,
            &given(topk_given),
        )?;
        require(
            rpn_given == two_stages,
            "detection.rpn",
            rpn_words,
            &given(rpn_given),
        )?;
        if let Some(topk) = topk {
            check_count("detection.topk_candidates", topk)?;
        }
        rpn.as_ref().map_or(Ok(()), Rpn::check)
    }
}

impl Rpn {
    fn check(&self) -> Result<(), Invalid> {
        check_count("detection.rpn.pre_nms_top_n", self.pre_nms_top_n)?;
        check_count("detection.rpn.post_nms_top_n", self.post_nms_top_n)?;
        check_share("detection.rpn.iou_threshold", self.iou_threshold)?;
        check_share("detection.rpn.score_threshold", self.score_threshold)
    }
}

fn check_share(field: &'static str, value: f64) -> Result<(), Invalid> {
    require((0.0..=1.0).contains(&value), field, "0 to 1", &value)
}

fn check_count(field: &'static str, value: usize) -> Result<(), Invalid> {
    require(
        (1..=MAX_BOXES).contains(&value),
        field,
        "1 to 100000",
        &value,
    )
}
