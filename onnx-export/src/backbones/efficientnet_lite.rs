//! EfficientNet-Lite0: EfficientNet-B0 without squeeze-and-excitation, with ReLU6, stem and head
//! never scaled.
//!
//! Source: the "EfficientNet-Lite" variant of Tan and Le, "EfficientNet: Rethinking Model Scaling
//! for Convolutional Neural Networks" (2019), table 1. Its weights come from TensorFlow, hence
//! `SAME` padding.

use super::FeatureMaps;
use crate::error::BuildError;
use crate::graph::ops::Conv;
use crate::graph::{Graph, Scope, Value};
use crate::layers::{Activation, conv_bn};

#[derive(Debug, Clone, Copy)]
struct Stage {
    repeats: usize,
    kernel: usize,
    stride: usize,
    expansion: usize,
    out: usize,
}

const fn stage(
    repeats: usize,
    kernel: usize,
    stride: usize,
    expansion: usize,
    out: usize,
) -> Stage {
    Stage {
        repeats,
        kernel,
        stride,
        expansion,
        out,
    }
}

#[rustfmt::skip]
const STAGES: [Stage; 7] = [
    //    n  k  s  t  out
    stage(1, 3, 1, 1,  16),
    stage(2, 3, 2, 6,  24),
    stage(2, 5, 2, 6,  40),
    stage(3, 3, 2, 6,  80),
    stage(3, 5, 1, 6, 112),
    stage(4, 5, 2, 6, 192),
    stage(1, 3, 1, 6, 320),
];
const STEM_CHANNELS: usize = 32;
const HEAD_CHANNELS: usize = 1280;

/// Adds the trunk: the feature map `[N, 1280, H/32, W/32]` after `_conv_head`.
///
/// # Errors
/// [`BuildError::Shape`] if `x` is not `[N, 3, H, W]`.
pub fn features(
    g: &mut Graph,
    scope: &Scope<'_>,
    x: Value,
    bn_eps: f32,
) -> Result<FeatureMaps, BuildError> {
    let stem = Conv::new(STEM_CHANNELS, 3).stride(2).same_upper();
    let scopes = (&scope.sub("_conv_stem"), &scope.sub("_bn0"));
    let mut y = conv_bn(g, scopes, x, stem, bn_eps, Activation::Relu6)?;
    let mut blocks = 0;
    for stage in STAGES {
        for repeat in 0..stage.repeats {
            let stride = if repeat == 0 { stage.stride } else { 1 };
            let block = Stage { stride, ..stage };
            y = mbconv(g, &scope.sub("_blocks").sub(blocks), y, block, bn_eps)?;
            blocks += 1;
        }
    }
    let scopes = (&scope.sub("_conv_head"), &scope.sub("_bn1"));
    let head = Conv::new(HEAD_CHANNELS, 1);
    y = conv_bn(g, scopes, y, head, bn_eps, Activation::Relu6)?;
    Ok(FeatureMaps(vec![y]))
}

/// The mobile inverted bottleneck: expansion, depthwise convolution, projection, residual.
fn mbconv(
    g: &mut Graph,
    scope: &Scope<'_>,
    x: Value,
    block: Stage,
    eps: f32,
) -> Result<Value, BuildError> {
    let input = g.channels(x)?;
    let expanded = input * block.expansion;
    let mut y = x;
    if block.expansion != 1 {
        let scopes = (&scope.sub("_expand_conv"), &scope.sub("_bn0"));
        y = conv_bn(g, scopes, y, Conv::new(expanded, 1), eps, Activation::Relu6)?;
    }
    let depthwise = Conv::depthwise(expanded, block.kernel)
        .stride(block.stride)
        .same_upper();
    let scopes = (&scope.sub("_depthwise_conv"), &scope.sub("_bn1"));
    y = conv_bn(g, scopes, y, depthwise, eps, Activation::Relu6)?;
    let scopes = (&scope.sub("_project_conv"), &scope.sub("_bn2"));
    y = conv_bn(
        g,
        scopes,
        y,
        Conv::new(block.out, 1),
        eps,
        Activation::Identity,
    )?;
    if block.stride == 1 && input == block.out {
        g.add(y, x)
    } else {
        Ok(y)
    }
}
