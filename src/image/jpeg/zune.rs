//! JPEG decoding by the crate `zune-jpeg`, through the crate `image`. `zune-jpeg` has no unsafe
//! code outside its SIMD kernels. Its pixels differ slightly from those of libjpeg-turbo.

use std::io::Cursor;

use image::codecs::jpeg::JpegDecoder;
use image::{ColorType, DynamicImage, ImageDecoder, ImageError as DecoderError};

use super::{damaged, unsupported};
use crate::image::{DecodeJob, ImageError, ImageSize};

/// Decodes a checked JPEG of `size` to RGB samples, `[H, W, 3] u8`. A gray image is returned with
/// equal red, green and blue samples. The decoder converts CMYK and YCCK to RGB.
pub(super) fn decode(
    bytes: &[u8],
    size: ImageSize,
    job: DecodeJob<'_>,
) -> Result<Vec<u8>, ImageError> {
    let decoder = JpegDecoder::new(Cursor::new(bytes)).map_err(error)?;
    if decoder.dimensions() != (size.width, size.height) {
        return Err(damaged("it has two frame headers of different sizes"));
    }
    if !matches!(decoder.color_type(), ColorType::Rgb8 | ColorType::L8) {
        return Err(unsupported("samples of more than 8 bits"));
    }
    let decoded = DynamicImage::from_decoder(decoder).map_err(error)?;
    job.cancel.check()?;
    Ok(decoded.into_rgb8().into_raw())
}

fn error(error: DecoderError) -> ImageError {
    match error {
        DecoderError::Unsupported(feature) => unsupported(&feature.to_string()),
        other => damaged(&other.to_string()),
    }
}

#[cfg(all(test, feature = "libjpeg-turbo"))]
mod tests {
    use super::*;
    use crate::cancel::Cancel;
    use crate::image::jpeg::turbo;

    /// Compares the pixels of two photographs between this decoder and libjpeg-turbo, and prints
    /// their largest and mean difference. docs/BENCHMARKS.md refers to this output.
    #[test]
    fn pixels_differ_slightly_from_libjpeg_turbo() {
        for name in ["coffee_500x375.jpg", "rocket.jpg"] {
            let path = format!("{}/tests/photos/{name}", env!("CARGO_MANIFEST_DIR"));
            let bytes = std::fs::read(path).unwrap();
            let size = super::super::header(&bytes).unwrap().size;
            let cancel = Cancel::never();
            let decode = [turbo::decode, decode];
            let [exact, other] =
                decode.map(|f| f(&bytes, size, DecodeJob::alone(&cancel)).unwrap());
            let differences = exact.iter().zip(&other).map(|(a, b)| a.abs_diff(*b));
            let most = differences.clone().max();
            let sum: u64 = differences.map(u64::from).sum();
            let mean = sum as f64 / exact.len() as f64;
            println!("{name}: at most {most:?}, mean {mean:.4} of 255");
            assert!(most < Some(64) && mean < 1.0, "{name}: {most:?}, {mean}");
        }
    }
}
