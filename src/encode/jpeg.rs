//! Encoding of JPEG in horizontal stripes, so that it can be cancelled between two stripes.
//!
//! The encoder cannot be interrupted, so each stripe is encoded as an image of its own. The file
//! consists of the headers of the first stripe, in which the height is replaced by the height of
//! the whole image, and of the entropy-coded data of all stripes, with a restart marker between two
//! stripes. Without chroma subsampling, no block depends on pixels of another stripe, so the file
//! decodes to the same pixels as a file that is encoded as a whole.

use image::RgbImage;
use thiserror::Error;

use crate::cancel::{Cancel, Cancelled};

/// Side in pixels of a JPEG block. The height of every stripe except the last is a multiple of it.
const BLOCK: usize = 8;
/// Maximum number of pixels of a stripe, which take one or two milliseconds to encode. A stripe of
/// eight rows may have more pixels, because it cannot have fewer rows.
const STRIPE_PIXELS: usize = 1 << 18;

/// Second byte of the marker of a baseline frame header; the first byte of every marker is 0xFF.
const FRAME: u8 = 0xC0;
const RESTART: u8 = 0xD0;
const SCAN: u8 = 0xDA;
const RESTART_INTERVAL: u8 = 0xDD;

/// The reason why a JPEG was not written.
#[derive(Debug, Error)]
pub(crate) enum WriteJpegError {
    /// The encoder failed, for example because a side of the image is 0 or over 65,500 pixels, or
    /// it wrote headers that are not understood here.
    #[error("{0}")]
    Encoder(String),
    /// Encoding the image was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Encodes `image` as a JPEG file without chroma subsampling; `quality` is 1..=100.
///
/// # Errors
/// [`WriteJpegError`] if a side of `image` is 0 or over 65,500 pixels, or if `cancel` is cancelled
/// before the last stripe is encoded. An image of a single stripe is not checked for cancellation.
pub(crate) fn write_jpeg(
    image: &RgbImage,
    quality: u8,
    cancel: &Cancel,
) -> Result<Vec<u8>, WriteJpegError> {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let rows = stripe_rows(width);
    let encode = |pixels: &[u8]| {
        let rows = pixels.len() / 3 / width.max(1);
        compress(pixels, width, rows, quality).map_err(WriteJpegError::Encoder)
    };
    if height <= rows {
        return encode(image.as_raw());
    }
    let interval = width.div_ceil(BLOCK) * rows / BLOCK;
    let mut file = Vec::new();
    for (index, stripe) in image.as_raw().chunks(rows * width * 3).enumerate() {
        cancel.check()?;
        let stripe = encode(stripe)?;
        let data = scan_data(&stripe).ok_or_else(unexpected)?;
        if index == 0 {
            let headers = &stripe[..stripe.len() - data.len() - 2];
            write_headers(headers, height, interval, &mut file).ok_or_else(unexpected)?;
        } else {
            file.extend([0xFF, RESTART + ((index - 1) % 8) as u8]);
        }
        file.extend_from_slice(data);
    }
    file.extend([0xFF, 0xD9]);
    Ok(file)
}

/// Returns the height in pixels of the stripes of an image that is `width` pixels wide. It is a
/// multiple of [`BLOCK`], and a stripe has at most 65,535 blocks per color component, because a
/// file cannot state a longer interval between restart markers.
fn stripe_rows(width: usize) -> usize {
    let blocks = STRIPE_PIXELS / width.max(1) / BLOCK;
    blocks.clamp(1, u16::MAX as usize / width.div_ceil(BLOCK).max(1)) * BLOCK
}

fn unexpected() -> WriteJpegError {
    WriteJpegError::Encoder("the encoder wrote unknown headers".to_owned())
}

/// Encodes `pixels`, `[height, width, 3] u8`, as a JPEG without chroma subsampling. The error is
/// the encoder's message.
#[cfg(feature = "libjpeg-turbo")]
fn compress(pixels: &[u8], width: usize, height: usize, quality: u8) -> Result<Vec<u8>, String> {
    use libjpeg_turbo_rs::{PixelFormat, Subsampling, compress};

    compress(
        pixels,
        width,
        height,
        PixelFormat::Rgb,
        quality,
        Subsampling::S444,
    )
    .map_err(|error| error.to_string())
}

/// Encodes `pixels`, `[height, width, 3] u8`, as a JPEG without chroma subsampling. The error is
/// the encoder's message.
#[cfg(not(feature = "libjpeg-turbo"))]
fn compress(pixels: &[u8], width: usize, height: usize, quality: u8) -> Result<Vec<u8>, String> {
    use image::ExtendedColorType;
    use image::codecs::jpeg::JpegEncoder;

    let side = |side: usize| u32::try_from(side).map_err(|error| error.to_string());
    let mut file = Vec::new();
    JpegEncoder::new_with_quality(&mut file, quality)
        .encode(pixels, side(width)?, side(height)?, ExtendedColorType::Rgb8)
        .map_err(|error| error.to_string())?;
    Ok(file)
}

/// Returns the header segments of `file`, up to and including the scan header: for each segment,
/// the second byte of its marker, its offset in `file`, and its length with the marker in bytes.
fn segments(file: &[u8]) -> impl Iterator<Item = (u8, usize, usize)> + '_ {
    let mut at = 2;
    std::iter::from_fn(move || {
        let &[0xFF, marker, high, low] = file.get(at..)?.first_chunk()? else {
            return None;
        };
        let segment = (marker, at, 2 + usize::from(u16::from_be_bytes([high, low])));
        at = if marker == SCAN {
            file.len()
        } else {
            at + segment.2
        };
        Some(segment)
    })
}

