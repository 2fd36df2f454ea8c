//! Tests that compare the detectors' preprocessing with torchvision, and its kernel with a slow
//! reference.

use std::path::Path;

use image::RgbImage;
use safetensors::SafeTensors;

use super::{
    DecodeOptions, DetectorResize, DetectorSize, DetectorTransform, ImageError, ImageSize,
    Normalizer, Orientation, bounded_size, decode, padded_size, reference,
};
use crate::cancel::Cancel;

fn size(width: u32, height: u32) -> ImageSize {
    ImageSize { width, height }
}

#[test]
fn bounded_sizes_are_torchvisions() {
    // Each case holds the image's size, (min, max), and the size that torchvision 0.29.2 returns:
    // GeneralizedRCNNTransform(min, max, ...).resize. The case of 97x97 shows that the scale is
    // rounded before the multiplication. For the last two cases torchvision fails, because a side
    // would have 0 pixels.
    let cases = [
        ((640, 480), (800, 1333), (1066, 800)),
        ((480, 640), (800, 1333), (800, 1066)),
        ((500, 375), (320, 640), (426, 320)),
        ((2000, 500), (800, 1333), (1333, 333)),
        ((1, 1), (800, 1333), (800, 800)),
        ((97, 97), (800, 1333), (799, 799)),
        ((4000, 1), (800, 1333), (1333, 1)),
        ((1, 4000), (320, 640), (1, 640)),
    ];
    for ((width, height), (min, max), expected) in cases {
        let got = bounded_size(size(width, height), min, max);
        assert_eq!(
            (got.width, got.height),
            expected,
            "{width}x{height} to min {min}, max {max}"
        );
    }
}

#[test]
fn sides_are_padded_up() {
    for (side, multiple, expected) in [(1, 32, 32), (32, 32, 32), (33, 32, 64), (7, 1, 7)] {
        let padded = padded_size(size(side, side), multiple);
        assert_eq!(padded, size(expected, expected), "{side} to {multiple}");
    }
    assert_eq!(padded_size(size(7, 9), 0), size(7, 9));
}

#[test]
fn impossible_sizes_are_rejected() {
    let small = DetectorResize::new(DetectorSize::Bounded { min: 32, max: 64 }, 32);
    assert_eq!(small.sizes(size(0, 5)).err(), Some(ImageError::Empty));
    let huge = DetectorResize::new(DetectorSize::Fixed(size(1 << 16, 1 << 16)), 32);
    let result = huge.sizes(size(5, 5));
    assert!(matches!(result, Err(ImageError::ResizedTooLarge { .. })));
}

/// Compares the kernel with the reference for every pair of source and output sizes. Outputs are
/// padded to a multiple of 4 pixels.
#[test]
fn the_kernel_equals_the_reference() {
    let sides = [1, 2, 3, 7, 16, 33, 64];
    let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    for (w, h) in sides.iter().flat_map(|w| sides.map(|h| (*w, h))) {
        let image = RgbImage::from_fn(w, h, |x, y| {
            image::Rgb([(x * 37 + y * 101) as u8, (x * y) as u8, (255 - x) as u8])
        });
        for to in [size(1, 1), size(5, 9), size(33, 17), size(70, 130)] {
            let resize = DetectorResize::new(DetectorSize::Fixed(to), 4);
            let transform = DetectorTransform::new(resize, Normalizer::new(mean, std));
            let got = transform.run(&image, &Cancel::never()).unwrap();
            let normalized = reference::normalize(&image, mean, std);
            let sizes = resize.sizes(size(w, h)).unwrap();
            assert_eq!((got.content, got.size), (to, sizes.padded));
            let expected = reference::resize_and_pad(&normalized, &sizes);
            let pairs = got.data.iter().zip(&expected);
            let far = pairs.filter(|(a, b)| (*a - *b).abs() > 1e-6 || a.is_nan());
            assert_eq!(far.count(), 0, "{w}x{h} to {to:?}");
        }
    }
}

fn fixture() -> Vec<u8> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    std::fs::read(tests.join("golden/preprocess_detect.safetensors")).unwrap()
}

#[test]
fn sizes_of_many_images_are_torchvisions() {
    let bytes = fixture();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let sizes = tensors.tensor("sizes").unwrap();
    let values = sizes.data().as_chunks::<4>().0.iter();
    let values: Vec<u32> = values.map(|bytes| u32::from_le_bytes(*bytes)).collect();
    assert!(values.len() > 300);
    for [width, height, min, max, to_width, to_height] in values.as_chunks::<6>().0 {
        let got = bounded_size(size(*width, *height), *min, *max);
        let expected = size(*to_width, *to_height);
        assert_eq!(got, expected, "{width}x{height} to min {min}, max {max}");
    }
}

#[test]
fn photographs_become_torchvisions_tensors() {
    let bytes = fixture();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let imagenet = Normalizer::new([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    let bounded = |min, max| {
        let resize = DetectorResize::new(DetectorSize::Bounded { min, max }, 32);
        DetectorTransform::new(resize, imagenet.clone())
    };
    let fixed = DetectorResize::new(DetectorSize::Fixed(size(320, 320)), 1);
    let fixed = DetectorTransform::new(fixed, Normalizer::new([0.5; 3], [0.5; 3]));
    // Each preset has its name in the fixture, the step `n` if the fixture holds every `n`th row
    // and column, and the transform to compare.
    let presets = [
        ("800_1333", 32, bounded(800, 1333)),
        ("320_640", 8, bounded(320, 640)),
        ("320x320", 8, fixed),
    ];
    let options = DecodeOptions {
        max_pixels: 1 << 24,
        orientation: Orientation::Apply,
    };
    for photo in ["astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"] {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
        let file = std::fs::read(tests.join("photos").join(photo)).unwrap();
        let image = decode(&file, &options).unwrap();
        for (preset, every, transform) in &presets {
            let name = format!("{photo}.{preset}");
            let expected = tensors.tensor(&name).unwrap();
            let values = expected.data().as_chunks::<4>().0.iter();
            let values = values.map(|bytes| f32::from_le_bytes(*bytes));
            let got = every_nth(&image, transform, *every);
            assert_eq!(got.len(), values.len(), "{name}");
            let pairs = got.iter().zip(values);
            let largest = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            println!("{name}: largest difference {largest:e}");
            assert!(largest < 2e-6, "{name}: largest difference {largest}");
        }
    }
}

/// Preprocesses `image` and returns every `n`th row and column of the padded planes.
fn every_nth(image: &RgbImage, transform: &DetectorTransform, n: usize) -> Vec<f32> {
    let tensor = transform.run(image, &Cancel::never()).unwrap();
    let planes = tensor.data.chunks_exact(tensor.size.pixels() as usize);
    let rows = planes.flat_map(|plane| plane.chunks_exact(tensor.size.width as usize).step_by(n));
    rows.flat_map(|row| row.iter().copied().step_by(n))
        .collect()
}
