//! Faster R-CNN in two graphs: the caller selects region proposals from the outputs of the first
//! graph and passes them to the second.
//!
//! Source: Ren et al., "Faster R-CNN" (2015); torchvision's `models/detection/faster_rcnn.py`.

use super::pyramid::{Base, CHANNELS, Extra, pyramid};
use super::{Detector, LevelOutputs};
use crate::architecture::FasterRcnnHead;
use crate::error::{BuildError, argument};
use crate::graph::ops::{Conv, Regions, RoiAlign};
use crate::graph::{Dim, Element, Graph, Scope, Value};
use crate::layers::SharedConv;

/// Height and width, in cells, of the `RoIAlign` output of a region.
const ROI_SIZE: usize = 7;
/// Number of samples along each side of a cell of the `RoIAlign` output.
const ROI_SAMPLES: usize = 2;
/// Number of outputs of each hidden layer of the box head.
const HIDDEN: usize = 1024;

/// Outputs of the first stage, from which the caller selects region proposals.
#[derive(Debug, Clone)]
pub struct Proposals {
    /// Objectness logits `[N, A, h, w]` and box deltas `[N, A * 4, h, w]` of every level.
    pub levels: Vec<LevelOutputs>,
    /// Feature maps `[N, 256, h, w]` from which the second stage pools regions, one for each of the
    /// head's `roi_strides`, finest first.
    pub maps: Vec<Value>,
}

/// Adds the first stage (backbone, feature pyramid and region proposal network) and returns its outputs.
///
/// # Errors
/// [`BuildError::Shape`] if `images` is not `[N, 3, H, W]`, [`BuildError::FeatureMap`] if the
/// backbone has too few feature maps, [`BuildError::Attribute`] if the head has no anchors,
/// [`BuildError::Argument`] if the head has more `roi_strides` than the pyramid has levels.
pub fn proposals(
    g: &mut Graph,
    root: &Scope<'_>,
    images: Value,
    detector: &Detector<'_, FasterRcnnHead>,
) -> Result<Proposals, BuildError> {
    let Detector { trunk, head, .. } = *detector;
    let base = Base {
        trunk,
        maps: head.backbone_maps,
    };
    let levels = pyramid(g, &root.sub("backbone"), images, base, Extra::Pool)?;
    let scope = root.sub("rpn").sub("head");
    let anchors = head.anchors.per_location();
    let rpn = RpnHead::load(g, &scope, anchors.first().copied().unwrap_or_default())?;
    let outputs = levels.iter().map(|level| rpn.apply(g, *level));
    let outputs = outputs.collect::<Result<Vec<_>, _>>()?;
    let count = head.roi_strides.len();
    let Some(maps) = levels.get(..count) else {
        let expected = format!("at most {} strides, one per pyramid level", levels.len());
        return Err(argument("roi_strides", expected, &count).into());
    };
    Ok(Proposals {
        levels: outputs,
        maps: maps.to_vec(),
    })
}

/// The convolutions of the region proposal network, whose weights all levels share. Source:
/// torchvision's `models/detection/rpn.py`, `RPNHead`.
struct RpnHead {
    conv: SharedConv,
    objectness: SharedConv,
    deltas: SharedConv,
}

