//! `ResNet` with basic or bottleneck blocks.
//!
//! Source: He et al., "Deep Residual Learning for Image Recognition" (2015), table 1;
//! `torchvision.models.resnet` (the stride of a bottleneck is on its 3x3 convolution).

use crate::error::BuildError;
use crate::graph::ops::Conv;
use crate::graph::{Graph, Scope, Value};
use crate::layers::{Activation, conv_bn};
use crate::manifest::{ResNetBlock, ResNetConfig};

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

/// Adds the trunk: the feature map `[N, C, H/32, W/32]` after `layer4`.
///
/// # Errors
/// [`BuildError::Shape`] if `x` is not `[N, 3, H, W]`.
pub fn features(
    g: &mut Graph,
    scope: &Scope<'_>,
    x: Value,
    config: &ResNetConfig,
) -> Result<Value, BuildError> {
    let stem = Conv::new(STEM_CHANNELS, 7).stride(2);
    let scopes = (&scope.sub("conv1"), &scope.sub("bn1"));
    let mut y = conv_bn(g, scopes, x, stem, config.bn_eps, Activation::Relu)?;
    y = g.max_pool(y, 3, 2, 1)?;
    for ((name, width, stride), blocks) in STAGES.into_iter().zip(config.layers) {
        for index in 0..blocks {
            let stride = if index == 0 { stride } else { 1 };
            y = residual_block(g, &scope.sub(name).sub(index), y, (width, stride), config)?;
        }
    }
    Ok(y)
}

/// Source: `torchvision.models.resnet.BasicBlock` and `Bottleneck`.
fn residual_block(
    g: &mut Graph,
    scope: &Scope<'_>,
    x: Value,
    (width, stride): (usize, usize),
    config: &ResNetConfig,
) -> Result<Value, BuildError> {
    let out = width * config.block.expansion();
    let convs = match config.block {
        ResNetBlock::Basic => vec![Conv::new(out, 3).stride(stride), Conv::new(out, 3)],
        ResNetBlock::Bottleneck => {
            vec![
                Conv::new(width, 1),
                Conv::new(width, 3).stride(stride),
                Conv::new(out, 1),
            ]
        }
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
        y = conv_bn(g, scopes, y, *conv, config.bn_eps, activation)?;
    }
    let identity = if stride != 1 || g.channels(x)? != out {
        let shortcut = Conv::new(out, 1).stride(stride);
        let scope = scope.sub("downsample");
        let scopes = (&scope.sub(0), &scope.sub(1));
        conv_bn(g, scopes, x, shortcut, config.bn_eps, Activation::Identity)?
    } else {
        x
    };
    let sum = g.add(y, identity)?;
    Ok(g.relu(sum))
}
