//! Benchmarks the steps of segmentation postprocessing for a 640x480 photograph: upsampling logits
//! to a mask, computing the share of each class, encoding the mask, and drawing the overlay.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use image::RgbImage;
use sightline::cancel::Cancel;
use sightline::draw::{Tint, overlay};
use sightline::image::ImageSize;
use sightline::pool::ImagePool;
use sightline::postprocess::segment::{
    Logits, MaskJob, VOC_PALETTE, argmax_upsampled, class_shares, mask_png, mask_rle,
};

const CLASSES: usize = 21;
/// Size of the logits of a network with output stride 8 whose input has a short side of 520.
const LOGITS: ImageSize = size(87, 65);
const MASK: ImageSize = size(640, 480);

const fn size(width: u32, height: u32) -> ImageSize {
    ImageSize { width, height }
}

/// Returns logits `[CLASSES, H, W]`. Those of class 0, the background, are constant; those of every
/// other class form one round object: they fall with the distance from its center.
fn objects() -> Vec<f32> {
    let (width, height) = (LOGITS.width as usize, LOGITS.height as usize);
    let mut data = Vec::new();
    for class in 0..CLASSES {
        let (center_x, center_y) = (class * 37 % width, class * 23 % height);
        for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
            let distance = (x as f32 - center_x as f32).hypot(y as f32 - center_y as f32);
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
    let logits = Logits::new(&data, CLASSES, LOGITS).expect("the logits fill their shape");
    let cancel = Cancel::never();
    let upsampled = |size| {
        let job = MaskJob::alone(&cancel);
        argmax_upsampled(black_box(&logits), size, job).expect("the job is not cancelled")
    };
    let mask = upsampled(MASK);
    let labels: Vec<String> = (0..CLASSES).map(|class| class.to_string()).collect();
    let mut image = RgbImage::from_fn(MASK.width, MASK.height, |x, y| {
        image::Rgb([x as u8, y as u8, (x ^ y) as u8])
    });
    let mut group = c.benchmark_group("640x480");
    group.throughput(Throughput::Elements(1));
    group.bench_function("upsample_argmax_21x65x87", |b| b.iter(|| upsampled(MASK)));
    group.bench_function("class_shares", |b| {
        b.iter(|| class_shares(black_box(&mask), &labels));
    });
    let never = Cancel::never();
    group.bench_function("mask_png", |b| {
        b.iter(|| mask_png(black_box(&mask), &VOC_PALETTE, &never));
    });
    group.bench_function("mask_rle", |b| {
        b.iter(|| mask_rle(black_box(&mask), &never));
    });
    let tint = Tint {
        palette: VOC_PALETTE,
        alpha: 0.5,
        outline: 2,
    };
    group.bench_function("overlay", |b| {
        b.iter(|| overlay(black_box(&mut image), &mask, &tint, &cancel));
    });
    group.finish();
}

/// Benchmarks upsampling logits to a mask on 1, 2 and 4 threads. A 640x480 mask is too small to be
/// shared between threads; a 4000x3000 mask is shared.
fn shared(c: &mut Criterion) {
    let data = objects();
    let logits = Logits::new(&data, CLASSES, LOGITS).expect("the logits fill their shape");
    let cancel = Cancel::never();
    let runtime = tokio::runtime::Runtime::new().expect("the runtime starts its threads");
    let _context = runtime.enter();
    for (name, size) in [("640x480", MASK), ("4000x3000", size(4000, 3000))] {
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Elements(1)).sample_size(20);
        for threads in [1, 2, 4] {
            // The calling thread computes a part of the mask too, so the pool has `threads - 1`
            // threads.
            let pool = ImagePool::new(threads - 1, 0, 0);
            let job = MaskJob {
                cancel: &cancel,
                helpers: Some(&pool),
            };
            group.bench_function(format!("upsample_argmax_21x65x87_threads_{threads}"), |b| {
                b.iter(|| argmax_upsampled(black_box(&logits), size, job));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, stages, shared);
criterion_main!(benches);
