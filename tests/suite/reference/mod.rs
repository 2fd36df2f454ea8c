//! Helpers of the golden tests: loading ONNX Runtime, reading files with expected values, slow
//! reference implementations, and error measures.

pub mod cases;
pub mod detection;
pub mod shared;
pub mod trunk;

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use sightline::engine::{OnnxRuntime, find_library};
use sightline::image::{ImageSize, PreparedImage};

/// Loads the ONNX Runtime library that `find_library` finds. Sessions of the returned runtime use
/// two threads.
pub fn runtime() -> OnnxRuntime {
    let library = find_library(None).unwrap_or_else(|error| panic!("{error}"));
    OnnxRuntime::load(&library).unwrap().with_threads(2)
}

/// Reads the text file `tests/golden/NAME`.
pub fn golden(name: &str) -> String {
    std::fs::read_to_string(Path::new("tests/golden").join(name)).unwrap()
}

/// Reads the f32 tensor `name` of the safetensors file `tests/golden/FILE`.
pub fn read_tensor(file: &str, name: &str) -> Vec<f32> {
    let bytes = read(file, name, safetensors::Dtype::F32);
    let values = bytes.as_chunks::<4>().0.iter();
    values.map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Reads the i64 tensor `name` of the safetensors file `tests/golden/FILE`.
pub fn read_integers(file: &str, name: &str) -> Vec<i64> {
    let bytes = read(file, name, safetensors::Dtype::I64);
    let values = bytes.as_chunks::<8>().0.iter();
    values.map(|bytes| i64::from_le_bytes(*bytes)).collect()
}

/// Reads the u8 tensor `name` of the safetensors file `tests/golden/FILE`.
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

/// Splits the values of a tensor `[N, 3, height, width]` into N network inputs.
pub fn images(data: &[f32], width: u32, height: u32) -> Vec<PreparedImage> {
    let size = ImageSize { width, height };
    let image = |data: &[f32]| PreparedImage::whole(size, data.to_vec());
    data.chunks(3 * size.pixels() as usize).map(image).collect()
}

/// Largest and root mean square (`rms`) difference between values and expected values, in standard
/// deviations of the expected values.
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

/// Returns the largest difference between `got` and `expected`, in standard deviations of
/// `expected`.
pub fn relative_error(got: &[f32], expected: &[f32]) -> f64 {
    Differences::new(got, expected).largest
}

/// Returns the intersection over union of two boxes `[x1, y1, x2, y2]`. Does not use the server's
/// code, so that the tests do not depend on it.
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

/// Returns how many elements of `expected` have a match in `got`: an element for which `same`
/// returns true. Each element of `got` is the match of at most one element of `expected`.
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

/// Returns the folder with released weights and real photographs: the value of the environment
/// variable `SIGHTLINE_TEST_SHARED`, or `../shared/real` if the variable is not set.
///
/// If the variable is not set and `../shared/real` does not exist, announces that `test` is skipped
/// and returns `None`.
///
/// # Panics
/// If the variable is set and its value is not a readable folder.
pub fn real_data(test: &str) -> Option<PathBuf> {
    let variable = std::env::var_os("SIGHTLINE_TEST_SHARED").map(PathBuf::from);
    let is_named = variable.is_some();
    let folder = variable.unwrap_or_else(|| PathBuf::from("../shared/real"));
    if std::fs::read_dir(&folder).is_ok() {
        return Some(folder);
    }
    let folder = folder.display();
    assert!(!is_named, "SIGHTLINE_TEST_SHARED: cannot read {folder}");
    shared::skip::announce(test, &format!("folder {folder} not found"));
    None
}

/// Returns the average precision of `detections` (objects in COCO's result format) that pycocotools
/// computes for `IoU` 0.50 to 0.95 with COCO's annotation file `instances`. If pycocotools is
/// missing, panics in CI; elsewhere announces that `test` skips the computation and returns `None`.
pub fn average_precision(
    test: &str,
    instances: &Path,
    detections: &[serde_json::Value],
) -> Option<f64> {
    Some(coco_figures(test, instances, detections)?[0])
}

/// Returns all 12 figures of pycocotools, otherwise as [`average_precision`].
pub fn coco_figures(
    test: &str,
    instances: &Path,
    detections: &[serde_json::Value],
) -> Option<Vec<f64>> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), serde_json::to_vec(detections).unwrap()).unwrap();
    let printed = shared::python::output(test, "coco_ap.py", &[instances, file.path()])?;
    Some(serde_json::from_slice(&printed).unwrap())
}

/// Decodes `files` with Pillow and returns one entry per file, which is `None` if Pillow rejects
/// the file. If Pillow is missing, panics in CI; elsewhere announces that `test` skips the
/// comparison and returns `None` instead of the list.
pub fn pillow_images(test: &str, files: &[PathBuf]) -> Option<Vec<Option<image::RgbImage>>> {
    let printed = shared::python::output(test, "decode.py", files)?;
    let mut rest = printed.as_slice();
    let mut take = |bytes: usize| rest.split_off(..bytes).unwrap();
    let mut images = Vec::new();
    for _ in files {
        let side = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
        let (width, height) = (side(take(4)), side(take(4)));
        let pixels = take((width * height * 3) as usize).to_vec();
        images.push((width > 0).then(|| image::RgbImage::from_raw(width, height, pixels).unwrap()));
    }
    Some(images)
}
