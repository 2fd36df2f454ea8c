//! Compares the depthwise kernel of every instruction set with the reference.

use super::depthwise::{Depthwise, Image, Scratch};
use super::error::KernelError;
use super::isa::Isa;
use super::reference;
use super::spec::DepthwiseSpec;
use crate::random::uniform;

/// Size, stride and dilation of a convolution kernel, each the same for height and width.
#[derive(Clone, Copy)]
struct Window {
    kernel: usize,
    stride: usize,
    dilation: usize,
}

const fn window(kernel: usize, stride: usize, dilation: usize) -> Window {
    Window {
        kernel,
        stride,
        dilation,
    }
}

/// Returns an endless iterator of pseudo-random integers of 24 bits that depend on `seed` alone.
fn noise(seed: u64) -> impl Iterator<Item = u32> {
    uniform(seed).map(|value| ((value + 1.0) * 8_388_607.0) as u32)
}

fn spec(channels: usize, window: Window) -> DepthwiseSpec {
    let Window {
        kernel,
        stride,
        dilation,
    } = window;
    let taps = kernel * kernel;
    let mut values = noise((channels * 1000 + kernel * 100 + stride * 10 + dilation) as u64);
    let mut next = || values.next().unwrap();
    let weights = (0..channels * taps).map(|_| next() as i8).collect();
    let bias = (0..channels)
        .map(|_| next() as i32 % 20_000 - 10_000)
        .collect();
    let multipliers = (0..channels)
        .map(|_| (next() % 1000) as f32 * 2e-5)
        .collect();
    let pad = kernel / 2 * dilation;
    DepthwiseSpec {
        kernel: [kernel; 2],
        strides: [stride; 2],
        pads: [pad; 4],
        same_upper: false,
        dilations: [dilation; 2],
        input_zero_point: next() as u8,
        output_zero_point: next() as u8,
        weights,
        bias,
        multipliers,
        table: (stride == 1).then(|| Box::new(std::array::from_fn(|_| next() as u8))),
    }
}

/// Asserts that `Depthwise::run` equals the reference for an image of `size`, `[height, width]`, with
/// every instruction set of this CPU, and with weights of 8 bits and of 7 bits.
fn check(spec: &DepthwiseSpec, size: [usize; 2]) {
    let mut halved = spec.clone();
    halved.weights.iter_mut().for_each(|weight| *weight /= 2);
    for spec in [spec, &halved] {
        let channels = spec.bias.len();
        let data = noise(1).map(|value| value as u8);
        let data: Vec<u8> = data.take(size[0] * size[1] * channels).collect();
        let image = Image {
            data: &data,
            height: size[0],
            width: size[1],
        };
        let expected = reference::depthwise(spec, image);
        for isa in Isa::available() {
            check_image(spec, isa, image, &expected);
        }
    }
}

/// Asserts that `Depthwise::run` with `isa` returns `expected`, for the whole output in one call and
/// for one, two and three rows per call, the last rows first.
fn check_image(spec: &DepthwiseSpec, isa: Isa, image: Image<'_>, expected: &[u8]) {
    let layer = Depthwise::new(spec.clone(), isa).unwrap();
    let size = [image.height, image.width];
    let [height, width] = layer.output_size(size).unwrap();
    let channels = layer.channels();
    let mut scratch = Scratch::default();
    for rows in [height, 1, 2, 3] {
        let mut got = vec![0; expected.len()];
        let parts = got.chunks_mut(rows * width * channels).enumerate();
        for (index, part) in parts.collect::<Vec<_>>().into_iter().rev() {
            layer.run(image, index * rows, part, &mut scratch).unwrap();
        }
        assert!(
            got == expected,
            "{isa:?}: {channels} channels, kernel {:?}, strides {:?}, pads {:?}, same upper: {}, image {size:?}, {rows} \
             rows per call",
            spec.kernel,
            spec.strides,
            spec.pads,
            spec.same_upper
        );
    }
}

#[test]
fn kernel_equals_the_definition() {
    for channels in [8, 16, 24, 32, 40, 64, 72, 100, 120, 128, 144] {
        for kernel in [3, 5] {
            for (stride, dilation) in [(1, 1), (2, 1), (1, 2), (3, 1), (2, 2)] {
                let spec = spec(channels, window(kernel, stride, dilation));
                for size in [[9, 11], [12, 8], [1, 1], [5, 2]] {
                    check(&spec, size);
                }
            }
        }
    }
}

#[test]
fn same_upper_padding_equals_the_definition() {
    for (kernel, stride, dilation) in [
        (3, 2, 1),
        (5, 2, 1),
        (3, 1, 1),
        (3, 2, 2),
        (2, 1, 1),
        (3, 4, 1),
    ] {
        for channels in [24, 72] {
            let mut spec = spec(channels, window(kernel, stride, dilation));
            spec.same_upper = true;
            for size in [[8, 9], [7, 7], [1, 2], [12, 5]] {
                check(&spec, size);
            }
        }
    }
}

