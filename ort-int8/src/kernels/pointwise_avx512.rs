//! The AVX-512 VNNI kernel of [`Pointwise`], which computes the output channels of a block.

use std::arch::x86_64::{
    __m128i, __m512i, _mm512_adds_epi16, _mm512_cvtepi32_ps, _mm512_cvtps_epi32,
    _mm512_dpbusd_epi32, _mm512_extracti32x4_epi32, _mm512_mul_ps, _mm512_packs_epi32,
    _mm512_packus_epi16, _mm512_permutexvar_epi32, _mm512_set1_epi16, _mm512_set1_epi32,
};

use fearless_simd::{Avx512, SimdBase, SimdFrom, f32x16, i8x64, i32x16, u8x16};

use super::lookup::{find, table_parts};
use super::pointwise::{Block, COLUMNS, Pointwise, Weights};
use super::{QUAD, UNPACKED};

/// Maximum number of registers of sums in a tile.
const MAX_SUMS: usize = 28;

/// Sums of a tile of pixels: for each pixel, the sums of the block's groups of 16 channels.
type Sums = [Total; MAX_SUMS];

/// Sums of a pixel and a group of 16 channels, aligned so that a vector access touches a single
/// cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Total([i32; COLUMNS]);

/// Computes the output channels of `block` for all `pixels`, `[pixels, input channels]`, and writes
/// them to their places in `output`, `[pixels, output channels]`.
///
/// The pixels are divided into tiles whose sums fit into the registers. The last tile overlaps the
/// one before if the pixels do not fill it. Fewer pixels than a tile holds are computed one by one.
pub(super) fn run(
    avx512: Avx512,
    layer: &Pointwise,
    block: &Block,
    pixels: &[u8],
    output: &mut [u8],
) {
    let count = pixels.len() / layer.inputs;
    let groups = block.bias.len();
    let tile = if groups < 3 { 14 } else { 7 };
    let tile = if count < tile { 1 } else { tile };
    let mut sums = [Total([0; COLUMNS]); MAX_SUMS];
    for start in (0..count).step_by(tile) {
        let first = start.min(count - tile);
        let pixels = &pixels[first * layer.inputs..][..tile * layer.inputs];
        match (groups, tile) {
            (1, 1) => sum_1_1(avx512, block, pixels, &mut sums),
            (1, _) => sum_14_1(avx512, block, pixels, &mut sums),
            (2, 1) => sum_1_2(avx512, block, pixels, &mut sums),
            (2, _) => sum_14_2(avx512, block, pixels, &mut sums),
            (_, 1) => sum_1_3(avx512, block, pixels, &mut sums),
            _ => sum_7_3(avx512, block, pixels, &mut sums),
        }
        let output = &mut output[first * layer.outputs..][..tile * layer.outputs];
        finish(avx512, layer, block, &sums, output);
    }
}

macro_rules! sum {
    ($name:ident, $groups:literal, $rows:literal: $($row:literal)*) => {
        fearless_simd::kernel!(
            /// Computes the sums of a tile of `pixels`, `[pixels, input channels]`. For four input
            /// channels at a time, the four values of each pixel are broadcast, and `vpdpbusd`
            /// multiplies them by the weights of 16 output channels. The loop over the pixels is
            /// written out so that all sums stay in registers.
            fn $name(avx512: Avx512, block: &Block, pixels: &[u8], sums: &mut Sums) {
                let weights: &[[Weights; $groups]] = block.weights.as_chunks().0;
                let quads = weights.len();
                let (pixels, inputs) = (pixels.as_chunks::<QUAD>().0, quads);
                let rows = [$(&pixels[$row * inputs..][..quads]),*];
                let mut bias = [_mm512_set1_epi32(0); $groups];
                for group in 0..$groups {
                    bias[group] = i32x16::simd_from(avx512, block.bias[group]).into();
                }
                let mut totals = [bias; $rows];
                for (quad, weights) in weights.iter().enumerate() {
                    let mut vectors = bias;
                    for group in 0..$groups {
                        vectors[group] = i8x64::simd_from(avx512, weights[group].0).into();
                    }
                    $(
                        let values = _mm512_set1_epi32(i32::from_le_bytes(rows[$row][quad]));
                        for group in 0..$groups {
                            totals[$row][group] =
                                _mm512_dpbusd_epi32(totals[$row][group], values, vectors[group]);
                        }
                    )*
                }
                $(
                    for group in 0..$groups {
                        let total = i32x16::simd_from(avx512, totals[$row][group]);
                        total.store_slice(&mut sums[$row * $groups + group].0);
                    }
                )*
            }
        );
    };
}

