//! Ranges of the arguments, and which heads can be built on which backbones.

use super::{Architecture, Head};
use crate::error::{ArgumentError, argument};

/// Largest class count of a network: bounds what a bad argument can allocate.
const MAX_CLASSES: usize = 100_000;
/// Largest class count of a mask, whose pixels are bytes.
const MAX_MASK_CLASSES: usize = 256;
/// Largest class count of a detector, which scores every class for every anchor.
const MAX_BOX_CLASSES: usize = 2000;

impl Architecture {
    /// Checks every argument, and that the head can be built on the backbone.
    ///
    /// # Errors
    /// [`ArgumentError`] names the argument, the allowed values and the rejected value.
    pub fn check(&self) -> Result<(), ArgumentError> {
        let trunk = self.backbone.trunk();
        trunk.check()?;
        let (most, expected) = match &self.head {
            Head::Classifier => (MAX_CLASSES, "1 to 100000"),
            Head::FasterRcnn(_) | Head::Retinanet(_) | Head::Ssdlite(_) => {
                (MAX_BOX_CLASSES, "1 to 2000 for detection")
            }
            Head::Lraspp { .. } | Head::Deeplabv3 { .. } | Head::Fcn { .. } => {
                (MAX_MASK_CLASSES, "1 to 256 for segmentation")
            }
        };
        if !(1..=most).contains(&self.num_classes) {
            return Err(argument("num_classes", expected, &self.num_classes));
        }
        self.head.check()?;
        if !trunk.supports(&self.head) {
            let expected = format!("one that supports {}", self.head.name());
            return Err(argument("backbone", expected, &trunk.name()));
        }
        match &self.head {
            Head::Lraspp { inter_channels } if !(1..=4096).contains(inter_channels) => {
                Err(argument("inter_channels", "1 to 4096", inter_channels))
            }
            _ => Ok(()),
        }
    }
}
