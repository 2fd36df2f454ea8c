//! `RetinaNet`: a feature pyramid with a classification head and a regression head, whose weights
//! all levels share.
//!
//! Source: Lin et al., "Focal Loss for Dense Object Detection" (2017), section 4; torchvision's
//! `models/detection/retinanet.py`.

use super::pyramid::{Base, CHANNELS, Extra, pyramid};
use super::{Detector, LevelOutputs};
use crate::architecture::RetinanetHead;
use crate::error::BuildError;
use crate::graph::ops::Conv;
use crate::graph::{Graph, Scope, Value};
use crate::layers::SharedConv;

/// Number of hidden convolutions of the classification head and of the regression head.
const DEPTH: usize = 4;

/// Adds the network and returns scores `[N, A * num_classes, h, w]` and box deltas `[N, A * 4, h, w]` of
/// every level.
///
/// # Errors
/// [`BuildError::Shape`] if `images` is not `[N, 3, H, W]`, [`BuildError::FeatureMap`] if the backbone
/// has too few feature maps, [`BuildError::Attribute`] if the head has no anchors.
pub fn retinanet(
    g: &mut Graph,
    root: &Scope<'_>,
    images: Value,
    detector: &Detector<'_, RetinanetHead>,
) -> Result<Vec<LevelOutputs>, BuildError> {
    let Detector {
        trunk,
        head,
        num_classes,
    } = *detector;
    let base = Base {
        trunk,
        maps: head.backbone_maps,
    };
    let levels = pyramid(g, &root.sub("backbone"), images, base, Extra::P6P7)?;
    let anchors = head.anchors.per_location();
    let anchors = anchors.first().copied().unwrap_or_default();
    let scope = root.sub("head");
    let classes = scope.sub("classification_head");
    let classes = Tower::load(g, &classes, "cls_logits", anchors * num_classes)?;
    let boxes = scope.sub("regression_head");
    let boxes = Tower::load(g, &boxes, "bbox_reg", anchors * 4)?;
    let outputs = levels.into_iter().map(|level| {
        Ok(LevelOutputs {
            scores: classes.apply(g, level)?,
            boxes: boxes.apply(g, level)?,
        })
    });
    outputs.collect()
}

/// The classification head or the regression head: hidden convolutions, each followed by `Relu`, and a last
/// convolution. Source: `RetinaNetClassificationHead` and `RetinaNetRegressionHead`.
struct Tower {
    hidden: Vec<SharedConv>,
    last: SharedConv,
}

impl Tower {
    /// Reads a head with the weights under `scope`. Its last convolution has `out` output channels
    /// and is the child module `last`.
    fn load(g: &mut Graph, scope: &Scope<'_>, last: &str, out: usize) -> Result<Self, BuildError> {
        let convs = scope.sub("conv");
        let mut load = |scope: &Scope<'_>, out| {
            let config = Conv::new(out, 3);
            SharedConv::load(g, scope, CHANNELS, config)
        };
        let hidden = (0..DEPTH).map(|index| {
            // Checkpoints from before torchvision 0.13 number the activations, too, so that hidden
            // convolution `index` has the number `2 * index`.
            let scope = convs.sub(index).sub(0).formerly(&convs.sub(2 * index));
            load(&scope, CHANNELS)
        });
        let hidden = hidden.collect::<Result<_, _>>()?;
        let last = load(&scope.sub(last), out)?;
        Ok(Self { hidden, last })
    }

    fn apply(&self, g: &mut Graph, level: Value) -> Result<Value, BuildError> {
        let mut y = level;
        for conv in &self.hidden {
            y = conv.apply(g, y)?;
            y = g.relu(y);
        }
        self.last.apply(g, y)
    }
}
