//! Segmentation networks: a dilated backbone and a head that scores every class at every position
//! of its output.
//!
//! The graphs end at the resolution of the head. The caller upsamples the scores to the size of the
//! image and takes the best class of each pixel: inside the graph, upsampling would need a tensor
//! of classes x H x W.
//!
//! Source: `torchvision.models.segmentation`.

use crate::backbones::{FeatureMaps, Trunk};
use crate::error::{BuildError, argument};
use crate::graph::ops::{Conv, ConvData};
use crate::graph::{Graph, Scope, Value};
use crate::layers::{
    Activation, ConvNorm, ConvNormScopes, conv_bias, conv_bn, conv_norm_activation,
};

/// Epsilon of every batch norm in the heads: the default of `torch.nn.BatchNorm2d`.
const BN_EPS: f32 = 1e-5;
/// Number of output channels of every convolution in `DeepLabHead` before its classifier.
const ASPP_CHANNELS: usize = 256;
/// Dilations of the three 3x3 convolutions in atrous spatial pyramid pooling. Source: Chen et al.,
/// "Rethinking Atrous Convolution for Semantic Image Segmentation" (2017), section 3.3, at an
/// output stride of 8.
const ASPP_RATES: [usize; 3] = [12, 24, 36];

/// The head of a segmentation network, which computes class scores from the backbone's feature
/// maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MaskHead {
    /// The LR-ASPP head, which adds the scores of the last feature map and of the feature map at a
    /// stride of 8.
    Lraspp {
        /// Number of output channels of the branch that reads the last feature map.
        channels: usize,
    },
    /// The `DeepLabV3` head: atrous spatial pyramid pooling of the last feature map and a
    /// classifier.
    Deeplabv3,
    /// The FCN head: a 3x3 convolution of the last feature map and a classifier.
    Fcn,
}

/// A segmentation network: a backbone and a head on it.
#[derive(Clone, Copy)]
pub struct Segmenter<'a> {
    /// Backbone whose feature maps the heads read.
    pub trunk: &'a dyn Trunk,
    /// Head that computes [`Masks::out`].
    pub head: MaskHead,
    /// Number of classes, including the background.
    pub num_classes: usize,
    /// Whether the auxiliary head, an FCN head on an earlier feature map, is added.
    pub aux: bool,
}

/// Outputs of a segmentation network, before the caller upsamples them to the image.
#[derive(Debug, Clone, Copy)]
pub struct Masks {
    /// Class scores of the main head, `[N, num_classes, h, w]`; `h` and `w` are its output size.
    pub out: Value,
    /// Class scores of the auxiliary head, `[N, num_classes, h, w]`; `None` if [`Segmenter::aux`]
    /// is false.
    pub aux: Option<Value>,
}

/// Adds a segmentation network that reads `images`, `[N, 3, H, W]`, and returns its class scores.
/// The names of its weights begin with the path of `root`.
///
/// # Errors
/// [`BuildError::Shape`] if `images` is not `[N, 3, H, W]`. [`BuildError::FeatureMap`] if the
/// backbone lacks a feature map that the heads read. [`BuildError::Argument`] if [`Segmenter::aux`]
/// is true and the backbone supports no auxiliary head.
pub fn masks(
    g: &mut Graph,
    root: &Scope<'_>,
    images: Value,
    network: &Segmenter<'_>,
) -> Result<Masks, BuildError> {
    let Segmenter {
        trunk,
        head,
        num_classes,
        aux,
    } = *network;
    let maps = trunk.features(g, &root.sub("backbone"), images)?;
    let scope = root.sub("classifier");
    let out = match head {
        MaskHead::Lraspp { channels } => {
            let high = lraspp_gate(g, &scope, maps.last()?, channels)?;
            lraspp(g, &scope, &maps, high, num_classes)?
        }
        MaskHead::Deeplabv3 => deeplabv3(g, &scope, maps.last()?, num_classes)?,
        MaskHead::Fcn => fcn(g, &scope, maps.last()?, num_classes)?,
    };
    if !aux {
        return Ok(Masks { out, aux: None });
    }
    let Some(stage) = trunk.auxiliary_stage() else {
        let expected = "a backbone that supports an auxiliary head";
        return Err(argument("backbone", expected, &trunk.name()).into());
    };
    let map = maps.nth_last(stage)?;
    let aux = Some(fcn(g, &root.sub("aux_classifier"), map, num_classes)?);
    Ok(Masks { out, aux })
}

