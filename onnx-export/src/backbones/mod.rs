//! Feature extractors: each module opens with its paper's table and ends with a function that
//! turns `[N, 3, H, W]` into feature maps.

pub mod efficientnet_lite;
pub mod mobilenet_v2;
pub mod mobilenet_v3;
pub mod resnet;

use crate::architecture::Backbone;
use crate::error::BuildError;
use crate::graph::{Graph, Scope, Value};

/// The maps of a backbone that heads read, each `[N, C, h, w]`, in the order of its stages; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureMaps(Vec<Value>);

impl FeatureMaps {
    /// The map at the end of the trunk.
    pub fn last(&self) -> Value {
        self.from_end(1)
    }

    /// The map of a stage counted from the end, as torchvision counts them: 1 is the last.
    ///
    /// # Panics
    /// If there are fewer: which backbone goes with which head is checked before.
    #[expect(
        clippy::wrong_self_convention,
        reason = "it counts from the end and converts nothing"
    )]
    pub(crate) fn from_end(&self, stage: usize) -> Value {
        self.0[self.0.len() - stage]
    }
}

/// Adds the trunk of `backbone` under `scope`.
///
/// # Errors
/// [`BuildError::Shape`] if `x` is not `[N, 3, H, W]`.
pub(crate) fn feature_maps(
    g: &mut Graph,
    scope: &Scope<'_>,
    x: Value,
    backbone: &Backbone,
) -> Result<FeatureMaps, BuildError> {
    match backbone {
        Backbone::MobilenetV3(config) => mobilenet_v3::features(g, scope, x, config),
        Backbone::MobilenetV2(config) => mobilenet_v2::features(g, scope, x, config),
        Backbone::Resnet(config) => resnet::features(g, scope, x, config),
        Backbone::EfficientnetLite0(config) => {
            efficientnet_lite::features(g, scope, x, config.bn_eps)
        }
    }
}
