//! The kernel, and the plain form beside it, against the definition.

use onnx_export::formula::uniform;

use super::depthwise::{Depthwise, DepthwiseSpec, Scratch};
use super::rows::Rows;
use super::{LANES, reference};

/// As many numbers without a pattern, of 24 bits.
fn noise(name: &str, count: usize) -> impl Iterator<Item = u32> {
    uniform(name, count).map(|number| ((number + 1.0) * 8_388_607.0) as u32)
}

fn spec(channels: usize, (kernel, stride, dilation): (usize, usize, usize)) -> DepthwiseSpec {
    let taps = kernel * kernel;
    let name = format!("{channels} {kernel} {stride} {dilation}");
    let mut numbers = noise(&name, channels * (taps + 2) + 2 + 256);
    let mut next = || numbers.next().unwrap();
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
        input_zero: next() as u8,
        output_zero: next() as u8,
        weights,
        bias,
        multipliers,
        table: (stride == 1).then(|| Box::new(std::array::from_fn(|_| next() as u8))),
    }
}

/// Compares both forms with the reference, in one piece and in pieces of rows.
fn check(spec: &DepthwiseSpec, size: [usize; 2]) {
    let channels = spec.bias.len();
    let picture = noise("picture", size[0] * size[1] * channels);
    let picture: Vec<u8> = picture.map(|number| number as u8).collect();
    let expected = reference::depthwise(spec, &picture, size);
    let layer = Depthwise::new(spec.clone()).unwrap();
    let [height, width] = layer.output_size(size).unwrap();
    let mut scratch = Scratch::default();
    for rows in [height, 2] {
        let mut got = vec![0; expected.len()];
        for (index, part) in got.chunks_mut(rows * width * channels).enumerate() {
            layer
                .run(&picture, size, index * rows, part, &mut scratch)
                .unwrap();
        }
        assert!(got == expected, "{channels} {:?} {size:?}", spec.kernel);
    }
    let (mut rows, length) = (Rows::new(&layer, size[1]), width * channels);
    for y in 0..height {
        let taps = layer.taps(&mut rows, &picture, size, y);
        let mut row = vec![[0; LANES]; length.div_ceil(LANES)];
        layer.plain_row(&taps, &mut row);
        assert_eq!(
            row.as_flattened()[..length],
            expected[y * length..][..length]
        );
    }
}

#[test]
fn equals_the_definition() {
    for channels in [8, 16, 24, 64, 72, 120, 128] {
        for kernel in [3, 5] {
            for (stride, dilation) in [(1, 1), (2, 1), (1, 2), (3, 1), (2, 2)] {
                let spec = spec(channels, (kernel, stride, dilation));
                for size in [[9, 11], [12, 8], [1, 1], [5, 2]] {
                    check(&spec, size);
                }
            }
        }
    }
}

#[test]
fn padding_of_as_much_as_it_takes() {
    for (kernel, stride, dilation) in [
        (3, 2, 1),
        (5, 2, 1),
        (3, 1, 1),
        (3, 2, 2),
        (2, 1, 1),
        (3, 4, 1),
    ] {
        let mut spec = spec(24, (kernel, stride, dilation));
        spec.same_upper = true;
        for size in [[8, 9], [7, 7], [1, 2], [12, 5]] {
            check(&spec, size);
        }
    }
}

#[test]
fn windows_of_any_form() {
    let mut odd = spec(40, (3, 2, 1));
    odd.pads = [0, 0, 1, 1];
    check(&odd, [14, 15]);
    odd.pads = [0; 4];
    check(&odd, [3, 3]);
    odd.pads = [2, 0, 0, 3];
    odd.strides = [1, 3];
    check(&odd, [6, 19]);
    check(&spec(1000, (1, 1, 1)), [2, 3]);
    check(&spec(999, (3, 1, 1)), [3, 2]);
    check(&spec(16, (7, 2, 1)), [20, 20]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let good = || spec(8, (3, 1, 1));
    let layer = Depthwise::new(good()).unwrap();
    let run = |size, first, length| {
        let output = &mut vec![0; length];
        layer.run(&[0; 72], size, first, output, &mut Scratch::default())
    };
    assert!(run([3, 3], 0, 72).is_ok());
    assert!(run([3, 3], 1, 72).is_err());
    assert!(run([3, 4], 0, 72).is_err());
    assert!(run([3, 3], 0, 71).is_err());
    let changes: [fn(&mut DepthwiseSpec); 6] = [
        |spec| spec.kernel = [0, 3],
        |spec| spec.strides = [1, 0],
        |spec| spec.dilations = [1, 17],
        |spec| spec.pads[3] = 257,
        |spec| spec.multipliers.truncate(7),
        |spec| spec.weights.push(0),
    ];
    for change in changes {
        let mut bad = good();
        change(&mut bad);
        assert!(Depthwise::new(bad).is_err());
    }
}
