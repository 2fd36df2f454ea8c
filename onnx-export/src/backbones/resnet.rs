//! `ResNet` with basic or bottleneck blocks.
//!
//! Source: He et al., "Deep Residual Learning for Image Recognition" (2015), table 1;
//! `torchvision.models.resnet` (the stride of a bottleneck is on its 3x3 convolution).

use super::FeatureMaps;
use crate::architecture::{ResNetBlock, ResNetConfig};
use crate::error::BuildError;
use crate::graph::ops::Conv;
use crate::graph::{Graph, Scope, Value};
use crate::layers::{Activation, Norm, conv_bn};

/// Channels of the stem and width of each stage.
const STEM_CHANNELS: usize = 64;
#[rustfmt::skip]
const STAGES: [(&str, usize, usize); 4] = [
    // name    width  stride
    ("layer1",    64, 1), // C2
    ("layer2",   128, 2), // C3
    ("layer3",   256, 2), // C4
    ("layer4",   512, 2), // C5
];

impl ResNetBlock {
    /// Output channels per unit of width.
    fn expansion(self) -> usize {
        match self {
            Self::Basic => 1,
            Self::Bottleneck => 4,
        }
    }
}

/// Adds the trunk. Its maps are those after `layer1` (C2, at a stride of 4) to `layer4` (C5, 32, or 8
/// where the last two stages are dilated).
///
/// # Errors
/// [`BuildError::Shape`] if `x` is not `[N, 3, H, W]`.
pub fn features(
    g: &mut Graph,
    scope: &Scope<'_>,
    x: Value,
    config: &ResNetConfig,
) -> Result<FeatureMaps, BuildError> {
    let stem = Conv::new(STEM_CHANNELS, 7).stride(2);
    let scopes = (&scope.sub("conv1"), &scope.sub("bn1"));
    let mut y = conv_bn(g, scopes, x, stem, config.norm(), Activation::Relu)?;
    y = g.max_pool(y, 3, 2, 1)?;
    let mut maps = Vec::new();
    let mut dilation = 1;
    for (index, (name, width, stride)) in STAGES.into_iter().enumerate() {
        let stage = Stage::new(width, stride, dilation, config.dilates(index));
        for block in 0..config.layers[index] {
            y = residual_block(g, &scope.sub(name).sub(block), y, stage.conv(block), config)?;
        }
        dilation = stage.dilation;
        maps.push(y);
    }
    Ok(FeatureMaps(maps))
}

impl ResNetConfig {
    fn norm(&self) -> Norm {
        Norm {
            eps: self.bn_eps,
            frozen: self.bn_frozen,
        }
    }

    fn dilates(&self, stage: usize) -> bool {
        stage > 0 && self.replace_stride_with_dilation[stage - 1]
    }
}

/// Source: `torchvision.models.resnet.ResNet._make_layer`.
#[derive(Debug, Clone, Copy)]
struct Stage {
    width: usize,
    stride: usize,
    /// Of the first block, which still reads the map of the stage before.
    first_dilation: usize,
    dilation: usize,
}

impl Stage {
    /// A stage after one of dilation `before`; `dilates` turns its stride into more dilation.
    fn new(width: usize, stride: usize, before: usize, dilates: bool) -> Self {
        let (stride, dilation) = if dilates {
            (1, before * stride)
        } else {
            (stride, before)
        };
        Self {
            width,
            stride,
            first_dilation: before,
            dilation,
        }
    }

    /// The 3x3 convolution that carries the stride and the dilation of a block.
    fn conv(&self, block: usize) -> Conv {
        let conv = Conv::new(self.width, 3);
        match block {
            0 => conv.stride(self.stride).dilation(self.first_dilation),
            _ => conv.dilation(self.dilation),
        }
    }
}

/// Source: `torchvision.models.resnet.BasicBlock` and `Bottleneck`.
fn residual_block(
    g: &mut Graph,
    scope: &Scope<'_>,
    x: Value,
    conv: Conv,
    config: &ResNetConfig,
) -> Result<Value, BuildError> {
    let out = conv.out * config.block.expansion();
    let convs = match config.block {
        ResNetBlock::Basic => vec![conv, Conv::new(out, 3)],
        ResNetBlock::Bottleneck => vec![Conv::new(conv.out, 1), conv, Conv::new(out, 1)],
    };
    let mut y = x;
    for (index, conv) in convs.iter().enumerate() {
        let scopes = (
            &scope.sub(format!("conv{}", index + 1)),
            &scope.sub(format!("bn{}", index + 1)),
        );
        let last = index + 1 == convs.len();
        let activation = if last {
            Activation::Identity
        } else {
            Activation::Relu
        };
        y = conv_bn(g, scopes, y, *conv, config.norm(), activation)?;
    }
    let identity = if conv.stride != 1 || g.channels(x)? != out {
        let shortcut = Conv::new(out, 1).stride(conv.stride);
        let scope = scope.sub("downsample");
        let scopes = (&scope.sub(0), &scope.sub(1));
        conv_bn(g, scopes, x, shortcut, config.norm(), Activation::Identity)?
    } else {
        x
    };
    let sum = g.add(y, identity)?;
    Ok(g.relu(sum))
}