impl RpnHead {
    fn load(g: &mut Graph, scope: &Scope<'_>, anchors: usize) -> Result<Self, BuildError> {
        // Checkpoints from before torchvision 0.12 call the convolution `conv` instead of `conv.0.0`.
        let conv = scope.sub("conv");
        let conv = conv.sub(0).sub(0).formerly(&conv);
        let mut load = |scope: &Scope<'_>, config| SharedConv::load(g, scope, CHANNELS, config);
        Ok(Self {
            conv: load(&conv, Conv::new(CHANNELS, 3))?,
            objectness: load(&scope.sub("cls_logits"), Conv::new(anchors, 1))?,
            deltas: load(&scope.sub("bbox_pred"), Conv::new(4 * anchors, 1))?,
        })
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

/// Adds the second stage, `RoiAlign` and the box head, to the graph `g`, which has no other nodes.
///
/// The inputs are the maps `feature_<i>` that the first stage writes, and for each of these maps
/// `rois_<i>` `[R_i, 4] f32` (x1, y1, x2, y2 in pixels of the padded image) and `batch_indices_<i>`
/// `[R_i] i64`; `R_i` may be 0. The outputs are `class_logits` `[R, num_classes]` and
/// `box_regression` `[R, num_classes * 4]` for the R regions of all maps: first the regions of map
/// 0, then of map 1, and so on.
///
/// # Errors
/// [`BuildError::NoOperands`] if the head has no `roi_strides`.
pub fn box_head(
    g: &mut Graph,
    root: &Scope<'_>,
    head: &FasterRcnnHead,
    num_classes: usize,
) -> Result<(), BuildError> {
    let levels = 0..head.roi_strides.len();
    let maps: Vec<RegionMap> = levels
        .map(|level| RegionMap {
            map: feature_input(g, level),
            regions: region_inputs(g, level),
        })
        .collect();
    let outputs = classify(g, root, head, &maps, num_classes)?;
    g.output(outputs.logits, "class_logits");
    g.output(outputs.deltas, "box_regression");
    Ok(())
}

/// A feature map and the regions to pool from it.
#[derive(Debug, Clone, Copy)]
pub(super) struct RegionMap {
    pub(super) map: Value,
    pub(super) regions: Regions,
}

/// Outputs of the box head for R regions of interest.
#[derive(Debug, Clone, Copy)]
pub(super) struct BoxOutputs {
    /// Class logits `[R, num_classes]`.
    pub(super) logits: Value,
    /// Box deltas `[R, num_classes * 4]`.
    pub(super) deltas: Value,
}

/// Adds `RoiAlign` and the box head, and returns the outputs of the box head for all regions: first
/// the regions of the first map, then of the second map, and so on.
///
/// # Errors
/// [`BuildError::Shape`] if a map is not `[N, C, H, W]` or its regions are not `[R, 4]`.
/// [`BuildError::NoOperands`] if `maps` is empty.
pub(super) fn classify(
    g: &mut Graph,
    root: &Scope<'_>,
    head: &FasterRcnnHead,
    maps: &[RegionMap],
    num_classes: usize,
) -> Result<BoxOutputs, BuildError> {
    let mut pooled = Vec::new();
    for (RegionMap { map, regions }, stride) in maps.iter().zip(&head.roi_strides) {
        let config = RoiAlign {
            output: ROI_SIZE,
            sampling_ratio: ROI_SAMPLES,
            stride: *stride,
        };
        pooled.push(g.roi_align(*map, *regions, config)?);
    }
    let y = g.concat_rows(&pooled, "rois")?;
    let y = g.flatten(y)?;
    let heads = root.sub("roi_heads");
    let hidden = heads.sub("box_head");
    let y = g.gemm(&hidden.sub("fc6"), y, HIDDEN)?;
    let y = g.relu(y);
    let y = g.gemm(&hidden.sub("fc7"), y, HIDDEN)?;
    let y = g.relu(y);
    let predictor = heads.sub("box_predictor");
    Ok(BoxOutputs {
        logits: g.gemm(&predictor.sub("cls_score"), y, num_classes)?,
        deltas: g.gemm(&predictor.sub("bbox_pred"), y, 4 * num_classes)?,
    })
}

/// Adds the input `feature_<level>` of the second stage, `[batch, 256, height, width] f32`.
fn feature_input(g: &mut Graph, level: usize) -> Value {
    let batch = g.axis("batch");
    let [height, width] = ["height", "width"].map(|side| g.axis(&format!("{side}_{level}")));
    let shape = vec![batch, Dim::Fixed(CHANNELS), height, width];
    g.input(&format!("feature_{level}"), shape, Element::F32)
}

/// Adds the inputs `rois_<level>` `[R, 4] f32` and `batch_indices_<level>` `[R] i64` of the second stage.
fn region_inputs(g: &mut Graph, level: usize) -> Regions {
    let count = g.axis(&format!("rois_{level}"));
    let corners = vec![count, Dim::Fixed(4)];
    Regions {
        boxes: g.input(&format!("rois_{level}"), corners, Element::F32),
        batch_indices: g.input(&format!("batch_indices_{level}"), vec![count], Element::I64),
    }
}
