//! The layers that several networks share, each written as `x -> y` on a [`Graph`].

use crate::error::BuildError;
use crate::graph::ops::{Conv, ConvWeights};
use crate::graph::{Graph, Scope, Value};

/// What follows a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    /// Nothing.
    Identity,
    /// `max(x, 0)`.
    Relu,
    /// `clip(x, 0, 6)`.
    Relu6,
    /// `x * clip(x / 6 + 1/2, 0, 1)`, the paper's h-swish.
    HardSwish,
}

impl Activation {
    /// Adds the activation as the operators that ONNX Runtime fuses.
    pub(crate) fn apply(self, g: &mut Graph, x: Value) -> Result<Value, BuildError> {
        Ok(match self {
            Self::Identity => x,
            Self::Relu => g.relu(x),
            Self::Relu6 => g.clip(x, 0.0, 6.0),
            Self::HardSwish => {
                let gate = g.hard_sigmoid(x);
                g.mul(x, gate)?
            }
        })
    }
}

/// How a batch norm was trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Norm {
    /// Added to the variance.
    pub(crate) eps: f32,
    /// Whether it is torchvision's `FrozenBatchNorm2d`, all of whose tensors are buffers.
    pub(crate) frozen: bool,
}

/// A trained batch norm of this epsilon.
impl From<f32> for Norm {
    fn from(eps: f32) -> Self {
        let frozen = false;
        Self { eps, frozen }
    }
}

/// A convolution without bias, the batch norm after it folded in, and an activation.
///
/// `conv` and `norm` are the scopes of the two modules: networks name them differently.
pub(crate) fn conv_bn(
    g: &mut Graph,
    (conv, norm): (&Scope<'_>, &Scope<'_>),
    x: Value,
    config: Conv,
    kind: impl Into<Norm>,
    activation: Activation,
) -> Result<Value, BuildError> {
    let kind = kind.into();
    let channels = g.channels(x)?;
    let weight = conv.parameter("weight", &config.weight_shape(channels));
    let folded = BatchNorm::load(norm, config.out, kind).fold(weight, kind);
    let y = g.conv(conv, x, config, folded)?;
    activation.apply(g, y)
}

/// [`conv_bn`] for torchvision's `Conv2dNormActivation`: convolution `0`, batch norm `1`.
pub(crate) fn conv_norm_activation(
    g: &mut Graph,
    scope: &Scope<'_>,
    x: Value,
    config: Conv,
    kind: impl Into<Norm>,
    activation: Activation,
) -> Result<Value, BuildError> {
    conv_bn(
        g,
        (&scope.sub(0), &scope.sub(1)),
        x,
        config,
        kind,
        activation,
    )
}

/// Squeeze-and-excitation: global average, two 1x1 convolutions, a hard-sigmoid gate on the channels.
/// Source: `torchvision.ops.SqueezeExcitation` with `scale_activation=Hardsigmoid`.
pub(crate) fn squeeze_excitation(
    g: &mut Graph,
    scope: &Scope<'_>,
    x: Value,
    squeeze_channels: usize,
) -> Result<Value, BuildError> {
    let channels = g.channels(x)?;
    let pooled = g.mean_pixels(x)?;
    let squeezed = conv_bias(g, &scope.sub("fc1"), pooled, Conv::new(squeeze_channels, 1))?;
    let squeezed = g.relu(squeezed);
    let gate = conv_bias(g, &scope.sub("fc2"), squeezed, Conv::new(channels, 1))?;
    let gate = g.hard_sigmoid(gate);
    g.mul(x, gate)
}

/// A convolution whose weights several maps share.
#[derive(Debug, Clone)]
pub(crate) struct SharedConv {
    config: Conv,
    path: String,
    weights: ConvWeights,
}

impl SharedConv {
    /// Reads weight and bias from `scope`, for maps of `channels` channels.
    pub(crate) fn load(g: &mut Graph, scope: &Scope<'_>, channels: usize, config: Conv) -> Self {
        let weight = scope.parameter("weight", &config.weight_shape(channels));
        let bias = scope.parameter("bias", &[config.out]);
        let path = scope.path().to_owned();
        let weights = g.conv_weights(&path, channels, config, (weight, bias));
        Self {
            config,
            path,
            weights,
        }
    }

    /// Adds the convolution of one map.
    pub(crate) fn apply(&self, g: &mut Graph, x: Value) -> Result<Value, BuildError> {
        g.conv_with(&self.path, x, self.config, self.weights)
    }
}

