//! Heads as data: the arguments of each head, which include a detector's anchors and the number of
//! backbone feature maps that the head reads.

use serde::{Deserialize, Serialize};

use crate::error::{ArgumentError, require};
use crate::stages::Role;

/// Maximum number of feature maps (levels) that `SSDlite` reads. Each level has half the height and
/// width of the preceding one, and an image side is at most 4096 = 2^12 pixels.
const MAX_LEVELS: usize = 12;
/// Maximum number of anchors or default boxes per location of a feature map. It bounds the number
/// of channels of a detector's outputs.
const MAX_ANCHORS: usize = 64;

/// The layers on top of a backbone, which produce the outputs of the network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Head {
    /// Global average pooling and the backbone's own classifier.
    #[default]
    Classifier,
    /// LR-ASPP for segmentation: `torchvision.models.segmentation.lraspp.LRASPPHead`.
    Lraspp {
        /// Channels of the branch that reads the last feature map.
        inter_channels: usize,
    },
    /// `DeepLabV3` for segmentation: `torchvision.models.segmentation.deeplabv3.DeepLabHead`.
    Deeplabv3 {
        /// Whether the auxiliary head is exported as a second output, `aux`.
        #[serde(default)]
        aux: bool,
    },
    /// FCN for segmentation: `torchvision.models.segmentation.fcn.FCNHead`.
    Fcn {
        /// Whether the auxiliary head is exported as a second output, `aux`.
        #[serde(default)]
        aux: bool,
    },
    /// Two-stage detector on a feature pyramid: `torchvision.models.detection.FasterRCNN`.
    FasterRcnn(FasterRcnnHead),
    /// One-stage detector on a feature pyramid: `torchvision.models.detection.RetinaNet`.
    Retinanet(RetinanetHead),
    /// One-stage detector with default boxes: `torchvision.models.detection.ssdlite`.
    Ssdlite(SsdliteHead),
}

/// Anchor boxes of fixed sizes, centered on every location of each feature map.
/// Source: `torchvision.models.detection.anchor_utils.AnchorGenerator`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Anchors {
    /// Anchor sizes, one list per level. A size is the square root of the anchor's area, in pixels
    /// of the padded image.
    pub sizes: Vec<Vec<u32>>,
    /// Aspect ratios (height divided by width) of the anchors, used on every level. Each location
    /// has one anchor per pair of ratio and size, ordered by ratio first and by size second.
    pub aspect_ratios: Vec<f64>,
}

/// Default boxes of SSD, which grow from one feature map to the next.
/// Source: `torchvision.models.detection.anchor_utils.DefaultBoxGenerator` with `clip` and without `steps`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefaultBoxes {
    /// Aspect ratios, one list per level. A location has two square boxes, then for each ratio `r`
    /// a box with width / height = `r` and a box with height / width = `r`.
    pub aspect_ratios: Vec<Vec<f64>>,
    /// Side of the smaller square box of the first level, as a fraction of the image's side.
    pub min_ratio: f64,
    /// Side of the smaller square box of the last level, as a fraction of the image's side.
    pub max_ratio: f64,
}

/// Arguments of `torchvision.models.detection.FasterRCNN` on a feature pyramid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FasterRcnnHead {
    /// Number of the backbone's last feature maps that the pyramid reads, 1 to 4. The pyramid has
    /// one level per feature map and a coarsest level, which is pooled from the last of these
    /// levels.
    pub backbone_maps: usize,
    /// Anchors that the region proposal network refines, one list of sizes per level.
    pub anchors: Anchors,
    /// Strides in pixels of the pyramid levels from which features of region proposals are pooled,
    /// beginning with the finest level. The features of a larger proposal are pooled from a coarser
    /// level.
    ///
    /// Each stride is listed once: if two levels have the same stride, as with MobileNetV3,
    /// torchvision pools only from the first of these levels.
    pub roi_strides: Vec<u32>,
}

/// Arguments of `torchvision.models.detection.RetinaNet` on a feature pyramid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetinanetHead {
    /// Number of the backbone's last feature maps that the pyramid reads, 1 to 4. The pyramid has
    /// one level per feature map and two coarser levels, P6 and P7.
    pub backbone_maps: usize,
    /// Anchors that the network refines, one list of sizes per level.
    pub anchors: Anchors,
}

/// Arguments of `torchvision.models.detection.ssdlite`, which reads the backbone's feature maps at
/// strides of 16 and 32 pixels and extra feature maps computed from the map at stride 32.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SsdliteHead {
    /// Number of channels of each extra feature map. Each extra map has half the height and width
    /// of the preceding map.
    pub extra_channels: Vec<usize>,
    /// Default boxes that the network refines, one list of ratios per level.
    pub default_boxes: DefaultBoxes,
}

impl Anchors {
    /// Returns the number of anchors per location of a feature map, for each level.
    pub fn per_location(&self) -> Vec<usize> {
        let sizes = self.sizes.iter();
        sizes
            .map(|sizes| sizes.len() * self.aspect_ratios.len())
            .collect()
    }