#[test]
fn padding_beside_images_of_another_width_is_exact() {
    for (kernel, channels, stride) in [(5, 72, 1), (5, 72, 2), (5, 24, 2), (3, 72, 1), (3, 24, 2)] {
        let mut spec = spec(channels, window(kernel, stride, 1));
        // The padding on the left then depends on the width.
        spec.same_upper = channels == 24;
        for isa in Isa::available() {
            let layer = Depthwise::new(spec.clone(), isa).unwrap();
            let mut scratch = Scratch::default();
            // With a stride of 2, images of 13 and 14 pixels have outputs of the same width.
            for (width, height) in [(14, 3), (13, 3), (14, 4), (7, 1)] {
                let data = noise(width as u64).map(|value| value as u8);
                let data: Vec<u8> = data.take(height * width * channels).collect();
                let image = Image {
                    data: &data,
                    height,
                    width,
                };
                let expected = reference::depthwise(&spec, image);
                let mut got = vec![0; expected.len()];
                layer.run(image, 0, &mut got, &mut scratch).unwrap();
                assert!(
                    got == expected,
                    "{isa:?}: kernel {kernel}, {channels} channels, {width} pixels"
                );
            }
        }
    }
}

#[test]
fn asymmetric_windows_equal_the_definition() {
    let mut odd = spec(40, window(3, 2, 1));
    odd.pads = [0, 0, 1, 1];
    check(&odd, [14, 15]);
    odd.pads = [0; 4];
    check(&odd, [3, 3]);
    odd.pads = [2, 0, 0, 3];
    odd.strides = [1, 3];
    check(&odd, [6, 19]);
    let windows = [3, 5].map(|kernel| [1, 2].map(|stride| window(kernel, stride, 1)));
    let layers = windows.as_flattened().iter();
    for (channels, window) in layers.flat_map(|window| [65, 72, 200].map(|c| (c, *window))) {
        let mut wide = spec(channels, window);
        for pads in [[0, 3, 4, 0], [9, 9, 9, 9], [0; 4], [2, 4, 2, 4]] {
            wide.pads = pads;
            check(&wide, [9, 8]);
            check(&wide, [5, 14]);
        }
        wide.table = match wide.table {
            Some(_) => None,
            None => Some(Box::new(std::array::from_fn(|value| !value as u8))),
        };
        check(&wide, [6, 11]);
        // Every pixel of an image without columns is padding.
        wide.pads = [2, 4, 2, 4];
        check(&wide, [5, 0]);
    }
    check(&spec(1000, window(1, 1, 1)), [2, 3]);
    check(&spec(999, window(3, 1, 1)), [3, 2]);
    check(&spec(16, window(7, 2, 1)), [20, 20]);
}

#[test]
fn largest_and_smallest_values_are_exact() {
    for (channels, kernel) in [(24, 3), (24, 5), (72, 3), (72, 5)] {
        for (value, weight) in [127, 64, -64, -128]
            .map(|weight| [(255, weight), (0, weight)])
            .concat()
        {
            let mut spec = spec(channels, window(kernel, 1, 1));
            spec.input_zero_point = 255 - value;
            spec.weights.fill(weight);
            spec.table = None;
            for multiplier in [1e-6, 1e-3, 0.5] {
                spec.multipliers.fill(multiplier);
                let image = Image {
                    data: &vec![value; 6 * 7 * channels],
                    height: 6,
                    width: 7,
                };
                let expected = reference::depthwise(&spec, image);
                for isa in Isa::available() {
                    check_image(&spec, isa, image, &expected);
                }
            }
        }
    }
}

#[test]
fn images_that_do_not_fit_are_rejected() {
    let layer = Depthwise::new(spec(8, window(3, 1, 1)), Isa::detect()).unwrap();
    let run = |width, first_row, length| {
        let image = Image {
            data: &[0; 72],
            height: 3,
            width,
        };
        let output = &mut vec![0; length];
        layer.run(image, first_row, output, &mut Scratch::default())
    };
    assert!(run(3, 0, 72).is_ok());
    let beyond = run(3, 1, 72).unwrap_err().to_string();
    assert!(beyond.contains("from row 1 on"), "{beyond}");
    let larger = run(4, 0, 72).unwrap_err();
    let expected = KernelError::Length {
        tensor: "image",
        expected: 96,
        got: 72,
    };
    assert_eq!(larger, expected);
    assert!(run(3, 0, 71).is_err());
}

#[test]
fn parameters_out_of_range_are_rejected_by_name() {
    type Change = fn(&mut DepthwiseSpec);
    let changes: [(Change, &str); 7] = [
        (|spec| spec.kernel = [0, 3], "`kernel` must be 1 to 16"),
        (|spec| spec.strides = [1, 0], "`strides` must be 1 to 16"),
        (
            |spec| spec.dilations = [1, 17],
            "`dilations` must be 1 to 16",
        ),
        (|spec| spec.pads[3] = 257, "`pads` must be at most 256"),
        (|spec| spec.multipliers.truncate(7), "8 elements, got 7"),
        (|spec| spec.weights.push(0), "72 elements, got 73"),
        (|spec| spec.bias.clear(), "`bias` must have 1 elements"),
    ];
    for (change, expected) in changes {
        let mut changed = spec(8, window(3, 1, 1));
        change(&mut changed);
        let message = Depthwise::new(changed, Isa::detect())
            .err()
            .unwrap()
            .to_string();
        assert!(message.contains(expected), "{expected}: {message}");
    }
}
