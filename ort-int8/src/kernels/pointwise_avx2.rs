//! The AVX2 kernel of [`Pointwise`], which computes the output channels of a block.

use std::arch::x86_64::{
    __m256, __m256i, _mm256_add_epi16, _mm256_add_epi32, _mm256_adds_epi16, _mm256_cvtepi32_ps,
    _mm256_cvtps_epi32, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_packs_epi32,
    _mm256_packus_epi16, _mm256_permutevar8x32_epi32, _mm256_set1_epi16, _mm256_set1_epi32,
};

use fearless_simd::{Avx2, SimdFrom, f32x8, i8x32, i32x8, u8x32};

use super::pointwise::{Block, COLUMNS, Pointwise, TILE};
use super::store::store;
use super::{QUAD, UNPACKED, Weights};

/// Computes the output channels of `block` for all `pixels`, `[pixels, input channels]`, and writes
/// them to their places in `output`, `[pixels, output channels]`, without the table.
pub(super) fn run(avx2: Avx2, layer: &Pointwise, block: &Block, pixels: &[u8], output: &mut [u8]) {
    let count = pixels.len() / layer.inputs;
    let is_half = layer.outputs - block.first <= COLUMNS / 2;
    match (is_half, count < TILE) {
        (false, false) => tiles_of_4(avx2, layer, block, pixels, output),
        (false, true) => tiles_of_1(avx2, layer, block, pixels, output),
        (true, false) => half_tiles_of_4(avx2, layer, block, pixels, output),
        (true, true) => half_tiles_of_1(avx2, layer, block, pixels, output),
    }
}

macro_rules! tiles {
    ($name:ident, $registers:literal, $tile:literal: $($row:literal)*) => {
        fearless_simd::kernel!(
            /// Computes the output channels of a block in tiles of pixels. The last tile overlaps the
            /// one before if the pixels do not fill it.
            ///
            /// For four input channels at a time, the four values of each pixel are broadcast. One
            /// instruction multiplies them by the weights of 8 output channels and adds the products
            /// in pairs, in 16 bits; the next one adds the two sums of a channel, in 32 bits. Where
            /// the weights allow it, the sums of eight input channels are added in 16 bits first:
            /// multiplications limit the speed, additions do not. The loop over the pixels is written
            /// out so that all sums stay in registers.
            fn $name(
                avx2: Avx2,
                layer: &Pointwise,
                block: &Block,
                pixels: &[u8],
                output: &mut [u8],
            ) {
                let values = pixels.as_chunks::<QUAD>().0;
                let quads = layer.inputs / QUAD;
                let count = values.len() / quads;
                let pairs = 2 * block.pairs;
                let (paired, single) = block.weights.split_at(pairs);
                let (paired_order, single_order) = block.order.split_at(pairs);
                let (paired, paired_order) = (paired.as_chunks::<2>().0, paired_order.as_chunks::<2>().0);
                let ones = _mm256_set1_epi16(1);
                let (bias, multipliers) = constants(avx2, block);
                let zero = _mm256_set1_epi16(i16::from(layer.output_zero_point));
                for start in (0..count).step_by($tile) {
                    let first = start.min(count - $tile);
                    let rows = [$(&values[(first + $row) * quads..][..quads]),*];
                    let mut sums = [bias; $tile];
                    for (quad, weights) in paired_order.iter().zip(paired) {
                        let mut vectors = [bias; 2];
                        for (vectors, weights) in vectors.iter_mut().zip(weights) {
                            *vectors = loaded(avx2, weights);
                        }
                        $(
                            let [four, next] = [quad[0] as usize, quad[1] as usize];
                            let four = _mm256_set1_epi32(i32::from_le_bytes(rows[$row][four]));
                            let next = _mm256_set1_epi32(i32::from_le_bytes(rows[$row][next]));
                            for register in 0..$registers {
                                let pairs = _mm256_maddubs_epi16(four, vectors[0][register]);
                                let next = _mm256_maddubs_epi16(next, vectors[1][register]);
                                let pairs = _mm256_add_epi16(pairs, next);
                                let products = _mm256_madd_epi16(pairs, ones);
                                let sum = &mut sums[$row][register];
                                *sum = _mm256_add_epi32(*sum, products);
                            }
                        )*
                    }
                    for (quad, weights) in single_order.iter().zip(single) {
                        let vectors = loaded(avx2, weights);
                        $(
                            let four = _mm256_set1_epi32(i32::from_le_bytes(rows[$row][*quad as usize]));
                            for register in 0..$registers {
                                let pairs = _mm256_maddubs_epi16(four, vectors[register]);
                                let products = _mm256_madd_epi16(pairs, ones);
                                let sum = &mut sums[$row][register];
                                *sum = _mm256_add_epi32(*sum, products);
                            }
                        )*
                    }
                    for pair in (0..$tile).step_by(2) {
                        let second = if pair + 1 < $tile { pair + 1 } else { pair };
                        let four = [sums[pair], sums[second]];
                        let results = packed(avx2, four, multipliers, zero);
                        for (pixel, results) in [pair, second].into_iter().zip(results) {
                            let pixel = &mut output[(first + pixel) * layer.outputs..];
                            store_channels(&mut pixel[block.first..layer.outputs], results);
                        }
                    }
                }
            }
        );
    };
}

