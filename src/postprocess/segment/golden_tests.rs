//! Tests of the slow reference upsampling against PyTorch, and of the kernels against the slow
//! reference.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use safetensors::SafeTensors;

use super::{Helpers, Logits, MaskJob, SegmentError, argmax, argmax_upsampled, reference};
use crate::cancel::{Cancel, Cancelled};
use crate::image::ImageSize;
use crate::testing::random::Random;

fn size(width: u32, height: u32) -> ImageSize {
    ImageSize { width, height }
}

/// Returns the sides of `size` as `[height, width]`.
fn sides(size: ImageSize) -> [usize; 2] {
    [size.height as usize, size.width as usize]
}

fn values(tensors: &SafeTensors, name: &str) -> Vec<f32> {
    let tensor = tensors.tensor(name).unwrap();
    let values = tensor.data().as_chunks::<4>().0.iter();
    values.map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[test]
fn the_reference_is_pytorchs_bilinear_interpolation() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bilinear.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let input = values(&tensors, "bilinear.input");
    for (name, to, every) in [
        ("bilinear.11x9.every_3", size(9, 11), 3),
        ("bilinear.193x257.every_3", size(257, 193), 3),
        ("bilinear.520x703.every_9", size(703, 520), 9),
    ] {
        let expected = values(&tensors, name);
        let all = reference::bilinear(&input, [17, 23], sides(to));
        let rows = all
            .chunks_exact(to.pixels() as usize)
            .flat_map(|plane| plane.chunks_exact(to.width as usize).step_by(every));
        let got: Vec<f32> = rows
            .flat_map(|row| row.iter().copied().step_by(every))
            .collect();
        assert_eq!(got.len(), expected.len(), "{name}");
        let pairs = got.iter().zip(&expected);
        let largest = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{name}: {largest:e}");
        assert!(largest < 1e-5, "{name}: {largest}");
    }
}

/// Returns pseudo-random values in -10..10 that take `levels` different values; few levels make
/// many ties.
fn noise(len: usize, seed: u64, levels: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    let mut next = || random.below(levels as usize) as f32 / levels as f32 * 20.0 - 10.0;
    (0..len).map(|_| next()).collect()
}

/// Stands for a pool with three idle threads: starts up to three new threads for each job.
struct Threads;

impl Helpers for Threads {
    fn start(&self, most: usize, job: Arc<dyn Fn() + Send + Sync>) {
        for _ in 0..most.min(3) {
            let job = Arc::clone(&job);
            drop(thread::spawn(move || job()));
        }
    }
}

/// Asserts that upsampling `data`, `[classes, from.height, from.width]`, to `to` gives the same
/// mask as the reference, on one thread and with helper threads.
fn check(data: &[f32], classes: usize, from: ImageSize, to: ImageSize) {
    let logits = Logits::new(data, classes, from).unwrap();
    let upsampled = reference::bilinear(data, sides(from), sides(to));
    let expected = reference::argmax(&upsampled, to);
    let cancel = Cancel::never();
    let alone = MaskJob::alone(&cancel);
    let shared = MaskJob {
        helpers: Some(&Threads),
        ..alone
    };
    for job in [alone, shared] {
        let got = argmax_upsampled(&logits, to, job).unwrap();
        let how = if job.helpers.is_some() {
            "shared"
        } else {
            "alone"
        };
        assert!(
            got == expected,
            "{classes} classes of {from:?} upsampled to {to:?}, {how}"
        );
    }
}

#[test]
fn the_kernel_equals_the_reference_for_every_shape() {
    let froms = [(1, 1), (1, 9), (7, 1), (2, 2), (5, 3), (13, 17)];
    let sides = [1, 2, 3, 7, 16, 31, 33, 63, 64, 65, 130];
    for (i, (w, h)) in froms.into_iter().enumerate() {
        for (classes, levels) in [(1, 1000), (2, 3), (21, 4), (21, 1 << 20)] {
            let data = noise(classes * w * h, i as u64, levels);
            for (to_w, to_h) in sides.iter().flat_map(|w| sides.map(|h| (*w, h))) {
                check(&data, classes, size(w as u32, h as u32), size(to_w, to_h));
            }
        }
    }
}

