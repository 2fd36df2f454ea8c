//! Benchmarks JPEG decoding and classification preprocessing of a 500x375 photograph, resizing of a
//! 4000x3000 image, and normalization of a 224x224 image.

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;
use sightline::cancel::Cancel;
use sightline::image::{
    DecodeOptions, ImageSize, Normalizer, Orientation, Preprocessor, Window, decode, resize_window,
    short_side_size,
};
use sightline::manifest::{Filter, Preprocess, Resize};

const OPTIONS: DecodeOptions = DecodeOptions {
    max_pixels: 100_000_000,
    orientation: Orientation::Apply,
};
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

fn photo(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/photos")
        .join(name);
    std::fs::read(path).expect("the photograph is in the repository")
}

/// Returns the central 224x224 window of `image` resized to a short side of 256.
fn window(image: &RgbImage) -> Window {
    let (width, height) = image.dimensions();
    Window::central(short_side_size(ImageSize { width, height }, 256), 224)
}

fn stages(c: &mut Criterion) {
    let jpeg = photo("coffee_500x375.jpg");
    let image = decode(&jpeg, &OPTIONS).expect("the photograph is a valid JPEG");
    let never = Cancel::never();
    let mut group = c.benchmark_group("500x375");
    group.throughput(Throughput::Elements(1));
    group.bench_function("decode_jpeg", |b| {
        b.iter(|| decode(black_box(&jpeg), &OPTIONS));
    });
    for (name, filter) in [("bilinear", Filter::Bilinear), ("bicubic", Filter::Bicubic)] {
        let window = window(&image);
        group.bench_function(format!("resize_crop_224_{name}"), |b| {
            b.iter(|| resize_window(black_box(&image), &window, filter, &never));
        });
    }
    group.bench_function("inexact_resize_crop_224_bilinear", |b| {
        let mut resizer = Resizer::new();
        b.iter(|| fast_resize(&mut resizer, black_box(&image)));
    });
    let preprocessor = Preprocessor::new(&Preprocess {
        resize: Resize::ShortSide {
            size: 256,
            filter: Filter::Bilinear,
        },
        crop: Some(224),
        mean: MEAN,
        std: STD,
        scale: None,
        channel_order: None,
        pad_to: 1,
    });
    group.bench_function("preprocess_256_224", |b| {
        b.iter(|| preprocessor.run(black_box(&image)));
    });
    group.finish();
}

fn large(c: &mut Criterion) {
    let image = RgbImage::from_fn(4000, 3000, |x, y| {
        image::Rgb([x as u8, y as u8, (x ^ y) as u8])
    });
    let window = window(&image);
    let never = Cancel::never();
    let mut group = c.benchmark_group("4000x3000");
    group.throughput(Throughput::Elements(1)).sample_size(20);
    group.bench_function("resize_crop_224_bilinear", |b| {
        b.iter(|| resize_window(black_box(&image), &window, Filter::Bilinear, &never));
    });
    group.bench_function("inexact_resize_crop_224_bilinear", |b| {
        let mut resizer = Resizer::new();
        b.iter(|| fast_resize(&mut resizer, black_box(&image)));
    });
    group.finish();
}

fn normalize(c: &mut Criterion) {
    let image = RgbImage::from_fn(224, 224, |x, y| {
        image::Rgb([x as u8, y as u8, (x ^ y) as u8])
    });
    let normalizer = Normalizer::new(MEAN, STD);
    let mut group = c.benchmark_group("224x224");
    group.throughput(Throughput::Elements(1));
    group.bench_function("normalize", |b| {
        b.iter(|| normalizer.apply(black_box(&image)));
    });
    group.finish();
}

/// Resizes `image` and crops it to its [`window`] with `fast_image_resize`, for comparison. That is
/// faster than `resize_window`, but the pixels are not bit-identical to those of Pillow.
fn fast_resize(resizer: &mut Resizer, image: &RgbImage) -> Image<'static> {
    let (width, height) = image.dimensions();
    let window = window(image);
    let x_scale = f64::from(width) / window.whole.width as f64;
    let y_scale = f64::from(height) / window.whole.height as f64;
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
        .crop(
            window.x as f64 * x_scale,
            window.y as f64 * y_scale,
            window.size.width as f64 * x_scale,
            window.size.height as f64 * y_scale,
        );
    let source = ImageRef::new(width, height, image.as_raw(), PixelType::U8x3)
        .expect("the image has three bytes per pixel");
    let mut out = Image::new(
        window.size.width as u32,
        window.size.height as u32,
        PixelType::U8x3,
    );
    resizer
        .resize(&source, &mut out, &options)
        .expect("the window is inside the image");
    out
}

criterion_group!(benches, stages, large, normalize);
criterion_main!(benches);
