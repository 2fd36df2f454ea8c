//! What an architecture's arguments may be, and which heads go on which backbones.

use crate::architecture::{Architecture, Backbone, Head, ResNetBlock};
use crate::error::ArgumentError;

/// Most classes that a network may have: bounds what a bad argument can allocate.
const MAX_CLASSES: usize = 100_000;
/// Most classes of a mask, whose pixels are bytes.
const MAX_MASK_CLASSES: usize = 256;
/// Most classes of a detector, which scores each of them for every anchor.
const MAX_BOX_CLASSES: usize = 2000;

impl Backbone {
    fn width_mult(&self) -> f64 {
        match self {
            Self::MobilenetV3(config) => config.width_mult,
            Self::MobilenetV2(config) => config.width_mult,
            Self::Resnet(_) | Self::EfficientnetLite0(_) => 1.0,
        }
    }

    /// Bounds the arguments, and with them what the graph can allocate.
    fn check(&self) -> Result<(), ArgumentError> {
        let width_mult = self.width_mult();
        if !(0.05..=8.0).contains(&width_mult) {
            return Err(argument("width_mult", "0.05 to 8", &width_mult));
        }
        let Self::Resnet(config) = self else {
            return Ok(());
        };
        if config.layers.iter().any(|n| !(1..=64).contains(n)) {
            let got = format!("{:?}", config.layers);
            return Err(argument("layers", "1 to 64 blocks a stage", &got));
        }
        let dilates = config.replace_stride_with_dilation.contains(&true);
        if dilates && config.block == ResNetBlock::Basic {
            let expected = "bottleneck blocks";
            return Err(argument(
                "replace_stride_with_dilation",
                expected,
                &"basic ones",
            ));
        }
        Ok(())
    }
}

impl Architecture {
    /// Checks every argument, and that the head can be built on the backbone.
    ///
    /// # Errors
    /// [`ArgumentError`] names the argument, the allowed values and the rejected value.
    pub fn check(&self) -> Result<(), ArgumentError> {
        self.backbone.check()?;
        let classes = self.num_classes;
        if !(1..=MAX_CLASSES).contains(&classes) {
            return Err(argument("num_classes", "1 to 100000", &classes));
        }
        if self.head == Head::Classifier {
            return Ok(());
        }
        let (most, expected) = match self.head {
            Head::FasterRcnn(_) | Head::Retinanet(_) | Head::Ssdlite(_) => {
                (MAX_BOX_CLASSES, "1 to 2000 for detection")
            }
            _ => (MAX_MASK_CLASSES, "1 to 256 for segmentation"),
        };
        if classes > most {
            return Err(argument("num_classes", expected, &classes));
        }
        self.head.check()?;
        match (&self.head, &self.backbone) {
            (_, Backbone::MobilenetV2(_) | Backbone::EfficientnetLite0(_)) => {
                let expected = "mobilenet_v3 or resnet under a segmentation or detection head";
                Err(argument("backbone", expected, &"another"))
            }
            (Head::Ssdlite(_), Backbone::Resnet(_)) => Err(argument(
                "backbone",
                "mobilenet_v3 under ssdlite",
                &"resnet",
            )),
            (Head::Lraspp { .. }, Backbone::Resnet(_)) => {
                Err(argument("backbone", "mobilenet_v3 under lraspp", &"resnet"))
            }
            (Head::Lraspp { inter_channels }, _) if !(1..=4096).contains(inter_channels) => {
                Err(argument("inter_channels", "1 to 4096", inter_channels))
            }
            _ => Ok(()),
        }
    }
}

/// Makes the error of a rejected argument.
pub(crate) fn argument(
    argument: &'static str,
    expected: &'static str,
    got: &dyn std::fmt::Display,
) -> ArgumentError {
    ArgumentError {
        argument,
        expected,
        got: got.to_string(),
    }
}

/// Returns the error of [`argument`] unless `holds`.
pub(crate) fn require(
    holds: bool,
    name: &'static str,
    expected: &'static str,
    got: &dyn std::fmt::Display,
) -> Result<(), ArgumentError> {
    if holds {
        return Ok(());
    }
    Err(argument(name, expected, got))
}
