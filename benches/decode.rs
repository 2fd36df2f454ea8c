//! Measures CPU time and peak memory of decoding, and compares them with the predictions that `src/image/cost.rs`
//! makes from the image header.
//!
//! ```sh
//! cargo bench --bench decode -- FILE...
//! ```
//!
//! Prints one line per file and scale: name, scale, coding, megapixels, CPU time in nanoseconds per pixel, peak
//! memory in bytes per pixel, and the error if decoding fails. The predicted time and memory follow
//! the measured values in parentheses. Each file is decoded in its own process, because the peak
//! memory of a process (`VmHWM`) never falls. Without arguments, the photographs in `tests/photos`
//! are decoded.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a developer tool prints its results and may panic"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use sightline::cancel::Cancel;
use sightline::image::{DecodeJob, DecodeOptions, Orientation, Scale, decode_scaled, probe};

const OPTIONS: DecodeOptions = DecodeOptions {
    max_pixels: 1 << 30,
    orientation: Orientation::Apply,
};
/// Duration for which the decoding of a file is repeated; the fastest repetition is reported.
const PATIENCE: Duration = Duration::from_secs(1);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, file, divisor] = arguments.as_slice()
        && flag == "--one"
    {
        let scales = Scale::ALL.into_iter();
        let mut scales = scales.filter(|scale| scale.divisor().to_string() == *divisor);
        return one(file.as_ref(), scales.next().unwrap());
    }
    let mut files: Vec<PathBuf> = arguments
        .iter()
        .filter(|argument| !argument.starts_with("--"))
        .map(PathBuf::from)
        .collect();
    if files.is_empty() {
        let photos = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/photos");
        let entries = std::fs::read_dir(photos).unwrap();
        files.extend(entries.map(|entry| entry.unwrap().path()));
        files.sort();
    }
    println!(
        "file, scale, coding, megapixels, ns per pixel (predicted), bytes per pixel (predicted)"
    );
    for file in files {
        for scale in Scale::ALL {
            let itself = std::env::current_exe().unwrap();
            let mut command = Command::new(itself);
            command.arg("--one").arg(&file);
            command.arg(scale.divisor().to_string());
            assert!(command.status().unwrap().success());
        }
    }
}

/// Measures the decoding of `file` at `scale` and prints the results as one line. Prints nothing if
/// the image header cannot be parsed, or if the image cannot be decoded at this scale.
fn one(file: &Path, scale: Scale) {
    let bytes = std::fs::read(file).unwrap();
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let Ok(header) = probe(&bytes) else {
        return;
    };
    if header.scale(scale) != scale {
        return;
    }
    let pixels = header.size.pixels() as f64;
    let predicted = header.decode_cost(bytes.len(), true, scale);
    let before = status("VmRSS:");
    let cancel = Cancel::never();
    let job = DecodeJob {
        scale,
        ..DecodeJob::alone(&cancel)
    };
    let outcome = decode_scaled(&bytes, &OPTIONS, job).map(|_| ());
    let peak = status("VmHWM:").saturating_sub(before);
    let started = Instant::now();
    let mut fastest = u64::MAX;
    while started.elapsed() < PATIENCE {
        let begun = thread_nanos();
        let _ = decode_scaled(&bytes, &OPTIONS, job);
        fastest = fastest.min(thread_nanos() - begun);
    }
    println!(
        "{name}, 1/{}, {:?}, {:.2}, {:.2} ({:.2}), {:.2} ({:.2}){}",
        scale.divisor(),
        header.coding,
        pixels / 1e6,
        fastest as f64 / pixels,
        predicted.nanos as f64 / pixels,
        peak as f64 / pixels,
        predicted.peak_bytes as f64 / pixels,
        outcome.map_or_else(|error| format!(", {error}"), |()| String::new()),
    );
}

/// Returns the CPU time of this thread in nanoseconds. Unlike elapsed time, it excludes time spent waiting for a CPU.
fn thread_nanos() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// Returns the value of the field `name` (such as `VmRSS:`) of `/proc/self/status`, converted from
/// kB to bytes.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes = line.unwrap().trim().trim_end_matches(" kB");
    kilobytes.parse::<u64>().unwrap() << 10
}
