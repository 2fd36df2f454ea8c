//! A detector in one graph of standard operators: what the server does natively after a network,
//! for other runtimes. Batches of one.
//!
//! The order of operations is the native path's (`postprocess::detect` of the server), which is
//! torchvision's: the best few by score first, then boxes of those alone, then suppression. ONNX's
//! `TopK` and `NonMaxSuppression` prefer the lower place among equal scores and compare overlaps
//! with a strict `>`, as torchvision and the server do.
//!
//! What is *not* here: leaving out numbers that are not finite, and moving the boxes of classes
//! apart, which torchvision does for few boxes and which only changes rounding.

mod anchors;
mod boxes;
mod faster_rcnn;
mod retinanet;
mod ssdlite;
mod suppress;

use super::LevelOutputs;
use crate::architecture::{Architecture, Backbone, Head};
use crate::check::argument;
use crate::error::BuildError;
use crate::graph::{Dim, Element, Graph, Scope, Value};

/// Thresholds and limits that [`build_fused`](crate::build_fused) writes into the graph.
///
/// Thresholds are `f64` because torchvision's are: 0.55 rounds to a different value in `f32`.
#[derive(Debug, Clone, PartialEq)]
pub struct FusedOptions {
    /// Detections must score above this, 0 to 1.
    pub score_threshold: f64,
    /// The lower-scoring of two boxes of one class is suppressed if their intersection over union exceeds this, 0 to 1.
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

/// Selection of region proposals. Source: `torchvision.models.detection.rpn`.
#[derive(Debug, Clone, PartialEq)]
pub struct ProposalOptions {
    /// Number of best-scored anchors per level that enter suppression.
    pub pre_nms_top_n: usize,
    /// Maximum number of proposals.
    pub post_nms_top_n: usize,
    /// The lower-scoring of two proposals of one level is suppressed if their intersection over union exceeds this.
    pub iou_threshold: f64,
    /// Proposals must score at least this.
    pub score_threshold: f64,
}

/// What the parts of a detector have in common.
#[derive(Debug, Clone, Copy)]
struct Picture {
    /// `[1, 3, H, W] f32`, padded.
    images: Value,
    /// Width, height, width, height of the resized picture, `[4] f32`.
    limits: Value,
}

/// Boxes that compete, in pixels of the resized picture.
#[derive(Debug, Clone, Copy)]
struct Candidates {
    /// `[N, 4] f32`.
    boxes: Value,
    /// `[N] f32`.
    scores: Value,
    /// `[N] i64`: what only suppresses its own kind.
    classes: Value,
}

/// The answer, best first.
#[derive(Debug, Clone, Copy)]
struct Chosen {
    /// `[D, 4] f32`.
    boxes: Value,
    /// `[D] i64`.
    labels: Value,
    /// `[D] f32`.
    scores: Value,
}

/// Adds the network, from `images` (and `image_size`) to `boxes`, `labels` and `scores`.
///
/// # Errors
/// [`BuildError::Argument`] for a head that is no detector's, or an SSD without a fixed size.
pub(crate) fn fused(
    g: &mut Graph,
    root: &Scope<'_>,
    architecture: &Architecture,
    options: &FusedOptions,
) -> Result<(), BuildError> {
    let Architecture {
        num_classes,
        backbone,
        head,
    } = architecture;
    let chosen = match (head, backbone) {
        (Head::FasterRcnn(head), _) => {
            let picture = padded_picture(g)?;
            let network = (backbone, head);
            faster_rcnn::detect(g, root, picture, network, options, *num_classes)?
        }
        (Head::Retinanet(head), _) => {
            let picture = padded_picture(g)?;
            let network = (backbone, head);
            retinanet::detect(g, root, picture, network, options, *num_classes)?
        }
        (Head::Ssdlite(head), Backbone::MobilenetV3(config)) => {
            let Some(size) = options.fixed_size else {
                let expected = "the input size of SSDlite";
                return Err(argument("options.fixed_size", expected, &"none").into());
            };
            let picture = fixed_picture(g, size);
            ssdlite::detect(g, root, picture, (config, head), options, *num_classes)?
        }
        _ => return Err(argument("head", "a detector on its backbone", &"another").into()),
    };
    g.output(chosen.boxes, "boxes");
    g.output(chosen.labels, "labels");
    g.output(chosen.scores, "scores");
    Ok(())
}

/// A picture of any size with padding.
fn padded_picture(g: &mut Graph) -> Result<Picture, BuildError> {
    let [height, width] = ["height", "width"].map(|axis| g.axis(axis));
    let shape = vec![Dim::Fixed(1), Dim::Fixed(3), height, width];
    let images = g.input("images", shape, Element::F32);
    let size = g.input("image_size", vec![Dim::Fixed(2)], Element::I64);
    let order = g.list("order", &[1, 0, 1, 0]);
    let limits = g.gather(size, order)?;
    let limits = g.to_f32(limits);
    Ok(Picture { images, limits })
}

/// A picture of one size, all of which is picture.
fn fixed_picture(g: &mut Graph, [width, height]: [u32; 2]) -> Picture {
    let [down, across] = [height, width].map(|side| Dim::Fixed(side as usize));
    let shape = vec![Dim::Fixed(1), Dim::Fixed(3), down, across];
    let images = g.input("images", shape, Element::F32);
    let limits = [width, height, width, height].map(|side| side as f32);
    let limits = g.table("limits", &[4], limits.to_vec());
    Picture { images, limits }
}

/// A map `[1, A * columns, h, w]` as rows `[h * w * A, columns]`: points by rows, each with its anchors.
fn rows(g: &mut Graph, map: Value, columns: usize, level: usize) -> Result<Value, BuildError> {
    let anchors = (g.channels(map)? / columns) as i64;
    let columns = columns as i64;
    let points = format!("points_{level}");
    let split = g.reshape(map, &[anchors, columns, -1], &points)?;
    let turned = g.transpose(split, &[2, 0, 1])?;
    g.reshape(turned, &[-1, columns], &format!("anchors_{level}"))
}
