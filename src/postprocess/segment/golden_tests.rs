//! The upsampling against PyTorch, and the kernel against the plain reference.

use std::path::Path;

use safetensors::SafeTensors;

use super::{Logits, SegmentError, argmax, argmax_upsampled, reference};
use crate::image::ImageSize;

fn size(width: u32, height: u32) -> ImageSize {
    ImageSize { width, height }
}

/// Height and width.
fn sides(size: ImageSize) -> [usize; 2] {
    [size.height as usize, size.width as usize]
}

fn values(tensors: &SafeTensors, name: &str) -> Vec<f32> {
    let tensor = tensors.tensor(name).unwrap();
    let numbers = tensor.data().as_chunks::<4>().0.iter();
    numbers.map(|bytes| f32::from_le_bytes(*bytes)).collect()
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

/// Numbers of a generator; `levels` of them, so that few levels make many ties.
fn noise(len: usize, seed: u64, levels: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % levels) as f32 / levels as f32 * 20.0 - 10.0
    };
    (0..len).map(|_| next()).collect()
}

/// The kernel on one and on three threads, and the reference.
fn check(data: &[f32], classes: usize, from: ImageSize, to: ImageSize) {
    let logits = Logits::new(data, classes, from).unwrap();
    let enlarged = reference::bilinear(data, sides(from), sides(to));
    let expected = reference::argmax(&enlarged, to);
    for threads in [0, 1, 3] {
        let got = argmax_upsampled(&logits, to, threads).unwrap();
        assert!(
            got == expected,
            "{classes} of {from:?} to {to:?}, {threads}"
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
fn many_classes_and_large_pictures_are_exact() {
    for (classes, from, to) in [
        (150, size(9, 8), size(97, 70)),
        (256, size(4, 5), size(70, 33)),
        (21, size(87, 65), size(640, 480)),
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
fn no_value_is_too_odd() {
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
    // What is at the logits' own resolution is not multiplied with anything: infinity wins.
    let data = [f32::NAN, 1.0, 1.0, f32::INFINITY, -1.0, f32::NAN];
    let logits = Logits::new(&data, 3, size(2, 1)).unwrap();
    assert_eq!(argmax(&logits).unwrap().classes(), [1, 1]);
}

#[test]
fn the_own_resolution_is_the_plain_argmax() {
    for (classes, w, h) in [(1, 1, 1), (2, 5, 4), (21, 87, 65), (256, 3, 2)] {
        let data = noise(classes * w * h, 3, 5);
        let from = size(w as u32, h as u32);
        let logits = Logits::new(&data, classes, from).unwrap();
        let expected = reference::argmax(&data, from);
        assert_eq!(argmax(&logits), Ok(expected.clone()));
        assert_eq!(argmax_upsampled(&logits, from, 4), Ok(expected));
    }
}

#[test]
fn impossible_shapes_are_refused() {
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
    assert_eq!(argmax_upsampled(&logits, size(0, 2), 1).err(), Some(empty));
}