tiles!(tiles_of_4, 2, 4: 0 1 2 3);
tiles!(tiles_of_1, 2, 1: 0);
tiles!(half_tiles_of_4, 1, 4: 0 1 2 3);
tiles!(half_tiles_of_1, 1, 1: 0);

fearless_simd::kernel!(
    /// Loads the weights of 16 channels, two registers of 8 channels each.
    #[inline(always)]
    fn loaded(avx2: Avx2, weights: &Weights) -> [__m256i; 2] {
        let weights = weights.0.as_chunks::<32>().0;
        [0, 1]
            .map(|register: usize| -> __m256i { i8x32::simd_from(avx2, weights[register]).into() })
    }
);

fearless_simd::kernel!(
    /// Loads bias and multipliers of a block, two registers of 8 channels each.
    #[inline(always)]
    fn constants(avx2: Avx2, block: &Block) -> ([__m256i; 2], [__m256; 2]) {
        let (bias, multipliers) = (block.bias.as_chunks().0, block.multipliers.as_chunks().0);
        let bias = [0, 1]
            .map(|register: usize| -> __m256i { i32x8::simd_from(avx2, bias[register]).into() });
        let multipliers = [0, 1].map(|register: usize| -> __m256 {
            f32x8::simd_from(avx2, multipliers[register]).into()
        });
        (bias, multipliers)
    }
);

fearless_simd::kernel!(
    /// Requantizes the sums of two pixels, 16 channels each. `zero` is the output's zero point in every
    /// 16-bit element.
    #[inline(always)]
    fn packed(
        avx2: Avx2,
        sums: [[__m256i; 2]; 2],
        multipliers: [__m256; 2],
        zero: __m256i,
    ) -> [[u8; COLUMNS]; 2] {
        let mut rows = [zero; 2];
        for (row, sums) in rows.iter_mut().zip(sums) {
            let mut scaled = sums;
            for (sum, multipliers) in scaled.iter_mut().zip(multipliers) {
                *sum = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(*sum), multipliers));
            }
            *row = _mm256_adds_epi16(_mm256_packs_epi32(scaled[0], scaled[1]), zero);
        }
        let order = i32x8::simd_from(avx2, UNPACKED).into();
        let results = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(rows[0], rows[1]), order);
        let results: [u8; 32] = u8x32::simd_from(avx2, results).into();
        [0, 1].map(|row: usize| results.as_chunks().0[row])
    }
);

/// Writes 16 results to the beginning of `output`, or as many as it has elements. The channel counts of
/// most networks are multiples of 8.
#[inline]
fn store_channels(output: &mut [u8], results: [u8; COLUMNS]) {
    if output.len() == COLUMNS / 2 {
        store(output, results.as_chunks::<{ COLUMNS / 2 }>().0[0]);
    } else {
        store(output, results);
    }
}
