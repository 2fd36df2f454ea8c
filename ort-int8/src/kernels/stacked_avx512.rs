//! The AVX-512 VNNI kernels of [`stacked`](super::stacked): one row of the input or the output.

use std::arch::x86_64::{
    __m512, __m512i, _mm_unpackhi_epi8, _mm_unpacklo_epi8, _mm256_set_m128i, _mm512_cvtepu16_epi32,
    _mm512_dpbusd_epi32, _mm512_permutexvar_epi32, _mm512_set1_epi16, _mm512_set1_ps,
    _mm512_shrdi_epi32,
};

use fearless_simd::{Avx512, SimdBase, SimdFrom, f32x16, i8x64, i32x16, u8x16, u8x64};

use super::depthwise::Depthwise;
use super::lookup::{find, table_parts};
use super::phase::{COLUMNS, Phase};
use super::requantize_avx512::{packed, source};
use super::{LANES, QUAD, UNPACKED_WIDE};

/// Number of channels of a part of a block.
const PART: usize = 16;

/// What an output row is computed from.
#[derive(Clone, Copy)]
pub(super) struct RowInputs<'a> {
    /// For each padded pixel and channel, the values of the four latest rows.
    pub(super) values: &'a [u8],
    /// Index of the first of the three groups of weights in a [`Phase`].
    pub(super) first_group: usize,
    /// Number of channels of a pixel.
    pub(super) channels: usize,
    /// Number of pixels of the output row, at least 1.
    pub(super) count: usize,
}

fearless_simd::kernel!(
    /// Adds the rows `first` and `second` of an image to the four latest rows in `stack`, in which they replace the two
    /// oldest ones: `vpshrdd` moves the values of the other rows down by two bytes and the new values in.
    pub(super) fn push(avx512: Avx512, first: &[u8], second: &[u8], stack: &mut [u8]) {
        let (first, first_rest) = first.as_chunks::<PART>();
        let (second, second_rest) = second.as_chunks::<PART>();
        let (stack, stack_rest) = stack.as_chunks_mut::<LANES>();
        for ((first, second), stack) in first.iter().zip(second).zip(stack) {
            let first = u8x16::simd_from(avx512, *first).into();
            let second = u8x16::simd_from(avx512, *second).into();
            let low = _mm_unpacklo_epi8(first, second);
            let high = _mm_unpackhi_epi8(first, second);
            let values = _mm512_cvtepu16_epi32(_mm256_set_m128i(high, low));
            let rows = u8x64::simd_from(avx512, *stack).into();
            let rows = _mm512_shrdi_epi32::<16>(rows, values);
            u8x64::simd_from(avx512, rows).store_slice(stack);
        }
        let rest = first_rest.iter().zip(second_rest);
        for ((first, second), rows) in rest.zip(stack_rest.as_chunks_mut::<QUAD>().0) {
            *rows = [rows[2], rows[3], *first, *second];
        }
    }
);

/// Computes an output row. Up to 15 bytes behind it are overwritten.
pub(super) fn row(avx512: Avx512, layer: &Depthwise, inputs: RowInputs<'_>, output: &mut [u8]) {
    // Whole registers of results are written. If the last block has fewer channels, this overwrites the first channels
    // of the next pixels, which are computed afterwards.
    for (block, phase) in layer.phases.iter().enumerate().rev() {
        let first = block * LANES;
        let parts = (layer.channels - first).min(LANES).div_ceil(PART);
        let rest = RowInputs {
            values: &inputs.values[QUAD * first..],
            ..inputs
        };
        let output = &mut output[first..];
        // A tile of one pixel is the same for both strides.
        match (parts, layer.strides[1], inputs.count) {
            (1, 1, 8..) => tiles_1_8(avx512, layer, phase, rest, output),
            (1, 2, 4..) => strided_tiles_1_4(avx512, layer, phase, rest, output),
            (1, ..) => tiles_1_1(avx512, layer, phase, rest, output),
            (2, 1, 8..) => tiles_2_8(avx512, layer, phase, rest, output),
            (2, 2, 4..) => strided_tiles_2_4(avx512, layer, phase, rest, output),
            (2, ..) => tiles_2_1(avx512, layer, phase, rest, output),
            (3, 1, 4..) => tiles_3_4(avx512, layer, phase, rest, output),
            (3, 2, 4..) => strided_tiles_3_4(avx512, layer, phase, rest, output),
            (3, ..) => tiles_3_1(avx512, layer, phase, rest, output),
            (_, 1, 4..) => tiles_4_4(avx512, layer, phase, rest, output),
            (_, 2, 4..) => strided_tiles_4_4(avx512, layer, phase, rest, output),
            _ => tiles_4_1(avx512, layer, phase, rest, output),
        }
    }
}

