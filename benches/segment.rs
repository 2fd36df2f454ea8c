//! From a segmentation network's logits to what is sent, for a photograph of the usual size.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use image::RgbImage;
use sightline::draw::overlay;
use sightline::image::ImageSize;
use sightline::postprocess::segment::{
    Logits, Mask, VOC_PALETTE, argmax_upsampled, class_shares, mask_png, mask_rle,
};

const CLASSES: usize = 21;
/// A short side of 520 at a stride of 8.
const FROM: ImageSize = ImageSize {
    width: 87,
    height: 65,
};
const TO: ImageSize = ImageSize {
    width: 640,
    height: 480,
};

/// Round objects, one of each class, of which each is the surest in its middle.
fn objects() -> Vec<f32> {
    let (width, height) = (FROM.width as usize, FROM.height as usize);
    let mut data = Vec::new();
    for class in 0..CLASSES {
        let centre = (class * 37 % width, class * 23 % height);
        for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
            let distance = (x as f32 - centre.0 as f32).hypot(y as f32 - centre.1 as f32);
            data.push(if class == 0 {
                4.0
            } else {
                9.0 - 0.6 * distance
            });
        }
    }
    data
}

fn stages(c: &mut Criterion) {
    let data = objects();
    let logits = Logits::new(&data, CLASSES, FROM).expect("a good shape");
    let upsampled = |size, threads| {
        argmax_upsampled(black_box(&logits), size, threads).expect("memory for a mask")
    };
    let mask: Mask = upsampled(TO, 1);
    let labels: Vec<String> = (0..CLASSES).map(|class| class.to_string()).collect();
    let mut image = RgbImage::from_fn(TO.width, TO.height, |x, y| {
        image::Rgb([x as u8, y as u8, (x ^ y) as u8])
    });
    let mut group = c.benchmark_group("640x480");
    group.throughput(Throughput::Elements(1));
    group.bench_function("upsample_argmax_21x65x87", |b| b.iter(|| upsampled(TO, 1)));
    group.bench_function("class_shares", |b| {
        b.iter(|| class_shares(black_box(&mask), &labels));
    });
    group.bench_function("mask_png", |b| {
        b.iter(|| mask_png(black_box(&mask), &VOC_PALETTE));
    });
    group.bench_function("mask_rle", |b| b.iter(|| mask_rle(black_box(&mask))));
    group.bench_function("overlay", |b| {
        b.iter(|| overlay(black_box(&mut image), &mask, &VOC_PALETTE, 0.5));
    });
    group.finish();
    let mut group = c.benchmark_group("4000x3000");
    group.throughput(Throughput::Elements(1)).sample_size(20);
    let large = ImageSize {
        width: 4000,
        height: 3000,
    };
    for threads in [1, 2] {
        group.bench_function(format!("upsample_argmax_21x65x87_threads_{threads}"), |b| {
            b.iter(|| upsampled(large, threads));
        });
    }
    group.finish();
}

criterion_group!(benches, stages);
criterion_main!(benches);
