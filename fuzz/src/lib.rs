//! The work of the fuzz targets for images, with two checks that need an allocator of its own: the peak of memory and
//! the use of uninitialized memory. What the targets assert besides is in `sightline::image::fuzzing` and
//! `sightline::http::fuzzing`.

mod allocator;

use allocator::measured;
use libfuzzer_sys::Corpus;
use sightline::image::fuzzing::decode_checked;
use sightline::image::{ImageError, ImageFormat, ImageHeader, Orientation, probe};

/// Bytes that decoding may hold beyond the prediction: `decode` promises the bytes per pixel plus 4 MiB, and the
/// prediction contains 1 MiB of those.
const BEYOND_PREDICTION: u64 = 3 << 20;

/// Probes and decodes a file as `format` and applies its orientation.
///
/// Files of other formats are rejected from the corpus, so that each target stays with its own.
///
/// # Panics
/// If an invariant does not hold: those of [`decode_checked`]; peak memory within the prediction that memory is
/// reserved by; and the same result whatever fresh memory contains.
pub fn image(format: ImageFormat, bytes: &[u8]) -> Corpus {
    let header = match probe(bytes) {
        Ok(header) if header.format == format => header,
        Err(
            ImageError::Damaged { format: of, .. }
            | ImageError::UnsupportedFeature { format: of, .. },
        ) if of == format => return Corpus::Keep,
        _ => return Corpus::Reject,
    };
    let first = decode(&header, bytes, Orientation::Ignore, 0xA5);
    let second = decode(&header, bytes, Orientation::Ignore, 0x5A);
    assert!(
        first == second,
        "the result depends on uninitialized memory"
    );
    if header.is_turned() {
        let turned = decode(&header, bytes, Orientation::Apply, 0xA5);
        assert_eq!(turned.is_ok(), first.is_ok());
    }
    Corpus::Keep
}

type Decoded = Result<Vec<u8>, ImageError>;

/// Decodes a file with fresh memory filled with `fill`, and checks the peak of memory.
fn decode(header: &ImageHeader, bytes: &[u8], orientation: Orientation, fill: u8) -> Decoded {
    let (decoded, peak) = measured(fill, || decode_checked(bytes, orientation));
    let turned = orientation == Orientation::Apply;
    let predicted = header.decode_cost(bytes.len(), turned).peak_bytes;
    assert!(
        peak as u64 <= predicted + BEYOND_PREDICTION,
        "decoding {:?} {:?} held {peak} bytes, predicted are {predicted}",
        header.size,
        header.coding,
    );
    decoded
}
