//! Feature pyramid network: the backbone's last maps, each made richer by the coarser ones.
//!
//! Source: Lin et al., "Feature Pyramid Networks for Object Detection" (2016), section 3;
//! `torchvision.ops.FeaturePyramidNetwork` and `torchvision.models.detection.backbone_utils`.

use crate::architecture::Backbone;
use crate::backbones::feature_maps;
use crate::error::BuildError;
use crate::graph::ops::Conv;
use crate::graph::{Graph, Scope, Value};
use crate::layers::conv_bias;

/// Channels of every level.
pub(super) const CHANNELS: usize = 256;

/// The levels after the backbone's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extra {
    /// Every second point of the last level. Source: `LastLevelMaxPool`.
    Pool,
    /// Two convolutions of stride 2 on the last level. Source: `LastLevelP6P7`, which reads P5 and
    /// not C5 where both have the pyramid's channels by its arguments, as torchvision's have.
    P6P7,
}

/// Adds the backbone and its pyramid on the last `maps` maps: levels `[N, 256, h, w]`, finest first.
///
/// # Errors
/// [`BuildError::Shape`] if `images` is not `[N, 3, H, W]`.
pub(super) fn pyramid(
    g: &mut Graph,
    scope: &Scope<'_>,
    images: Value,
    (backbone, maps): (&Backbone, usize),
    extra: Extra,
) -> Result<Vec<Value>, BuildError> {
    let trunk = feature_maps(g, &scope.sub("body"), images, backbone)?;
    let fpn = scope.sub("fpn");
    let (inner, layer) = (fpn.sub("inner_blocks"), fpn.sub("layer_blocks"));
    let mut levels = Vec::new();
    let mut coarser = None;
    // From the coarsest map to the finest, whose index in the state dict is 0.
    for index in (0..maps).rev() {
        let map = trunk.from_end(maps - index);
        let lateral = block(&inner, index);
        let mut merged = conv_bias(g, &lateral, map, Conv::new(CHANNELS, 1))?;
        if let Some(coarser) = coarser {
            let enlarged = g.repeat_like(coarser, merged)?;
            merged = g.add(merged, enlarged)?;
        }
        coarser = Some(merged);
        levels.push(conv_bias(
            g,
            &block(&layer, index),
            merged,
            Conv::new(CHANNELS, 3),
        )?);
    }
    levels.reverse();
    extend(g, &fpn.sub("extra_blocks"), &mut levels, extra)?;
    Ok(levels)
}

fn extend(
    g: &mut Graph,
    scope: &Scope<'_>,
    levels: &mut Vec<Value>,
    extra: Extra,
) -> Result<(), BuildError> {
    let last = levels[levels.len() - 1];
    match extra {
        Extra::Pool => levels.push(g.max_pool(last, 1, 2, 0)?),
        Extra::P6P7 => {
            let conv = Conv::new(CHANNELS, 3).stride(2);
            let p6 = conv_bias(g, &scope.sub("p6"), last, conv)?;
            let active = g.relu(p6);
            let p7 = conv_bias(g, &scope.sub("p7"), active, conv)?;
            levels.extend([p6, p7]);
        }
    }
    Ok(())
}

/// The convolution of a block, which checkpoints from before torchvision 0.13 hold one level higher.
fn block<'a>(blocks: &Scope<'a>, index: usize) -> Scope<'a> {
    let block = blocks.sub(index);
    block.sub(0).formerly(&block)
}
