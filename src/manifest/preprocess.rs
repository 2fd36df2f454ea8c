//! Conversion of a decoded image into a network's input.

use serde::{Deserialize, Serialize};

use super::{InvalidField, normalization, require};

/// Steps that turn an 8-bit RGB image into a normalized tensor `[3, H, W] f32`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    /// Resize of the image, before the crop. [`Resize`] states which modes run before
    /// normalization.
    pub resize: Resize,
    /// Side in pixels of the central square that is cropped from the resized image. `None` keeps
    /// the whole image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop: Option<u32>,
    /// Mean of each channel in the order of `channel_order`, which is subtracted from values of 0 to
    /// `scale`.
    pub mean: [f32; 3],
    /// Standard deviation of each channel in the order of `channel_order`, by which values are divided
    /// after `mean` is subtracted.
    pub std: [f32; 3],
    /// Value of a white pixel before `mean` is subtracted: 1 or 255. `None` means 1; values of
    /// `mean` or `std` above 1 are then rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<u8>,
    /// Order of the channels that the network reads. `None` means RGB; an ONNX file that mentions
    /// BGR, or ImageNet's mean in the order BGR, is then rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel_order: Option<ChannelOrder>,
    /// Both sides of the normalized image are padded to a multiple of this number of pixels, with
    /// zeros on the right and at the bottom. 1 disables padding.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub pad_to: u32,
}

/// The order of the channels of a network's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelOrder {
    /// Red, green, blue.
    #[default]
    Rgb,
    /// Blue, green, red, as OpenCV decodes images.
    Bgr,
}

/// The resize of an image before the crop.
///
/// `ShortSide` runs before normalization. `Bounded` and `Fixed`, the modes of detectors, run after
/// normalization, on `f32` values and without antialiasing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case", deny_unknown_fields)]
pub enum Resize {
    /// The shorter side becomes `size` and the aspect ratio is kept. The resize runs on 8-bit
    /// pixels, with antialiasing. Source: `torchvision.transforms.Resize(size)` on a PIL image.
    ShortSide {
        /// Shorter side of the result in pixels.
        size: u32,
        /// The resampling filter of Pillow.
        filter: Filter,
    },
    /// The shorter side becomes `min_size`, or less if the longer side would exceed `max_size`. The aspect ratio
    /// is kept.
    /// Source: `torchvision.models.detection.transform.GeneralizedRCNNTransform`.
    Bounded {
        /// Shorter side of the result in pixels, unless the longer side would exceed `max_size`.
        min_size: u32,
        /// Maximum length of the longer side of the result in pixels.
        max_size: u32,
    },
    /// The result has this width and height; the aspect ratio is not kept.
    /// Source: `GeneralizedRCNNTransform` with `fixed_size`.
    Fixed {
        /// Width of the result in pixels.
        width: u32,
        /// Height of the result in pixels.
        height: u32,
    },
}

/// A resampling filter of Pillow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// `PIL.Image.BILINEAR`: a triangle filter, widened when the image shrinks.
    Bilinear,
    /// `PIL.Image.BICUBIC`: a cubic filter with a = -0.5 (Catmull-Rom).
    Bicubic,
}

impl Preprocess {
    pub(super) fn check(&self) -> Result<(), InvalidField> {
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
            "finite values",
            &format!("{mean:?}"),
        )?;
        let positive = std.iter().all(|v| v.is_finite() && *v > 0.0);
        require(
            positive,
            "preprocess.std",
            "finite values above 0",
            &format!("{std:?}"),
        )?;
        normalization::check(self)
    }

    /// Checks that the crop is not larger than the resized image, and that only a short-side resize
    /// has a crop.
    fn check_crop(&self) -> Result<(), InvalidField> {
        let Some(crop) = self.crop else {
            return Ok(());
        };
        let (most, expected) = match self.resize {
            Resize::ShortSide { size, .. } => (size, "1 to the resized shorter side"),
            Resize::Bounded { .. } | Resize::Fixed { .. } => {
                (0, "none after a bounded or fixed resize")
            }
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
    pub(super) fn check(&self) -> Result<(), InvalidField> {
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
        let expected = "at least `min_size`";
        require(
            min_size <= max_size,
            "preprocess.resize.max_size",
            expected,
            max_size,
        )
    }
}

fn one() -> u32 {
    1
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_one(pad_to: &u32) -> bool {
    *pad_to == 1
}
