//! MobileNetV2.
//!
//! Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (2018),
//! table 2; torchvision's `models/mobilenetv2.py`.

use serde::{Deserialize, Serialize};

use super::{FeatureMaps, Trunk, check_width};
use crate::error::{ArgumentError, BuildError};
use crate::graph::ops::Conv;
use crate::graph::{Graph, Scope, Value};
use crate::layers::{
    Activation, ConvNorm, ConvNormScopes, Norm, conv_bn, conv_norm_activation, make_divisible,
};

/// Rows of the paper's table: expansion factor t, output channels c, number of blocks n, and stride
/// s of the first block. The other blocks of a row have stride 1.
#[rustfmt::skip]
const ROWS: [(usize, usize, usize, usize); 7] = [
    // t    c  n  s
    ( 1,  16, 1, 1),
    ( 6,  24, 2, 2),
    ( 6,  32, 3, 2),
    ( 6,  64, 4, 2),
    ( 6,  96, 3, 1),
    ( 6, 160, 3, 2),
    ( 6, 320, 1, 1),
];
const STEM_CHANNELS: usize = 32;
const LAST_CHANNELS: usize = 1280;

/// Arguments of MobileNetV2.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MobileNetV2Config {
    /// Factor on every channel count, 0.05 to 8.
    #[serde(default = "one")]
    pub width_mult: f64,
    /// Epsilon of every batch norm.
    pub bn_eps: f32,
    /// Whether activations are clipped at 6. torchvision's quantized networks use a plain `ReLU` instead.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub relu6: bool,
}

fn one() -> f64 {
    1.0
}

fn yes() -> bool {
    true
}

impl Trunk for MobileNetV2Config {
    fn name(&self) -> &'static str {
        "mobilenet_v2"
    }

    fn check(&self) -> Result<(), ArgumentError> {
        check_width(self.width_mult)
    }

    fn width_mult(&mut self) -> Option<&mut f64> {
        Some(&mut self.width_mult)
    }

    fn norm(&self) -> Option<Norm> {
        Some(Norm::from(self.bn_eps))
    }

    /// Adds the backbone under `scope.0` to `scope.18` and returns one feature map, `[N, C, H/32, W/32]`
    /// after the last convolution.
    fn features(
        &self,
        g: &mut Graph,
        scope: &Scope<'_>,
        x: Value,
    ) -> Result<FeatureMaps, BuildError> {
        let scaled = |channels: usize, mult: f64| make_divisible(channels as f64 * mult);
        let stem = Conv::new(scaled(STEM_CHANNELS, self.width_mult), 3).stride(2);
        let mut y = conv_norm_activation(g, &scope.sub(0), x, self.layer(stem))?;
        let mut index = 1;
        for (expansion, channels, repeats, stride) in ROWS {
            for repeat in 0..repeats {
                let stride = if repeat == 0 { stride } else { 1 };
                let block = Block {
                    expansion,
                    out: scaled(channels, self.width_mult),
                    stride,
                };
                y = self.inverted_residual(g, &scope.sub(index).sub("conv"), y, block)?;
                index += 1;
            }
        }
        // A `width_mult` below 1 does not apply to the last convolution, so that the classifier
        // keeps 1280 input channels.
        let last = Conv::new(scaled(LAST_CHANNELS, self.width_mult.max(1.0)), 1);
        y = conv_norm_activation(g, &scope.sub(index), y, self.layer(last))?;
        Ok(FeatureMaps::new(vec![], y))
    }

    fn classifier(
        &self,
        g: &mut Graph,
        root: &Scope<'_>,
        pooled: Value,
        num_classes: usize,
    ) -> Result<Value, BuildError> {
        g.gemm(&root.sub("classifier").sub(1), pooled, num_classes)
    }
}

/// Expansion factor, output channels and stride of an inverted residual block.
#[derive(Debug, Clone, Copy)]
struct Block {
    expansion: usize,
    out: usize,
    stride: usize,
}

impl MobileNetV2Config {
    fn layer(&self, conv: Conv) -> ConvNorm {
        let activation = if self.relu6 {
            Activation::Relu6
        } else {
            Activation::Relu
        };
        ConvNorm::new(conv, self.bn_eps, activation)
    }

    /// Adds an inverted residual block: expansion (if its factor is not 1), depthwise convolution,
    /// projection, and a residual if input and output have the same shape.
    ///
    /// Source: torchvision's `models/mobilenetv2.py`, `InvertedResidual`.
    fn inverted_residual(
        &self,
        g: &mut Graph,
        scope: &Scope<'_>,
        x: Value,
        block: Block,
    ) -> Result<Value, BuildError> {
        let input = g.channels(x)?;
        let hidden = input * block.expansion;
        let mut y = x;
        let mut layer = 0;
        if block.expansion != 1 {
            let expand = self.layer(Conv::new(hidden, 1));
            y = conv_norm_activation(g, &scope.sub(layer), y, expand)?;
            layer += 1;
        }
        let depthwise = self.layer(Conv::depthwise(hidden, 3).stride(block.stride));
        y = conv_norm_activation(g, &scope.sub(layer), y, depthwise)?;
        // In the state dict, the projection's convolution and batch norm are children of the block,
        // whereas every other layer has a module of its own that contains both.
        let scopes = ConvNormScopes {
            conv: scope.sub(layer + 1),
            norm: scope.sub(layer + 2),
        };
        let project = Conv::new(block.out, 1);
        let project = ConvNorm::new(project, self.bn_eps, Activation::Identity);
        y = conv_bn(g, &scopes, y, project)?;
        if block.stride == 1 && input == block.out {
            g.add(x, y)
        } else {
            Ok(y)
        }
    }
}
