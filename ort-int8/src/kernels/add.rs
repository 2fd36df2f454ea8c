//! Addition of two uint8 tensors with different scales and zero points.

use super::isa::Isa;

/// Number of bytes of a vector.
#[cfg(target_arch = "x86_64")]
const VECTOR: usize = 32;
/// Number of elements of an AVX-512 register.
#[cfg(target_arch = "x86_64")]
const WIDE_VECTOR: usize = 64;

/// The addition of a residual to a tensor: `saturate(round(x * ratio + residual * residual_ratio +
/// offset))`, where `x` and `residual` are uint8 elements from which no zero point was subtracted.
///
/// Source: ONNX Runtime's `QLinearAdd`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Addition {
    /// Scale of the tensor divided by the scale of the sum.
    pub ratio: f32,
    /// Scale of the residual divided by the scale of the sum.
    pub residual_ratio: f32,
    /// Zero point of the sum minus the zero points of tensor and residual, each times its ratio.
    pub offset: f32,
    /// Whether the residual is the first operand of the addition. The second operand is added to the
    /// offset first, which decides how the sum is rounded.
    pub residual_first: bool,
}

impl Addition {
    /// Adds `residual` to the elements of `values`. Elements beyond the shorter slice are not
    /// changed.
    pub fn add(&self, isa: Isa, values: &mut [u8], residual: &[u8]) {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(avx2) => {
                let length = values.len().min(residual.len());
                let (values, last) = values[..length].as_chunks_mut::<VECTOR>();
                let (residual, last_residual) = residual[..length].as_chunks::<VECTOR>();
                avx2_add(avx2, *self, values, residual);
                self.plain_add(last, last_residual);
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(avx512) => {
                let length = values.len().min(residual.len());
                let (values, last) = values[..length].as_chunks_mut::<WIDE_VECTOR>();
                let (residual, last_residual) = residual[..length].as_chunks::<WIDE_VECTOR>();
                avx512_add(avx512, *self, values, residual);
                self.plain_add(last, last_residual);
            }
            Isa::Scalar => self.plain_add(values, residual),
        }
    }

    fn plain_add(&self, values: &mut [u8], residual: &[u8]) {
        for (value, residual) in values.iter_mut().zip(residual) {
            let x = (f32::from(*value), self.ratio);
            let residual = (f32::from(*residual), self.residual_ratio);
            let (first, second) = if self.residual_first {
                (residual, x)
            } else {
                (x, residual)
            };
            let sum = second.0.mul_add(second.1, self.offset);
            let sum = first.0.mul_add(first.1, sum);
            *value = sum.round_ties_even() as u8;
        }
    }
}

#[cfg(target_arch = "x86_64")]
fearless_simd::kernel!(
    /// The AVX2 form of `Addition::plain_add`.
    fn avx2_add(
        avx2: Avx2,
        addition: Addition,
        values: &mut [[u8; VECTOR]],
        residual: &[[u8; VECTOR]],
    ) {
        use std::arch::x86_64::{
            __m256i, _mm256_cvtepi32_ps, _mm256_cvtepu8_epi32, _mm256_cvtps_epi32, _mm256_fmadd_ps,
            _mm256_packs_epi32, _mm256_packus_epi16, _mm256_permutevar8x32_epi32, _mm256_set1_ps,
        };

        use fearless_simd::{SimdBase, SimdFrom, i32x8, u8x32};

        let order: __m256i = i32x8::simd_from(avx2, super::UNPACKED).into();
        let offset = _mm256_set1_ps(addition.offset);
        let ratio = _mm256_set1_ps(addition.ratio);
        let residual_ratio = _mm256_set1_ps(addition.residual_ratio);
        for (values, residual) in values.iter_mut().zip(residual) {
            let (values_8, residuals_8) = (eights(avx2, values), eights(avx2, residual));
            let mut sums = [order; 4];
            for (part, rounded) in sums.iter_mut().enumerate() {
                let x = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(values_8[part]));
                let residual = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(residuals_8[part]));
                let sum = if addition.residual_first {
                    let sum = _mm256_fmadd_ps(x, ratio, offset);
                    _mm256_fmadd_ps(residual, residual_ratio, sum)
                } else {
                    let sum = _mm256_fmadd_ps(residual, residual_ratio, offset);
                    _mm256_fmadd_ps(x, ratio, sum)
                };
                *rounded = _mm256_cvtps_epi32(sum);
            }
            let [a, b, c, d] = sums;
            let low = _mm256_packs_epi32(a, b);
            let high = _mm256_packs_epi32(c, d);
            let sums = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order);
            u8x32::simd_from(avx2, sums).store_slice(values);
        }
    }
);