/// A convolution with its own bias.
pub(crate) fn conv_bias(
    g: &mut Graph,
    scope: &Scope<'_>,
    x: Value,
    config: Conv,
) -> Result<Value, BuildError> {
    let channels = g.channels(x)?;
    let weight = scope.parameter("weight", &config.weight_shape(channels));
    let bias = scope.parameter("bias", &[config.out]);
    g.conv(scope, x, config, (weight, bias))
}

/// Global average pooling and the flattening before a classifier: `[N, C, H, W]` to `[N, C]`.
pub(crate) fn pool_features(g: &mut Graph, x: Value) -> Result<Value, BuildError> {
    let pooled = g.mean_pixels(x)?;
    g.flatten(pooled)
}

/// `channels` scaled and rounded to a multiple of 8, never below 90 % of the exact value.
/// Source: torchvision `models._utils._make_divisible`.
pub(crate) fn make_divisible(channels: f64) -> usize {
    let rounded = (((channels + 4.0) / 8.0).floor() as usize * 8).max(8);
    if (rounded as f64) < 0.9 * channels {
        rounded + 8
    } else {
        rounded
    }
}

/// The four tensors of an inference-time batch norm, each `[C] f32`.
#[derive(Debug)]
struct BatchNorm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    running_mean: Vec<f32>,
    running_var: Vec<f32>,
}

impl BatchNorm {
    fn load(scope: &Scope<'_>, channels: usize, kind: Norm) -> Self {
        let affine = |name| {
            if kind.frozen {
                scope.buffer(name, &[channels])
            } else {
                scope.parameter(name, &[channels])
            }
        };
        Self {
            weight: affine("weight"),
            bias: affine("bias"),
            running_mean: scope.buffer("running_mean", &[channels]),
            running_var: scope.buffer("running_var", &[channels]),
        }
    }

    /// Weight `[C, ...]` and bias `[C]` of the one convolution that does both.
    ///
    /// Factor and shift are rounded where torch rounds them: its frozen norm is written in single
    /// operations, its trained one is compiled with the product and the sum fused. Rounding later
    /// would be nearer to the exact result and further from torch's, since a MobileNetV3-Large
    /// amplifies what all weights of a channel have in common: the proposals of Faster R-CNN would
    /// miss torch's by 2e-4 of their spread in the place of 3e-5.
    fn fold(&self, mut weight: Vec<f32>, kind: Norm) -> (Vec<f32>, Vec<f32>) {
        let per_channel = weight.len() / self.weight.len().max(1);
        let mut bias = Vec::with_capacity(self.weight.len());
        for (channel, taps) in weight.chunks_mut(per_channel.max(1)).enumerate() {
            let scale =
                self.weight[channel] * (1.0 / (self.running_var[channel] + kind.eps).sqrt());
            for tap in taps {
                *tap *= scale;
            }
            let (mean, own) = (self.running_mean[channel], self.bias[channel]);
            bias.push(if kind.frozen {
                own - mean * scale
            } else {
                (-mean).mul_add(scale, own)
            });
        }
        (weight, bias)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn make_divisible_matches_torchvision() {
        // for c in (3, 12, 16, 18, 24*.75, 88*.25, 1280*.35): print(_make_divisible(c, 8))
        let cases = [
            (3.0, 8),
            (12.0, 16),
            (16.0, 16),
            (18.0, 24),
            (22.0, 24),
            (448.0, 448),
            (19.0, 24),
        ];
        for (channels, expected) in cases {
            assert_eq!(make_divisible(channels), expected, "{channels}");
        }
    }

    #[test]
    fn folding_equals_convolution_then_batch_norm() {
        let norm = BatchNorm {
            weight: vec![2.0, 0.5],
            bias: vec![1.0, -1.0],
            running_mean: vec![0.25, -3.0],
            running_var: vec![4.0, 0.01],
        };
        let (weight, bias) = norm.fold(vec![1.0, -2.0, 3.0, 0.5], Norm::from(1e-3));
        let input = [0.7_f32, -1.3];
        let plain = [input[0] - 2.0 * input[1], 3.0 * input[0] + 0.5 * input[1]];
        for channel in 0..2 {
            let folded = weight[2 * channel] * input[0] + weight[2 * channel + 1] * input[1];
            let normalised = (plain[channel] - norm.running_mean[channel])
                / (norm.running_var[channel] + 1e-3).sqrt();
            let expected = normalised * norm.weight[channel] + norm.bias[channel];
            assert!((folded + bias[channel] - expected).abs() < 1e-4 * expected.abs());
        }
    }
}
