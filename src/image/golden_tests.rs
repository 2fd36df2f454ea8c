//! Tests that compare decoding, resizing and preprocessing with Pillow and torchvision, on the
//! images of `tests/golden` and `tests/photos`.

use std::path::{Path, PathBuf};

use image::RgbImage;
use safetensors::SafeTensors;

use super::{
    DecodeOptions, Extent, ImageError, ImageFormat, ImageSize, Orientation, Preprocessor, Window,
    decode, probe, reference, resize_window, short_side_size,
};
use crate::cancel::Cancel;
use crate::manifest::{Filter, Preprocess, Resize};
use crate::testing::random::Random;

const OPTIONS: DecodeOptions = DecodeOptions {
    max_pixels: 1 << 24,
    orientation: Orientation::Apply,
};

fn tests_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn read(path: &str) -> Vec<u8> {
    std::fs::read(tests_dir().join(path)).unwrap()
}

fn image_from(tensors: &SafeTensors, name: &str) -> RgbImage {
    let tensor = tensors.tensor(name).unwrap();
    let [height, width, 3] = *tensor.shape() else {
        panic!("{name}: shape {:?} is not [H, W, 3]", tensor.shape())
    };
    RgbImage::from_raw(width as u32, height as u32, tensor.data().to_vec()).unwrap()
}

fn extent(width: u32, height: u32) -> Extent {
    Extent {
        width: width.into(),
        height: height.into(),
    }
}

/// Returns the largest difference between two samples at the same place in two images of the same size.
fn distance(a: &RgbImage, b: &RgbImage) -> u8 {
    assert_eq!(a.dimensions(), b.dimensions());
    let pairs = a.as_raw().iter().zip(b.as_raw());
    pairs.map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0)
}