#[test]
fn many_classes_and_large_images_are_exact() {
    for (classes, from, to) in [
        (150, size(9, 8), size(97, 70)),
        (256, size(4, 5), size(70, 33)),
        (21, size(87, 65), size(640, 480)),
        // This mask and the next one are large enough for helper threads to be started.
        (21, size(87, 65), size(800, 600)),
        (21, size(3, 2), size(2000, 300)),
        (21, size(200, 3), size(20, 4000)),
        (2, size(500, 1), size(4000, 1)),
        (2, size(1, 500), size(1, 4000)),
    ] {
        let len = classes * from.pixels() as usize;
        check(&noise(len, 7, 1 << 20), classes, from, to);
        check(&noise(len, 8, 2), classes, from, to);
    }
}

#[test]
fn nan_and_infinite_scores_are_handled() {
    let odd = [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        f32::MIN_POSITIVE,
        -0.0,
    ];
    for every in [1, 2, 5] {
        let mut data = noise(3 * 11 * 9, every as u64, 50);
        for (i, value) in data.iter_mut().step_by(every).enumerate() {
            *value = odd[i * i % odd.len()];
        }
        check(&data, 3, size(11, 9), size(100, 70));
    }
    // Without upsampling, no score is multiplied by a weight of 0, which would turn infinity into
    // NaN. So the class with the infinite score is chosen.
    let data = [f32::NAN, 1.0, 1.0, f32::INFINITY, -1.0, f32::NAN];
    let logits = Logits::new(&data, 3, size(2, 1)).unwrap();
    assert_eq!(argmax(&logits).unwrap().classes(), [1, 1]);
}

#[test]
fn the_logits_own_resolution_needs_no_upsampling() {
    let cancel = Cancel::never();
    for (classes, w, h) in [(1, 1, 1), (2, 5, 4), (21, 87, 65), (256, 3, 2)] {
        let data = noise(classes * w * h, 3, 5);
        let from = size(w as u32, h as u32);
        let logits = Logits::new(&data, classes, from).unwrap();
        let expected = reference::argmax(&data, from);
        assert_eq!(argmax(&logits), Ok(expected.clone()));
        assert_eq!(
            argmax_upsampled(&logits, from, MaskJob::alone(&cancel)),
            Ok(expected)
        );
    }
}

#[test]
fn impossible_shapes_are_rejected() {
    let data = [0.0; 12];
    let empty = SegmentError::EmptySize {
        width: 0,
        height: 2,
    };
    let length = SegmentError::Length {
        expected: 8,
        got: 12,
    };
    let cases = [
        (0, size(1, 12), SegmentError::Classes { got: 0 }),
        (257, size(1, 1), SegmentError::Classes { got: 257 }),
        (2, size(0, 2), empty.clone()),
        (2, size(2, 2), length),
    ];
    for (classes, size, expected) in cases {
        let got = Logits::new(&data, classes, size);
        assert_eq!(got.err(), Some(expected));
    }
    let logits = Logits::new(&data, 3, size(2, 2)).unwrap();
    let cancel = Cancel::never();
    let got = argmax_upsampled(&logits, size(0, 2), MaskJob::alone(&cancel));
    assert_eq!(got.err(), Some(empty));
}

#[test]
fn cancelled_work_returns_no_mask() {
    let data = noise(2 * 4, 1, 50);
    let logits = Logits::new(&data, 2, size(2, 2)).unwrap();
    let cancel = Cancel::never();
    cancel.cancel();
    for helpers in [None, Some(&Threads as &dyn Helpers)] {
        let job = MaskJob {
            cancel: &cancel,
            helpers,
        };
        let got = argmax_upsampled(&logits, size(3000, 2000), job);
        assert_eq!(got, Err(SegmentError::Cancelled(Cancelled)));
    }
}
