//! JPEG against Pillow, bit for bit, in every sampling, coding and odd size; damage is refused, and
//! no bytes make the decoder panic or take memory beyond its bounds.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a panic in a helper of a test is the report"
)]

mod common;
mod reference;

use std::path::PathBuf;

use common::{odd, photo, read};
use libjpeg_turbo_rs::{Encoder, PixelFormat};
use sha2::{Digest, Sha256};
use sightline::image::{DecodeOptions, ImageError, Orientation, decode};

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
/// Sampling factors of three components.
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
/// Sampling factors of four.
const INK_SAMPLINGS: [&[(u8, u8)]; 7] = [
    &[(1, 1), (1, 1), (1, 1), (1, 1)],
    &[(2, 1), (1, 1), (1, 1), (2, 1)],
    &[(2, 2), (1, 1), (1, 1), (2, 2)],
    &[(1, 2), (1, 1), (1, 1), (1, 2)],
    &[(4, 1), (1, 1), (1, 1), (4, 1)],
    &[(2, 2), (1, 1), (1, 1), (1, 1)],
    &[(2, 1), (1, 1), (1, 1), (1, 1)],
];

/// Slopes, edges and noise, `channels` samples per pixel.
fn samples(width: usize, height: usize, channels: usize) -> Vec<u8> {
    let sample = |i: usize| {
        let (x, y, c) = (i / channels % width, i / channels / width, i % channels);
        let noise = (i.wrapping_mul(2_654_435_761) >> 16) % 48;
        let edge = if (x / 5 + y / 7 + c) % 3 == 0 { 90 } else { 0 };
        (x * 2 + y * (c + 1) + edge + noise) as u8
    };
    (0..width * height * channels).map(sample).collect()
}

/// The ways of coding, by name.
const WAYS: [&str; 5] = ["plain", "optimised", "restarts", "progressive", "rough"];

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
        "optimised" => encoder.optimize_huffman(true).quality(100),
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

/// CMYK read as YCCK: only the transform byte of the Adobe segment differs.
fn as_ycck(mut file: Vec<u8>) -> Vec<u8> {
    let adobe = file.windows(5).position(|bytes| bytes == b"Adobe").unwrap();
    file[adobe + 11] = 2;
    file
}

/// Where marker `marker` begins for the `n`th time.
fn find(file: &[u8], marker: u8, n: usize) -> usize {
    let mut places = file
        .windows(2)
        .enumerate()
        .filter(|(_, two)| **two == [0xFF, marker]);
    places.nth(n).unwrap().0
}

/// The file up to its `n`th marker `marker`, ended properly.
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
                add(format!("grey {sampling:?}"), file);
            }
        }
    }
    // What a browser shows while a progressive file loads: libjpeg smooths it.
    let progressive = encode(101, 67, PixelFormat::Rgb, "progressive", SAMPLINGS[2]);
    for scans in 1..6 {
        files.push((
            format!("{scans} scans"),
            ended_before(&progressive, 0xDA, scans),
        ));
    }
    files
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
    let Some(expected) = reference::pillow_pictures("generated_files", &paths) else {
        // Without Pillow: at least they decode.
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
        "{} of {}: {wrong:#?}",
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
    let Some(expected) = reference::pillow_pictures(test, &files) else {
        return;
    };
    assert!(files.len() > 100, "{}", files.len());
    for (file, expected) in files.iter().zip(expected) {
        let own = decode(&std::fs::read(file).unwrap(), &OPTIONS).ok();
        assert!(own == expected, "{}", file.display());
    }
}

/// The file with `bytes` put in at `at`.
fn with(file: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    [&file[..at], bytes, &file[at..]].concat()
}

#[test]
fn stray_bytes_between_headers_are_passed_over() {
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
    // Padding after the last block.
    let end = file.len() - 2;
    for stray in [&b"\0"[..], b"\xFF", b"\xFF\xFF"] {
        let same = decode(&with(&file, end, stray), &OPTIONS);
        assert!(same.as_ref() == Ok(&expected), "{stray:?} before the end");
    }
}

/// The plain file with bytes of its frame header set: `(place, value)` from the marker on.
fn frame_with(changes: &[(usize, u8)]) -> Vec<u8> {
    let mut file = odd("baseline.jpg");
    let frame = find(&file, 0xC0, 0);
    for (place, value) in changes {
        file[frame + place] = *value;
    }
    file
}

