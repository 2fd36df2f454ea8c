//! Detectors as one graph of standard ONNX operators that includes the postprocessing. The graphs
//! are for runtimes without native postprocessing, and process one image per run.
//!
//! The order of operations is torchvision's: the candidates of highest score are selected first,
//! their boxes are decoded next, and suppression comes last. As in torchvision, `TopK` and
//! `NonMaxSuppression` prefer the lower index among equal scores, and a box is suppressed if its
//! overlap is strictly above the threshold.
//!
//! Two steps of torchvision are left out. Values that are not finite are not removed. The boxes of
//! different classes are not moved apart before suppression, which torchvision does for small box
//! counts and which changes results only by rounding.

mod anchors;
mod boxes;
mod faster_rcnn;
mod retinanet;
mod ssdlite;
mod suppress;

use super::{Detector, LevelOutputs};
use crate::architecture::{Architecture, Head};
use crate::error::{BuildError, argument};
use crate::graph::{Dim, Element, Graph, Scope, Value};

/// Thresholds and limits that [`build_fused`](crate::build_fused) writes into the graph.
///
/// Thresholds are `f64` because torchvision's are: 0.55 rounds to a different value in `f32`.
#[derive(Debug, Clone, PartialEq)]
pub struct FusedOptions {
    /// Minimum score of a detection, exclusive, 0 to 1.
    pub score_threshold: f64,
    /// Maximum overlap (`IoU`) of two detections of one class, 0 to 1. If the overlap of two boxes
    /// is above this, the box with the lower score is suppressed.
    pub iou_threshold: f64,
    /// Maximum number of detections per image.
    pub max_detections: usize,
    /// Number of candidates with the highest scores that enter suppression: pairs of an anchor and
    /// a class on each level for `RetinaNet`, boxes of each class for `SSDlite`. `None` keeps all
    /// candidates. Faster R-CNN ignores this field.
    pub topk_candidates: Option<usize>,
    /// Divisors of the predicted box deltas dx, dy, dw, dh. Source:
    /// `torchvision.models.detection._utils.BoxCoder`.
    pub box_weights: [f32; 4],
    /// How region proposals are selected. Faster R-CNN requires this; for other heads it is ignored
    /// and may be `None`.
    pub proposals: Option<ProposalOptions>,
    /// Width and height of the input in pixels. `SSDlite` requires this; for other heads it is
    /// ignored and may be `None`, because the size of their input is dynamic.
    pub fixed_size: Option<[u32; 2]>,
}

/// Limits and thresholds for the selection of region proposals. Source: `torchvision.models.detection.rpn`.
#[derive(Debug, Clone, PartialEq)]
pub struct ProposalOptions {
    /// Number of anchors with the highest objectness scores that enter suppression, per level.
    pub pre_nms_top_n: usize,
    /// Maximum number of proposals that remain after suppression, for all levels together.
    pub post_nms_top_n: usize,
    /// Maximum overlap (`IoU`) of two proposals of one level, 0 to 1. If the overlap of two
    /// proposals is above this, the proposal with the lower score is suppressed.
    pub iou_threshold: f64,
    /// Minimum objectness score of a proposal, inclusive, 0 to 1.
    pub score_threshold: f64,
}

/// The image that a detector reads, and the size to which boxes are clipped, as values of the
/// graph.
#[derive(Debug, Clone, Copy)]
struct Image {
    /// Normalized image `[1, 3, H, W] f32`, padded if its size is dynamic.
    images: Value,
    /// Limits of x1, y1, x2, y2 in pixels: width, height, width, height of the resized image before
    /// padding, `[4] f32`.
    limits: Value,
}

/// The detector that the graph computes, and the thresholds and limits of its postprocessing.
struct Fused<'a, H> {
    detector: Detector<'a, H>,
    options: &'a FusedOptions,
}

/// Boxes before suppression, as x1, y1, x2, y2 in pixels of the resized image.
#[derive(Debug, Clone, Copy)]
struct Candidates {
    /// Boxes `[N, 4] f32`.
    boxes: Value,
    /// Scores `[N] f32`.
    scores: Value,
    /// Class of each box, `[N] i64`; for region proposals, the level of the box. A box suppresses
    /// only boxes of its own class.
    classes: Value,
}

