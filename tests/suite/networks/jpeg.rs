//! Checks that JPEG files decode to the same pixels as in Pillow for every chroma sampling, coding
//! and size, that damaged files are rejected, and that no file makes the decoder panic, take
//! quadratic time or exceed its memory limit.

use crate::reference;
use std::path::PathBuf;

use crate::common::{odd, photo, read};
use crate::reference::shared::random::Random;
use libjpeg_turbo_rs::{Decoder, Encoder, PixelFormat, ScalingFactor};
use sha2::{Digest, Sha256};
use sightline::cancel::Cancel;
use sightline::image::{
    DecodeJob, DecodeOptions, ImageError, Orientation, Scale, decode, decode_scaled,
};

const OPTIONS: DecodeOptions = DecodeOptions {
    max_pixels: 1 << 26,
    orientation: Orientation::Ignore,
};
const SIZES: [(usize, usize); 15] = [
    (1, 1),
    (1, 17),
    (17, 1),
    (2, 2),
    (3, 3),
    (4, 5),
    (5, 4),
    (8, 8),
    (15, 33),
    (16, 16),
    (33, 15),
    (31, 64),
    (63, 31),
    (64, 64),
    (101, 67),
];
/// Horizontal and vertical sampling factors of the components Y, Cb and Cr of color files.
const SAMPLINGS: [&[(u8, u8)]; 9] = [
    &[(1, 1), (1, 1), (1, 1)],
    &[(2, 1), (1, 1), (1, 1)],
    &[(2, 2), (1, 1), (1, 1)],
    &[(1, 2), (1, 1), (1, 1)],
    &[(4, 1), (1, 1), (1, 1)],
    &[(1, 4), (1, 1), (1, 1)],
    &[(4, 2), (1, 1), (1, 1)],
    &[(2, 2), (2, 1), (1, 2)],
    &[(2, 2), (1, 2), (1, 1)],
];
/// Horizontal and vertical sampling factors of the four components of CMYK and YCCK files.
const INK_SAMPLINGS: [&[(u8, u8)]; 7] = [
    &[(1, 1), (1, 1), (1, 1), (1, 1)],
    &[(2, 1), (1, 1), (1, 1), (2, 1)],
    &[(2, 2), (1, 1), (1, 1), (2, 2)],
    &[(1, 2), (1, 1), (1, 1), (1, 2)],
    &[(4, 1), (1, 1), (1, 1), (4, 1)],
    &[(2, 2), (1, 1), (1, 1), (1, 1)],
    &[(2, 1), (1, 1), (1, 1), (1, 1)],
];

/// Returns the interleaved samples (u8) of a generated image with gradients, edges and noise.
fn samples(width: usize, height: usize, channels: usize) -> Vec<u8> {
    let sample = |i: usize| {
        let (x, y, c) = (i / channels % width, i / channels / width, i % channels);
        let noise = (i.wrapping_mul(2_654_435_761) >> 16) % 48;
        let edge = if (x / 5 + y / 7 + c) % 3 == 0 { 90 } else { 0 };
        (x * 2 + y * (c + 1) + edge + noise) as u8
    };
    (0..width * height * channels).map(sample).collect()
}

/// Names of the encoder settings that [`encode`] knows.
const WAYS: [&str; 5] = ["plain", "optimized", "restarts", "progressive", "rough"];

fn encode(
    width: usize,
    height: usize,
    format: PixelFormat,
    way: &str,
    sampling: &[(u8, u8)],
) -> Vec<u8> {
    let samples = samples(width, height, format.bytes_per_pixel());
    let encoder = Encoder::new(&samples, width, height, format).quality(88);
    let encoder = match way {
        "optimized" => encoder.optimize_huffman(true).quality(100),
        "restarts" => encoder.restart_blocks(3),
        "progressive" => encoder.progressive(true),
        "rough" => encoder.quality(6),
        _ => encoder,
    };
    encoder
        .sampling_factors(sampling.to_vec())
        .encode()
        .unwrap()
}

/// Turns a CMYK file into a YCCK file by changing the transform byte of its Adobe segment.
fn as_ycck(mut file: Vec<u8>) -> Vec<u8> {
    let adobe = file.windows(5).position(|bytes| bytes == b"Adobe").unwrap();
    file[adobe + 11] = 2;
    file
}

/// Returns the offset of the `n`-th occurrence (from 0) of the marker `0xFF marker`.
fn find(file: &[u8], marker: u8, n: usize) -> usize {
    let mut places = file
        .windows(2)
        .enumerate()
        .filter(|(_, two)| **two == [0xFF, marker]);
    places.nth(n).unwrap().0
}

