//! `SSDlite`: single-shot detection. Every feature map has a classification head and a regression
//! head of its own, whose 3x3 convolutions are depthwise.
//!
//! Source: Sandler et al., "MobileNetV2" (2018), section 6.2; Howard et al., "Searching for
//! MobileNetV3" (2019), section 6.3; torchvision's `models/detection/ssdlite.py`.

use super::{Detector, LevelOutputs};
use crate::architecture::SsdliteHead;
use crate::error::{BuildError, argument};
use crate::graph::ops::Conv;
use crate::graph::{Graph, Scope, Value};
use crate::layers::{Activation, ConvNorm, Norm, conv_bias, conv_norm_activation};

/// Adds the network and returns scores `[N, A * num_classes, h, w]` and box deltas `[N, A * 4, h, w]` of
/// every level.
///
/// # Errors
/// [`BuildError::Shape`] if `images` is not `[N, 3, H, W]`, [`BuildError::Argument`] if the
/// backbone does not support SSD or has no batch norm.
pub fn ssdlite(
    g: &mut Graph,
    root: &Scope<'_>,
    images: Value,
    detector: &Detector<'_, SsdliteHead>,
) -> Result<Vec<LevelOutputs>, BuildError> {
    let Detector {
        trunk,
        head,
        num_classes,
    } = *detector;
    let Some(norm) = trunk.norm() else {
        let expected = "a backbone with batch norms, whose arguments ssdlite reuses";
        return Err(argument("backbone", expected, &trunk.name()).into());
    };
    let backbone = root.sub("backbone");
    let maps = trunk.ssd_features(g, &backbone.sub("features"), images)?;
    let levels = levels(g, &backbone.sub("extra"), maps, &head.extra_channels, norm)?;
    let scope = root.sub("head");
    let modules = |name: &str| scope.sub(name).sub("module_list");
    let (classes, boxes) = (modules("classification_head"), modules("regression_head"));
    let anchors = head.default_boxes.per_location();
    let mut outputs = Vec::new();
    for (index, (level, anchors)) in levels.into_iter().zip(anchors).enumerate() {
        let scores = anchors * num_classes;
        outputs.push(LevelOutputs {
            scores: prediction(g, &classes.sub(index), level, scores, norm)?,
            boxes: prediction(g, &boxes.sub(index), level, 4 * anchors, norm)?,
        });
    }
    Ok(outputs)
}

/// Adds extra feature maps with the given `channels` after the last map, and returns the two `maps`
/// of the backbone, then the extra ones.
///
/// Source: `SSDLiteFeatureExtractorMobileNet`.
fn levels(
    g: &mut Graph,
    extra: &Scope<'_>,
    maps: [Value; 2],
    channels: &[usize],
    norm: Norm,
) -> Result<Vec<Value>, BuildError> {
    let mut levels = maps.to_vec();
    let [_, mut y] = maps;
    for (index, channels) in channels.iter().enumerate() {
        y = extra_block(g, &extra.sub(index), y, *channels, norm)?;
        levels.push(y);
    }
    Ok(levels)
}

/// Adds a block that halves height and width: 1x1 convolution to `channels / 2`, depthwise convolution of
/// stride 2, and 1x1 convolution to `channels`. Source: `_extra_block`.
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
        let layer = ConvNorm::new(conv, norm, Activation::Relu6);
        y = conv_norm_activation(g, &scope.sub(index), y, layer)?;
    }
    Ok(y)
}

/// Adds the classification or regression head of one level, with output `[N, out, h, w]`. Source:
/// `_prediction_block`.
fn prediction(
    g: &mut Graph,
    scope: &Scope<'_>,
    x: Value,
    out: usize,
    norm: Norm,
) -> Result<Value, BuildError> {
    let depthwise = Conv::depthwise(g.channels(x)?, 3);
    let layer = ConvNorm::new(depthwise, norm, Activation::Relu6);
    let y = conv_norm_activation(g, &scope.sub(0), x, layer)?;
    conv_bias(g, &scope.sub(1), y, Conv::new(out, 1))
}
