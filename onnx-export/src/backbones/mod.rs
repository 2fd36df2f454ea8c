//! Backbones: networks from `[N, 3, H, W]` images to feature maps.
//!
//! Each module contains the table of layers from the paper, the configurable arguments, and an
//! implementation of [`Trunk`], through which the rest of the crate uses the backbone. A new
//! backbone needs a module and a line in `backbones!`.

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

/// Defines the enum [`Backbone`] and its methods that return the [`Trunk`] of a variant. In a
/// manifest, the field `kind` selects the variant by its name in snake case.
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
            /// Returns the [`Trunk`] of the backbone, which builds its layers.
            pub fn trunk(&self) -> &dyn Trunk {
                match self {
                    $(Self::$variant(config) => config,)*
                }
            }

            /// Returns the [`Trunk`] of the backbone, through which its arguments can be changed.
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

/// The implementation of a backbone, which builds its layers and says which heads it supports.
pub trait Trunk {
    /// Returns the name that manifests and error messages use.
    fn name(&self) -> &'static str;

    /// Checks that the arguments are within their ranges, which limit the memory that the graph
    /// takes.
    ///
    /// # Errors
    /// [`ArgumentError`] for an argument that is out of range.
    fn check(&self) -> Result<(), ArgumentError>;

    /// Adds the backbone with the weights under `scope` and returns its feature maps for `x`, `[N, 3, H, W]`.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if `x` is not `[N, 3, H, W]` or if its padded height or width is
    /// smaller than a kernel.
    fn features(
        &self,
        g: &mut Graph,
        scope: &Scope<'_>,
        x: Value,
    ) -> Result<FeatureMaps, BuildError>;

    /// Adds the backbone's own classifier, which maps `pooled` `[N, C]`, the mean of the last
    /// feature map over its pixels, to logits `[N, num_classes]`. `root` is the scope of the whole
    /// classification network.
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

    /// Returns the arguments of the backbone's batch norms, which are the same for all of them.
    /// `None` if the backbone has no batch norm.
    fn norm(&self) -> Option<Norm> {
        None
    }

    /// Returns the position of the feature map that a segmentation network's auxiliary head reads, counted
    /// from the end; 1 is the last. `None` if the backbone does not support auxiliary heads.
    fn auxiliary_stage(&self) -> Option<usize> {
        None
    }

    /// Adds the backbone for SSD and returns the two feature maps that SSD reads, at strides of 16
    /// and 32. The modules under `scope` are named as in an SSD checkpoint, which differs from a
    /// classification checkpoint.
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
        Err(argument("backbone", "a backbone supporting ssdlite", &self.name()).into())
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
    /// [`BuildError::FeatureMap`] if the backbone has no feature maps, which [`FeatureMaps::new`]
    /// rules out.
    pub fn last(&self) -> Result<Value, BuildError> {
        self.nth_last(1)
    }

    /// Returns feature map number `stage`, counted from the end as torchvision does: 1 is the last.
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

/// Checks that the factor on channel counts, `width_mult`, is 0.05 to 8.
///
/// # Errors
/// [`ArgumentError`] if `width_mult` is out of range.
pub(crate) fn check_width(width_mult: f64) -> Result<(), ArgumentError> {
    if (0.05..=8.0).contains(&width_mult) {
        return Ok(());
    }
    Err(argument("width_mult", "0.05 to 8", &width_mult))
}