/// Boxes after suppression, as x1, y1, x2, y2 in pixels of the resized image, highest score first.
#[derive(Debug, Clone, Copy)]
struct Detections {
    /// Boxes `[D, 4] f32`.
    boxes: Value,
    /// Classes `[D] i64`.
    labels: Value,
    /// Scores `[D] f32`.
    scores: Value,
}

/// Adds the whole network: the input `images`, the input `image_size` if the size of the input is
/// dynamic, the detector, and the outputs `boxes`, `labels` and `scores`.
///
/// # Errors
/// [`BuildError::Argument`] if the head is not a detection head, or if `options` lacks a value that the head
/// needs.
pub(crate) fn fused(
    g: &mut Graph,
    root: &Scope<'_>,
    architecture: &Architecture,
    options: &FusedOptions,
) -> Result<(), BuildError> {
    let (trunk, num_classes) = (architecture.backbone.trunk(), architecture.num_classes);
    let detections = match &architecture.head {
        Head::FasterRcnn(head) => {
            let image = padded_image(g)?;
            let detector = Detector {
                trunk,
                head,
                num_classes,
            };
            faster_rcnn::detect(g, root, image, &Fused { detector, options })?
        }
        Head::Retinanet(head) => {
            let image = padded_image(g)?;
            let detector = Detector {
                trunk,
                head,
                num_classes,
            };
            retinanet::detect(g, root, image, &Fused { detector, options })?
        }
        Head::Ssdlite(head) => {
            let Some(size) = options.fixed_size else {
                let expected = "the width and height of the input, which ssdlite requires";
                return Err(argument("options.fixed_size", expected, &"none").into());
            };
            let image = fixed_image(g, size);
            let detector = Detector {
                trunk,
                head,
                num_classes,
            };
            ssdlite::detect(g, root, image, &Fused { detector, options })?
        }
        other => return Err(argument("head", "a detection head", &other.name()).into()),
    };
    g.output(detections.boxes, "boxes");
    g.output(detections.labels, "labels");
    g.output(detections.scores, "scores");
    Ok(())
}

/// Adds the inputs `images` and `image_size` of a detector whose input has a dynamic size and may
/// be padded.
fn padded_image(g: &mut Graph) -> Result<Image, BuildError> {
    let [height, width] = ["height", "width"].map(|axis| g.axis(axis));
    let shape = vec![Dim::Fixed(1), Dim::Fixed(3), height, width];
    let images = g.input("images", shape, Element::F32);
    let size = g.input("image_size", vec![Dim::Fixed(2)], Element::I64);
    let order = g.list("order", &[1, 0, 1, 0]);
    let limits = g.gather(size, order)?;
    let limits = g.to_f32(limits);
    Ok(Image { images, limits })
}

/// Adds the input `images` of a detector whose input has the fixed `size` (width, height in pixels)
/// and is not padded.
fn fixed_image(g: &mut Graph, size: [u32; 2]) -> Image {
    let [width, height] = size;
    let [down, across] = [height, width].map(|side| Dim::Fixed(side as usize));
    let shape = vec![Dim::Fixed(1), Dim::Fixed(3), down, across];
    let images = g.input("images", shape, Element::F32);
    let limits = [width, height, width, height].map(|side| side as f32);
    let limits = g.table("limits", &[4], limits.to_vec());
    Image { images, limits }
}

/// Reshapes the output `map` `[1, A * columns, h, w]` of level `level` to one row per anchor,
/// `[h * w * A, columns]`. The A rows of a location follow each other, and locations are ordered
/// row by row.
fn rows(g: &mut Graph, map: Value, columns: usize, level: usize) -> Result<Value, BuildError> {
    let anchors = (g.channels(map)? / columns) as i64;
    let columns = columns as i64;
    let points = format!("points_{level}");
    let split = g.reshape(map, &[anchors, columns, -1], &points)?;
    let turned = g.transpose(split, &[2, 0, 1])?;
    g.reshape(turned, &[-1, columns], &format!("anchors_{level}"))
}
