//! Checks every image decoder with mutated and truncated files: a decoder must not panic, return an
//! image of another size than the header states, or use more memory than an image of that size
//! needs.

use std::path::Path;

use sightline::image::{DecodeOptions, Orientation, check_density, decode, probe};

/// Maximum number of pixels of an image; `decode` rejects files whose header states more.
const MAX_PIXELS: u64 = 1 << 20;
const OPTIONS: DecodeOptions = DecodeOptions {
    max_pixels: MAX_PIXELS,
    orientation: Orientation::Ignore,
};
/// Number of mutated versions of each image file that are decoded.
const ROUNDS: usize = 60;

/// Linear congruential generator of pseudo-random values. Source: Knuth, MMIX.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

/// Returns the name and content of each image file in `tests/golden/images`, sorted by name.
fn golden() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let extension = path.extension().unwrap_or_default();
            ["jpg", "png", "webp", "bmp", "gif"]
                .iter()
                .any(|known| extension == *known)
        })
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read(&path).unwrap())
        })
        .collect();
    files.sort();
    files
}

/// Returns a copy of `original` with one to three random mutations, most of them in the first 96
/// bytes. A mutation changes a byte, removes up to 8 bytes, repeats the end of the file, or
/// truncates the file.
fn mutated(original: &[u8], random: &mut Random) -> Vec<u8> {
    let mut file = original.to_vec();
    for _ in 0..=random.below(3) {
        let reach = if random.below(3) > 0 {
            file.len().min(96)
        } else {
            file.len()
        };
        let at = random.below(reach.max(1)).min(file.len().saturating_sub(1));
        match random.below(8) {
            0 => file.truncate(at),
            1 => drop(file.drain(at..(at + 1 + random.below(8)).min(file.len()))),
            2 => file.extend_from_within(at..),
            3 if !file.is_empty() => file[at] ^= 1 << random.below(8),
            4 if !file.is_empty() => file[at] = [0, 0xFF, 0x7F, 0x80][random.below(4)],
            _ if !file.is_empty() => file[at] = random.below(256) as u8,
            _ => {}
        }
    }
    file
}

fn peak_kilobytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}

#[test]
fn mutated_files_decode_to_the_stated_size_or_fail() {
    let files = golden();
    assert!(files.len() > 100, "{}", files.len());
    let mut random = Random(11);
    let (mut decoded, mut failed) = (0, 0);
    for (name, original) in &files {
        for round in 0..ROUNDS {
            let file = mutated(original, &mut random);
            let Ok(header) = probe(&file) else {
                failed += 1;
                continue;
            };
            match decode(&file, &OPTIONS) {
                Ok(image) => {
                    let stated = (header.size.width, header.size.height);
                    assert_eq!(image.dimensions(), stated, "{name}, round {round}");
                    decoded += 1;
                }
                Err(_) => failed += 1,
            }
        }
    }
    assert!(
        decoded > 500 && failed > 500,
        "{decoded} files decoded, {failed} failed"
    );
    // The limit of 128 MiB for peak memory covers 17 bytes per pixel of the largest image, 4 MiB of
    // metadata, and the process itself.
    let peak = peak_kilobytes();
    assert!(peak < 128 << 10, "peak memory {peak} kB");
}

#[test]
fn every_cut_of_a_small_file_fails_or_decodes_to_the_stated_size() {
    for (name, file) in golden().iter().filter(|(_, file)| file.len() < 2500) {
        for length in (1..file.len()).step_by(7) {
            let cut = &file[..length];
            let header = probe(cut).map(|header| (header.size.width, header.size.height));
            if let Ok(image) = decode(cut, &OPTIONS) {
                assert_eq!(Ok(image.dimensions()), header, "{name} cut at {length}");
            }
        }
    }
}

#[test]
fn dense_files_are_told_from_plain_graphics() {
    let limit = sightline::app::Limits::default().max_pixels_per_byte;
    let rejected = |width, height, bytes| {
        check_density(sightline::image::ImageSize { width, height }, bytes, limit).is_err()
    };
    // Valid images with a single color must not be rejected. The file sizes (last argument, in
    // bytes) are what encoders for lossless WebP, GIF and PNG with a palette write.
    assert!(!rejected(1280, 720, 86));
    assert!(!rejected(3840, 2160, 394));
    assert!(!rejected(7000, 7000, 1934));
    assert!(!rejected(7000, 7000, 6037));
    // Images of up to 1,048,576 pixels are accepted at any file size.
    assert!(!rejected(1024, 1024, 30));
    // Malicious files that state 50 million pixels must be rejected. Known files have these sizes
    // in bytes: GIF 35, WebP 42 and 94, BMP 64.
    for bytes in [35, 42, 64, 94] {
        assert!(rejected(7071, 7071, bytes), "{bytes} bytes");
    }
}
