//! Decoding of a large baseline JPEG from a reader that fails when the decoding is cancelled.
//!
//! The decoder's other functions take the whole file and return when they have decoded it. From a reader, it decodes
//! the rows of units whose data it has, so an error of the reader stops it between two rows. The pixels are the same.
//! After the last row, the decoder upsamples chroma and converts colors, which cannot be stopped; this takes 3.5 ms per
//! megapixel, a third of the time.
//!
//! What is *not* here: grayscale, CMYK, and files with several scans. The decoder reads these completely before it
//! decodes them.

use std::io::Read;

use libjpeg_turbo_rs::{JpegError, decompress_from_reader_incremental};

use super::super::reader::CancellableReader;
use super::head::Head;
use crate::cancel::Cancel;
use crate::image::{ImageError, ImageSize};

/// Least number of pixels of an image that is decoded from a reader. Smaller ones are decoded within the time in which
/// a cancelled decode has to stop.
const LEAST_PIXELS: u64 = 4_000_000;
/// Least width and height of the image. Planes are padded to whole units of up to 32 by 32 pixels, for which the
/// predicted memory has no room if the image is narrow.
const LEAST_SIDE: u32 = 512;
/// Bytes that are read between two checks for cancellation: what the decoder asks for at a time. It decodes the last,
/// incomplete row of units again after each read, so smaller parts would cost time. With this size, 12 megapixels take
/// as long as without a reader, and 48 megapixels, whose rows are longer, 14 % longer.
const PART: usize = 64 << 10;

/// A file that is decoded from a reader.
pub(super) struct Stream<'a> {
    head: Head<'a>,
}

impl<'a> Stream<'a> {
    /// Returns the stream of a file of `size` that the module `check` has accepted. `None` if the image is small, or
    /// if the file is none that the decoder decodes while it reads.
    pub(super) fn of(bytes: &'a [u8], size: ImageSize) -> Option<Self> {
        let narrow = size.width.min(size.height) < LEAST_SIDE;
        if narrow || size.pixels() < LEAST_PIXELS {
            return None;
        }
        Self::with(bytes)
    }

    /// Returns the stream as [`Stream::of`] does, whatever the size of the image is.
    fn with(bytes: &'a [u8]) -> Option<Self> {
        let head = Head::read(bytes)?;
        let (precision, components) = (*head.frame.first()?, *head.frame.get(5)?);
        (precision == 8 && components == 3 && head.scan.first() == Some(&3))
            .then_some(Self { head })
    }

    /// Decodes the image to RGB, `[H, W, 3] u8`. The decoder's error is converted by `error`.
    pub(super) fn decode(
        self,
        error: fn(JpegError) -> ImageError,
        cancel: &Cancel,
    ) -> Result<Vec<u8>, ImageError> {
        let data = CancellableReader::new(self.head.data, PART, cancel);
        let decoded = decompress_from_reader_incremental(self.head.bytes.as_slice().chain(data));
        cancel.check()?;
        Ok(decoded.map_err(error)?.data)
    }
}

/// Decodes a file of any size as a stream, for the fuzz target. `None` if the file is not decoded as a stream.
#[cfg(any(test, feature = "fuzzing"))]
pub(in crate::image) fn decode_any_size(bytes: &[u8]) -> Option<Result<Vec<u8>, ImageError>> {
    super::check::check(bytes).ok()?;
    let stream = Stream::with(bytes)?;
    Some(stream.decode(super::turbo::error, &Cancel::never()))
}

#[cfg(test)]
mod tests {
    use libjpeg_turbo_rs::{Encoder, PixelFormat};

    use super::super::{check, turbo};
    use super::*;

    const SIZE: ImageSize = ImageSize {
        width: 517,
        height: 1203,
    };
    const SAMPLINGS: [&[(u8, u8)]; 5] = [
        &[(1, 1), (1, 1), (1, 1)],
        &[(2, 1), (1, 1), (1, 1)],
        &[(2, 2), (1, 1), (1, 1)],
        &[(1, 2), (1, 1), (1, 1)],
        &[(4, 2), (1, 1), (1, 1)],
    ];

    /// Returns a file of [`SIZE`] of about 400 kB, so that it is read in several parts.
    fn file(sampling: &[(u8, u8)], interval: u16) -> Vec<u8> {
        let (width, height) = (SIZE.width as usize, SIZE.height as usize);
        let sample = |i: usize| {
            let (x, y) = (i / 3 % width, i / 3 / width);
            let noise = (i.wrapping_mul(2_654_435_761) >> 16) % 48;
            (x / 3 + y / 2 * (i % 3 + 1) + noise) as u8
        };
        let samples: Vec<u8> = (0..width * height * 3).map(sample).collect();
        let encoder = Encoder::new(&samples, width, height, PixelFormat::Rgb).quality(90);
        let encoder = encoder.sampling_factors(sampling.to_vec());
        encoder.restart_blocks(interval).encode().unwrap()
    }

    fn streamed(file: &[u8], cancel: &Cancel) -> Result<Vec<u8>, ImageError> {
        let stream = Stream::with(file).unwrap();
        stream.decode(turbo::error, cancel)
    }

    fn whole(file: &[u8]) -> Result<Vec<u8>, ImageError> {
        turbo::whole(file, SIZE, &Cancel::never())
    }

    #[test]
    fn a_stream_has_the_pixels_of_the_whole_file() {
        for sampling in SAMPLINGS {
            for interval in [0, 5] {
                let file = file(sampling, interval);
                assert!(file.len() > 2 * PART, "{} bytes", file.len());
                let same = streamed(&file, &Cancel::never()) == whole(&file);
                assert!(same, "{sampling:?} every {interval}");
            }
        }
    }

    /// Checks that changed bytes lead to the same pixels or to an error in both functions of the decoder.
    #[test]
    fn damaged_files_are_rejected_as_before() {
        let originals = [file(SAMPLINGS[0], 0), file(SAMPLINGS[2], 5)];
        let mut random = crate::testing::random::Random::new(5);
        let (mut decoded, mut rejected) = (0, 0);
        for round in 0..60 {
            let mut file = originals[round % 2].clone();
            let at = 700 + random.below(file.len() - 1400);
            if round % 3 == 0 {
                // The data of the last units are missing.
                file.drain(at..at + 1 + random.below(400));
            } else {
                file[at] = random.below(256) as u8;
            }
            if check::check(&file).is_err() {
                continue;
            }
            let (streamed, whole) = (streamed(&file, &Cancel::never()), whole(&file));
            assert_eq!(streamed.is_ok(), whole.is_ok(), "round {round}");
            match (streamed, whole) {
                (Ok(streamed), Ok(whole)) => {
                    assert!(streamed == whole, "round {round}");
                    decoded += 1;
                }
                _ => rejected += 1,
            }
        }
        assert!(decoded > 5 && rejected > 2, "{decoded}, {rejected}");
    }

    #[test]
    fn a_cancelled_decode_stops() {
        let cancel = Cancel::never();
        cancel.cancel();
        let result = streamed(&file(SAMPLINGS[2], 0), &cancel);
        assert!(matches!(result, Err(ImageError::Cancelled(_))));
    }

    #[test]
    fn small_and_narrow_images_are_not_streamed() {
        let file = file(SAMPLINGS[2], 0);
        let streams = |width, height| Stream::of(&file, ImageSize { width, height }).is_some();
        assert!(streams(2000, 2000));
        assert!(!streams(1999, 2000));
        assert!(!streams(511, 60_000));
        assert!(!streams(60_000, 511));
    }
}
