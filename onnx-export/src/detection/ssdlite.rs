//! `SSDlite`: single-shot detection with depthwise heads, one pair for each of six maps.
//!
//! Source: Sandler et al., "MobileNetV2" (2018), section 6.2; Howard et al., "Searching for
//! MobileNetV3" (2019), section 6.3; `torchvision.models.detection.ssdlite`.

use super::LevelOutputs;
use crate::architecture::{MobileNetV3Config, SsdliteHead};
use crate::backbones::mobilenet_v3::ssd_features;
use crate::error::BuildError;
use crate::graph::ops::Conv;
use crate::graph::{Graph, Scope, Value};
use crate::layers::{Activation, Norm, conv_bias, conv_norm_activation};

/// Adds the network; gives scores `[N, A num_classes, h, w]` and corrections `[N, 4 A, h, w]` of every
/// level.
///
/// # Errors
/// [`BuildError::Shape`] if `images` is not `[N, 3, H, W]`.
pub(crate) fn ssdlite(
    g: &mut Graph,
    root: &Scope<'_>,
    images: Value,
    (config, head): (&MobileNetV3Config, &SsdliteHead),
    num_classes: usize,
) -> Result<Vec<LevelOutputs>, BuildError> {
    let levels = levels(g, &root.sub("backbone"), images, config, head)?;
    let scope = root.sub("head");
    let modules = |name: &str| scope.sub(name).sub("module_list");
    let (classes, boxes) = (modules("classification_head"), modules("regression_head"));
    let anchors = head.default_boxes.per_location();
    let norm = config.norm();
    let mut answers = Vec::new();
    for (index, (level, anchors)) in levels.into_iter().zip(anchors).enumerate() {
        let scores = anchors * num_classes;
        answers.push(LevelOutputs {
            scores: prediction(g, &classes.sub(index), level, scores, norm)?,
            boxes: prediction(g, &boxes.sub(index), level, 4 * anchors, norm)?,
        });
    }
    Ok(answers)
}

/// The trunk's two maps and the extra ones. Source: `SSDLiteFeatureExtractorMobileNet`.
fn levels(
    g: &mut Graph,
    scope: &Scope<'_>,
    images: Value,
    config: &MobileNetV3Config,
    head: &SsdliteHead,
) -> Result<Vec<Value>, BuildError> {
    let [expanded, mut y] = ssd_features(g, &scope.sub("features"), images, config)?;
    let mut levels = vec![expanded, y];
    for (index, channels) in head.extra_channels.iter().enumerate() {
        let scope = scope.sub("extra").sub(index);
        y = extra_block(g, &scope, y, *channels, config.norm())?;
        levels.push(y);
    }
    Ok(levels)
}

/// Half the channels, half the resolution, the channels asked for. Source: `_extra_block`.
fn extra_block(
    g: &mut Graph,
    scope: &Scope<'_>,
    x: Value,
    channels: usize,
    norm: Norm,
) -> Result<Value, BuildError> {
    let between = channels / 2;
    let convs = [
        Conv::new(between, 1),
        Conv::depthwise(between, 3).stride(2),
        Conv::new(channels, 1),
    ];
    let mut y = x;
    for (index, conv) in convs.into_iter().enumerate() {
        y = conv_norm_activation(g, &scope.sub(index), y, conv, norm, Activation::Relu6)?;
    }
    Ok(y)
}

/// Source: `_prediction_block`.
fn prediction(
    g: &mut Graph,
    scope: &Scope<'_>,
    x: Value,
    out: usize,
    norm: Norm,
) -> Result<Value, BuildError> {
    let depthwise = Conv::depthwise(g.channels(x)?, 3);
    let y = conv_norm_activation(g, &scope.sub(0), x, depthwise, norm, Activation::Relu6)?;
    conv_bias(g, &scope.sub(1), y, Conv::new(out, 1))
}