/// Returns the file cut before the `n`-th occurrence (from 0) of the marker `0xFF marker`, followed
/// by an end marker.
fn ended_before(file: &[u8], marker: u8, n: usize) -> Vec<u8> {
    [&file[..find(file, marker, n)], &[0xFF, 0xD9]].concat()
}

fn generated() -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for (width, height) in SIZES {
        for way in WAYS {
            let mut add =
                |name: String, file| files.push((format!("{name} {way} {width}x{height}"), file));
            for sampling in SAMPLINGS {
                let file = encode(width, height, PixelFormat::Rgb, way, sampling);
                add(format!("{sampling:?}"), file);
            }
            for sampling in INK_SAMPLINGS {
                let file = encode(width, height, PixelFormat::Cmyk, way, sampling);
                add(format!("CMYK {sampling:?}"), file.clone());
                add(format!("YCCK {sampling:?}"), as_ycck(file));
            }
            for sampling in [(1, 1), (2, 2)] {
                let file = encode(width, height, PixelFormat::Grayscale, way, &[sampling]);
                add(format!("gray {sampling:?}"), file);
            }
        }
    }
    // Pillow's libjpeg smooths a progressive image whose last scans are missing, for display while
    // the file is downloaded; the decoder must do the same.
    let progressive = encode(101, 67, PixelFormat::Rgb, "progressive", SAMPLINGS[2]);
    for scans in 1..6 {
        files.push((
            format!("{scans} scans"),
            ended_before(&progressive, 0xDA, scans),
        ));
    }
    files
}

/// Returns the pixels at `scale` of a file that libjpeg-turbo can decode at a reduced scale.
fn reduced(file: &[u8], scale: Scale) -> Vec<u8> {
    let mut decoder = Decoder::new(file).unwrap();
    decoder.set_output_format(PixelFormat::Rgb);
    decoder.set_block_smoothing(true);
    decoder.set_scale(ScalingFactor::try_new(1, scale.divisor()).unwrap());
    decoder.decode_image().unwrap().data
}

/// Checks that the pixels at reduced scales are those of libjpeg-turbo, and that CMYK is decoded at
/// full scale.
#[test]
fn generated_files_decode_at_reduced_scales() {
    let cancel = Cancel::never();
    for (name, file) in generated() {
        for scale in Scale::ALL {
            let job = DecodeJob {
                scale,
                ..DecodeJob::alone(&cancel)
            };
            let decoded = decode_scaled(&file, &OPTIONS, job).unwrap();
            let expected = if name.contains("CMYK") || name.contains("YCCK") {
                decode(&file, &OPTIONS).unwrap().into_raw()
            } else {
                reduced(&file, scale)
            };
            assert!(decoded.pixels.as_raw() == &expected, "{name} {scale:?}");
        }
    }
}

#[test]
fn generated_files_decode_to_pillows_pixels() {
    let folder = tempfile::tempdir().unwrap();
    let files = generated();
    let paths: Vec<PathBuf> = (0..files.len())
        .map(|i| folder.path().join(format!("{i}.jpg")))
        .collect();
    for ((_, file), path) in files.iter().zip(&paths) {
        std::fs::write(path, file).unwrap();
    }
    let Some(expected) = reference::pillow_images("generated_files", &paths) else {
        // Without Pillow, the pixels cannot be compared; check only that all files decode. CI
        // always has Pillow.
        assert!(files.iter().all(|(_, file)| decode(file, &OPTIONS).is_ok()));
        return;
    };
    let wrong: Vec<_> = files
        .iter()
        .zip(expected)
        .filter(|((_, file), expected)| decode(file, &OPTIONS).ok() != *expected)
        .map(|((name, _), _)| name)
        .collect();
    assert!(
        wrong.is_empty(),
        "{} of {} files differ from Pillow: {wrong:#?}",
        wrong.len(),
        files.len()
    );
}

#[test]
fn photographs_decode_to_pillows_pixels() {
    let golden: serde_json::Value = serde_json::from_slice(&read("golden/photos.json")).unwrap();
    for (name, expected) in golden.as_object().unwrap() {
        let digest = Sha256::digest(decode(&photo(name), &OPTIONS).unwrap().as_raw());
        let expected = expected.as_str().unwrap();
        let digest = digest
            .iter()
            .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        assert_eq!(digest, expected, "{name}");
    }
}

