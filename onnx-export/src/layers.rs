//! Layers that several networks share. Each layer is a function that adds nodes to a [`Graph`],
//! reads its weights from a [`Scope`] and takes a value of the graph as operand.

mod activation;
mod norm;

pub use activation::Activation;
use norm::BatchNorm;
pub use norm::{Norm, layer_norm_2d};

use crate::error::BuildError;
use crate::graph::ops::{Conv, ConvData, ConvWeights};
use crate::graph::{Graph, Scope, Value};

/// A convolution without bias, the batch norm after it, and an activation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConvNorm {
    /// Arguments of the convolution.
    pub conv: Conv,
    /// Arguments of the batch norm, which is folded into the convolution.
    pub norm: Norm,
    /// Activation after the batch norm.
    pub activation: Activation,
}

impl ConvNorm {
    /// Creates the layer. If `norm` is an `f32`, it is the epsilon of a batch norm that is not
    /// frozen.
    pub fn new(conv: Conv, norm: impl Into<Norm>, activation: Activation) -> Self {
        Self {
            conv,
            norm: norm.into(),
            activation,
        }
    }
}

/// Scopes of the two modules of a [`ConvNorm`]. The modules' names differ from network to network.
#[derive(Debug, Clone)]
pub struct ConvNormScopes<'a> {
    /// Scope of the convolution.
    pub conv: Scope<'a>,
    /// Scope of the batch norm.
    pub norm: Scope<'a>,
}

impl<'a> ConvNormScopes<'a> {
    /// Returns the scopes of the child modules of `parent` named `conv` (the convolution) and
    /// `norm` (the batch norm).
    pub fn of(parent: &Scope<'a>, conv: &str, norm: &str) -> Self {
        Self {
            conv: parent.sub(conv),
            norm: parent.sub(norm),
        }
    }
}

/// Adds a [`ConvNorm`] as one `Conv`, into which the batch norm is folded, and the activation's operators.
///
/// # Errors
/// As [`Graph::conv`].
pub fn conv_bn(
    g: &mut Graph,
    scopes: &ConvNormScopes<'_>,
    x: Value,
    layer: ConvNorm,
) -> Result<Value, BuildError> {
    let ConvNorm {
        conv,
        norm,
        activation,
    } = layer;
    let channels = g.channels(x)?;
    let weight = scopes
        .conv
        .parameter("weight", &conv.weight_shape(channels));
    let folded = BatchNorm::load(&scopes.norm, conv.out, norm).fold(weight, norm);
    let y = g.conv(&scopes.conv, x, conv, folded)?;
    activation.apply(g, y)
}

/// Adds a [`ConvNorm`] whose convolution is child `0` of `scope` and whose batch norm is child `1`.
///
/// Source: torchvision's `ops/misc.py`, `Conv2dNormActivation`.
///
/// # Errors
/// As [`Graph::conv`].
pub fn conv_norm_activation(
    g: &mut Graph,
    scope: &Scope<'_>,
    x: Value,
    layer: ConvNorm,
) -> Result<Value, BuildError> {
    conv_bn(g, &ConvNormScopes::of(scope, "0", "1"), x, layer)
}

/// Adds a convolution of `x` whose weight and bias are read from `scope`.
///
/// # Errors
/// As [`Graph::conv`].
pub fn conv_bias(
    g: &mut Graph,
    scope: &Scope<'_>,
    x: Value,
    conv: Conv,
) -> Result<Value, BuildError> {
    let channels = g.channels(x)?;
    let weight = scope.parameter("weight", &conv.weight_shape(channels));
    let bias = scope.parameter("bias", &[conv.out]);
    g.conv(scope, x, conv, ConvData::new(weight, bias))
}

/// Arguments of [`squeeze_excitation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SqueezeExcitation {
    /// Number of channels between the convolutions `fc1` and `fc2`.
    pub channels: usize,
    /// Activation after the convolution `fc1`.
    pub activation: Activation,
    /// Activation after the convolution `fc2`. Its output is the factor by which each channel is
    /// multiplied.
    pub gate: Activation,
}

/// Adds squeeze-and-excitation of `x`, `[N, C, H, W]`. The mean of each channel passes through the
/// 1x1 convolutions `fc1` and `fc2`, each with its activation; the result multiplies the channels
/// of `x`.
///
/// Source: torchvision's `ops/misc.py`, `SqueezeExcitation`.
///
/// # Errors
/// [`BuildError::Shape`] if `x` is not `[N, C, H, W]`.
pub fn squeeze_excitation(
    g: &mut Graph,
    scope: &Scope<'_>,
    x: Value,
    config: SqueezeExcitation,
) -> Result<Value, BuildError> {
    let channels = g.channels(x)?;
    let pooled = g.mean_pixels(x)?;
    let squeeze = Conv::new(config.channels, 1);
    let squeezed = conv_bias(g, &scope.sub("fc1"), pooled, squeeze)?;
    let squeezed = config.activation.apply(g, squeezed)?;
    let gate = conv_bias(g, &scope.sub("fc2"), squeezed, Conv::new(channels, 1))?;
    let gate = config.gate.apply(g, gate)?;
    g.mul(x, gate)
}

/// A convolution that is applied with the same weights to several inputs, such as the levels of a feature
/// pyramid.
#[derive(Debug, Clone)]
pub struct SharedConv {
    config: Conv,
    path: String,
    weights: ConvWeights,
}

impl SharedConv {
    /// Reads the weight and bias of a convolution with `channels` input channels from `scope`.
    ///
    /// # Errors
    /// As [`Graph::conv_weights`].
    pub fn load(
        g: &mut Graph,
        scope: &Scope<'_>,
        channels: usize,
        config: Conv,
    ) -> Result<Self, BuildError> {
        let weight = scope.parameter("weight", &config.weight_shape(channels));
        let bias = scope.parameter("bias", &[config.out]);
        let path = scope.path().to_owned();
        let weights = g.conv_weights(&path, channels, config, ConvData::new(weight, bias))?;
        Ok(Self {
            config,
            path,
            weights,
        })
    }

    /// Adds the convolution of `x` and returns its output.
    ///
    /// # Errors
    /// As [`Graph::conv_with`].
    pub fn apply(&self, g: &mut Graph, x: Value) -> Result<Value, BuildError> {
        g.conv_with(&self.path, x, self.config, self.weights)
    }
}

/// Adds global average pooling of `x`, `[N, C, H, W]`, and flattens the result to `[N, C]`.
///
/// # Errors
/// [`BuildError::Shape`] if `x` is not `[N, C, H, W]`.
pub fn pool_features(g: &mut Graph, x: Value) -> Result<Value, BuildError> {
    let pooled = g.mean_pixels(x)?;
    g.flatten(pooled)
}

/// Returns the multiple of 8 nearest to `channels`, at least 8; the next larger multiple if the
/// nearest one is below 90 % of `channels`.
///
/// Source: torchvision's `models/_utils.py`, `_make_divisible`.
pub fn make_divisible(channels: f64) -> usize {
    let rounded = (((channels + 4.0) / 8.0).floor() as usize * 8).max(8);
    if (rounded as f64) < 0.9 * channels {
        rounded + 8
    } else {
        rounded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn make_divisible_matches_torchvision() {
        // Expected values of torchvision:
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
}
