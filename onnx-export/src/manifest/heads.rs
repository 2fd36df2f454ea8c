//! What the detection heads are built with: their anchors, and the maps that they read.

use serde::{Deserialize, Serialize};

use super::{Head, Invalid, Task, require};

/// Most levels of a pyramid: a level halves the one before, and pictures have 4096 pixels a side.
const MAX_LEVELS: usize = 12;
/// Most anchors at a point of a map.
const MAX_ANCHORS: usize = 64;

/// Boxes of fixed sizes around every point of each map.
/// Source: `torchvision.models.detection.anchor_utils.AnchorGenerator`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Anchors {
    /// Per level, square roots of the boxes' areas in pixels of the padded picture.
    pub sizes: Vec<Vec<u32>>,
    /// Height divided by width, on every level. A point has a box for each ratio and size, the
    /// sizes running fastest.
    pub aspect_ratios: Vec<f64>,
}

/// SSD's boxes, whose sizes grow from map to map.
/// Source: `torchvision.models.detection.anchor_utils.DefaultBoxGenerator` with `clip` and without `steps`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefaultBoxes {
    /// Per level, ratios of the sides; each gives a wide box and a tall one. Two square boxes come before.
    pub aspect_ratios: Vec<Vec<f64>>,
    /// Side of the smallest boxes, as a part of the picture's.
    pub min_ratio: f64,
    /// Side of the last level's boxes, as a part of the picture's.
    pub max_ratio: f64,
}

/// `torchvision.models.detection.FasterRCNN` on a feature pyramid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FasterRcnnHead {
    /// How many of the backbone's last maps feed the pyramid, which adds a pooled level.
    pub backbone_maps: usize,
    /// The boxes that the region proposal network corrects; a level each.
    pub anchors: Anchors,
    /// Strides of the pyramid's first maps, from which proposals are cut. A proposal goes to the map
    /// that suits its size, between the first's stride and the last's.
    ///
    /// Where two maps have one stride (MobileNetV3) torchvision always takes the first, so only
    /// that one is listed.
    pub roi_strides: Vec<u32>,
}

/// `torchvision.models.detection.RetinaNet` on a feature pyramid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetinanetHead {
    /// How many of the backbone's last maps feed the pyramid, which adds P6 and P7.
    pub backbone_maps: usize,
    /// The boxes that the network corrects; a level each.
    pub anchors: Anchors,
}

/// `torchvision.models.detection.ssdlite` on the last two stages and extra maps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SsdliteHead {
    /// Channels of the maps added to the backbone's two, each of half the size of the one before.
    pub extra_channels: Vec<usize>,
    /// The boxes that the network corrects; a level each.
    pub default_boxes: DefaultBoxes,
}

impl Anchors {
    /// Anchors at a point of each level.
    pub fn per_location(&self) -> Vec<usize> {
        let sizes = self.sizes.iter();
        sizes
            .map(|sizes| sizes.len() * self.aspect_ratios.len())
            .collect()
    }

    fn check(&self, levels: usize) -> Result<(), Invalid> {
        check_levels("architecture.head.anchors.sizes", levels, self.sizes.len())?;
        let per_location = self.per_location();
        require(
            per_location.iter().all(|n| *n == per_location[0])
                && (1..=MAX_ANCHORS).contains(&per_location[0]),
            "architecture.head.anchors",
            "1 to 64 boxes a point, equally many on every level",
            &format!("{per_location:?}"),
        )?;
        let sizes_ok = self.sizes.iter().flatten().all(|s| (1..=8192).contains(s));
        require(
            sizes_ok,
            "architecture.head.anchors.sizes",
            "1 to 8192 pixels",
            &format!("{:?}", self.sizes),
        )?;
        check_ratios(
            "architecture.head.anchors.aspect_ratios",
            &self.aspect_ratios,
        )
    }
}

impl DefaultBoxes {
    /// Boxes at a point of each level.
    pub fn per_location(&self) -> Vec<usize> {
        let ratios = self.aspect_ratios.iter();
        ratios.map(|ratios| 2 + 2 * ratios.len()).collect()
    }

    fn check(&self, levels: usize) -> Result<(), Invalid> {
        let field = "architecture.head.default_boxes.aspect_ratios";
        check_levels(field, levels, self.aspect_ratios.len())?;
        let most = self.per_location().into_iter().max().unwrap_or_default();
        require(most <= MAX_ANCHORS, field, "1 to 64 boxes a point", &most)?;
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
            "architecture.head.default_boxes.min_ratio",
            "above 0, not above max_ratio, and that not above 1",
            &format!("{min_ratio} and {max_ratio}"),
        )
    }
}

impl Head {
    /// The task of a network with this head.
    pub fn task(&self) -> Task {
        match self {
            Self::Classifier => Task::Classification,
            Self::Lraspp { .. } | Self::Deeplabv3 { .. } | Self::Fcn { .. } => Task::Segmentation,
            Self::FasterRcnn(_) | Self::Retinanet(_) | Self::Ssdlite(_) => Task::Detection,
        }
    }

    /// Whether the network is two files, with native code between them.
    pub fn has_box_head(&self) -> bool {
        matches!(self, Self::FasterRcnn(_))
    }

    /// Checks a detection head's arguments; the other heads' are checked with the backbone's.
    pub(crate) fn check(&self) -> Result<(), Invalid> {
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
                    "architecture.head.roi_strides",
                    "powers of two up to 256, each twice the one before, no more than backbone_maps",
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
                    "architecture.head.extra_channels",
                    "at most 10 numbers from 2 to 4096",
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

/// Every trunk has at least four maps.
fn check_maps(maps: usize) -> Result<(), Invalid> {
    require(
        (1..=4).contains(&maps),
        "architecture.head.backbone_maps",
        "1 to 4",
        &maps,
    )
}

fn check_levels(field: &'static str, levels: usize, got: usize) -> Result<(), Invalid> {
    let got_words = format!("{got}, of {levels} levels");
    require(
        got == levels,
        field,
        "a list for each level of the network",
        &got_words,
    )
}

fn check_ratios(field: &'static str, ratios: &[f64]) -> Result<(), Invalid> {
    require(
        ratios.iter().all(|ratio| (0.01..=100.0).contains(ratio)),
        field,
        "numbers from 0.01 to 100",
        &format!("{ratios:?}"),
    )
}
