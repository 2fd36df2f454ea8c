//! The AVX-512 VNNI kernels of [`blocked`](super::blocked): one row of the input or the output.

use std::arch::x86_64::{
    __m512, __m512i, _mm512_cvtepu8_epi32, _mm512_dpbusd_epi32, _mm512_permutexvar_epi32,
    _mm512_set1_epi16, _mm512_shrdi_epi32,
};

use fearless_simd::{Avx512, SimdBase, SimdFrom, f32x16, i8x64, i32x16, u8x16, u8x64};

use super::blocked::Column;
use super::depthwise::Depthwise;
use super::lookup::{find, table_parts};
use super::phase::{Phase, SIDE};
use super::requantize_avx512::packed;
use super::{LANES, UNPACKED_WIDE};

/// The pixels of a row of an image, 64 channels each.
#[derive(Clone, Copy)]
pub(super) struct Pixels<'a> {
    /// Elements of the row, from the first of the 64 channels on.
    pub(super) values: &'a [u8],
    /// Number of channels of a pixel of the image. 0 repeats the first pixel.
    pub(super) channels: usize,
    /// Number of pixels.
    pub(super) count: usize,
}

fearless_simd::kernel!(
    /// Adds a row of `pixels` to the columns of the four latest rows, in which it replaces the oldest one:
    /// `vpshrdd` moves the values of the other rows down by a byte and the new value in.
    pub(super) fn push(
        avx512: Avx512,
        pixels: Pixels<'_>,
        before: &[Column],
        latest: &mut [Column],
    ) {
        let columns = before.iter().zip(latest).take(pixels.count);
        for (index, (before, latest)) in columns.enumerate() {
            let values = &pixels.values[index * pixels.channels..][..LANES];
            let values = values.as_chunks::<16>().0.iter();
            let columns = before.0.as_chunks::<LANES>().0.iter();
            let columns = columns.zip(latest.0.as_chunks_mut::<LANES>().0);
            for (value, (before, latest)) in values.zip(columns) {
                let value = _mm512_cvtepu8_epi32(u8x16::simd_from(avx512, *value).into());
                let rows = u8x64::simd_from(avx512, *before).into();
                let rows = _mm512_shrdi_epi32::<8>(rows, value);
                u8x64::simd_from(avx512, rows).store_slice(latest);
            }
        }
    }
);

/// Computes an output row. `columns` are those before the latest row, and those with it. `output` begins
/// with the first channel of the block.
pub(super) fn row(
    avx512: Avx512,
    layer: &Depthwise,
    phase: &Phase,
    columns: [&[Column]; 2],
    output: &mut [u8],
) {
    let count = output.len().div_ceil(layer.channels);
    match (layer.strides[1], count) {
        (1, 4..) => tiles_1_4(avx512, layer, phase, columns, output),
        (1, _) => tiles_1_1(avx512, layer, phase, columns, output),
        (_, 4..) => tiles_2_4(avx512, layer, phase, columns, output),
        _ => tiles_2_1(avx512, layer, phase, columns, output),
    }
}

macro_rules! tiles {
    ($name:ident, $stride:literal, $tile:literal: $($pixel:literal)*, $($part:literal)*) => {
        fearless_simd::kernel!(
            /// Computes an output row in tiles of pixels. The last tile overlaps the one before if the
            /// pixels do not fill it.
            ///
            /// For each column, `vpdpbusd` multiplies the first row, and then the last four rows, of a
            /// channel by their weights and adds the products to the sum of the channel, 16 channels per
            /// instruction. The loops over parts and pixels are written out so that all sums stay in
            /// registers, and all pixels are requantized before the first one is stored: the compiler
            /// would move their sums behind the bounds checks of the stores, and keep the columns on the
            /// stack meanwhile.
            fn $name(
                avx512: Avx512,
                layer: &Depthwise,
                phase: &Phase,
                columns: [&[Column]; 2],
                output: &mut [u8],
            ) {
                /// Number of columns that a tile reads.
                const SPAN: usize = ($tile - 1) * $stride + SIDE;
                let weights = &phase.weights[..2 * SIDE];
                let count = output.len().div_ceil(layer.channels);
                let zero = _mm512_set1_epi16(i16::from(layer.output_zero_point));
                let order: __m512i = i32x16::simd_from(avx512, UNPACKED_WIDE).into();
                let table = layer.table.as_deref();
                let table = table.map(|table| table_parts(avx512, table));
                let multipliers: [__m512; 4] =
                    [$(f32x16::simd_from(avx512, phase.multipliers[$part]).into()),*];
                for start in (0..count).step_by($tile) {
                    let first = start.min(count - $tile);
                    let before = &columns[0][first * $stride..][..SPAN];
                    let latest = &columns[1][first * $stride..][..SPAN];
                    let sums = [$({
                        let bias: __m512i = i32x16::simd_from(avx512, phase.bias[$part]).into();
                        let mut sums = [bias; $tile];
                        for x in 0..SIDE {
                            let one = weights[2 * x][$part].0;
                            let one = i8x64::simd_from(avx512, one).into();
                            let four = weights[2 * x + 1][$part].0;
                            let four = i8x64::simd_from(avx512, four).into();
                            for pixel in 0..$tile {
                                let column = pixel * $stride + x;
                                let rows = before[column].0.as_chunks::<LANES>().0[$part];
                                let rows = u8x64::simd_from(avx512, rows).into();
                                sums[pixel] = _mm512_dpbusd_epi32(sums[pixel], rows, one);
                                let rows = latest[column].0.as_chunks::<LANES>().0[$part];
                                let rows = u8x64::simd_from(avx512, rows).into();
                                sums[pixel] = _mm512_dpbusd_epi32(sums[pixel], rows, four);
                            }
                        }
                        sums
                    }),*];
                    let mut results = [zero; $tile];
                    $(
                        let four = [sums[0][$pixel], sums[1][$pixel], sums[2][$pixel], sums[3][$pixel]];
                        let bytes = packed(avx512, four, multipliers, zero);
                        results[$pixel] = _mm512_permutexvar_epi32(order, bytes);
                    )*
                    if let Some(table) = table {
                        $(results[$pixel] = find(avx512, table, results[$pixel]);)*
                    }
                    $(
                        let bytes: [u8; LANES] = u8x64::simd_from(avx512, results[$pixel]).into();
                        let start = (first + $pixel) * layer.channels;
                        output[start..start + LANES].copy_from_slice(&bytes);
                    )*
                }
            }
        );
    };
}

tiles!(tiles_1_1, 1, 1: 0, 0 1 2 3);
tiles!(tiles_1_4, 1, 4: 0 1 2 3, 0 1 2 3);
tiles!(tiles_2_1, 2, 1: 0, 0 1 2 3);
tiles!(tiles_2_4, 2, 4: 0 1 2 3, 0 1 2 3);