#[test]
fn real_photographs_decode_to_pillows_pixels() {
    let test = "real_photographs_decode_to_pillows_pixels";
    let Some(folder) = reference::real_data(test) else {
        return;
    };
    let mut files = Vec::new();
    for part in ["imagenet", "coco/images"] {
        let entries = std::fs::read_dir(folder.join(part)).unwrap();
        files.extend(entries.map(|entry| entry.unwrap().path()));
    }
    files.retain(|file| {
        file.extension()
            .is_some_and(|end| end == "jpg" || end == "JPEG")
    });
    let Some(expected) = reference::pillow_images(test, &files) else {
        return;
    };
    assert!(files.len() > 100, "{}", files.len());
    for (file, expected) in files.iter().zip(expected) {
        let own = decode(&std::fs::read(file).unwrap(), &OPTIONS).ok();
        assert!(own == expected, "{}", file.display());
    }
}

/// Returns a copy of `file` with `bytes` inserted at the offset `at`.
fn with(file: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    [&file[..at], bytes, &file[at..]].concat()
}

#[test]
fn stray_bytes_between_headers_are_skipped() {
    let file = odd("baseline.jpg");
    let expected = decode(&file, &OPTIONS).unwrap();
    for marker in [0xDB, 0xC0, 0xC4, 0xDA] {
        let at = find(&file, marker, 0);
        for stray in [&b"\0"[..], b"stray", b"\xFF", b"\xFF\xFF\xFF", b"\xFF\x00"] {
            let same = decode(&with(&file, at, stray), &OPTIONS);
            assert!(
                same.as_ref() == Ok(&expected),
                "{stray:?} before {marker:02X}: {same:?}"
            );
        }
    }
    // Padding bytes between the last block and the end marker must be skipped too.
    let end = file.len() - 2;
    for stray in [&b"\0"[..], b"\xFF", b"\xFF\xFF"] {
        let same = decode(&with(&file, end, stray), &OPTIONS);
        assert!(same.as_ref() == Ok(&expected), "{stray:?} before the end");
    }
}

/// Returns `baseline.jpg` with changed bytes in its frame header. A change is a pair of an offset
/// from the start of the frame's marker and the new value.
fn frame_with(changes: &[(usize, u8)]) -> Vec<u8> {
    let mut file = odd("baseline.jpg");
    let frame = find(&file, 0xC0, 0);
    for (place, value) in changes {
        file[frame + place] = *value;
    }
    file
}

#[test]
fn damaged_files_are_rejected() {
    let (plain, restarts) = (odd("baseline.jpg"), odd("restarts.jpg"));
    let progressive = odd("progressive.jpg");
    let frame = &plain[find(&plain, 0xC0, 0)..][..19];
    let scan = find(&plain, 0xDA, 0);
    let first = find(&restarts, 0xD0, 0);
    let mut swapped = restarts.clone();
    swapped[first + 1] = 0xD3;
    let files = [
        (
            "early end",
            [&plain[..plain.len() - 60], b"\xFF\xD9"].concat(),
        ),
        ("no end", plain[..plain.len() - 2].to_vec()),
        ("no scan", ended_before(&progressive, 0xDA, 0)),
        ("restart out of order", swapped),
        (
            "missing restart",
            [&restarts[..first], &restarts[first + 2..]].concat(),
        ),
        ("restart among headers", with(&plain, scan, b"\xFF\xD0")),
        ("start marker inside", with(&plain, scan, b"\xFF\xD8")),
        ("two frame headers", with(&plain, scan, frame)),
        (
            "table cut short",
            [&plain[..scan - 1], &plain[scan..]].concat(),
        ),
        (
            "quantization table of number 4",
            with(&plain, scan, &quantization(&[4])),
        ),
        ("no width", frame_with(&[(7, 0), (8, 0)])),
        ("sampling factor of 0", frame_with(&[(11, 0x01)])),
    ];
    for (name, file) in files {
        let result = decode(&file, &OPTIONS).map(|_| ());
        assert!(
            matches!(result, Err(ImageError::Damaged { .. })),
            "{name}: {result:?}"
        );
    }
}

/// Returns a DQT segment that defines quantization tables with the identifiers `numbers`. All 64
/// factors of each table are 9.
fn quantization(numbers: &[u8]) -> Vec<u8> {
    let length = (2 + 65 * numbers.len() as u16).to_be_bytes();
    let tables = numbers
        .iter()
        .flat_map(|number| [*number].into_iter().chain([9; 64]));
    [0xFF, 0xDB]
        .into_iter()
        .chain(length)
        .chain(tables)
        .collect()
}