/// Adds the branch of LR-ASPP that reads the last feature map, `high`, and returns its output
/// `[N, channels, h, w]`: a 1x1 convolution, each channel multiplied by a sigmoid gate that is
/// computed from the mean of `high` over its pixels.
///
/// Source: torchvision's `models/segmentation/lraspp.py`, `LRASPPHead`; Howard et al., "Searching
/// for MobileNetV3" (2019), section 6.3.2.
fn lraspp_gate(
    g: &mut Graph,
    scope: &Scope<'_>,
    high: Value,
    channels: usize,
) -> Result<Value, BuildError> {
    let point = Conv::new(channels, 1);
    let layer = ConvNorm::new(point, BN_EPS, Activation::Relu);
    let y = conv_norm_activation(g, &scope.sub("cbr"), high, layer)?;
    let pooled = g.mean_pixels(high)?;
    let scale = scope.sub("scale").sub(1);
    let weight = scale.parameter("weight", &point.weight_shape(g.channels(high)?));
    let data = ConvData::new(weight, vec![0.0; channels]);
    let gate = g.conv(&scale, pooled, point, data)?;
    let gate = g.sigmoid(gate);
    g.mul(y, gate)
}

/// Adds the two classifiers of LR-ASPP and returns the sum of their scores at a stride of 8. One
/// reads `high`, the output of [`lraspp_gate`], the other the backbone's feature map at a stride of
/// 8.
///
/// torchvision upsamples `high` and then classifies it. Classifying first gives the same scores,
/// since both steps are linear and the weights of the interpolation add up to one, and leaves fewer
/// channels to upsample.
fn lraspp(
    g: &mut Graph,
    scope: &Scope<'_>,
    maps: &FeatureMaps,
    high: Value,
    num_classes: usize,
) -> Result<Value, BuildError> {
    let low = maps.nth_last(4)?;
    let classes = Conv::new(num_classes, 1);
    let y = conv_bias(g, &scope.sub("high_classifier"), high, classes)?;
    let y = g.resize_like(y, low)?;
    let low = conv_bias(g, &scope.sub("low_classifier"), low, classes)?;
    g.add(low, y)
}

/// Adds the DeepLabV3 head: atrous spatial pyramid pooling and a classifier.
///
/// Source: torchvision's `models/segmentation/deeplabv3.py`, `DeepLabHead`.
fn deeplabv3(
    g: &mut Graph,
    scope: &Scope<'_>,
    x: Value,
    num_classes: usize,
) -> Result<Value, BuildError> {
    let y = atrous_pyramid(g, &scope.sub(0), x)?;
    let layer = ConvNorm::new(Conv::new(ASPP_CHANNELS, 3), BN_EPS, Activation::Relu);
    let y = conv_bn(g, &ConvNormScopes::of(scope, "1", "2"), y, layer)?;
    conv_bias(g, &scope.sub(4), y, Conv::new(num_classes, 1))
}

/// Adds atrous spatial pyramid pooling: a 1x1 convolution of `x`, 3x3 convolutions with the
/// dilations [`ASPP_RATES`], and the mean of `x` over its pixels, concatenated along the channels
/// and projected to `[N, 256, h, w]`.
///
/// Source: torchvision's `models/segmentation/deeplabv3.py`, `ASPP`.
fn atrous_pyramid(g: &mut Graph, scope: &Scope<'_>, x: Value) -> Result<Value, BuildError> {
    let convs = scope.sub("convs");
    let layer = |conv| ConvNorm::new(conv, BN_EPS, Activation::Relu);
    let point = layer(Conv::new(ASPP_CHANNELS, 1));
    let mut branches = vec![conv_norm_activation(g, &convs.sub(0), x, point)?];
    for (index, rate) in ASPP_RATES.into_iter().enumerate() {
        let conv = layer(Conv::new(ASPP_CHANNELS, 3).dilation(rate));
        let scope = convs.sub(index + 1);
        branches.push(conv_norm_activation(g, &scope, x, conv)?);
    }
    let pooling = convs.sub(ASPP_RATES.len() + 1);
    let mean = g.mean_pixels(x)?;
    let mean = conv_bn(g, &ConvNormScopes::of(&pooling, "1", "2"), mean, point)?;
    // The mean has one pixel, so torchvision's bilinear upsampling repeats it at every position.
    branches.push(g.expand_like(mean, x)?);
    let project = scope.sub("project");
    let y = g.concat_channels(project.path(), &branches)?;
    conv_norm_activation(g, &project, y, point)
}

/// Adds the FCN head: a 3x3 convolution with batch norm and `Relu`, and a 1x1 convolution to the classes.
///
/// Source: torchvision's `models/segmentation/fcn.py`, `FCNHead`.
fn fcn(
    g: &mut Graph,
    scope: &Scope<'_>,
    x: Value,
    num_classes: usize,
) -> Result<Value, BuildError> {
    let conv = Conv::new(g.channels(x)? / 4, 3);
    let layer = ConvNorm::new(conv, BN_EPS, Activation::Relu);
    let y = conv_norm_activation(g, scope, x, layer)?;
    conv_bias(g, &scope.sub(4), y, Conv::new(num_classes, 1))
}
