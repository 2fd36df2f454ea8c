//! What several test files need: ONNX Runtime, golden files, and how close is close enough.

#![allow(
    clippy::print_stderr,
    clippy::unwrap_used,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "each test file uses its own part"
)]

pub mod cases;
pub mod detection;
pub mod shared;
pub mod trunk;

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use sightline::engine::{OnnxRuntime, find_library};
use sightline::image::{ImageSize, PreparedImage};

/// ONNX Runtime, from where `make test` puts it.
pub fn runtime() -> OnnxRuntime {
    let library = find_library(None).unwrap_or_else(|error| panic!("{error}"));
    OnnxRuntime::load(&library).unwrap()
}

/// A text file of `tests/golden/`.
pub fn golden(name: &str) -> String {
    std::fs::read_to_string(Path::new("tests/golden").join(name)).unwrap()
}

/// An f32 tensor of a safetensors file of `tests/golden/`.
pub fn read_tensor(file: &str, name: &str) -> Vec<f32> {
    let bytes = read(file, name, safetensors::Dtype::F32);
    let numbers = bytes.as_chunks::<4>().0.iter();
    numbers.map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// An i64 tensor of a safetensors file of `tests/golden/`.
pub fn read_integers(file: &str, name: &str) -> Vec<i64> {
    let bytes = read(file, name, safetensors::Dtype::I64);
    let numbers = bytes.as_chunks::<8>().0.iter();
    numbers.map(|bytes| i64::from_le_bytes(*bytes)).collect()
}

/// A u8 tensor of a safetensors file of `tests/golden/`.
pub fn read_bytes(file: &str, name: &str) -> Vec<u8> {
    read(file, name, safetensors::Dtype::U8)
}

fn read(file: &str, name: &str, kind: safetensors::Dtype) -> Vec<u8> {
    let bytes = std::fs::read(Path::new("tests/golden").join(file)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let view = tensors.tensor(name).unwrap();
    assert_eq!(view.dtype(), kind, "{file}: {name}");
    view.data().to_vec()
}

/// `[N, 3, H, W]` values as N pictures.
pub fn pictures(data: &[f32], width: u32, height: u32) -> Vec<PreparedImage> {
    let size = ImageSize { width, height };
    let picture = |data: &[f32]| PreparedImage::whole(size, data.to_vec());
    data.chunks(3 * size.pixels() as usize)
        .map(picture)
        .collect()
}

/// Differences from expected values, relative to the spread (standard deviation) of those.
#[derive(Debug, Clone, Copy)]
pub struct Differences {
    pub largest: f64,
    pub rms: f64,
}

impl Differences {
    pub fn new(got: &[f32], expected: &[f32]) -> Self {
        assert_eq!(got.len(), expected.len());
        let expected: Vec<f64> = expected.iter().map(|v| f64::from(*v)).collect();
        let mean_of =
            |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / got.len() as f64;
        let mean = mean_of(&mut expected.iter().copied());
        let variance = mean_of(&mut expected.iter().map(|v| (v - mean).powi(2)));
        let pairs = got.iter().zip(&expected);
        let differences = pairs.map(|(got, expected)| (f64::from(*got) - expected).abs());
        let largest = differences.clone().fold(0.0, f64::max);
        let square = mean_of(&mut differences.map(|v| v * v));
        Self {
            largest: largest / variance.sqrt(),
            rms: (square / variance).sqrt(),
        }
    }
}

/// Largest difference, relative to the spread of the expected values.
pub fn relative_error(got: &[f32], expected: &[f32]) -> f64 {
    Differences::new(got, expected).largest
}

/// Intersection over union of two boxes `[x1, y1, x2, y2]`.
pub fn iou(a: [f32; 4], b: [f32; 4]) -> f32 {
    let area = |[x1, y1, x2, y2]: [f32; 4]| (x2 - x1).max(0.0) * (y2 - y1).max(0.0);
    let both = [
        a[0].max(b[0]),
        a[1].max(b[1]),
        a[2].min(b[2]),
        a[3].min(b[3]),
    ];
    area(both) / (area(a) + area(b) - area(both))
}

/// How many of `expected` find one of their own among `got`.
pub fn matched<T>(got: &[T], expected: &[T], same: impl Fn(&T, &T) -> bool) -> usize {
    let mut taken = vec![false; got.len()];
    let mut count = 0;
    for expected in expected {
        let free = (0..got.len()).find(|at| !taken[*at] && same(&got[*at], expected));
        if let Some(at) = free {
            taken[at] = true;
            count += 1;
        }
    }
    count
}

/// The folder of real weights and photographs, where this checkout has it: `../shared/real` or
/// `SIGHTLINE_TEST_SHARED`. None is said aloud, so that a skipped test is seen.
pub fn real_data(test: &str) -> Option<PathBuf> {
    let variable = std::env::var_os("SIGHTLINE_TEST_SHARED").map(PathBuf::from);
    let folder = variable.unwrap_or_else(|| PathBuf::from("../shared/real"));
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("SKIPPED {test}: {} is not here", folder.display());
    None
}

/// Files as Pillow decodes them, without a picture for those that it refuses; nothing without Pillow.
pub fn pillow_pictures(test: &str, files: &[PathBuf]) -> Option<Vec<Option<image::RgbImage>>> {
    let printed = shared::python::output(test, "decode.py", files)?;
    let mut rest = printed.as_slice();
    let mut take = |bytes: usize| rest.split_off(..bytes).unwrap();
    let mut pictures = Vec::new();
    for _ in files {
        let side = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
        let (width, height) = (side(take(4)), side(take(4)));
        let pixels = take((width * height * 3) as usize).to_vec();
        pictures
            .push((width > 0).then(|| image::RgbImage::from_raw(width, height, pixels).unwrap()));
    }
    Some(pictures)
}