    fn check(&self, levels: usize) -> Result<(), ArgumentError> {
        check_levels("head.anchors.sizes", levels, self.sizes.len())?;
        let per_location = self.per_location();
        require(
            per_location.iter().all(|n| *n == per_location[0])
                && (1..=MAX_ANCHORS).contains(&per_location[0]),
            "head.anchors",
            "1 to 64 anchors per location, the same number on every level",
            &format!("{per_location:?} by level"),
        )?;
        let sizes_ok = self.sizes.iter().flatten().all(|s| (1..=8192).contains(s));
        require(
            sizes_ok,
            "head.anchors.sizes",
            "sizes of 1 to 8192 pixels",
            &format!("{:?}", self.sizes),
        )?;
        check_ratios("head.anchors.aspect_ratios", &self.aspect_ratios)
    }
}

impl DefaultBoxes {
    /// Returns the number of default boxes per location of a feature map, for each level.
    pub fn per_location(&self) -> Vec<usize> {
        let ratios = self.aspect_ratios.iter();
        ratios.map(|ratios| 2 + 2 * ratios.len()).collect()
    }

    fn check(&self, levels: usize) -> Result<(), ArgumentError> {
        let field = "head.default_boxes.aspect_ratios";
        check_levels(field, levels, self.aspect_ratios.len())?;
        let most = self.per_location().into_iter().max().unwrap_or_default();
        require(
            most <= MAX_ANCHORS,
            field,
            "1 to 64 default boxes per location",
            &most,
        )?;
        for ratios in &self.aspect_ratios {
            check_ratios(field, ratios)?;
        }
        let Self {
            min_ratio,
            max_ratio,
            ..
        } = self;
        require(
            0.0 < *min_ratio && min_ratio <= max_ratio && *max_ratio <= 1.0,
            "head.default_boxes.min_ratio",
            "0 < min_ratio <= max_ratio <= 1",
            &format!("min_ratio {min_ratio} and max_ratio {max_ratio}"),
        )
    }
}

impl Head {
    /// Returns the name of the head, such as `lraspp`, in manifests and error messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Classifier => "classifier",
            Self::Lraspp { .. } => "lraspp",
            Self::Deeplabv3 { .. } => "deeplabv3",
            Self::Fcn { .. } => "fcn",
            Self::FasterRcnn(_) => "faster_rcnn",
            Self::Retinanet(_) => "retinanet",
            Self::Ssdlite(_) => "ssdlite",
        }
    }

    /// Returns the roles of the stages of a network with this head, in the order in which the
    /// stages run.
    pub fn roles(&self) -> &'static [Role] {
        match self {
            Self::FasterRcnn(_) => &[Role::Network, Role::BoxHead],
            _ => &[Role::Network],
        }
    }

    /// Checks the arguments of a detection head. Returns `Ok` for classification and segmentation
    /// heads, which are checked together with their backbone.
    pub(crate) fn check(&self) -> Result<(), ArgumentError> {
        match self {
            Self::FasterRcnn(head) => {
                check_maps(head.backbone_maps)?;
                head.anchors.check(head.backbone_maps + 1)?;
                let strides = &head.roi_strides;
                let doubling = strides.windows(2).all(|pair| pair[1] == 2 * pair[0]);
                let first_ok = strides
                    .first()
                    .is_some_and(|s| s.is_power_of_two() && *s <= 256);
                require(
                    first_ok && doubling && strides.len() <= head.backbone_maps,
                    "head.roi_strides",
                    "a list of 1 to backbone_maps powers of two up to 256, each twice the one before",
                    &format!("{strides:?}"),
                )
            }
            Self::Retinanet(head) => {
                check_maps(head.backbone_maps)?;
                head.anchors.check(head.backbone_maps + 2)
            }
            Self::Ssdlite(head) => {
                let channels = &head.extra_channels;
                require(
                    channels.len() <= MAX_LEVELS - 2
                        && channels.iter().all(|n| (2..=4096).contains(n)),
                    "head.extra_channels",
                    "at most 10 channel counts of 2 to 4096",
                    &format!("{channels:?}"),
                )?;
                head.default_boxes.check(channels.len() + 2)
            }
            Self::Classifier | Self::Lraspp { .. } | Self::Deeplabv3 { .. } | Self::Fcn { .. } => {
                Ok(())
            }
        }
    }
}

/// Checks that a head reads 1 to 4 of the backbone's feature maps; every backbone has at least 4.
fn check_maps(maps: usize) -> Result<(), ArgumentError> {
    require(
        (1..=4).contains(&maps),
        "head.backbone_maps",
        "1 to 4 feature maps",
        &maps,
    )
}

/// Checks that the argument `field`, which has `got` lists, has one list for each of `levels`
/// levels.
fn check_levels(field: &'static str, levels: usize, got: usize) -> Result<(), ArgumentError> {
    let got_words = format!("{got} lists for {levels} levels");
    require(
        got == levels,
        field,
        "one list per level of the network",
        &got_words,
    )
}

/// Checks that the aspect ratios of the argument `field` are in 0.01..=100.
fn check_ratios(field: &'static str, ratios: &[f64]) -> Result<(), ArgumentError> {
    require(
        ratios.iter().all(|ratio| (0.01..=100.0).contains(ratio)),
        field,
        "aspect ratios from 0.01 to 100",
        &format!("{ratios:?}"),
    )
}