#[cfg(target_arch = "x86_64")]
fearless_simd::kernel!(
    /// Divides 32 bytes into registers whose first 8 bytes are the next ones each.
    #[inline(always)]
    fn eights(avx2: Avx2, bytes: &[u8; VECTOR]) -> [std::arch::x86_64::__m128i; 4] {
        use std::arch::x86_64::_mm_unpackhi_epi64;

        use fearless_simd::{SimdFrom, u8x16};

        let halves = bytes.as_chunks::<16>().0;
        let low = u8x16::simd_from(avx2, halves[0]).into();
        let high = u8x16::simd_from(avx2, halves[1]).into();
        let (low_2, high_2) = (_mm_unpackhi_epi64(low, low), _mm_unpackhi_epi64(high, high));
        [low, low_2, high, high_2]
    }
);

#[cfg(target_arch = "x86_64")]
fearless_simd::kernel!(
    /// The AVX-512 form of `Addition::plain_add`.
    fn avx512_add(
        avx512: Avx512,
        addition: Addition,
        values: &mut [[u8; WIDE_VECTOR]],
        residual: &[[u8; WIDE_VECTOR]],
    ) {
        use std::arch::x86_64::{
            __m512i, _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_cvtps_epi32, _mm512_fmadd_ps,
            _mm512_packs_epi32, _mm512_packus_epi16, _mm512_permutexvar_epi32, _mm512_set1_ps,
        };

        use fearless_simd::{SimdBase, SimdFrom, i32x16, u8x16, u8x64};

        let order: __m512i = i32x16::simd_from(avx512, super::UNPACKED_WIDE).into();
        let offset = _mm512_set1_ps(addition.offset);
        let ratio = _mm512_set1_ps(addition.ratio);
        let residual_ratio = _mm512_set1_ps(addition.residual_ratio);
        for (values, residual) in values.iter_mut().zip(residual) {
            let (x, y) = (values.as_chunks::<16>().0, residual.as_chunks::<16>().0);
            let mut sums = [order; 4];
            for (part, rounded) in sums.iter_mut().enumerate() {
                let x = _mm512_cvtepu8_epi32(u8x16::simd_from(avx512, x[part]).into());
                let residual = _mm512_cvtepu8_epi32(u8x16::simd_from(avx512, y[part]).into());
                let (x, residual) = (_mm512_cvtepi32_ps(x), _mm512_cvtepi32_ps(residual));
                let sum = if addition.residual_first {
                    let sum = _mm512_fmadd_ps(x, ratio, offset);
                    _mm512_fmadd_ps(residual, residual_ratio, sum)
                } else {
                    let sum = _mm512_fmadd_ps(residual, residual_ratio, offset);
                    _mm512_fmadd_ps(x, ratio, sum)
                };
                *rounded = _mm512_cvtps_epi32(sum);
            }
            let [a, b, c, d] = sums;
            let packed = _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
            let sums = _mm512_permutexvar_epi32(order, packed);
            u8x64::simd_from(avx512, sums).store_slice(values);
        }
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_equal_the_definition_for_every_instruction_set() {
        let addition = Addition {
            ratio: 0.75,
            residual_ratio: 1.5,
            offset: -31.25,
            residual_first: true,
        };
        for isa in Isa::available() {
            for residual_first in [false, true] {
                let addition = Addition {
                    residual_first,
                    ..addition
                };
                for length in [0, 1, 63, 64, 65, 200, 1000] {
                    let x: Vec<u8> = (0..length).map(|index| (index * 7) as u8).collect();
                    let residual: Vec<u8> =
                        (0..length).map(|index| (index * 13 + 5) as u8).collect();
                    let mut got = x.clone();
                    addition.add(isa, &mut got, &residual);
                    // These ratios are multiples of 1 / 4, so the sums are exact in any order.
                    let expected = x.iter().zip(&residual).map(|(x, residual)| {
                        let sum = f32::from(*x) * 0.75 + f32::from(*residual) * 1.5 - 31.25;
                        sum.round_ties_even().clamp(0.0, 255.0) as u8
                    });
                    assert_eq!(
                        got,
                        expected.collect::<Vec<_>>(),
                        "{isa:?}, {length} elements"
                    );
                }
            }
        }
    }
}