sum!(sum_14_1, 1, 14: 0 1 2 3 4 5 6 7 8 9 10 11 12 13);
sum!(sum_14_2, 2, 14: 0 1 2 3 4 5 6 7 8 9 10 11 12 13);
sum!(sum_7_3, 3, 7: 0 1 2 3 4 5 6);
sum!(sum_1_1, 1, 1: 0);
sum!(sum_1_2, 2, 1: 0);
sum!(sum_1_3, 3, 1: 0);

fearless_simd::kernel!(
    /// Requantizes the sums of a tile of pixels, applies the table, and writes the results to the
    /// channels of the block in `output`, `[pixels, output channels]`.
    fn finish(avx512: Avx512, layer: &Pointwise, block: &Block, sums: &Sums, output: &mut [u8]) {
        let zero = _mm512_set1_epi16(i16::from(layer.output_zero_point));
        let order: __m512i = i32x16::simd_from(avx512, UNPACKED).into();
        let table = layer.table.as_deref();
        let table = table.map(|table| table_parts(avx512, table));
        let groups = block.bias.len();
        let mut pixels = output.chunks_exact_mut(layer.outputs);
        let mut rest: &mut [u8] = &mut [];
        let mut group = 0;
        let count = pixels.len() * groups;
        for four in sums[..count.next_multiple_of(4)].as_chunks::<4>().0 {
            let scaled = scaled(avx512, block, four, group);
            let mut results = packed(avx512, scaled, zero, order);
            if let Some(table) = table {
                results = find(avx512, table, results);
            }
            let parts = [
                _mm512_extracti32x4_epi32::<0>(results),
                _mm512_extracti32x4_epi32::<1>(results),
                _mm512_extracti32x4_epi32::<2>(results),
                _mm512_extracti32x4_epi32::<3>(results),
            ];
            for part in parts {
                if group == 0 {
                    let Some(pixel) = pixels.next() else { return };
                    rest = &mut pixel[block.first..];
                }
                rest = store(avx512, part, rest);
                group = if group + 1 == groups { 0 } else { group + 1 };
            }
        }
    }
);

fearless_simd::kernel!(
    /// Multiplies four groups of sums by the multipliers of their channels and rounds them. `group` is
    /// the index of the first one in the block; the block's first group follows its last.
    #[inline(always)]
    fn scaled(avx512: Avx512, block: &Block, sums: &[Total; 4], group: usize) -> [__m512i; 4] {
        let mut scaled = [_mm512_set1_epi32(0); 4];
        let mut group = group;
        for (scaled, sums) in scaled.iter_mut().zip(sums) {
            let sums: __m512i = i32x16::simd_from(avx512, sums.0).into();
            let multipliers = f32x16::simd_from(avx512, block.multipliers[group]).into();
            *scaled = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(sums), multipliers));
            group += 1;
            if group == block.multipliers.len() {
                group = 0;
            }
        }
        scaled
    }
);

fearless_simd::kernel!(
    /// Packs four registers of results into bytes and adds the output's zero point, which is in every
    /// 16-bit element of `zero`: first the 16 results of the first register, then those of the
    /// second, and so on. `order` is `UNPACKED`.
    #[inline(always)]
    fn packed(_avx512: Avx512, results: [__m512i; 4], zero: __m512i, order: __m512i) -> __m512i {
        let [a, b, c, d] = results;
        let low = _mm512_adds_epi16(_mm512_packs_epi32(a, b), zero);
        let high = _mm512_adds_epi16(_mm512_packs_epi32(c, d), zero);
        _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high))
    }
);

fearless_simd::kernel!(
    /// Writes 16 results to the beginning of `output`, or as many as it has elements, and returns the
    /// elements behind them.
    #[inline(always)]
    fn store(avx512: Avx512, results: __m128i, output: &mut [u8]) -> &mut [u8] {
        let results = u8x16::simd_from(avx512, results);
        if output.len() >= COLUMNS {
            let (first, rest) = output.split_at_mut(COLUMNS);
            results.store_slice(first);
            return rest;
        }
        let results: [u8; COLUMNS] = results.into();
        // The channel counts of most networks are multiples of 8.
        if output.len() == 8 {
            output.copy_from_slice(&results[..8]);
        } else {
            output.copy_from_slice(&results[..output.len()]);
        }
        &mut []
    }
);