macro_rules! tiles {
    ($name:ident, $stride:literal, $parts:literal: $($part:literal)*, $tile:literal, packed from $($packed:literal)*) => {
        fearless_simd::kernel!(
            /// Computes the channels of a block for an output row in tiles of pixels. The last tile overlaps the one
            /// before if the pixels do not fill it.
            ///
            /// For each column, `vpdpbusd` multiplies the four rows of a channel by their weights and adds the products
            /// to the sum of the channel, 16 channels per instruction. The loops over parts and pixels are written out
            /// so that all sums stay in registers, and all pixels are requantized before the first one is stored.
            fn $name(
                avx512: Avx512,
                layer: &Depthwise,
                phase: &Phase,
                inputs: RowInputs<'_>,
                output: &mut [u8],
            ) {
                /// Number of pixels whose results are packed into a register.
                const PACKED: usize = 4 / $parts;
                /// Number of results that are written for each pixel.
                const WRITTEN: usize = $parts * PART;
                /// Number of columns that a tile reads.
                const SPAN: usize = ($tile - 1) * $stride + COLUMNS;
                let weights = &phase.weights[inputs.first_group..][..COLUMNS];
                let zero = _mm512_set1_epi16(i16::from(layer.output_zero_point));
                let order: __m512i = i32x16::simd_from(avx512, UNPACKED_WIDE).into();
                let table = layer.table.as_deref();
                let table = table.map(|table| table_parts(avx512, table));
                let mut multipliers: [__m512; 4] = [_mm512_set1_ps(0.0); 4];
                for part in 0..$parts {
                    multipliers[part] = f32x16::simd_from(avx512, phase.multipliers[part]).into();
                }
                let pitch = QUAD * inputs.channels;
                for start in (0..inputs.count).step_by($tile) {
                    let first = start.min(inputs.count - $tile);
                    let start = first * layer.strides[1] * pitch;
                    let columns = columns::<SPAN, $parts>(inputs.values, start, pitch);
                    let sums = [$({
                        let bias: __m512i = i32x16::simd_from(avx512, phase.bias[$part]).into();
                        let mut sums = [bias; $tile];
                        for x in 0..COLUMNS {
                            let weights = weights[x][$part].0;
                            let weights = i8x64::simd_from(avx512, weights).into();
                            for pixel in 0..$tile {
                                let rows = columns[pixel * $stride + x][$part];
                                let rows = u8x64::simd_from(avx512, rows).into();
                                sums[pixel] = _mm512_dpbusd_epi32(sums[pixel], rows, weights);
                            }
                        }
                        sums
                    }),*];
                    let mut results = [zero; $tile];
                    $(
                        let mut four = [zero; 4];
                        let mut factors = multipliers;
                        for register in 0..4 {
                            let (pixel, part) = source($parts, register);
                            four[register] = sums[part][($packed + pixel).min($tile - 1)];
                            factors[register] = multipliers[part];
                        }
                        let bytes = packed(avx512, four, factors, zero);
                        results[$packed] = _mm512_permutexvar_epi32(order, bytes);
                    )*
                    if let Some(table) = table {
                        $(results[$packed] = find(avx512, table, results[$packed]);)*
                    }
                    $(
                        let bytes: [u8; LANES] = u8x64::simd_from(avx512, results[$packed]).into();
                        let bytes: &[[u8; WRITTEN]] = bytes.as_chunks().0;
                        for pixel in 0..PACKED.min($tile) {
                            let start = (first + $packed + pixel) * inputs.channels;
                            output[start..start + WRITTEN].copy_from_slice(&bytes[pixel]);
                        }
                    )*
                }
            }
        );
    };
}

tiles!(tiles_1_1, 1, 1: 0, 1, packed from 0);
tiles!(tiles_1_8, 1, 1: 0, 8, packed from 0 4);
tiles!(tiles_2_1, 1, 2: 0 1, 1, packed from 0);
tiles!(tiles_2_8, 1, 2: 0 1, 8, packed from 0 2 4 6);
tiles!(tiles_3_1, 1, 3: 0 1 2, 1, packed from 0);
tiles!(tiles_3_4, 1, 3: 0 1 2, 4, packed from 0 1 2 3);
tiles!(tiles_4_1, 1, 4: 0 1 2 3, 1, packed from 0);
tiles!(tiles_4_4, 1, 4: 0 1 2 3, 4, packed from 0 1 2 3);
tiles!(strided_tiles_1_4, 2, 1: 0, 4, packed from 0);
tiles!(strided_tiles_2_4, 2, 2: 0 1, 4, packed from 0 2);
tiles!(strided_tiles_3_4, 2, 3: 0 1 2, 4, packed from 0 1 2 3);
tiles!(strided_tiles_4_4, 2, 4: 0 1 2 3, 4, packed from 0 1 2 3);

/// Returns the values of `N` neighboring pixels, from byte `start` on, in `P` parts of 16 channels.
#[inline]
fn columns<const N: usize, const P: usize>(
    values: &[u8],
    start: usize,
    pitch: usize,
) -> [&[[u8; LANES]]; N] {
    std::array::from_fn(|column| &values[start + column * pitch..].as_chunks().0[..P])
}