/// Checks that a quantization table may be defined again between scans only if it is unchanged. The
/// decoder must compare it with the table of the same identifier before the first scan, even if the
/// tables are grouped differently in segments.
#[test]
fn repeated_tables_are_compared_by_identifier() {
    let file = odd("progressive.jpg");
    let same = |numbers: &[u8], again: &[u8]| {
        let between = with(&file, find(&file, 0xDA, 1), &quantization(again));
        let before = find(&file, 0xDA, 0);
        decode(&with(&between, before, &quantization(numbers)), &OPTIONS).map(|_| ())
    };
    assert_eq!(same(&[0, 1], &[0, 1]), Ok(()));
    assert_eq!(same(&[0, 1], &[1]), Ok(()));
    assert_eq!(same(&[3], &[3, 3]), Ok(()));
    for (numbers, again) in [(&[0][..], &[1][..]), (&[0, 1], &[1, 2])] {
        let refused = same(numbers, again);
        assert!(
            matches!(refused, Err(ImageError::UnsupportedFeature { .. })),
            "{numbers:?}, then {again:?}: {refused:?}"
        );
    }
    // The tables of the file itself may be repeated after the first scan, but not if another table
    // with the same identifier was defined directly before the first scan.
    let (table, scan) = (find(&file, 0xDB, 0), find(&file, 0xDA, 0));
    let length = usize::from(u16::from_be_bytes([file[table + 2], file[table + 3]]));
    let own = file[table..table + 2 + length].to_vec();
    let between = with(&file, find(&file, 0xDA, 1), &own);
    assert!(decode(&between, &OPTIONS).is_ok());
    let back = with(&between, scan, &quantization(&[0]));
    assert!(decode(&back, &OPTIONS).is_err());
}

/// Returns the CPU time of this thread in nanoseconds. Unlike elapsed time, CPU time does not
/// include waiting for a CPU.
fn cpu_time() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// Panics if `run(4 * SHORT)` takes more than 9 times as much CPU time as `run(SHORT)`, where
/// `run(size)` processes about `size` bytes. For 4 times the size, a linear algorithm takes 4 times
/// as long, a quadratic algorithm 16 times.
fn assert_linear(name: &str, run: impl Fn(usize)) {
    let time = |size: usize| {
        let started = cpu_time();
        run(size);
        cpu_time() - started
    };
    let (short, long) = (time(SHORT), time(4 * SHORT));
    // Times below 50 ms depend more on page faults and caches than on the algorithm, so they pass.
    let least = 50_000_000;
    assert!(
        long < least || long < 9 * short,
        "{name}: {short} ns, but {long} ns for 4 times the size"
    );
}

/// Smaller one of the two input sizes, in bytes, for which [`assert_linear`] compares CPU times.
const SHORT: usize = 512 << 10;

