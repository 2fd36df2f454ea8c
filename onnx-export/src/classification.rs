//! Classification networks: a backbone, global average pooling, and the backbone's own classifier.

use crate::backbones::Trunk;
use crate::error::BuildError;
use crate::graph::{Graph, Scope, Value};
use crate::layers::pool_features;

/// Adds a classification network with the weights under `root`, which maps `images` `[N, 3, H, W]`
/// to logits `[N, num_classes]`.
///
/// # Errors
/// [`BuildError::Shape`] if `images` is not `[N, 3, H, W]`.
pub fn logits(
    g: &mut Graph,
    root: &Scope<'_>,
    images: Value,
    trunk: &dyn Trunk,
    num_classes: usize,
) -> Result<Value, BuildError> {
    let scope = match trunk.module() {
        "" => root.clone(),
        module => root.sub(module),
    };
    let last = trunk.features(g, &scope, images)?.last()?;
    let pooled = pool_features(g, last)?;
    trunk.classifier(g, root, pooled, num_classes)
}
