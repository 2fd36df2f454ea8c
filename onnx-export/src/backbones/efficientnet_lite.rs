//! EfficientNet-Lite0: EfficientNet-B0 without squeeze-and-excitation and with ReLU6.
//!
//! Source: the "EfficientNet-Lite" variant of Tan and Le, "EfficientNet: Rethinking Model Scaling
//! for Convolutional Neural Networks" (2019), table 1. Convolutions have `SAME` padding, because
//! the weights were trained in TensorFlow.

use serde::{Deserialize, Serialize};

use super::{FeatureMaps, Trunk};
use crate::error::{ArgumentError, BuildError};
use crate::graph::ops::Conv;
use crate::graph::{Graph, Scope, Value};
use crate::layers::{Activation, ConvNorm, ConvNormScopes, Norm, conv_bn};

/// One row of the paper's table: `repeats` mobile inverted bottlenecks. Only the first of them has
/// the stride of the row; the others have stride 1.
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
    // Repeats n, kernel k, stride s, expansion factor t, output channels.
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

/// Arguments of EfficientNet-Lite0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EfficientNetLite0Config {
    /// Epsilon of every batch norm.
    pub bn_eps: f32,
}

impl Trunk for EfficientNetLite0Config {
    fn name(&self) -> &'static str {
        "efficientnet_lite0"
    }

    fn check(&self) -> Result<(), ArgumentError> {
        Ok(())
    }

    fn module(&self) -> &'static str {
        ""
    }

    fn norm(&self) -> Option<Norm> {
        Some(Norm::from(self.bn_eps))
    }

    /// Adds the backbone with the weights under `scope` and returns one feature map,
    /// `[N, 1280, H/32, W/32]`, the output of the last convolution, `_conv_head`.
    fn features(
        &self,
        g: &mut Graph,
        scope: &Scope<'_>,
        x: Value,
    ) -> Result<FeatureMaps, BuildError> {
        let stem = Conv::new(STEM_CHANNELS, 3).stride(2).same_upper();
        let scopes = ConvNormScopes::of(scope, "_conv_stem", "_bn0");
        let mut y = conv_bn(g, &scopes, x, self.layer(stem))?;
        let mut blocks = 0;
        for stage in STAGES {
            for repeat in 0..stage.repeats {
                let stride = if repeat == 0 { stage.stride } else { 1 };
                let block = Stage { stride, ..stage };
                y = self.mbconv(g, &scope.sub("_blocks").sub(blocks), y, block)?;
                blocks += 1;
            }
        }
        let scopes = ConvNormScopes::of(scope, "_conv_head", "_bn1");
        let head = Conv::new(HEAD_CHANNELS, 1);
        y = conv_bn(g, &scopes, y, self.layer(head))?;
        Ok(FeatureMaps::new(vec![], y))
    }

    fn classifier(
        &self,
        g: &mut Graph,
        root: &Scope<'_>,
        pooled: Value,
        num_classes: usize,
    ) -> Result<Value, BuildError> {
        g.gemm(&root.sub("_fc"), pooled, num_classes)
    }
}

impl EfficientNetLite0Config {
    fn layer(&self, conv: Conv) -> ConvNorm {
        ConvNorm::new(conv, self.bn_eps, Activation::Relu6)
    }

    /// Adds a mobile inverted bottleneck: expansion (if its factor is not 1), depthwise convolution,
    /// projection, and a residual if input and output have the same shape.
    fn mbconv(
        &self,
        g: &mut Graph,
        scope: &Scope<'_>,
        x: Value,
        block: Stage,
    ) -> Result<Value, BuildError> {
        let input = g.channels(x)?;
        let expanded = input * block.expansion;
        let mut y = x;
        if block.expansion != 1 {
            let scopes = ConvNormScopes::of(scope, "_expand_conv", "_bn0");
            y = conv_bn(g, &scopes, y, self.layer(Conv::new(expanded, 1)))?;
        }
        let depthwise = Conv::depthwise(expanded, block.kernel)
            .stride(block.stride)
            .same_upper();
        let scopes = ConvNormScopes::of(scope, "_depthwise_conv", "_bn1");
        y = conv_bn(g, &scopes, y, self.layer(depthwise))?;
        let scopes = ConvNormScopes::of(scope, "_project_conv", "_bn2");
        let project = Conv::new(block.out, 1);
        let project = ConvNorm::new(project, self.bn_eps, Activation::Identity);
        y = conv_bn(g, &scopes, y, project)?;
        if block.stride == 1 && input == block.out {
            g.add(y, x)
        } else {
            Ok(y)
        }
    }
}
