//! MobileNetV2.
//!
//! Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (2018),
//! table 2; `torchvision.models.mobilenetv2`.

use super::FeatureMaps;
use crate::architecture::MobileNetV2Config;
use crate::error::BuildError;
use crate::graph::ops::Conv;
use crate::graph::{Graph, Scope, Value};
use crate::layers::Activation::{self, Identity, Relu, Relu6};
use crate::layers::{conv_bn, conv_norm_activation, make_divisible};

/// Rows of the table: expansion t, channels c, repeats n, stride s of the first.
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

/// Adds the trunk under `scope.0` to `scope.18`. Its one map is that after the last convolution:
/// `[N, C, H/32, W/32]`.
///
/// # Errors
/// [`BuildError::Shape`] if `x` is not `[N, 3, H, W]`.
pub fn features(
    g: &mut Graph,
    scope: &Scope<'_>,
    x: Value,
    config: &MobileNetV2Config,
) -> Result<FeatureMaps, BuildError> {
    let MobileNetV2Config {
        width_mult,
        bn_eps,
        relu6,
    } = *config;
    let kind = Kind {
        eps: bn_eps,
        activation: if relu6 { Relu6 } else { Relu },
    };
    let scaled = |channels: usize, mult: f64| make_divisible(channels as f64 * mult);
    let stem = Conv::new(scaled(STEM_CHANNELS, width_mult), 3).stride(2);
    let mut y = kind.layer(g, &scope.sub(0), x, stem)?;
    let mut index = 1;
    for (expansion, channels, repeats, stride) in ROWS {
        for repeat in 0..repeats {
            let stride = if repeat == 0 { stride } else { 1 };
            let block = Block {
                expansion,
                out: scaled(channels, width_mult),
                stride,
            };
            y = inverted_residual(g, &scope.sub(index).sub("conv"), y, block, kind)?;
            index += 1;
        }
    }
    // The last layer never narrows, so that the classifier keeps its input.
    let last = Conv::new(scaled(LAST_CHANNELS, width_mult.max(1.0)), 1);
    y = kind.layer(g, &scope.sub(index), y, last)?;
    Ok(FeatureMaps(vec![y]))
}

/// What every layer of a network shares.
#[derive(Debug, Clone, Copy)]
struct Kind {
    eps: f32,
    activation: Activation,
}

impl Kind {
    fn layer(
        self,
        g: &mut Graph,
        scope: &Scope<'_>,
        x: Value,
        conv: Conv,
    ) -> Result<Value, BuildError> {
        conv_norm_activation(g, scope, x, conv, self.eps, self.activation)
    }
}

#[derive(Debug, Clone, Copy)]
struct Block {
    expansion: usize,
    out: usize,
    stride: usize,
}

/// Source: `torchvision.models.mobilenetv2.InvertedResidual`.
fn inverted_residual(
    g: &mut Graph,
    scope: &Scope<'_>,
    x: Value,
    block: Block,
    kind: Kind,
) -> Result<Value, BuildError> {
    let input = g.channels(x)?;
    let hidden = input * block.expansion;
    let mut y = x;
    let mut layer = 0;
    if block.expansion != 1 {
        let expand = Conv::new(hidden, 1);
        y = kind.layer(g, &scope.sub(layer), y, expand)?;
        layer += 1;
    }
    let depthwise = Conv::depthwise(hidden, 3).stride(block.stride);
    y = kind.layer(g, &scope.sub(layer), y, depthwise)?;
    // The projection is a plain convolution and a batch norm beside it, not a sequence of its own.
    let (conv, norm) = (scope.sub(layer + 1), scope.sub(layer + 2));
    let project = Conv::new(block.out, 1);
    y = conv_bn(g, (&conv, &norm), y, project, kind.eps, Identity)?;
    if block.stride == 1 && input == block.out {
        g.add(x, y)
    } else {
        Ok(y)
    }
}
