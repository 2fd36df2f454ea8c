//! Measures the int8 kernels on layers of MobileNetV2 and MobileNetV3-Large.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ort_int8::kernels::{
    Addition, BlockedQuantization, Depthwise, DepthwiseSpec, Image, Isa, Pointwise, PointwiseSpec,
    Scratch, lookup, quantize_blocked,
};

/// Depthwise layers as (channels, height and width of the image in pixels, height and width of the
/// kernel, stride).
const LAYERS: [(usize, usize, usize, usize); 10] = [
    (32, 112, 3, 1),
    (96, 112, 3, 2),
    (144, 56, 3, 1),
    (576, 14, 3, 1),
    (16, 112, 3, 1),
    (72, 56, 3, 1),
    (72, 56, 5, 2),
    (120, 28, 5, 1),
    (672, 14, 5, 2),
    (960, 7, 5, 1),
];

/// Pointwise layers as (pixels, input channels, output channels).
const POINTWISE: [(usize, usize, usize); 10] = [
    (12_544, 32, 16),
    (12_544, 16, 96),
    (3136, 24, 144),
    (3136, 144, 24),
    (196, 64, 384),
    (196, 384, 64),
    (49, 960, 160),
    (49, 320, 1280),
    (1, 240, 960),
    (1, 960, 1280),
];

/// Fully connected layers with fp32 results as (rows, inputs, outputs).
const LINEAR: [(usize, usize, usize); 2] = [(1, 1280, 1000), (8, 1280, 1000)];

fn depthwise(c: &mut Criterion) {
    let mut group = c.benchmark_group("depthwise");
    for (channels, side, kernel, stride) in LAYERS {
        let taps = kernel * kernel;
        let spec = DepthwiseSpec {
            kernel: [kernel; 2],
            strides: [stride; 2],
            pads: [kernel / 2; 4],
            same_upper: false,
            dilations: [1; 2],
            input_zero_point: 3,
            output_zero_point: 100,
            weights: (0..channels * taps).map(|i| (i * 37) as i8 / 2).collect(),
            bias: vec![5; channels],
            multipliers: vec![1e-3; channels],
            table: None,
        };
        let layer = Depthwise::new(spec, Isa::detect());
        let Ok(layer) = layer else { continue };
        let data: Vec<u8> = (0..side * side * channels)
            .map(|i| (i * 31) as u8)
            .collect();
        let pixels = (side / stride) * (side / stride);
        let (mut output, mut scratch) = (vec![0; pixels * channels], Scratch::default());
        // Elements are multiplications here, so the throughput is in multiplications per second.
        group.throughput(Throughput::Elements((pixels * channels * taps) as u64));
        let name = format!("{channels}x{side}_{kernel}x{kernel}_s{stride}");
        group.bench_function(name, |b| {
            b.iter(|| {
                let image = Image {
                    data: black_box(&data),
                    height: side,
                    width: side,
                };
                layer.run(image, 0, &mut output, &mut scratch)
            });
        });
    }
    group.finish();
}

fn pointwise_spec(inputs: usize, outputs: usize) -> PointwiseSpec {
    PointwiseSpec {
        inputs,
        input_zero_point: 3,
        output_zero_point: 100,
        weights: (0..inputs * outputs).map(|i| (i * 37) as i8 / 2).collect(),
        bias: vec![5; outputs],
        multipliers: vec![1e-3; outputs],
        table: None,
    }
}

fn linear(c: &mut Criterion) {
    let mut group = c.benchmark_group("linear");
    for (rows, inputs, outputs) in LINEAR {
        let Ok(layer) = Pointwise::new(pointwise_spec(inputs, outputs), Isa::detect()) else {
            continue;
        };
        let data: Vec<u8> = (0..rows * inputs).map(|i| (i * 31) as u8).collect();
        let mut output = vec![0.0; rows * outputs];
        // Elements are multiplications here.
        group.throughput(Throughput::Elements((rows * inputs * outputs) as u64));
        group.bench_function(format!("{rows}x{inputs}x{outputs}"), |b| {
            b.iter(|| layer.run_to_f32(black_box(&data), &mut output));
        });
    }
    group.finish();
}

fn pointwise(c: &mut Criterion) {
    let mut group = c.benchmark_group("pointwise");
    for (pixels, inputs, outputs) in POINTWISE {
        let Ok(layer) = Pointwise::new(pointwise_spec(inputs, outputs), Isa::detect()) else {
            continue;
        };
        let data: Vec<u8> = (0..pixels * inputs).map(|i| (i * 31) as u8).collect();
        let mut output = vec![0; pixels * outputs];
        // Elements are multiplications here.
        group.throughput(Throughput::Elements((pixels * inputs * outputs) as u64));
        group.bench_function(format!("{pixels}x{inputs}x{outputs}"), |b| {
            b.iter(|| layer.run(black_box(&data), &mut output));
        });
    }
    group.finish();
}

fn add(c: &mut Criterion) {
    let addition = Addition {
        ratio: 0.7,
        residual_ratio: 1.1,
        offset: -30.0,
        residual_first: false,
    };
    let residual: Vec<u8> = (0..75_264).map(|i| (i * 31) as u8).collect();
    let mut values = residual.clone();
    let mut group = c.benchmark_group("add");
    group.throughput(Throughput::Bytes(values.len() as u64));
    group.bench_function("56x56x24", |b| {
        b.iter(|| addition.add(Isa::detect(), &mut values, black_box(&residual)));
    });
    group.finish();
}

fn table(c: &mut Criterion) {
    let table = std::array::from_fn(|index| index as u8 ^ 0x55);
    let input: Vec<u8> = (0..200_704).map(|i| (i * 31) as u8).collect();
    let mut output = vec![0; input.len()];
    let mut group = c.benchmark_group("lookup");
    group.throughput(Throughput::Bytes(input.len() as u64));
    group.bench_function("112x112x16", |b| {
        b.iter(|| lookup(Isa::detect(), &table, black_box(&input), &mut output));
    });
    group.finish();
}

fn quantize(c: &mut Criterion) {
    let input: Vec<f32> = (0..401_408).map(|i| (i % 1000) as f32 * 0.01).collect();
    let mut output = vec![0; input.len()];
    let mut group = c.benchmark_group("quantize_blocked");
    group.throughput(Throughput::Elements(input.len() as u64));
    let spec = BlockedQuantization {
        channels: 32,
        block: if matches!(Isa::detect(), Isa::Avx512(_)) {
            16
        } else {
            8
        },
        scale: 0.05,
        zero_point: 3,
    };
    group.bench_function("112x112x32", |b| {
        b.iter(|| quantize_blocked(Isa::detect(), &spec, black_box(&input), 0, &mut output));
    });
    group.finish();
}

criterion_group!(benches, depthwise, pointwise, linear, add, table, quantize);
criterion_main!(benches);