#[test]
fn damage_is_refused_and_not_painted_over() {
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
            "segment without a quantisation table",
            with(&plain, scan, b"\xFF\xDB\x00\x02"),
        ),
        (
            "segment without a Huffman table",
            with(&plain, scan, b"\xFF\xC4\x00\x02"),
        ),
        (
            "quantisation table of number 4",
            with(&plain, scan, &quantisation(&[4])),
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

/// A segment of quantisation tables of these numbers, all alike.
fn quantisation(numbers: &[u8]) -> Vec<u8> {
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

/// Tables may come again between scans, in segments of another make, but not with other factors:
/// those that held before the first scan count, not any that came before them.
#[test]
fn tables_that_come_again_are_compared_by_number() {
    let file = odd("progressive.jpg");
    let same = |numbers: &[u8], again: &[u8]| {
        let between = with(&file, find(&file, 0xDA, 1), &quantisation(again));
        let before = find(&file, 0xDA, 0);
        decode(&with(&between, before, &quantisation(numbers)), &OPTIONS).map(|_| ())
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
    // The file's own tables, replaced and brought back.
    let (table, scan) = (find(&file, 0xDB, 0), find(&file, 0xDA, 0));
    let length = usize::from(u16::from_be_bytes([file[table + 2], file[table + 3]]));
    let own = file[table..table + 2 + length].to_vec();
    let between = with(&file, find(&file, 0xDA, 1), &own);
    assert!(decode(&between, &OPTIONS).is_ok());
    let back = with(&between, scan, &quantisation(&[0]));
    assert!(decode(&back, &OPTIONS).is_err());
}

/// Four megabytes of one small piece after the other, wherever one may stand. Whoever compares each
/// with all before it works for minutes.
#[test]
fn many_small_segments_take_linear_time() {
    let file = odd("progressive.jpg");
    let pieces = [
        ("quantisation", quantisation(&[0])),
        ("no table", b"\xFF\xDB\x00\x02".to_vec()),
        ("no codes", [b"\xFF\xC4\x00\x13\x00", &[0; 16][..]].concat()),
        ("interval", b"\xFF\xDD\x00\x04\x00\x00".to_vec()),
        ("application", b"\xFF\xE5\x00\x02".to_vec()),
        ("EXIF", b"\xFF\xE1\x00\x08Exif\0\0".to_vec()),
        ("profile", b"\xFF\xE2\x00\x10ICC_PROFILE\0\x01\x01".to_vec()),
        ("comment", b"\xFF\xFE\x00\x02".to_vec()),
        ("frame", b"\xFF\xC2\x00\x02".to_vec()),
        ("scan", file[find(&file, 0xDA, 0)..][..14].to_vec()),
        ("restart", b"\xFF\xD0".to_vec()),
        ("fill", b"\xFF".to_vec()),
        ("stuffed", b"\xFF\0".to_vec()),
        ("stray", b"\0".to_vec()),
    ];
    let many = |piece: &[u8]| piece.repeat((4 << 20) / piece.len());
    let started = std::time::Instant::now();
    for (name, piece) in &pieces {
        for (marker, n) in [(0xDB, 0), (0xDA, 0), (0xDA, 1), (0xD9, 0)] {
            let _ = decode(&with(&file, find(&file, marker, n), &many(piece)), &OPTIONS);
        }
        let alone = [b"\xFF\xD8", many(piece).as_slice()].concat();
        assert!(decode(&alone, &OPTIONS).is_err(), "{name}");
    }
    // Each of the later ones is like none of the many before the first scan but the last.
    let mut last = quantisation(&[0]);
    *last.last_mut().unwrap() += 1;
    let later = with(&file, find(&file, 0xDA, 1), &many(&last));
    for (early, possible) in [
        (&b"\xFF\xDB\x00\x02"[..], false),
        (&quantisation(&[0]), true),
    ] {
        let tables = [many(early), last.clone()].concat();
        let file = with(&later, find(&later, 0xDA, 0), &tables);
        assert_eq!(decode(&file, &OPTIONS).is_ok(), possible);
    }
    // A restart after each block.
    let (width, height) = (1024, 8192);
    let grey = samples(width, height, 1);
    let encoder = Encoder::new(&grey, width, height, PixelFormat::Grayscale).quality(1);
    let file = encoder.restart_blocks(1).encode().unwrap();
    assert_eq!(decode(&file, &OPTIONS).map(|_| ()), Ok(()));
    // One second on an idle machine; a single quadratic walk among the 73 takes more than this.
    let took = started.elapsed();
    println!("{took:?}");
    assert!(took.as_secs() < 20, "{took:?}");
}

#[test]
fn what_would_decode_wrongly_is_refused() {
    let progressive = odd("progressive.jpg");
    let table = quantisation(&[0]);
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

/// Every cut of small files is refused, those in the last blocks too.
#[test]
fn every_cut_is_refused() {
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
fn mutations_neither_panic_nor_take_memory() {
    let mut state = 7u64;
    let mut random = move |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
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
        for _ in 0..=random(3) {
            let reach = if random(3) == 0 { header } else { file.len() };
            let at = random(reach);
            file[at] = random(256) as u8;
        }
        if random(8) == 0 {
            file.truncate(random(file.len()));
        }
        decoded += usize::from(decode(&file, &options).is_ok());
    }
    assert!((1..800).contains(&decoded), "{decoded}");
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let kilobytes: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    // 17 bytes for each of the pixels allowed, and room for the process and the tests beside it.
    assert!(kilobytes < 128 << 10, "{kilobytes} kB");
}
