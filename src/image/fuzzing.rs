//! A checked decoder for arbitrary bytes, which the fuzz targets for images in `fuzz/` and the test
//! below call.

use super::{
    DecodeJob, DecodeOptions, ImageError, ImageHeader, ImageSize, Orientation, Scale,
    decode_scaled, probe,
};
use crate::cancel::Cancel;

/// Maximum number of pixels of an image that `decode_checked` decodes. It is small, so that a run
/// covers many images, but permits images with one side of up to 65,536 pixels.
pub const MAX_PIXELS: u64 = 1 << 16;

/// Maximum size of an error message in bytes. The client receives the message, so decoders must not
/// copy unlimited input into it.
const MAX_MESSAGE: usize = 300;

/// Decodes a file at `scale` as the server does, and checks the result against the file's headers.
/// Returns the samples, `[H, W, 3] u8`.
///
/// # Errors
/// The errors of [`decode_scaled`], with [`ImageError::TooManyPixels`] for more than [`MAX_PIXELS`]
/// pixels.
///
/// # Panics
/// If the decoded image does not have the size that [`probe()`] returns, possibly rotated, by which
/// the server reserves memory; if a file is decoded although [`probe()`] rejects it or it has too
/// many pixels; or if an error names a format other than the file's or has a message of more than
/// 300 bytes.
pub fn decode_checked(
    bytes: &[u8],
    orientation: Orientation,
    scale: Scale,
) -> Result<Vec<u8>, ImageError> {
    let options = DecodeOptions {
        max_pixels: MAX_PIXELS,
        orientation,
    };
    let probed = probe(bytes);
    let cancel = Cancel::never();
    let job = DecodeJob {
        scale,
        ..DecodeJob::alone(&cancel)
    };
    let decoded = decode_scaled(bytes, &options, job).map(|decoded| decoded.pixels);
    match (&probed, &decoded) {
        (Ok(header), Ok(image)) => {
            let (width, height) = image.dimensions();
            check_size(header, ImageSize { width, height }, orientation, scale);
        }
        (Ok(header), Err(error)) => check_error(header, error),
        (Err(expected), _) => assert_eq!(decoded.as_ref().err(), Some(expected)),
    }
    if let Err(error) = &decoded {
        let message = error.to_string();
        assert!(message.len() <= MAX_MESSAGE, "{message}");
    }
    decoded.map(image::RgbImage::into_raw)
}

fn check_size(header: &ImageHeader, decoded: ImageSize, orientation: Orientation, scale: Scale) {
    let stored = header.size;
    assert!((1..=MAX_PIXELS).contains(&stored.pixels()), "{stored:?}");
    let stored = header.scale(scale).of(stored);
    let rotated = ImageSize {
        width: stored.height,
        height: stored.width,
    };
    let may_rotate = orientation == Orientation::Apply && header.is_turned();
    let expected = decoded == stored || (may_rotate && decoded == rotated);
    assert!(expected, "probed {stored:?}, decoded {decoded:?}");
}

fn check_error(header: &ImageHeader, error: &ImageError) {
    match error {
        ImageError::Damaged { format, .. } | ImageError::UnsupportedFeature { format, .. } => {
            assert_eq!(*format, header.format);
        }
        ImageError::TooManyPixels { .. } => assert!(header.size.pixels() > MAX_PIXELS),
        other => panic!("decoding returned {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;
    use crate::testing::mutation::{image_seeds, mutated};
    use crate::testing::random::Random;

    /// Number of mutated files that are made of each file in `tests/golden/images`.
    const MUTATIONS: usize = 1_000;

    /// Calls the function that the fuzz targets run, on mutated files that are the same in every
    /// run. If it panics, the test fails with the number of the mutation and the name of the
    /// original file, by which [`mutated`] can make the mutated file again.
    #[test]
    fn mutated_images_decode_as_probed_or_are_errors() {
        let seeds = image_seeds();
        let (mut decoded, mut rejected) = (0, 0);
        for (index, (name, seed)) in seeds.iter().enumerate() {
            let mut random = Random::new(index as u64);
            for mutation in 0..MUTATIONS {
                let other = &seeds[random.below(seeds.len())].1;
                let bytes = mutated(seed, other, &mut random);
                let results = catch_unwind(|| {
                    [
                        (Orientation::Ignore, Scale::Full),
                        (Orientation::Apply, Scale::Full),
                        (Orientation::Apply, Scale::Half),
                        (Orientation::Apply, Scale::Eighth),
                    ]
                    .map(|(turn, scale)| decode_checked(&bytes, turn, scale))
                });
                let [stored, others @ ..] =
                    results.unwrap_or_else(|_| panic!("mutation {mutation} of {name}"));
                for other in others {
                    assert_eq!(
                        stored.is_ok(),
                        other.is_ok(),
                        "mutation {mutation} of {name}"
                    );
                }
                match stored {
                    Ok(_) => decoded += 1,
                    Err(_) => rejected += 1,
                }
            }
        }
        // If nearly all mutated files were rejected, or most of them were decoded, the test would
        // cover little of the decoders.
        let total = decoded + rejected;
        assert!(
            decoded > total / 20 && rejected > total / 4,
            "{decoded} of {total}"
        );
    }
}
