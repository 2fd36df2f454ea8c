//! Feature pyramid network: combines each of the backbone's last feature maps with the coarser
//! ones.
//!
//! Source: Lin et al., "Feature Pyramid Networks for Object Detection" (2016), section 3; torchvision's
//! `ops/feature_pyramid_network.py` and `models/detection/backbone_utils.py`.

use crate::backbones::Trunk;
use crate::error::BuildError;
use crate::graph::ops::{Conv, MaxPool};
use crate::graph::{Graph, Scope, Value};
use crate::layers::conv_bias;

/// Number of channels of every level of the pyramid.
pub(super) const CHANNELS: usize = 256;

/// How a pyramid computes its extra levels, which are coarser than the last feature map of the
/// backbone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extra {
    /// One extra level: every second row and column of the level of the last feature map. Source:
    /// `LastLevelMaxPool`.
    Pool,
    /// Two extra levels: P6 is a convolution of stride 2 on P5, the level of the last feature map;
    /// P7 is a convolution of stride 2 on the `Relu` of P6. Source: `LastLevelP6P7(256, 256)`,
    /// which computes P6 from P5 because its two arguments are equal; with different arguments, it
    /// would read the last feature map instead.
    P6P7,
}

/// The backbone of a pyramid, and how many of its feature maps the pyramid reads.
#[derive(Clone, Copy)]
pub(super) struct Base<'a> {
    pub(super) trunk: &'a dyn Trunk,
    /// Number of feature maps of the backbone that become levels, counted from the last one; at
    /// least 1.
    pub(super) maps: usize,
}

/// Adds the backbone and its pyramid, and returns the levels `[N, 256, h, w]`, finest first.
///
/// # Errors
/// [`BuildError::Shape`] if `images` is not `[N, 3, H, W]`, [`BuildError::FeatureMap`] if the backbone
/// has too few feature maps.
pub(super) fn pyramid(
    g: &mut Graph,
    scope: &Scope<'_>,
    images: Value,
    base: Base<'_>,
    extra: Extra,
) -> Result<Vec<Value>, BuildError> {
    let Base { trunk, maps } = base;
    let features = trunk.features(g, &scope.sub("body"), images)?;
    // `nth_last` rejects 0, for which `maps - 1` would underflow.
    features.nth_last(maps)?;
    let fpn = scope.sub("fpn");
    let (inner, layer) = (fpn.sub("inner_blocks"), fpn.sub("layer_blocks"));
    // The loop goes from the coarsest map to the finest, which has index 0 in the state dict.
    let mut merged = lateral(g, &inner, maps - 1, features.last()?)?;
    let output = Conv::new(CHANNELS, 3);
    let mut levels = vec![conv_bias(g, &block(&layer, maps - 1), merged, output)?];
    for index in (0..maps - 1).rev() {
        let map = lateral(g, &inner, index, features.nth_last(maps - index)?)?;
        let upsampled = g.repeat_like(merged, map)?;
        merged = g.add(map, upsampled)?;
        levels.push(conv_bias(g, &block(&layer, index), merged, output)?);
    }
    let extra = extra_levels(g, &fpn.sub("extra_blocks"), levels[0], extra)?;
    levels.reverse();
    levels.extend(extra);
    Ok(levels)
}

/// Adds the 1x1 convolution of feature map `index`, counted from the finest, with output `[N, 256, h, w]`.
fn lateral(
    g: &mut Graph,
    inner: &Scope<'_>,
    index: usize,
    map: Value,
) -> Result<Value, BuildError> {
    conv_bias(g, &block(inner, index), map, Conv::new(CHANNELS, 1))
}

/// Adds the extra levels and returns them, finest first. `last` is the level of the backbone's last
/// feature map, which is the coarsest one that is not an extra level.
fn extra_levels(
    g: &mut Graph,
    scope: &Scope<'_>,
    last: Value,
    extra: Extra,
) -> Result<Vec<Value>, BuildError> {
    match extra {
        Extra::Pool => {
            let every_second = MaxPool {
                kernel: 1,
                stride: 2,
                padding: 0,
            };
            Ok(vec![g.max_pool(last, every_second)?])
        }
        Extra::P6P7 => {
            let conv = Conv::new(CHANNELS, 3).stride(2);
            let p6 = conv_bias(g, &scope.sub("p6"), last, conv)?;
            let active = g.relu(p6);
            let p7 = conv_bias(g, &scope.sub("p7"), active, conv)?;
            Ok(vec![p6, p7])
        }
    }
}

/// Returns the scope of the convolution in block `index`: `<index>.0`, or `<index>` in checkpoints from
/// before torchvision 0.13.
fn block<'a>(blocks: &Scope<'a>, index: usize) -> Scope<'a> {
    let block = blocks.sub(index);
    block.sub(0).formerly(&block)
}
