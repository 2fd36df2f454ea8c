//! Predicts the CPU time and memory that decoding an image takes from the headers of the file.
//!
//! The predictions use CPU time and peak memory measured on an AMD EPYC with 2 shared cores on
//! 2026-11-28 with `cargo bench --bench decode`: photographs of 3 to 12 megapixels, and files built
//! to be expensive. The predicted time is within a factor of two of the measured time, except for
//! CMYK JPEG, which takes 2.3 times as long as predicted. JPEG at reduced scales was measured on
//! 2026-11-29 with a photograph of 12 megapixels. [`super::DecodeTimes`] corrects the predictions by
//! the times that the server measures.

use super::webp::allowed_table_bytes;
use super::{ImageError, ImageHeader, ImageSize, Scale};

/// Number of pixels up to which an image is never rejected for its pixels per byte: decoding 1.05
/// million pixels takes milliseconds, whatever the file holds.
const ALWAYS_ACCEPTED_PIXELS: u64 = 1 << 20;
/// CPU time in nanoseconds that each decode takes in addition to the time per pixel and per byte.
const FIXED_NANOS: u64 = 20_000;
/// Memory in bytes that every decoder holds in addition to the memory per pixel: windows, tables
/// and rows.
const FIXED_BYTES: u64 = 1 << 20;

/// How the pixels of an image are coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Coding {
    /// Sequential JPEG: baseline or extended, with all bits of a component in one scan.
    JpegSequential {
        /// Number of scans in the file.
        scans: u32,
    },
    /// Progressive JPEG: every scan adds detail to pixels of earlier scans.
    JpegProgressive {
        /// Number of scans in the file.
        scans: u32,
    },
    /// PNG.
    Png {
        /// Bits of all samples of a pixel, 1 to 64.
        bits_per_pixel: u8,
        /// Whether the rows are stored in the seven passes of Adam7.
        interlaced: bool,
    },
    /// WebP with a VP8 bitstream.
    WebPLossy,
    /// WebP with a VP8L bitstream.
    WebPLossless,
    /// BMP without compression.
    Bmp,
    /// BMP with run-length coding.
    BmpRunLength,
    /// GIF.
    Gif,
}

/// Predicted CPU time and memory of decoding one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeCost {
    /// CPU time of one thread in nanoseconds, on the CPU of the measurements in this module.
    pub nanos: u64,
    /// Peak memory in bytes, including the decoded image but not the encoded file.
    pub peak_bytes: u64,
    /// Number of pixels that are in memory together: those of the decoded image, or of the whole
    /// image if the decoder keeps the coefficients of all pixels.
    pub pixels: u64,
}

/// Measured costs of one [`Coding`], as integers, so that predictions are exact.
struct Figures {
    /// CPU time per pixel, in picoseconds.
    picos_per_pixel: u64,
    /// CPU time per byte of the file, in picoseconds.
    picos_per_byte: u64,
    /// Peak memory per 1000 pixels, in bytes.
    bytes_per_1000_pixels: u64,
}

impl Coding {
    /// Number of kinds of decoding; see [`Coding::kind`].
    pub(super) const KINDS: usize = 10;

    /// Returns the index of the variant and of whether the scale is reduced, below
    /// [`Coding::KINDS`].
    pub(super) fn kind(self, scale: Scale) -> usize {
        match self {
            Self::JpegSequential { .. } if scale != Scale::Full => 8,
            Self::JpegProgressive { .. } if scale != Scale::Full => 9,
            Self::JpegSequential { .. } => 0,
            Self::JpegProgressive { .. } => 1,
            Self::Png { .. } => 2,
            Self::WebPLossy => 3,
            Self::WebPLossless => 4,
            Self::Bmp => 5,
            Self::BmpRunLength => 6,
            Self::Gif => 7,
        }
    }

    /// Returns the costs of decoding at `scale`, per pixel of the whole image.
    fn figures(self, scale: Scale) -> Figures {
        match scale {
            Scale::Full => self.full_figures(),
            reduced => self.reduced_figures(reduced),
        }
    }

    /// Returns the costs of decoding a JPEG at a reduced scale. If it has one sequential scan, the
    /// memory is that of the decoded image and its planes; otherwise, the coefficients of the whole
    /// image are added.
    fn reduced_figures(self, scale: Scale) -> Figures {
        let ([half, quarter, eighth], picos_per_byte) = match self {
            Self::JpegProgressive { scans } => {
                let passes = 80 * u64::from(scans);
                ([13_000, 10_000, 9_500].map(|picos| picos + passes), 20_000)
            }
            Self::JpegSequential { scans } if scans > 1 => ([8_000, 7_000, 6_500], 20_000),
            _ => ([3_000, 1_500, 800], 10_000),
        };
        let coefficient_bytes = if self.keeps_coefficients() { 6_900 } else { 0 };
        let (picos_per_pixel, bytes) = match scale {
            Scale::Full | Scale::Half => (half, 2_100),
            Scale::Quarter => (quarter, 600),
            Scale::Eighth => (eighth, 250),
        };
        Figures {
            picos_per_pixel,
            picos_per_byte,
            bytes_per_1000_pixels: bytes + coefficient_bytes,
        }
    }

