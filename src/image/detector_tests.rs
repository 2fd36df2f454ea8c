//! The detectors' transform against torchvision, and its kernel against the plain reference.

use std::path::Path;

use image::RgbImage;
use safetensors::SafeTensors;

use super::{
    DecodeOptions, DetectorSize, DetectorTransform, ImageError, ImageSize, Orientation,
    bounded_size, decode, padded_size, reference,
};

fn size(width: u32, height: u32) -> ImageSize {
    ImageSize { width, height }
}

#[test]
fn bounded_sizes_are_torchvisions() {
    // GeneralizedRCNNTransform(min, max, ...).resize of torchvision 0.29.2; 97 shows that the
    // scale is rounded before it multiplies. The last two it refuses: an empty side.
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
            "{width}x{height} to {min}, {max}"
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
fn impossible_sizes_are_refused() {
    let transform = |size| DetectorTransform::new(size, 32, [0.5; 3], [0.5; 3]);
    let small = transform(DetectorSize::Bounded { min: 32, max: 64 });
    assert_eq!(small.sizes(size(0, 5)).err(), Some(ImageError::Empty));
    let huge = transform(DetectorSize::Fixed(size(1 << 16, 1 << 16)));
    let result = huge.sizes(size(5, 5));
    assert!(matches!(result, Err(ImageError::ResizedTooLarge { .. })));
}

/// The kernel against the reference for every pair of sizes, in a batch that is larger.
#[test]
fn the_kernel_equals_the_reference() {
    let sides = [1, 2, 3, 7, 16, 33, 64];
    let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    for (w, h) in sides.iter().flat_map(|w| sides.map(|h| (*w, h))) {
        let image = RgbImage::from_fn(w, h, |x, y| {
            image::Rgb([(x * 37 + y * 101) as u8, (x * y) as u8, (255 - x) as u8])
        });
        for to in [size(1, 1), size(5, 9), size(33, 17), size(70, 130)] {
            let padded = size(to.width + 3, to.height + 2);
            let transform = DetectorTransform::new(DetectorSize::Fixed(to), 1, mean, std);
            let mut got = vec![f32::NAN; 3 * padded.pixels() as usize];
            transform.write(&image, padded, &mut got).unwrap();
            let expected = reference::detector_planes(&image, (mean, std), to, padded);
            let pairs = got.iter().zip(&expected);
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
fn sizes_of_many_pictures_are_torchvisions() {
    let bytes = fixture();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let sizes = tensors.tensor("sizes").unwrap();
    let numbers = sizes.data().as_chunks::<4>().0.iter();
    let numbers: Vec<u32> = numbers.map(|bytes| u32::from_le_bytes(*bytes)).collect();
    assert!(numbers.len() > 300);
    for [width, height, min, max, to_width, to_height] in numbers.as_chunks::<6>().0 {
        let got = bounded_size(size(*width, *height), *min, *max);
        let expected = size(*to_width, *to_height);
        assert_eq!(got, expected, "{width}x{height} to {min}, {max}");
    }
}

#[test]
fn photographs_become_torchvisions_tensors() {
    let bytes = fixture();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    let bounded = |min, max| DetectorSize::Bounded { min, max };
    let presets = [
        (
            "800_1333",
            32,
            DetectorTransform::new(bounded(800, 1333), 32, mean, std),
        ),
        (
            "320_640",
            8,
            DetectorTransform::new(bounded(320, 640), 32, mean, std),
        ),
        (
            "320x320",
            8,
            DetectorTransform::new(DetectorSize::Fixed(size(320, 320)), 1, [0.5; 3], [0.5; 3]),
        ),
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
            let numbers = expected.data().as_chunks::<4>().0.iter();
            let numbers = numbers.map(|bytes| f32::from_le_bytes(*bytes));
            let got = every_nth(&image, transform, *every);
            assert_eq!(got.len(), numbers.len(), "{name}");
            let pairs = got.iter().zip(numbers);
            let largest = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            println!("{name}: {largest:e}");
            assert!(largest < 2e-6, "{name}: {largest}");
        }
    }
}

/// Every nth row and column of the padded planes.
fn every_nth(image: &RgbImage, transform: &DetectorTransform, n: usize) -> Vec<f32> {
    let (width, height) = image.dimensions();
    let padded = transform.sizes(size(width, height)).unwrap().padded;
    let mut planes = vec![f32::NAN; 3 * padded.pixels() as usize];
    transform.write(image, padded, &mut planes).unwrap();
    let rows = planes
        .chunks_exact(padded.pixels() as usize)
        .flat_map(|plane| plane.chunks_exact(padded.width as usize).step_by(n));
    rows.flat_map(|row| row.iter().copied().step_by(n))
        .collect()
}
