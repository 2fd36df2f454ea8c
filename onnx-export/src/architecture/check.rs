//! Checks an architecture: whether its arguments are within their ranges, and whether its head can
//! be built on its backbone.

use super::{Architecture, Head};
use crate::error::{ArgumentError, argument};

/// Maximum number of classes of a classifier. It bounds the memory that a bad argument can allocate.
const MAX_CLASSES: usize = 100_000;
/// Maximum number of classes of a segmentation network: a mask stores the class of a pixel in a byte.
const MAX_MASK_CLASSES: usize = 256;
/// Maximum number of classes of a detector. It is lower than a classifier's because every anchor has a score
/// for every class.
const MAX_BOX_CLASSES: usize = 2000;

impl Architecture {
    /// Checks that every argument is within its range and that the head can be built on the
    /// backbone.
    ///
    /// # Errors
    /// [`ArgumentError`] for the first argument that is out of range, or about `backbone` if it
    /// does not support the head.
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
            let expected = format!("a backbone that supports {}", self.head.name());
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
