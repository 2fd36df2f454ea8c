//! Classification networks: a trunk, global average pooling, and a linear classifier.

use crate::architecture::Backbone;
use crate::backbones::feature_maps;
use crate::error::BuildError;
use crate::graph::{Graph, Scope, Value};
use crate::layers::{Activation, pool_features};

/// Adds the network to `g`: `[N, 3, H, W]` in, logits `[N, num_classes]` out.
///
/// # Errors
/// [`BuildError::Shape`] if `x` is not `[N, 3, H, W]`.
pub(crate) fn logits(
    g: &mut Graph,
    root: &Scope<'_>,
    x: Value,
    backbone: &Backbone,
    num_classes: usize,
) -> Result<Value, BuildError> {
    let trunk = match backbone {
        Backbone::MobilenetV3(_) | Backbone::MobilenetV2(_) => root.sub("features"),
        Backbone::Resnet(_) | Backbone::EfficientnetLite0(_) => root.clone(),
    };
    let y = feature_maps(g, &trunk, x, backbone)?.last();
    let y = pool_features(g, y)?;
    match backbone {
        Backbone::MobilenetV3(config) => {
            let classifier = root.sub("classifier");
            let y = g.gemm(&classifier.sub(0), y, config.last_channel())?;
            let y = Activation::HardSwish.apply(g, y)?;
            g.gemm(&classifier.sub(3), y, num_classes)
        }
        Backbone::MobilenetV2(_) => g.gemm(&root.sub("classifier").sub(1), y, num_classes),
        Backbone::Resnet(_) => g.gemm(&root.sub("fc"), y, num_classes),
        Backbone::EfficientnetLite0(_) => g.gemm(&root.sub("_fc"), y, num_classes),
    }
}
