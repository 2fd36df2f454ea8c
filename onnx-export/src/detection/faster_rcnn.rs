//! Faster R-CNN in two graphs: the server chooses proposals from the numbers of the first and
//! gives them to the second.
//!
//! Source: Ren et al., "Faster R-CNN" (2015); `torchvision.models.detection.faster_rcnn`.

use super::LevelOutputs;
use super::pyramid::{CHANNELS, Extra, pyramid};
use crate::architecture::{Backbone, FasterRcnnHead};
use crate::error::BuildError;
use crate::graph::ops::{Conv, Regions, RoiAlign};
use crate::graph::{Dim, Element, Graph, Scope, Value};
use crate::layers::SharedConv;

/// Side of the map that is cut out for a proposal.
const ROI_SIZE: usize = 7;
/// Samples along each side of a point of that map.
const ROI_SAMPLES: usize = 2;
/// Width of the box head's hidden layers.
const HIDDEN: usize = 1024;

/// Adds the first stage: pyramid and region proposals.
///
/// It gives objectness `[N, A, h, w]` and corrections `[N, 4 A, h, w]` of every level, and the maps `[N,
/// 256, h, w]` that proposals are cut from.
///
/// # Errors
/// [`BuildError::Shape`] if `images` is not `[N, 3, H, W]`.
pub(crate) fn proposals(
    g: &mut Graph,
    root: &Scope<'_>,
    images: Value,
    (backbone, head): (&Backbone, &FasterRcnnHead),
) -> Result<(Vec<LevelOutputs>, Vec<Value>), BuildError> {
    let trunk = (backbone, head.backbone_maps);
    let levels = pyramid(g, &root.sub("backbone"), images, trunk, Extra::Pool)?;
    let rpn = RpnHead::load(
        g,
        &root.sub("rpn").sub("head"),
        head.anchors.per_location()[0],
    );
    let answers = levels.iter().map(|level| rpn.apply(g, *level));
    let answers = answers.collect::<Result<Vec<_>, _>>()?;
    let maps = levels[..head.roi_strides.len()].to_vec();
    Ok((answers, maps))
}

/// Source: `torchvision.models.detection.rpn.RPNHead`.
struct RpnHead {
    conv: SharedConv,
    objectness: SharedConv,
    deltas: SharedConv,
}

impl RpnHead {
    fn load(g: &mut Graph, scope: &Scope<'_>, anchors: usize) -> Self {
        // Checkpoints from before torchvision 0.12 hold the convolution without its two sequences.
        let conv = scope.sub("conv");
        let conv = conv.sub(0).sub(0).formerly(&conv);
        let mut load = |scope: &Scope<'_>, config| SharedConv::load(g, scope, CHANNELS, config);
        Self {
            conv: load(&conv, Conv::new(CHANNELS, 3)),
            objectness: load(&scope.sub("cls_logits"), Conv::new(anchors, 1)),
            deltas: load(&scope.sub("bbox_pred"), Conv::new(4 * anchors, 1)),
        }
    }

    fn apply(&self, g: &mut Graph, level: Value) -> Result<LevelOutputs, BuildError> {
        let y = self.conv.apply(g, level)?;
        let y = g.relu(y);
        Ok(LevelOutputs {
            scores: self.objectness.apply(g, y)?,
            boxes: self.deltas.apply(g, y)?,
        })
    }
}

/// Adds the second graph's network: `RoIAlign` and the box head.
///
/// Its inputs are the `feature_<i>` of the first, and for each of them `rois_<i>` `[R_i, 4] f32`, x1,
/// y1, x2, y2 in pixels of the padded pictures, and `batch_indices_<i>` `[R_i] i64`, whose length may be 0. Its
/// outputs are `class_logits` `[R, num_classes]` and `box_regression` `[R, 4 num_classes]`, the
/// regions of the first level first.
///
/// # Errors
/// None for a checked architecture.
pub(crate) fn box_head(
    g: &mut Graph,
    root: &Scope<'_>,
    head: &FasterRcnnHead,
    num_classes: usize,
) -> Result<(), BuildError> {
    let levels = 0..head.roi_strides.len();
    let inputs: Vec<_> = levels
        .map(|level| (feature_input(g, level), region_inputs(g, level)))
        .collect();
    let (logits, boxes) = classify(g, root, head, &inputs, num_classes)?;
    g.output(logits, "class_logits");
    g.output(boxes, "box_regression");
    Ok(())
}

/// Adds `RoIAlign` and the box head; gives class logits `[R, num_classes]` and corrections `[R, 4
/// num_classes]` of the regions of each map, the first's first.
///
/// # Errors
/// [`BuildError::Shape`] if maps or regions have another shape than [`proposals`] gives.
pub(super) fn classify(
    g: &mut Graph,
    root: &Scope<'_>,
    head: &FasterRcnnHead,
    maps: &[(Value, Regions)],
    num_classes: usize,
) -> Result<(Value, Value), BuildError> {
    let mut cut = Vec::new();
    for ((map, regions), stride) in maps.iter().zip(&head.roi_strides) {
        let config = RoiAlign {
            output: ROI_SIZE,
            sampling_ratio: ROI_SAMPLES,
            stride: *stride,
        };
        cut.push(g.roi_align(*map, *regions, config)?);
    }
    let y = g.concat_rows(&cut, "rois")?;
    let y = g.flatten(y)?;
    let heads = root.sub("roi_heads");
    let hidden = heads.sub("box_head");
    let y = g.gemm(&hidden.sub("fc6"), y, HIDDEN)?;
    let y = g.relu(y);
    let y = g.gemm(&hidden.sub("fc7"), y, HIDDEN)?;
    let y = g.relu(y);
    let predictor = heads.sub("box_predictor");
    let logits = g.gemm(&predictor.sub("cls_score"), y, num_classes)?;
    let boxes = g.gemm(&predictor.sub("bbox_pred"), y, 4 * num_classes)?;
    Ok((logits, boxes))
}

fn feature_input(g: &mut Graph, level: usize) -> Value {
    let [batch, height, width] = [
        "batch".to_owned(),
        format!("height_{level}"),
        format!("width_{level}"),
    ]
    .map(|axis| g.axis(&axis));
    let shape = vec![batch, Dim::Fixed(CHANNELS), height, width];
    g.input(&format!("feature_{level}"), shape, Element::F32)
}

fn region_inputs(g: &mut Graph, level: usize) -> Regions {
    let count = g.axis(&format!("rois_{level}"));
    let corners = vec![count, Dim::Fixed(4)];
    Regions {
        boxes: g.input(&format!("rois_{level}"), corners, Element::F32),
        batch_indices: g.input(&format!("batch_indices_{level}"), vec![count], Element::I64),
    }
}
