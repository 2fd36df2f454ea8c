//! The code that the fuzz targets share. It checks the peak memory of reading a file, and that decoded
//! images do not depend on uninitialized memory; both checks need a special allocator. It also checks the
//! CPU time of one input, because libFuzzer's own limit is one of wall time, which a busy machine exceeds. The
//! other assertions of the fuzz targets are in the modules `fuzzing` of `sightline` and `onnx_export`.

mod allocator;

use allocator::measured;
use std::time::Duration;

use libfuzzer_sys::Corpus;
use onnx_export::fuzzing::{MEMORY_FACTOR, MEMORY_SLACK};
use rustix::time::{ClockId, clock_gettime};
use sightline::image::fuzzing::decode_checked;
use sightline::image::{ImageError, ImageFormat, ImageHeader, Orientation, Scale, probe};

/// Number of bytes that decoding may hold beyond the predicted peak. `decode` promises at most the
/// predicted bytes per pixel plus 4 MiB, and 1 MiB of these 4 is part of the predicted peak.
const BEYOND_PREDICTION: u64 = 3 << 20;

/// CPU time that one input may take. The slowest seeds take a tenth of it under AddressSanitizer.
const MAX_CPU_TIME: Duration = Duration::from_secs(5);

/// Runs `work` on one input and returns its result.
///
/// # Panics
/// If `work` panics, or takes more than `MAX_CPU_TIME` of this thread.
pub fn timed<T>(work: impl FnOnce() -> T) -> T {
    let before = cpu_time();
    let result = work();
    let took = cpu_time().saturating_sub(before);
    assert!(took <= MAX_CPU_TIME, "the input took {took:?} of CPU time");
    result
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Probes a file of `format`, decodes it at every scale twice with different contents of newly
/// allocated memory, and once more with its orientation applied if the orientation turns it.
///
/// Files of other formats are rejected from the corpus, so that each fuzz target keeps to its own
/// format.
///
/// # Panics
/// If an invariant of [`decode_checked`] does not hold, if the file takes more than `MAX_CPU_TIME`, if decoding holds more memory than the
/// prediction plus 3 MiB, if the result depends on the content of newly allocated memory, or if the
/// file is decoded at one scale and rejected at another.
pub fn image(format: ImageFormat, bytes: &[u8]) -> Corpus {
    timed(|| decode_all(format, bytes))
}

fn decode_all(format: ImageFormat, bytes: &[u8]) -> Corpus {
    let header = match probe(bytes) {
        Ok(header) if header.format == format => header,
        Err(
            ImageError::Damaged { format: of, .. }
            | ImageError::UnsupportedFeature { format: of, .. },
        ) if of == format => return Corpus::Keep,
        _ => return Corpus::Reject,
    };
    let scales = Scale::ALL.into_iter();
    let results = scales
        .filter(|scale| header.scale(*scale) == *scale)
        .map(|scale| {
            let first = decode(&header, bytes, (Orientation::Ignore, scale), 0xA5);
            let second = decode(&header, bytes, (Orientation::Ignore, scale), 0x5A);
            assert!(
                first == second,
                "the result depends on uninitialized memory"
            );
            if header.is_turned() {
                let turned = decode(&header, bytes, (Orientation::Apply, scale), 0xA5);
                assert_eq!(turned.is_ok(), first.is_ok());
            }
            first.is_ok()
        });
    let results: Vec<bool> = results.collect();
    assert!(results.iter().all(|decoded| *decoded == results[0]));
    Corpus::Keep
}

/// Calls `read`, a function that reads a file which is not an image.
///
/// # Panics
/// If `read` panics, takes more than `MAX_CPU_TIME`, or holds more than [`MEMORY_FACTOR`] times the size of the file plus
/// [`MEMORY_SLACK`] bytes.
pub fn bounded(bytes: &[u8], read: fn(&[u8]) -> bool) {
    let (_, peak) = measured(0xA5, || timed(|| read(bytes)));
    let most = MEMORY_FACTOR * bytes.len() + MEMORY_SLACK;
    assert!(
        peak <= most,
        "reading {} bytes held {peak} bytes, at most {most} are allowed",
        bytes.len()
    );
}

type Decoded = Result<Vec<u8>, ImageError>;

/// Decodes a file while newly allocated memory is filled with the byte `fill`, and checks that the
/// peak memory does not exceed the prediction by more than `BEYOND_PREDICTION`.
fn decode(
    header: &ImageHeader,
    bytes: &[u8],
    (orientation, scale): (Orientation, Scale),
    fill: u8,
) -> Decoded {
    let (decoded, peak) = measured(fill, || decode_checked(bytes, orientation, scale));
    let turned = orientation == Orientation::Apply;
    let predicted = header.decode_cost(bytes.len(), turned, scale).peak_bytes;
    assert!(
        peak as u64 <= predicted.saturating_add(BEYOND_PREDICTION),
        "decoding {:?} {:?} held {peak} bytes, predicted are {predicted}",
        header.size,
        header.coding,
    );
    decoded
}
