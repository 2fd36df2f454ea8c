//! `RetinaNet`: one head for classes and one for boxes, shared by the levels of a pyramid.
//!
//! Source: Lin et al., "Focal Loss for Dense Object Detection" (2017), section 4;
//! `torchvision.models.detection.retinanet`.

use super::LevelOutputs;
use super::pyramid::{CHANNELS, Extra, pyramid};
use crate::architecture::{Backbone, RetinanetHead};
use crate::error::BuildError;
use crate::graph::ops::Conv;
use crate::graph::{Graph, Scope, Value};
use crate::layers::SharedConv;

/// Convolutions of a head before its last.
const DEPTH: usize = 4;

/// Adds the network; gives scores `[N, A num_classes, h, w]` and corrections `[N, 4 A, h, w]` of every
/// level.
///
/// # Errors
/// [`BuildError::Shape`] if `images` is not `[N, 3, H, W]`.
pub(crate) fn retinanet(
    g: &mut Graph,
    root: &Scope<'_>,
    images: Value,
    (backbone, head): (&Backbone, &RetinanetHead),
    num_classes: usize,
) -> Result<Vec<LevelOutputs>, BuildError> {
    let trunk = (backbone, head.backbone_maps);
    let levels = pyramid(g, &root.sub("backbone"), images, trunk, Extra::P6P7)?;
    let anchors = head.anchors.per_location()[0];
    let scope = root.sub("head");
    let (classes, boxes) = (
        scope.sub("classification_head"),
        scope.sub("regression_head"),
    );
    let classes = Tower::load(g, &classes, "cls_logits", anchors * num_classes);
    let boxes = Tower::load(g, &boxes, "bbox_reg", anchors * 4);
    let mut answers = Vec::new();
    for level in levels {
        answers.push(LevelOutputs {
            scores: classes.apply(g, level)?,
            boxes: boxes.apply(g, level)?,
        });
    }
    Ok(answers)
}

/// Source: `RetinaNetClassificationHead` and `RetinaNetRegressionHead`.
struct Tower {
    hidden: Vec<SharedConv>,
    last: SharedConv,
}

impl Tower {
    fn load(g: &mut Graph, scope: &Scope<'_>, last: &str, out: usize) -> Self {
        let convs = scope.sub("conv");
        let mut load = |scope: &Scope<'_>, out| {
            let config = Conv::new(out, 3);
            SharedConv::load(g, scope, CHANNELS, config)
        };
        let hidden = (0..DEPTH).map(|index| {
            // Checkpoints from before torchvision 0.13 number the activations too.
            let scope = convs.sub(index).sub(0).formerly(&convs.sub(2 * index));
            load(&scope, CHANNELS)
        });
        let hidden = hidden.collect();
        Self {
            hidden,
            last: load(&scope.sub(last), out),
        }
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