#[test]
fn every_valid_image_decodes_to_pillows_pixels() {
    let bytes = read("golden/images/expected.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let names = tensors.names();
    let mut wrong = Vec::new();
    for name in names.iter().filter(|name| !name.starts_with("resize.")) {
        let expected = image_from(&tensors, name);
        match decode(&read(&format!("golden/images/{name}")), &OPTIONS) {
            Ok(image) if image.dimensions() != expected.dimensions() => {
                wrong.push(format!("{name}: decoded size {:?}", image.dimensions()));
            }
            Ok(image) => {
                let distance = distance(&image, &expected);
                if distance > 0 {
                    wrong.push(format!("{name}: {distance} levels off"));
                }
            }
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    assert!(names.len() > 50 && wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn invalid_images_are_rejected_with_their_reason() {
    let truncated = [
        ("truncated.jpg", ImageFormat::Jpeg),
        ("truncated_end.jpg", ImageFormat::Jpeg),
        ("truncated_progressive.jpg", ImageFormat::Jpeg),
        ("truncated.png", ImageFormat::Png),
        ("truncated.webp", ImageFormat::WebP),
        ("truncated_lossless.webp", ImageFormat::WebP),
        ("truncated.gif", ImageFormat::Gif),
        ("truncated.bmp", ImageFormat::Bmp),
    ];
    for (name, expected) in truncated {
        let result = decode(&read(&format!("golden/images/{name}")), &OPTIONS);
        assert!(
            matches!(&result, Err(ImageError::Damaged { format, .. }) if *format == expected),
            "{name}: {:?}",
            result.err()
        );
    }
    let too_large = |side| ImageError::TooManyPixels {
        width: side,
        height: side,
        limit: OPTIONS.max_pixels,
    };
    let others = [
        ("empty", ImageError::Empty),
        ("text.txt", ImageError::UnknownFormat { found: None }),
        ("huge.png", too_large(50_000)),
        ("huge.jpg", too_large(65_535)),
    ];
    for (name, expected) in others {
        let result = decode(&read(&format!("golden/images/{name}")), &OPTIONS);
        assert_eq!(result.err(), Some(expected), "{name}");
    }
}

#[test]
fn probing_returns_format_and_size_before_rotation() {
    let cases = [
        ("exif_6.jpg", ImageFormat::Jpeg, 32, 24),
        ("progressive.jpg", ImageFormat::Jpeg, 32, 24),
        ("1x4000.png", ImageFormat::Png, 1, 4000),
        ("lossy.webp", ImageFormat::WebP, 32, 24),
        ("lossless.webp", ImageFormat::WebP, 32, 24),
        ("animated.webp", ImageFormat::WebP, 32, 24),
        ("palette.bmp", ImageFormat::Bmp, 32, 24),
        ("offset_frame.gif", ImageFormat::Gif, 44, 32),
    ];
    for (name, format, width, height) in cases {
        let probed = probe(&read(&format!("golden/images/{name}"))).unwrap();
        let size = ImageSize { width, height };
        assert_eq!((probed.format, probed.size), (format, size), "{name}");
    }
    let ignore = DecodeOptions {
        orientation: Orientation::Ignore,
        ..OPTIONS
    };
    let stored = decode(&read("golden/images/exif_6.jpg"), &ignore).unwrap();
    assert_eq!(stored.dimensions(), (32, 24));
}

#[test]
fn the_limit_counts_pixels_exactly() {
    let bytes = read("golden/images/rgb.png");
    for (max_pixels, ok) in [(767, false), (768, true)] {
        let options = DecodeOptions {
            max_pixels,
            ..OPTIONS
        };
        assert_eq!(decode(&bytes, &options).is_ok(), ok, "limit {max_pixels}");
    }
}

#[test]
fn no_mutation_of_a_file_panics() {
    let mut random = Random::new(1);
    let options = DecodeOptions {
        max_pixels: 1 << 16,
        ..OPTIONS
    };
    for entry in std::fs::read_dir(tests_dir().join("golden/images")).unwrap() {
        let original = std::fs::read(entry.unwrap().path()).unwrap();
        if original.is_empty() || original.len() > 20_000 {
            continue;
        }
        for _ in 0..60 {
            let mut bytes = original.clone();
            for _ in 0..=random.below(4) {
                let end = if random.below(2) == 0 {
                    200
                } else {
                    usize::MAX
                };
                let at = random.below(bytes.len().min(end));
                bytes[at] = random.below(256) as u8;
            }
            let cut = random.below(3) * random.below(bytes.len()) / 2;
            bytes.truncate(bytes.len() - cut);
            let _ = decode(&bytes, &options);
        }
    }
}

#[test]
fn resizes_are_bit_identical_to_pillows() {
    let bytes = read("golden/images/expected.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let source = image_from(&tensors, "resize.source");
    let mut count = 0;
    for (filter, prefix) in [
        (Filter::Bilinear, "resize.bilinear."),
        (Filter::Bicubic, "resize.bicubic."),
    ] {
        for name in tensors.names().iter().filter(|n| n.starts_with(prefix)) {
            let expected = image_from(&tensors, name);
            let (w, h) = expected.dimensions();
            assert!(
                reference::resize(&source, w, h, filter) == expected,
                "reference resize, {name}"
            );
            let window = Window::all(extent(w, h));
            assert!(
                resize_window(&source, &window, filter, &Cancel::never()).unwrap() == expected,
                "{name}"
            );
            count += 1;
        }
    }
    assert_eq!(count, 18);
}

/// Returns an image of noise, in which every rounding difference shows.
fn noise(width: u32, height: u32) -> RgbImage {
    let mut random = Random::new(u64::from(width) << 32 | u64::from(height));
    RgbImage::from_fn(width, height, |_, _| {
        let [r, g, b, ..] = random.bits().to_le_bytes();
        image::Rgb([r, g, b])
    })
}

#[test]
fn a_window_is_bit_identical_to_resize_and_crop() {
    let sides = [1, 2, 3, 7, 16, 31, 32, 33, 64, 97, 150];
    let sizes = sides
        .iter()
        .flat_map(|w| sides.iter().map(move |h| (*w, *h)));
    for (width, height) in sizes.filter(|(w, h)| w.max(h) / w.min(h) < 20) {
        let image = noise(width, height);
        for (filter, short, crop) in [
            (Filter::Bilinear, 32, 28),
            (Filter::Bicubic, 32, 28),
            (Filter::Bilinear, 37, 37),
            (Filter::Bicubic, 21, 10),
            (Filter::Bicubic, 90, 75),
        ] {
            let whole = short_side_size(ImageSize { width, height }, short);
            let window = Window::central(whole, crop);
            let (w, h) = (whole.width as u32, whole.height as u32);
            let full = reference::resize(&image, w, h, filter);
            let (x, y) = (window.x as u32, window.y as u32);
            let expected = image::imageops::crop_imm(&full, x, y, crop, crop).to_image();
            let got = resize_window(&image, &window, filter, &Cancel::never()).unwrap();
            assert!(
                got == expected,
                "{width}x{height} to short side {short}, crop {crop}, {filter:?}"
            );
        }
    }
}

#[test]
fn sizes_near_the_block_size_of_the_passes_are_exact() {
    for (width, height) in (1..8).flat_map(|w| (31..35).map(move |h| (w, h))) {
        let image = noise(width, height);
        for (w, h) in [(31, 5), (32, 32), (33, 40), (70, 31)] {
            for filter in [Filter::Bilinear, Filter::Bicubic] {
                let window = Window::all(extent(w, h));
                assert!(
                    resize_window(&image, &window, filter, &Cancel::never()).unwrap()
                        == reference::resize(&image, w, h, filter),
                    "{width}x{height} to {w}x{h}, {filter:?}"
                );
            }
        }
    }
}

#[test]
fn an_equal_size_is_copied() {
    let image = noise(33, 21);
    for filter in [Filter::Bilinear, Filter::Bicubic] {
        assert!(
            resize_window(
                &image,
                &Window::all(extent(33, 21)),
                filter,
                &Cancel::never()
            )
            .unwrap()
                == image
        );
    }
}

#[test]
fn crop_offsets_round_to_even() {
    // Half of the columns to drop is rounded as Python does: 0.5 to 0, 1.5 to 2, 2.5 to 2.
    for (side, offset) in [(224, 0), (225, 0), (226, 1), (227, 2), (229, 2)] {
        let window = Window::central(extent(side, 224), 224);
        assert_eq!((window.x, window.y), (offset, 0), "width {side}");
    }
}

#[test]
fn photographs_become_torchvisions_tensors() {
    let bytes = read("golden/preprocess_classify.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    for photo in ["astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"] {
        let image = decode(&read(&format!("photos/{photo}")), &OPTIONS).unwrap();
        for size in [232, 256] {
            let tensor = tensors
                .tensor(&format!("{photo}.classify_{size}_224"))
                .unwrap();
            let expected = tensor
                .data()
                .as_chunks::<4>()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b));
            let got = every_fourth(&classify(size).run(&image).unwrap().data);
            assert_eq!(got.len(), expected.len());
            let largest = got
                .iter()
                .zip(expected)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert_eq!(largest, 0.0, "{photo} resized to {size}");
        }
    }
}

fn classify(size: u32) -> Preprocessor {
    Preprocessor::new(&Preprocess {
        resize: Resize::ShortSide {
            size,
            filter: Filter::Bilinear,
        },
        crop: Some(224),
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
        scale: None,
        channel_order: None,
        pad_to: 1,
    })
}

/// Returns every fourth row and column of planes of 224x224.
fn every_fourth(data: &[f32]) -> Vec<f32> {
    let rows = data.chunks_exact(224).step_by(4);
    rows.flat_map(|row| row.iter().copied().step_by(4))
        .collect()
}
