//! Decoding of JPEG. The feature `libjpeg-turbo`, which is on by default, selects a decoder whose
//! pixels are bit-identical to those of Pillow. Without this feature, the feature `zune-jpeg`
//! selects a decoder whose pixels differ slightly from those of Pillow.

#[cfg(feature = "libjpeg-turbo")]
mod bands;
mod check;
#[cfg(feature = "libjpeg-turbo")]
mod color;
mod header;
#[cfg(feature = "libjpeg-turbo")]
mod inks;
#[cfg(feature = "libjpeg-turbo")]
mod planes;
mod segments;
#[cfg(feature = "libjpeg-turbo")]
mod sequential;
#[cfg(feature = "libjpeg-turbo")]
mod turbo;
#[cfg(feature = "zune-jpeg")]
mod zune;

use image::RgbImage;
#[cfg(feature = "libjpeg-turbo")]
use turbo::decode as decoder;
#[cfg(all(feature = "zune-jpeg", not(feature = "libjpeg-turbo")))]
use zune::decode as decoder;

use super::decode::rgb_image;
use super::{DecodeJob, ImageError, ImageFormat, ImageSize};

pub(super) use header::header;

#[cfg(not(any(feature = "libjpeg-turbo", feature = "zune-jpeg")))]
compile_error!("JPEG needs a decoder: enable the feature `libjpeg-turbo` (default) or `zune-jpeg`");

/// Whether the decoder can decode at a reduced scale.
const CAN_SCALE: bool = cfg!(feature = "libjpeg-turbo");

/// Decodes a JPEG to RGB at the scale of `job`; `size` is the size that its first frame header states.
pub(super) fn decode(
    bytes: &[u8],
    size: ImageSize,
    job: DecodeJob<'_>,
) -> Result<RgbImage, ImageError> {
    check::check(bytes)?;
    job.cancel.check()?;
    let data = decoder(bytes, size, job)?;
    rgb_image(ImageFormat::Jpeg, job.scale.of(size), data)
}

fn damaged(reason: &str) -> ImageError {
    ImageError::Damaged {
        format: ImageFormat::Jpeg,
        reason: reason.to_owned(),
    }
}

fn unsupported(feature: &str) -> ImageError {
    ImageError::UnsupportedFeature {
        format: ImageFormat::Jpeg,
        feature: feature.to_owned(),
    }
}