/// Returns short segments, markers and bytes of a JPEG file that an attacker could repeat many
/// times, each with its name.
fn small_segments(file: &[u8]) -> [(&'static str, Vec<u8>); 14] {
    [
        ("quantization table", quantization(&[0])),
        ("empty quantization segment", b"\xFF\xDB\x00\x02".to_vec()),
        (
            "Huffman table without codes",
            [b"\xFF\xC4\x00\x13\x00", &[0; 16][..]].concat(),
        ),
        ("restart interval", b"\xFF\xDD\x00\x04\x00\x00".to_vec()),
        ("application segment", b"\xFF\xE5\x00\x02".to_vec()),
        ("EXIF", b"\xFF\xE1\x00\x08Exif\0\0".to_vec()),
        (
            "color profile",
            b"\xFF\xE2\x00\x10ICC_PROFILE\0\x01\x01".to_vec(),
        ),
        ("comment", b"\xFF\xFE\x00\x02".to_vec()),
        ("frame", b"\xFF\xC2\x00\x02".to_vec()),
        ("scan", file[find(file, 0xDA, 0)..][..14].to_vec()),
        ("restart marker", b"\xFF\xD0".to_vec()),
        ("fill byte", b"\xFF".to_vec()),
        ("stuffed byte", b"\xFF\0".to_vec()),
        ("stray byte", b"\0".to_vec()),
    ]
}

/// Returns `piece`, repeated as often as it fits into `size` bytes.
fn many(piece: &[u8], size: usize) -> Vec<u8> {
    piece.repeat(size / piece.len())
}

#[test]
fn many_small_segments_take_linear_time() {
    let file = odd("progressive.jpg");
    for (name, piece) in small_segments(&file) {
        for (marker, n) in [(0xDB, 0), (0xDA, 0), (0xDA, 1), (0xD9, 0)] {
            let at = find(&file, marker, n);
            assert_linear(name, |size| {
                let _ = decode(&with(&file, at, &many(&piece, size)), &OPTIONS);
            });
        }
        assert_linear(name, |size| {
            let alone = [b"\xFF\xD8", many(&piece, size).as_slice()].concat();
            assert!(decode(&alone, &OPTIONS).is_err(), "{name}");
        });
    }
}

/// Checks the decoding time if many quantization tables are defined before and after the first
/// scan: a table after the first scan must be compared only with the last definition before that
/// scan, not with all earlier definitions.
#[test]
fn many_repeated_tables_take_linear_time() {
    let file = odd("progressive.jpg");
    let mut last = quantization(&[0]);
    *last.last_mut().unwrap() += 1;
    for early in [&b"\xFF\xDB\x00\x02"[..], &quantization(&[0])] {
        assert_linear("repeated tables", |size| {
            let later = with(&file, find(&file, 0xDA, 1), &many(&last, size));
            let tables = [many(early, size), last.clone()].concat();
            let file = with(&later, find(&later, 0xDA, 0), &tables);
            assert!(decode(&file, &OPTIONS).is_ok());
        });
    }
}

#[test]
fn a_restart_after_each_block_takes_linear_time() {
    let (width, height) = (1024, 4096);
    let encoded = |height: usize| {
        let gray = samples(width, height, 1);
        let encoder = Encoder::new(&gray, width, height, PixelFormat::Grayscale).quality(1);
        encoder.restart_blocks(1).encode().unwrap()
    };
    let files = [encoded(height / 4), encoded(height)];
    assert_linear("restarts", |size| {
        let file = &files[usize::from(size > SHORT)];
        assert_eq!(decode(file, &OPTIONS).map(|_| ()), Ok(()));
    });
}

#[test]
fn unsupported_coding_is_rejected() {
    let progressive = odd("progressive.jpg");
    let table = quantization(&[0]);
    let files = [
        ("lossless", frame_with(&[(1, 0xC3)])),
        ("hierarchical", frame_with(&[(1, 0xC5)])),
        ("arithmetic", frame_with(&[(1, 0xC9)])),
        ("12 bits", frame_with(&[(4, 12)])),
        (
            "chroma finer than luma",
            frame_with(&[(11, 0x11), (14, 0x21)]),
        ),
        ("fractional sampling", frame_with(&[(11, 0x31), (14, 0x21)])),
        (
            "tables that change",
            with(&progressive, find(&progressive, 0xDA, 1), &table),
        ),
    ];
    for (name, file) in files {
        let result = decode(&file, &OPTIONS).map(|_| ());
        let refused = matches!(result, Err(ImageError::UnsupportedFeature { .. }));
        assert!(refused, "{name}: {result:?}");
    }
}

#[test]
fn files_truncated_anywhere_are_rejected() {
    for name in [
        "baseline.jpg",
        "restarts.jpg",
        "progressive.jpg",
        "grey.jpg",
        "cmyk.jpg",
    ] {
        let file = odd(name);
        for length in 1..file.len() {
            assert!(
                decode(&file[..length], &OPTIONS).is_err(),
                "{name} at {length}"
            );
        }
    }
}

#[test]
fn mutated_files_neither_panic_nor_exceed_the_memory_limit() {
    let mut random = Random::new(7);
    let options = DecodeOptions {
        max_pixels: 1 << 20,
        ..OPTIONS
    };
    let originals: Vec<Vec<u8>> = WAYS
        .iter()
        .flat_map(|way| {
            let rgb = encode(33, 15, PixelFormat::Rgb, way, SAMPLINGS[2]);
            [
                rgb,
                encode(15, 33, PixelFormat::Cmyk, way, INK_SAMPLINGS[2]),
            ]
        })
        .collect();
    let mut decoded = 0;
    for round in 0..800 {
        let mut file = originals[round % originals.len()].clone();
        let header = find(&file, 0xDA, 0) + 14;
        for _ in 0..=random.below(3) {
            let end = if random.below(3) == 0 {
                header
            } else {
                file.len()
            };
            file[random.below(end)] = random.below(256) as u8;
        }
        if random.below(8) == 0 {
            file.truncate(random.below(file.len()));
        }
        decoded += usize::from(decode(&file, &options).is_ok());
    }
    assert!((1..800).contains(&decoded), "{decoded} of 800 decoded");
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let kilobytes: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    // The limit of 128 MiB for peak memory covers 17 bytes per pixel of the largest image, the
    // process itself, and the data of the test.
    assert!(kilobytes < 128 << 10, "peak memory {kilobytes} kB");
}
