//! Segmentation networks: a dilated trunk and a head that gives a score to every class at every point.
//!
//! The graphs end at the resolution of their head. Enlarging the scores to the picture and taking
//! the best class of each pixel is the server's work: here it would be a tensor of classes x H x W.
//!
//! Source: `torchvision.models.segmentation`.

use crate::architecture::Backbone;
use crate::backbones::{FeatureMaps, feature_maps};
use crate::error::BuildError;
use crate::graph::ops::Conv;
use crate::graph::{Graph, Scope, Value};
use crate::layers::{Activation, conv_bias, conv_bn, conv_norm_activation};

/// Epsilon of `torch.nn.BatchNorm2d`, which the heads leave alone.
const BN_EPS: f32 = 1e-5;
/// Channels inside `DeepLabHead`.
const ASPP_CHANNELS: usize = 256;
/// Dilations of the atrous spatial pyramid. Source: Chen et al., "Rethinking Atrous Convolution for
/// Semantic Image Segmentation" (2017), section 3.3, at an output stride of 8.
const ASPP_RATES: [usize; 3] = [12, 24, 36];

/// Which head reads the last map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MaskHead {
    /// LR-ASPP with so many channels inside.
    Lraspp(usize),
    /// DeepLabV3.
    Deeplabv3,
    /// FCN.
    Fcn,
}

/// What the network answers at the head's resolution.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Masks {
    /// Scores `[N, num_classes, h, w]`.
    pub(crate) out: Value,
    /// Scores of the auxiliary head, at its own resolution.
    pub(crate) aux: Option<Value>,
}

/// Adds the network to `g`. The auxiliary head is added where `aux` asks for it.
///
/// # Errors
/// [`BuildError::Shape`] if `x` is not `[N, 3, H, W]`.
pub(crate) fn masks(
    g: &mut Graph,
    root: &Scope<'_>,
    x: Value,
    (backbone, head): (&Backbone, MaskHead),
    num_classes: usize,
    aux: bool,
) -> Result<Masks, BuildError> {
    let maps = feature_maps(g, &root.sub("backbone"), x, backbone)?;
    let scope = root.sub("classifier");
    let out = match head {
        MaskHead::Lraspp(channels) => lraspp(g, &scope, &maps, channels, num_classes)?,
        MaskHead::Deeplabv3 => deeplabv3(g, &scope, maps.last(), num_classes)?,
        MaskHead::Fcn => fcn(g, &scope, maps.last(), num_classes)?,
    };
    let aux = if aux {
        let map = match backbone {
            Backbone::Resnet(_) => maps.from_end(2),
            _ => maps.from_end(4),
        };
        Some(fcn(g, &root.sub("aux_classifier"), map, num_classes)?)
    } else {
        None
    };
    Ok(Masks { out, aux })
}

/// Scores at a stride of 8 from the last map and the one at twice its resolution.
///
/// Source: `LRASPPHead`; Howard et al., "Searching for MobileNetV3" (2019), section 6.3.2.
fn lraspp(
    g: &mut Graph,
    scope: &Scope<'_>,
    maps: &FeatureMaps,
    channels: usize,
    num_classes: usize,
) -> Result<Value, BuildError> {
    let (low, high) = (maps.from_end(4), maps.last());
    let cbr = Conv::new(channels, 1);
    let y = conv_norm_activation(g, &scope.sub("cbr"), high, cbr, BN_EPS, Activation::Relu)?;
    let pooled = g.mean_pixels(high)?;
    let scale = scope.sub("scale").sub(1);
    let weight = scale.parameter("weight", &cbr.weight_shape(g.channels(high)?));
    let gate = g.conv(&scale, pooled, cbr, (weight, vec![0.0; channels]))?;
    let gate = g.sigmoid(gate);
    let y = g.mul(y, gate)?;
    // torchvision enlarges first and classifies then. Both are linear and the weights of the
    // enlarging add up to one, so the order does not matter, and classes are fewer than channels.
    let classes = Conv::new(num_classes, 1);
    let y = conv_bias(g, &scope.sub("high_classifier"), y, classes)?;
    let y = g.resize_like(y, low)?;
    let low = conv_bias(g, &scope.sub("low_classifier"), low, classes)?;
    g.add(low, y)
}

/// Source: `DeepLabHead`.
fn deeplabv3(
    g: &mut Graph,
    scope: &Scope<'_>,
    x: Value,
    num_classes: usize,
) -> Result<Value, BuildError> {
    let y = atrous_pyramid(g, &scope.sub(0), x)?;
    let conv = Conv::new(ASPP_CHANNELS, 3);
    let scopes = (&scope.sub(1), &scope.sub(2));
    let y = conv_bn(g, scopes, y, conv, BN_EPS, Activation::Relu)?;
    conv_bias(g, &scope.sub(4), y, Conv::new(num_classes, 1))
}

/// Atrous spatial pyramid pooling: the map seen by windows of growing reach, and its mean.
/// Source: `torchvision.models.segmentation.deeplabv3.ASPP`.
fn atrous_pyramid(g: &mut Graph, scope: &Scope<'_>, x: Value) -> Result<Value, BuildError> {
    let convs = scope.sub("convs");
    let point = Conv::new(ASPP_CHANNELS, 1);
    let relu = Activation::Relu;
    let mut branches = vec![conv_norm_activation(
        g,
        &convs.sub(0),
        x,
        point,
        BN_EPS,
        relu,
    )?];
    for (index, rate) in ASPP_RATES.into_iter().enumerate() {
        let conv = Conv::new(ASPP_CHANNELS, 3).dilation(rate);
        let scope = convs.sub(index + 1);
        branches.push(conv_norm_activation(g, &scope, x, conv, BN_EPS, relu)?);
    }
    let pooling = convs.sub(ASPP_RATES.len() + 1);
    let mean = g.mean_pixels(x)?;
    let scopes = (&pooling.sub(1), &pooling.sub(2));
    let mean = conv_bn(g, scopes, mean, point, BN_EPS, relu)?;
    // Enlarging one point repeats it.
    branches.push(g.expand_like(mean, x)?);
    let project = scope.sub("project");
    let y = g.concat_channels(project.path(), &branches)?;
    conv_norm_activation(g, &project, y, point, BN_EPS, relu)
}

/// Source: `FCNHead`.
fn fcn(
    g: &mut Graph,
    scope: &Scope<'_>,
    x: Value,
    num_classes: usize,
) -> Result<Value, BuildError> {
    let conv = Conv::new(g.channels(x)? / 4, 3);
    let y = conv_norm_activation(g, scope, x, conv, BN_EPS, Activation::Relu)?;
    conv_bias(g, &scope.sub(4), y, Conv::new(num_classes, 1))
}