    /// Returns whether the decoder keeps the coefficients of the whole image, whatever the scale: for
    /// a JPEG with several scans.
    pub(crate) fn keeps_coefficients(self) -> bool {
        match self {
            Self::JpegProgressive { .. } => true,
            Self::JpegSequential { scans } => scans > 1,
            _ => false,
        }
    }

    fn full_figures(self) -> Figures {
        let (picos_per_pixel, picos_per_byte, bytes_per_1000_pixels) = match self {
            Self::JpegSequential { scans: 0 | 1 } => (7_500, 20_000, 7_100),
            Self::JpegSequential { .. } => (10_000, 20_000, 17_000),
            Self::JpegProgressive { scans } => (16_000 + 80 * u64::from(scans), 20_000, 17_000),
            Self::Png {
                bits_per_pixel,
                interlaced,
            } => {
                let base = if interlaced { 5_500 } else { 2_500 };
                (base + 100 * u64::from(bits_per_pixel), 6_000, 3_200)
            }
            Self::WebPLossy => (30_000, 60_000, 5_000),
            Self::WebPLossless => (16_000, 25_000, 5_000),
            Self::Bmp | Self::BmpRunLength => (4_500, 0, 3_100),
            Self::Gif => (5_500, 13_000, 4_100),
        };
        Figures {
            picos_per_pixel,
            picos_per_byte,
            bytes_per_1000_pixels,
        }
    }
}

impl ImageHeader {
    /// Predicts the cost of decoding a file of `file_bytes` bytes with this header at the scale
    /// `scale`, or at full scale if the image cannot be decoded at another one. `turned` says whether
    /// the orientation that the file states is applied.
    pub fn decode_cost(&self, file_bytes: usize, turned: bool, scale: Scale) -> DecodeCost {
        let scale = self.scale(scale);
        let figures = self.coding.figures(scale);
        let pixels = self.size.pixels();
        let decoded = scale.of(self.size).pixels();
        let (turn_picos, turn_bytes) = if turned && self.is_turned() {
            (TURN_PICOS_PER_PIXEL, TURN_BYTES_PER_PIXEL)
        } else {
            (0, 0)
        };
        let picos = pixels
            .saturating_mul(figures.picos_per_pixel)
            .saturating_add(decoded.saturating_mul(turn_picos))
            .saturating_add((file_bytes as u64).saturating_mul(figures.picos_per_byte));
        let table_bytes = match self.coding {
            Coding::WebPLossless => allowed_table_bytes(file_bytes, pixels),
            _ => 0,
        };
        // When the rotation begins, the decoder has freed all of its memory but the image, so the
        // two peaks do not add up.
        let decoding = pixels.saturating_mul(figures.bytes_per_1000_pixels) / 1000;
        let turning = decoded.saturating_mul(turn_bytes);
        DecodeCost {
            nanos: FIXED_NANOS + picos / 1000,
            peak_bytes: decoding
                .max(turning)
                .saturating_add(FIXED_BYTES + table_bytes),
            pixels: if self.coding.keeps_coefficients() {
                pixels
            } else {
                decoded
            },
        }
    }
}

/// CPU time to rotate or mirror one pixel, in picoseconds.
const TURN_PICOS_PER_PIXEL: u64 = 8_000;
/// Memory of an image and its rotated copy, in bytes per pixel.
const TURN_BYTES_PER_PIXEL: u64 = 7;

/// Rejects a file whose pixels cost far more to decode than its bytes cost to send.
///
/// Flat colors compress without bound in PNG, GIF, WebP and run-length coded BMP, so a few bytes
/// can hold as many pixels as the limit on pixels allows. Images of up to 1,048,576 pixels are
/// always accepted.
///
/// # Errors
/// [`ImageError::TooManyPixelsPerByte`] if the image has more than `limit` pixels for each byte of
/// the file.
pub fn check_density(size: ImageSize, file_bytes: usize, limit: u64) -> Result<(), ImageError> {
    let (pixels, bytes) = (size.pixels(), file_bytes as u64);
    if pixels <= ALWAYS_ACCEPTED_PIXELS || pixels <= bytes.saturating_mul(limit) {
        return Ok(());
    }
    Err(ImageError::TooManyPixelsPerByte {
        pixels,
        bytes,
        limit,
    })
}

#[cfg(test)]
mod tests {
    use super::super::ImageFormat;
    use super::*;
    use image::metadata::Orientation as Turn;

    #[test]
    fn the_largest_sizes_that_a_header_can_state_have_a_cost() {
        let largest = ImageSize {
            width: u32::MAX,
            height: u32::MAX,
        };
        let header = |coding| ImageHeader {
            format: ImageFormat::Png,
            size: largest,
            coding,
            scalable: true,
            turn: Turn::Rotate90,
        };
        let png = Coding::Png {
            bits_per_pixel: 64,
            interlaced: true,
        };
        for coding in [png, Coding::WebPLossless, Coding::Bmp] {
            for scale in Scale::ALL {
                let cost = header(coding).decode_cost(usize::MAX, true, scale);
                assert!(cost.peak_bytes > 1 << 50, "{coding:?} {scale:?}");
            }
        }
    }
}
