//! Detectors as one graph of standard operators that includes the postprocessing. They are for runtimes
//! without native postprocessing, and process one image per run.
//!
//! The order of operations is torchvision's: the top candidates by score first, then decoding of their
//! boxes, then suppression. ONNX's `TopK` and `NonMaxSuppression` prefer the lower index among equal
//! scores and compare overlaps with a strict `>`, as torchvision does.
//!
//! Two steps of torchvision are left out: the removal of values that are not finite, and the offset between
//! the boxes of different classes, which torchvision adds for small box counts and which changes results only
//! by rounding.

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
    /// Detections must score above this, 0 to 1.
    pub score_threshold: f64,
    /// The lower-scoring of two boxes of one class is suppressed if their overlap (`IoU`) exceeds this, 0 to 1.
    pub iou_threshold: f64,
    /// Maximum number of detections.
    pub max_detections: usize,
    /// Number of best-scored boxes per level (`RetinaNet`) or class (`SSDlite`) that enter suppression. `None` keeps
    /// all of them. Faster R-CNN ignores it.
    pub topk_candidates: Option<usize>,
    /// Divisors of the predicted box offsets (x, y, width, height).
    /// Source: `torchvision.models.detection._utils.BoxCoder`.
    pub box_weights: [f32; 4],
    /// Selection of region proposals; Faster R-CNN requires it, other heads ignore it.
    pub proposals: Option<ProposalOptions>,
    /// Width and height of the input in pixels; `SSDlite` requires it, other heads ignore it.
    pub fixed_size: Option<[u32; 2]>,
}

/// Limits and thresholds for the selection of region proposals. Source: `torchvision.models.detection.rpn`.
#[derive(Debug, Clone, PartialEq)]
pub struct ProposalOptions {
    /// Number of best-scored anchors per level that enter suppression.
    pub pre_nms_top_n: usize,
    /// Maximum number of proposals.
    pub post_nms_top_n: usize,
    /// The lower-scoring of two proposals of one level is suppressed if their overlap (`IoU`) exceeds this.
    pub iou_threshold: f64,
    /// Proposals must score at least this.
    pub score_threshold: f64,
}

/// The input of a detector, as values of the graph.
#[derive(Debug, Clone, Copy)]
struct Image {
    /// Padded image, `[1, 3, H, W] f32`.
    images: Value,
    /// Width, height, width, height of the resized image before padding, `[4] f32`.
    limits: Value,
}

/// The detector that the graph computes, and the thresholds and limits of its postprocessing.
struct Fused<'a, H> {
    detector: Detector<'a, H>,
    options: &'a FusedOptions,
}

/// Boxes before suppression, in pixels of the resized image.
#[derive(Debug, Clone, Copy)]
struct Candidates {
    /// Boxes `[N, 4] f32`.
    boxes: Value,
    /// Scores `[N] f32`.
    scores: Value,
    /// Classes `[N] i64`; a box only suppresses boxes of its own class.
    classes: Value,
}

/// Boxes after suppression, highest score first.
#[derive(Debug, Clone, Copy)]
struct Detections {
    /// Boxes `[D, 4] f32`.
    boxes: Value,
    /// Classes `[D] i64`.
    labels: Value,
    /// Scores `[D] f32`.
    scores: Value,
}

/// Adds the whole network: the input `images` (and `image_size`), the detector, and the outputs `boxes`,
/// `labels` and `scores`.
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

/// Adds the inputs of a detector for padded images of any size.
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

/// Adds the input of a detector for images of one size without padding.
fn fixed_image(g: &mut Graph, size: [u32; 2]) -> Image {
    let [width, height] = size;
    let [down, across] = [height, width].map(|side| Dim::Fixed(side as usize));
    let shape = vec![Dim::Fixed(1), Dim::Fixed(3), down, across];
    let images = g.input("images", shape, Element::F32);
    let limits = [width, height, width, height].map(|side| side as f32);
    let limits = g.table("limits", &[4], limits.to_vec());
    Image { images, limits }
}

/// Reshapes a level's output `[1, A * columns, h, w]` to one row per anchor, `[h * w * A, columns]`: location
/// by location, each with its A anchors.
fn rows(g: &mut Graph, map: Value, columns: usize, level: usize) -> Result<Value, BuildError> {
    let anchors = (g.channels(map)? / columns) as i64;
    let columns = columns as i64;
    let points = format!("points_{level}");
    let split = g.reshape(map, &[anchors, columns, -1], &points)?;
    let turned = g.transpose(split, &[2, 0, 1])?;
    g.reshape(turned, &[-1, columns], &format!("anchors_{level}"))
}
