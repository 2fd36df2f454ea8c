//! The AVX2 kernel of [`Depthwise`], which computes one output row.

use std::arch::x86_64::{
    __m256, __m256i, _mm256_add_epi32, _mm256_adds_epi16, _mm256_cvtepi32_ps, _mm256_cvtps_epi32,
    _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_packs_epi32,
    _mm256_packus_epi16, _mm256_set1_epi16, _mm256_unpackhi_epi8, _mm256_unpackhi_epi16,
    _mm256_unpacklo_epi8, _mm256_unpacklo_epi16,
};

use fearless_simd::{Avx2, SimdBase, SimdFrom, f32x8, i8x32, i32x8, u8x32};

use super::depthwise::Depthwise;
use super::phase::Phase;
use super::{LANES, QUAD, lookup_avx2};

/// Number of bytes of a vector. A vector holds a half of the elements of a [`Phase`], whose constants
/// lie in the order of the registers.
const VECTOR: usize = 32;

/// Computes an output row. `taps` holds, for each tap of the convolution kernel, the input bytes
/// that the weights of the tap multiply, cut into vectors of 64 bytes.
pub(super) fn row(
    avx2: Avx2,
    layer: &Depthwise,
    taps: &[&[[u8; LANES]]],
    output: &mut [[u8; LANES]],
) {
    // Kernels of 3x3 and 5x5 pixels have 3 and 7 groups of four taps. If the compiler knows the
    // number of groups, it unrolls the loop over them.
    let quads = taps.as_chunks::<QUAD>().0;
    match quads.len() {
        3 => row_of_3(avx2, layer, quads, output),
        7 => row_of_7(avx2, layer, quads, output),
        _ => row_of_any(avx2, layer, quads, output),
    }
    if let Some(table) = &layer.table {
        lookup_avx2::replace(avx2, table, output);
    }
}

fearless_simd::kernel!(
    /// Interleaves the bytes of four taps, so that the four taps of an element are neighbors.
    /// `taps[t]` holds 32 input bytes of tap `t`, one per element. Register `k` of the result holds
    /// elements `4 k` to `4 k + 3` of each group of sixteen, four bytes each.
    #[inline(always)]
    fn interleaved(_avx2: Avx2, taps: [__m256i; 4]) -> [__m256i; 4] {
        let [a, b, c, d] = taps;
        let (low, high) = (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b));
        let (low_2, high_2) = (_mm256_unpacklo_epi8(c, d), _mm256_unpackhi_epi8(c, d));
        [
            _mm256_unpacklo_epi16(low, low_2),
            _mm256_unpackhi_epi16(low, low_2),
            _mm256_unpacklo_epi16(high, high_2),
            _mm256_unpackhi_epi16(high, high_2),
        ]
    }
);

fearless_simd::kernel!(
    /// Requantizes 32 sums and packs them into bytes in the order of the output's elements. `sums`
    /// and `multipliers` are in the order of `interleaved`, four registers of 8 elements each, and
    /// `zero` is the output's zero point in every 16-bit element.
    #[inline(always)]
    fn packed(_avx2: Avx2, sums: [__m256i; 4], multipliers: [__m256; 4], zero: __m256i) -> __m256i {
        let mut scaled = sums;
        for (sum, multipliers) in scaled.iter_mut().zip(multipliers) {
            *sum = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(*sum), multipliers));
        }
        let [a, b, c, d] = scaled;
        let low = _mm256_adds_epi16(_mm256_packs_epi32(a, b), zero);
        let high = _mm256_adds_epi16(_mm256_packs_epi32(c, d), zero);
        _mm256_packus_epi16(low, high)
    }
);

/// Returns half `half` (0 or 1) of a vector of 64 bytes.
#[inline]
fn half(bytes: &[u8; LANES], half: usize) -> [u8; VECTOR] {
    bytes.as_chunks().0[half]
}

macro_rules! row {
    ($name:ident, $quads:ident, $count:expr, |$length:ident| $cut:expr) => {
        fearless_simd::kernel!(
            /// Computes an output row in vectors of 32 elements, without the table. For each group of
            /// four taps, `interleaved` brings the input bytes of an element together. One
            /// instruction multiplies them by their weights and adds the products in pairs, in 16
            /// bits; the next one adds the two sums of an element, in 32 bits. `packed` restores the
            /// order of the elements.
            fn $name(
                avx2: Avx2,
                layer: &Depthwise,
                $quads: &[[&[[u8; LANES]]; QUAD]],
                output: &mut [[u8; LANES]],
            ) {
                let zero = _mm256_set1_epi16(i16::from(layer.output_zero_point));
                let ones = _mm256_set1_epi16(1);
                let $length = output.len();
                let step = layer.phases.len();
                let quads = $cut;
                for (first, phase) in layer.phases.iter().enumerate() {
                    let weights = &phase.weights[..$count];
                    for side in 0..2 {
                        let (bias, multipliers) = constants(avx2, phase, side);
                        let mut index = first;
                        while index < $length {
                            let mut sums = bias;
                            for quad in 0..$count {
                                let mut taps = bias;
                                for (register, tap) in taps.iter_mut().zip(quads[quad]) {
                                    let tap = half(&tap[index], side);
                                    *register = u8x32::simd_from(avx2, tap).into();
                                }
                                let parts = interleaved(avx2, taps);
                                for part in 0..4 {
                                    let weights =
                                        weights[quad][part].0.as_chunks::<VECTOR>().0[side];
                                    let weights = i8x32::simd_from(avx2, weights).into();
                                    let pairs = _mm256_maddubs_epi16(parts[part], weights);
                                    let products = _mm256_madd_epi16(pairs, ones);
                                    sums[part] = _mm256_add_epi32(sums[part], products);
                                }
                            }
                            let results = packed(avx2, sums, multipliers, zero);
                            let place = &mut output[index].as_chunks_mut::<VECTOR>().0[side];
                            u8x32::simd_from(avx2, results).store_slice(place);
                            index += step;
                        }
                    }
                }
            }
        );
    };
}

// Taps that are cut to the length of the output need no bounds checks.
row!(row_of_3, quads, 3, |length| cut::<3>(quads, length));
row!(row_of_7, quads, 7, |length| cut::<7>(quads, length));
row!(row_of_any, quads, quads.len(), |length| quads);

/// Returns the taps of the first `N` of `quads`, cut to `length` vectors.
#[inline]
fn cut<'t, const N: usize>(
    quads: &[[&'t [[u8; LANES]]; QUAD]],
    length: usize,
) -> [[&'t [[u8; LANES]]; QUAD]; N] {
    std::array::from_fn(|quad| quads[quad].map(|tap| &tap[..length]))
}

fearless_simd::kernel!(
    /// Loads bias and multipliers of half `side` of the elements of a phase.
    #[inline(always)]
    fn constants(avx2: Avx2, phase: &Phase, side: usize) -> ([__m256i; 4], [__m256; 4]) {
        let bias = phase.bias.map(|bias| -> __m256i {
            i32x8::simd_from(avx2, bias.as_chunks::<8>().0[side]).into()
        });
        let multipliers = phase.multipliers.map(|multipliers| -> __m256 {
            f32x8::simd_from(avx2, multipliers.as_chunks::<8>().0[side]).into()
        });
        (bias, multipliers)
    }
);
