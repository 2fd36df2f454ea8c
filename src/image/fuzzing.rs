//! Entry point of the fuzz targets for images (`fuzz/`) and of the test with mutated images below.

use super::{DecodeOptions, ImageError, ImageHeader, ImageSize, Orientation, decode, probe};

/// Most pixels of an image that is decoded. Few, so that a run covers many images; sides up to 65,536 remain possible.
pub const MAX_PIXELS: u64 = 1 << 16;

/// Most bytes of an error message, which is sent to the client.
const MAX_MESSAGE: usize = 300;

/// Decodes a file as the server does. Returns the samples, `[H, W, 3] u8`.
///
/// # Errors
/// Those of [`decode()`]; [`ImageError::TooManyPixels`] for more than [`MAX_PIXELS`].
///
/// # Panics
/// If the decoded size is not the one that [`probe()`] returns, which memory is reserved by; if a file is decoded that
/// [`probe()`] rejects or that has too many pixels; or if an error names another format or has a long message.
pub fn decode_checked(bytes: &[u8], orientation: Orientation) -> Result<Vec<u8>, ImageError> {
    let options = DecodeOptions {
        max_pixels: MAX_PIXELS,
        orientation,
    };
    let probed = probe(bytes);
    let decoded = decode(bytes, &options);
    match (&probed, &decoded) {
        (Ok(header), Ok(image)) => {
            let (width, height) = image.dimensions();
            check_size(header, ImageSize { width, height }, orientation);
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

fn check_size(header: &ImageHeader, decoded: ImageSize, orientation: Orientation) {
    let stored = header.size;
    assert!((1..=MAX_PIXELS).contains(&stored.pixels()), "{stored:?}");
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

    /// Mutations of each file in `tests/golden/images`.
    const MUTATIONS: usize = 1_000;

    /// Runs the same code as the fuzz targets on a fixed set of inputs. Panics name the input, from which
    /// [`mutated`] makes it again.
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
                    [Orientation::Ignore, Orientation::Apply]
                        .map(|turn| decode_checked(&bytes, turn))
                });
                let [stored, upright] =
                    results.unwrap_or_else(|_| panic!("mutation {mutation} of {name}"));
                assert_eq!(
                    stored.is_ok(),
                    upright.is_ok(),
                    "mutation {mutation} of {name}"
                );
                match stored {
                    Ok(_) => decoded += 1,
                    Err(_) => rejected += 1,
                }
            }
        }
        // Mutations that all fail early, or change nothing, would test nothing.
        let total = decoded + rejected;
        assert!(
            decoded > total / 20 && rejected > total / 4,
            "{decoded} of {total}"
        );
    }
}
