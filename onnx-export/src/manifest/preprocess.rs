//! From a decoded picture to a network's input.

use serde::{Deserialize, Serialize};

use super::{Invalid, require};

/// From an 8-bit RGB picture to a normalised tensor `[3, H, W] f32`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    /// First step: the resize.
    pub resize: Resize,
    /// Second step: side of the central square that is kept, in pixels; none keeps everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop: Option<u32>,
    /// Third step, per channel R, G, B of values in 0..1: subtracted.
    pub mean: [f32; 3],
    /// Fourth step, per channel: divided by.
    pub std: [f32; 3],
    /// Fifth step: zeros on the right and below until both sides are multiples of this.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub pad_to: u32,
}

/// How a picture is resized before cropping.
///
/// The detectors' two modes come after the normalisation, on floats, without antialias.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case", deny_unknown_fields)]
pub enum Resize {
    /// The shorter side becomes `size` and the aspect is kept, on 8-bit pixels with antialias.
    /// Source: `torchvision.transforms.Resize(size)` on a PIL image.
    ShortSide {
        /// Pixels of the shorter side.
        size: u32,
        /// The resampling filter.
        filter: Filter,
    },
    /// The shorter side becomes `min_size`, or less where the longer one would exceed `max_size`;
    /// the aspect is kept.
    /// Source: `torchvision.models.detection.transform.GeneralizedRCNNTransform`.
    Bounded {
        /// Pixels of the shorter side.
        min_size: u32,
        /// Most pixels of the longer side.
        max_size: u32,
    },
    /// Both sides are set and the aspect is lost.
    /// Source: `GeneralizedRCNNTransform` with `fixed_size`.
    Fixed {
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
    },
}

/// Pillow's resampling filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// `PIL.Image.BILINEAR`: a triangle that widens when shrinking.
    Bilinear,
    /// `PIL.Image.BICUBIC`: Catmull-Rom, a = -0.5.
    Bicubic,
}

impl Preprocess {
    pub(super) fn check(&self) -> Result<(), Invalid> {
        self.resize.check()?;
        self.check_crop()?;
        require(
            (1..=256).contains(&self.pad_to),
            "preprocess.pad_to",
            "1..=256",
            &self.pad_to,
        )?;
        let Self { mean, std, .. } = self;
        let finite = mean.iter().all(|v| v.is_finite());
        require(
            finite,
            "preprocess.mean",
            "finite numbers",
            &format!("{mean:?}"),
        )?;
        let positive = std.iter().all(|v| v.is_finite() && *v > 0.0);
        require(
            positive,
            "preprocess.std",
            "numbers above 0",
            &format!("{std:?}"),
        )
    }

    fn check_crop(&self) -> Result<(), Invalid> {
        let Some(crop) = self.crop else {
            return Ok(());
        };
        let (most, expected) = match self.resize {
            Resize::ShortSide { size, .. } => (size, "1 to the resized short side"),
            Resize::Bounded { .. } | Resize::Fixed { .. } => (0, "none after a detector's resize"),
        };
        require(
            (1..=most).contains(&crop),
            "preprocess.crop",
            expected,
            &crop,
        )
    }
}

impl Resize {
    pub(super) fn check(&self) -> Result<(), Invalid> {
        let sides = match self {
            Self::ShortSide { size, .. } => vec![("preprocess.resize.size", size)],
            Self::Bounded { min_size, max_size } => vec![
                ("preprocess.resize.min_size", min_size),
                ("preprocess.resize.max_size", max_size),
            ],
            Self::Fixed { width, height } => vec![
                ("preprocess.resize.width", width),
                ("preprocess.resize.height", height),
            ],
        };
        for (field, side) in sides {
            require((1..=4096).contains(side), field, "1..=4096", side)?;
        }
        let Self::Bounded { min_size, max_size } = self else {
            return Ok(());
        };
        let expected = "at least min_size";
        require(
            min_size <= max_size,
            "preprocess.resize.max_size",
            expected,
            max_size,
        )
    }

    /// Whether it works on the normalised floats, as the detectors' does.
    pub fn is_after_normalisation(&self) -> bool {
        matches!(self, Self::Bounded { .. } | Self::Fixed { .. })
    }
}

fn one() -> u32 {
    1
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands out a reference"
)]
fn is_one(number: &u32) -> bool {
    *number == 1
}
