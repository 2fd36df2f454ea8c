//! The AVX-512 VNNI kernel of [`Depthwise`], which computes one output row.

use std::arch::x86_64::{
    __m512, __m512i, _mm512_dpbusd_epi32, _mm512_set1_epi16, _mm512_unpackhi_epi8,
    _mm512_unpackhi_epi16, _mm512_unpacklo_epi8, _mm512_unpacklo_epi16,
};

use fearless_simd::{Avx512, SimdBase, SimdFrom, f32x16, i8x64, i32x16, u8x64};

use super::depthwise::Depthwise;
use super::lookup::{find, table_parts};
use super::requantize_avx512::packed;
use super::{LANES, QUAD};

/// Computes an output row. `taps` holds, for each tap of the convolution kernel, the input bytes
/// that the weights of the tap multiply, cut into vectors of 64 bytes.
pub(super) fn row(
    avx512: Avx512,
    layer: &Depthwise,
    taps: &[&[[u8; LANES]]],
    output: &mut [[u8; LANES]],
) {
    // Kernels of 3x3 and 5x5 pixels have 3 and 7 groups of four taps. If the compiler knows the
    // number of groups, it unrolls the loop over them and keeps the weights in registers.
    let quads = taps.as_chunks::<QUAD>().0;
    match quads.len() {
        3 => row_of_3(avx512, layer, quads, output),
        7 => row_of_7(avx512, layer, quads, output),
        _ => row_of_any(avx512, layer, quads, output),
    }
}

fearless_simd::kernel!(
    /// Interleaves the bytes of four taps for `vpdpbusd`, which reads the four taps of an element
    /// from neighboring bytes. `taps[t]` holds 64 input bytes of tap `t`, one per element. Register
    /// `k` of the result holds elements `4 k` to `4 k + 3` of each group of sixteen, four bytes
    /// each.
    #[inline(always)]
    fn interleaved(_avx512: Avx512, taps: [__m512i; 4]) -> [__m512i; 4] {
        let [a, b, c, d] = taps;
        let (low, high) = (_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b));
        let (low_2, high_2) = (_mm512_unpacklo_epi8(c, d), _mm512_unpackhi_epi8(c, d));
        [
            _mm512_unpacklo_epi16(low, low_2),
            _mm512_unpackhi_epi16(low, low_2),
            _mm512_unpacklo_epi16(high, high_2),
            _mm512_unpackhi_epi16(high, high_2),
        ]
    }
);

fearless_simd::kernel!(
    /// Loads vector `index` of each of four taps.
    #[inline(always)]
    fn loaded(avx512: Avx512, taps: [&[[u8; LANES]]; QUAD], index: usize) -> [__m512i; QUAD] {
        let [a, b, c, d] = taps;
        [
            u8x64::simd_from(avx512, a[index]).into(),
            u8x64::simd_from(avx512, b[index]).into(),
            u8x64::simd_from(avx512, c[index]).into(),
            u8x64::simd_from(avx512, d[index]).into(),
        ]
    }
);

macro_rules! row {
    ($name:ident, $quads:ident, $count:expr, |$length:ident| $cut:expr) => {
        fearless_simd::kernel!(
            /// Computes an output row in vectors of 64 elements. For each group of four taps,
            /// `interleaved` brings the input bytes of an element together, and `vpdpbusd`
            /// multiplies them by their weights and adds the products to the 32-bit sum of the
            /// element, 16 elements per instruction. `packed` restores the order of the elements.
            fn $name(
                avx512: Avx512,
                layer: &Depthwise,
                $quads: &[[&[[u8; LANES]]; QUAD]],
                output: &mut [[u8; LANES]],
            ) {
                let zero = _mm512_set1_epi16(i16::from(layer.output_zero_point));
                let table = layer.table.as_deref();
                let table = table.map(|table| table_parts(avx512, table));
                let $length = output.len();
                let quads = $cut;
                let step = layer.phases.len();
                for (first, phase) in layer.phases.iter().enumerate() {
                    let weights = &phase.weights[..$count];
                    let bias = phase
                        .bias
                        .map(|bias| -> __m512i { i32x16::simd_from(avx512, bias).into() });
                    let multipliers = phase.multipliers.map(|multipliers| -> __m512 {
                        f32x16::simd_from(avx512, multipliers).into()
                    });
                    let mut index = first;
                    while index < $length {
                        let mut sums = bias;
                        for quad in 0..$count {
                            let taps = loaded(avx512, quads[quad], index);
                            let parts = interleaved(avx512, taps);
                            for part in 0..4 {
                                let weights: __m512i =
                                    i8x64::simd_from(avx512, weights[quad][part].0).into();
                                sums[part] = _mm512_dpbusd_epi32(sums[part], parts[part], weights);
                            }
                        }
                        let mut results = packed(avx512, sums, multipliers, zero);
                        if let Some(table) = table {
                            results = find(avx512, table, results);
                        }
                        u8x64::simd_from(avx512, results).store_slice(&mut output[index]);
                        index += step;
                    }
                }
            }
        );
    };
}

row!(row_of_3, quads, 3, |length| quads_of::<3>(quads, length));
row!(row_of_7, quads, 7, |length| quads_of::<7>(quads, length));
row!(row_of_any, quads, quads.len(), |length| quads);

/// Returns the first `N` groups of four taps, cut to `length` vectors: they need no bounds checks.
#[inline]
fn quads_of<'t, const N: usize>(
    quads: &[[&'t [[u8; LANES]]; QUAD]],
    length: usize,
) -> [[&'t [[u8; LANES]]; QUAD]; N] {
    std::array::from_fn(|quad| cut(&quads[quad], length))
}

/// Returns the first `N` taps, cut to `length` vectors: they need no bounds checks.
#[inline]
fn cut<'t, T, const N: usize>(taps: &[&'t [T]], length: usize) -> [&'t [T]; N] {
    std::array::from_fn(|tap| &taps[tap][..length])
}