/// Returns the entropy-coded data of a JPEG file with one scan, without the end marker. `None` if
/// the file has no scan header.
fn scan_data(file: &[u8]) -> Option<&[u8]> {
    let (_, start, length) = segments(file).find(|(marker, ..)| *marker == SCAN)?;
    file.get(start + length..file.len().checked_sub(2)?)
}

/// Appends `headers`, the headers of a stripe, to `out`. Their height is replaced by `height`, in
/// pixels, and a header is added that states a restart marker after every `interval` blocks.
/// Returns `None` if the frame header or the scan header is missing, or if a value exceeds 65,535.
fn write_headers(headers: &[u8], height: usize, interval: usize, out: &mut Vec<u8>) -> Option<()> {
    let mut headers = headers.to_vec();
    let (_, frame, _) = segments(&headers).find(|(marker, ..)| *marker == FRAME)?;
    let (_, scan, _) = segments(&headers).find(|(marker, ..)| *marker == SCAN)?;
    let height = u16::try_from(height).ok()?.to_be_bytes();
    headers
        .get_mut(frame + 5..frame + 7)?
        .copy_from_slice(&height);
    let [high, low] = u16::try_from(interval).ok()?.to_be_bytes();
    out.extend_from_slice(&headers[..scan]);
    out.extend([0xFF, RESTART_INTERVAL, 0, 4, high, low]);
    out.extend_from_slice(&headers[scan..]);
    Some(())
}

#[cfg(all(test, feature = "libjpeg-turbo"))]
mod tests {
    use libjpeg_turbo_rs::decompress;

    use super::*;

    fn image(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([(x * y / 7) as u8, (x + 3 * y) as u8, (x * x / 31 + y) as u8])
        })
    }

    #[test]
    fn stripes_decode_to_the_pixels_of_the_whole() {
        // In this order: an image of one stripe; of three stripes; with a last stripe of one row;
        // of the maximum width, with more than eight stripes, so that the numbers of its restart
        // markers repeat; of the maximum height; of one pixel.
        let sizes = [
            (40, 30),
            (1000, 700),
            (512, 513),
            (65_500, 81),
            (3, 65_500),
            (1, 1),
        ];
        for (width, height) in sizes {
            let image = image(width, height);
            let file = write_jpeg(&image, 90, &Cancel::never()).unwrap();
            let (w, h) = (width as usize, height as usize);
            let whole = compress(&image, w, h, 90).unwrap();
            let (got, expected) = (decompress(&file).unwrap(), decompress(&whole).unwrap());
            assert_eq!((got.width, got.height), (w, h));
            assert!(got.data == expected.data, "{width}x{height}");
            let stripes = h.div_ceil(stripe_rows(w));
            let most = whole.len() + 6 + stripes * 8;
            assert!(file.len() <= most, "{width}x{height}: {} bytes", file.len());
        }
    }

    #[test]
    fn a_restart_interval_fits_its_header() {
        for width in 1..=65_500 {
            let rows = stripe_rows(width);
            assert!(rows > 0 && rows.is_multiple_of(BLOCK), "{width}");
            assert!(width.div_ceil(BLOCK) * rows / BLOCK <= 65_535, "{width}");
        }
    }

    #[test]
    fn a_cancelled_image_is_not_encoded() {
        let cancel = Cancel::never();
        cancel.cancel();
        let error = write_jpeg(&image(1000, 700), 90, &cancel).unwrap_err();
        assert!(matches!(error, WriteJpegError::Cancelled(_)), "{error}");
    }
}
