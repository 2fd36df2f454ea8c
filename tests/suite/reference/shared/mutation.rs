//! Deterministic mutations of files, for tests of decoders and parsers.

use std::path::Path;

use super::random::Random;

/// Values that parsers are likely to handle wrongly as a length, a count or a size.
const EDGES: [u32; 12] = [
    0,
    1,
    2,
    7,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0xFFFF,
    0x7FFF_FFFF,
    0xFFFF_FFFF,
];
/// Number of bytes at the start of a file that contain the headers in most files. Half of the
/// mutations are placed there.
const HEAD: usize = 96;
/// Largest number of bytes that one mutation inserts, removes or copies.
const RUN: usize = 64;

/// Returns the name and the content of each image file in `tests/golden/images`, sorted by name.
pub fn image_seeds() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images");
    let mut seeds: Vec<(String, Vec<u8>)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let extension = path.extension().unwrap_or_default().to_str();
            matches!(extension, Some("jpg" | "png" | "webp" | "gif" | "bmp"))
        })
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read(&path).unwrap())
        })
        .collect();
    seeds.sort();
    seeds
}

/// Returns `seed` after one to four random mutations; some mutations copy bytes from `other`.
/// Corrects the checksums of three in four PNG files, because a decoder stops at the first wrong
/// checksum. Equal arguments produce equal bytes.
pub fn mutated(seed: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(4) {
        mutate(&mut bytes, other, random);
    }
    if bytes.starts_with(b"\x89PNG\r\n\x1A\n") && random.below(4) > 0 {
        correct_checksums(&mut bytes);
    }
    bytes
}

/// Applies one random mutation to `bytes`, at a random offset; some mutations copy bytes from
/// `other`.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let at = place(bytes.len(), random);
    let end = (at + 1 + random.below(RUN)).min(bytes.len());
    match random.below(10) {
        0..=2 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        3 if at < bytes.len() => bytes[at] = random.bits() as u8,
        4 | 5 => overwrite(bytes, at, &edge(random)),
        6 => drop(bytes.drain(at..end)),
        7 => {
            let copy = bytes[at..end].to_vec();
            let to = place(bytes.len(), random);
            bytes.splice(to..to, copy);
        }
        8 => {
            let from = place(other.len(), random);
            let until = (from + 1 + random.below(RUN)).min(other.len());
            overwrite(bytes, at, &other[from..until]);
        }
        _ => bytes.truncate(at.max(1)),
    }
}

/// Returns a random offset from 0 to `len`, in half of the cases at most `HEAD`.
fn place(len: usize, random: &mut Random) -> usize {
    let end = if random.below(2) == 0 {
        len.min(HEAD)
    } else {
        len
    };
    random.below(end + 1)
}

/// Returns a random value of `EDGES`, cut to 1, 2 or 4 bytes, in little-endian or big-endian order.
fn edge(random: &mut Random) -> Vec<u8> {
    let value = EDGES[random.below(EDGES.len())];
    let little = value.to_le_bytes();
    let mut bytes = little[..1 << random.below(3)].to_vec();
    if random.below(2) == 0 {
        bytes.reverse();
    }
    bytes
}

/// Replaces the bytes of `bytes` from `at` on with those of `with`, up to the end of `bytes`.
fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    for (byte, new) in bytes[at..].iter_mut().zip(with) {
        *byte = *new;
    }
}

/// Writes the correct checksum after the data of every complete chunk of a PNG file.
fn correct_checksums(bytes: &mut [u8]) {
    let mut at = 8;
    while let Some(length) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        let end = at + 8 + u32::from_be_bytes(*length) as usize;
        let Some(checked) = bytes.get(at + 4..end) else {
            return;
        };
        let checksum = crc32(checked).to_be_bytes();
        overwrite(bytes, end, &checksum);
        at = end + 4;
    }
}

/// Returns the CRC-32 of `bytes`, which a PNG chunk uses as checksum. Source: PNG specification,
/// annex D.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        let mixed = crc ^ u32::from(*byte);
        (0..8).fold(mixed, |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 }
        })
    };
    !bytes.iter().fold(u32::MAX, step)
}
