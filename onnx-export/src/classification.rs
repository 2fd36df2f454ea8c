//! Classification networks: a trunk, global average pooling, and a linear classifier.

use crate::backbones::{efficientnet_lite, mobilenet_v2, mobilenet_v3, resnet};
use crate::error::BuildError;
use crate::graph::{Graph, Scope, Value};
use crate::layers::{Activation, pool_features};
use crate::manifest::Architecture;

/// Adds the network to `g`: `[N, 3, H, W]` in, logits `[N, num_classes]` out.
///
/// # Errors
/// [`BuildError::Shape`] if `x` is not `[N, 3, H, W]`.
pub(crate) fn logits(
    g: &mut Graph,
    root: &Scope<'_>,
    x: Value,
    architecture: &Architecture,
) -> Result<Value, BuildError> {
    match architecture {
        Architecture::MobilenetV3(config) => {
            let y = mobilenet_v3::features(g, &root.sub("features"), x, config)?;
            let y = pool_features(g, y)?;
            let classifier = root.sub("classifier");
            let y = g.gemm(&classifier.sub(0), y, config.last_channel())?;
            let y = Activation::HardSwish.apply(g, y)?;
            g.gemm(&classifier.sub(3), y, config.num_classes)
        }
        Architecture::MobilenetV2(config) => {
            let y = mobilenet_v2::features(g, &root.sub("features"), x, config)?;
            let y = pool_features(g, y)?;
            g.gemm(&root.sub("classifier").sub(1), y, config.num_classes)
        }
        Architecture::Resnet(config) => {
            let y = resnet::features(g, root, x, config)?;
            let y = pool_features(g, y)?;
            g.gemm(&root.sub("fc"), y, config.num_classes)
        }
        Architecture::EfficientnetLite0(config) => {
            let y = efficientnet_lite::features(g, root, x, config.bn_eps)?;
            let y = pool_features(g, y)?;
            g.gemm(&root.sub("_fc"), y, config.num_classes)
        }
    }
}
