//! Backbones: networks from `[N, 3, H, W]` images to feature maps.
//!
//! Each module has the table of layers from its paper, the arguments, and an implementation of [`Trunk`],
//! through which the rest of the crate uses the backbone. A new backbone needs a module and a line in
//! `backbones!`.

mod convnext;
mod efficientnet;
mod efficientnet_lite;
mod mobilenet_v2;
mod mobilenet_v3;
mod resnet;

use serde::{Deserialize, Serialize};

use crate::error::{ArgumentError, BuildError, argument};
use crate::graph::{Graph, Scope, Value};
use crate::heads::Head;
use crate::layers::Norm;

pub use convnext::ConvNeXtConfig;
pub use efficientnet::EfficientNetConfig;
pub use efficientnet_lite::EfficientNetLite0Config;
pub use mobilenet_v2::MobileNetV2Config;
pub use mobilenet_v3::{MobileNetV3Config, MobileNetV3Size};
pub use resnet::{ResNetBlock, ResNetConfig};

/// Defines the enum [`Backbone`] and its access to [`Trunk`]. In a manifest, `kind` selects the variant by
/// its name in snake case.
macro_rules! backbones {
    ($($(#[$doc:meta])* $variant:ident($config:ty),)*) => {
        /// A backbone with its arguments, as data.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
        #[non_exhaustive]
        pub enum Backbone {
            $($(#[$doc])* $variant($config),)*
        }

        impl Backbone {
            /// Returns the backbone's implementation.
            pub fn trunk(&self) -> &dyn Trunk {
                match self {
                    $(Self::$variant(config) => config,)*
                }
            }

            /// Returns the backbone's implementation, through which its arguments can be changed.
            pub fn trunk_mut(&mut self) -> &mut dyn Trunk {
                match self {
                    $(Self::$variant(config) => config,)*
                }
            }
        }
    };
}

backbones! {
    /// MobileNetV3.
    MobilenetV3(MobileNetV3Config),
    /// MobileNetV2.
    MobilenetV2(MobileNetV2Config),
    /// `ResNet`.
    Resnet(ResNetConfig),
    /// EfficientNet-Lite0.
    EfficientnetLite0(EfficientNetLite0Config),
    /// `ConvNeXt`.
    Convnext(ConvNeXtConfig),
    /// `EfficientNet`.
    Efficientnet(EfficientNetConfig),
}

/// The implementation of a backbone: builds its layers and names the heads that it supports.
pub trait Trunk {
    /// Returns the name that manifests and error messages use.
    fn name(&self) -> &'static str;

    /// Checks the arguments, which bounds the memory that the graph takes.
    ///
    /// # Errors
    /// [`ArgumentError`] for an argument that is out of range.
    fn check(&self) -> Result<(), ArgumentError>;

    /// Adds the backbone with the weights under `scope` and returns its feature maps for `x`, `[N, 3, H, W]`.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if `x` is not `[N, 3, H, W]` or is too small.
    fn features(
        &self,
        g: &mut Graph,
        scope: &Scope<'_>,
        x: Value,
    ) -> Result<FeatureMaps, BuildError>;

    /// Adds the backbone's own classifier on the pooled last feature map, `[N, C]` to
    /// `[N, num_classes]`. `root` is the scope of the whole classification network.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if `pooled` is not `[N, C]`.
    fn classifier(
        &self,
        g: &mut Graph,
        root: &Scope<'_>,
        pooled: Value,
        num_classes: usize,
    ) -> Result<Value, BuildError>;

    /// Returns the state dict path of the backbone in a classification checkpoint; empty if its tensors are
    /// at the root.
    fn module(&self) -> &'static str {
        "features"
    }

    /// Returns whether `head` can be built on the backbone. Every backbone supports [`Head::Classifier`].
    fn supports(&self, head: &Head) -> bool {
        *head == Head::Classifier
    }

    /// Returns the argument that multiplies the backbone's channel counts. `None` if the backbone has no such
    /// argument.
    fn width_mult(&mut self) -> Option<&mut f64> {
        None
    }

    /// Returns the arguments that the batch norms share. `None` if the backbone has no batch norm.
    fn norm(&self) -> Option<Norm> {
        None
    }

    /// Returns the position of the feature map that a segmentation network's auxiliary head reads, counted
    /// from the end; 1 is the last. `None` if the backbone does not support auxiliary heads.
    fn auxiliary_stage(&self) -> Option<usize> {
        None
    }

    /// Adds the backbone with the weights under `scope`, whose modules are named as in an SSD checkpoint, and
    /// returns the two feature maps that SSD reads, at strides of 16 and 32.
    ///
    /// # Errors
    /// [`BuildError::Argument`] if the backbone does not support SSD.
    fn ssd_features(
        &self,
        g: &mut Graph,
        scope: &Scope<'_>,
        x: Value,
    ) -> Result<[Value; 2], BuildError> {
        let _ = (g, scope, x);
        Err(argument("backbone", "one that supports ssdlite", &self.name()).into())
    }
}

/// The feature maps of a backbone, each `[N, C, h, w]`, in the order in which the backbone computes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureMaps(Vec<Value>);

impl FeatureMaps {
    /// Creates the list of a backbone's feature maps: `earlier` in order, then `last`.
    pub fn new(earlier: Vec<Value>, last: Value) -> Self {
        let mut maps = earlier;
        maps.push(last);
        Self(maps)
    }

    /// Returns the last feature map.
    ///
    /// # Errors
    /// As [`FeatureMaps::nth_last`].
    pub fn last(&self) -> Result<Value, BuildError> {
        self.nth_last(1)
    }

    /// Returns a feature map counted from the end, as torchvision counts them: 1 is the last.
    ///
    /// # Errors
    /// [`BuildError::FeatureMap`] if the backbone has fewer than `stage` feature maps, or if `stage` is 0.
    pub fn nth_last(&self, stage: usize) -> Result<Value, BuildError> {
        let index = self.0.len().checked_sub(stage);
        let map = index.and_then(|index| self.0.get(index)).copied();
        map.ok_or(BuildError::FeatureMap {
            stage,
            got: self.0.len(),
        })
    }
}

/// Checks that the width multiplier `width_mult` is 0.05 to 8.
///
/// # Errors
/// [`ArgumentError`] if `width_mult` is out of range.
pub(crate) fn check_width(width_mult: f64) -> Result<(), ArgumentError> {
    if (0.05..=8.0).contains(&width_mult) {
        return Ok(());
    }
    Err(argument("width_mult", "0.05 to 8", &width_mult))
}
