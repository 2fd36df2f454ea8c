//! Addition of two uint8 tensors with different scales and zero points.

#[cfg(target_arch = "x86_64")]
use super::LANES;
use super::isa::Isa;

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
            Isa::Avx512(avx512) => {
                let length = values.len().min(residual.len());
                let (values, last) = values[..length].as_chunks_mut::<LANES>();
                let (residual, last_residual) = residual[..length].as_chunks::<LANES>();
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
    /// The AVX-512 form of `Addition::plain_add`.
    fn avx512_add(
        avx512: Avx512,
        addition: Addition,
        values: &mut [[u8; LANES]],
        residual: &[[u8; LANES]],
    ) {
        use std::arch::x86_64::{
            _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_cvtps_epi32, _mm512_fmadd_ps,
            _mm512_packs_epi32, _mm512_packus_epi16, _mm512_permutexvar_epi32, _mm512_set1_ps,
        };

        use fearless_simd::{SimdBase, SimdFrom, i32x16, u8x16, u8x64};

        let order = i32x16::simd_from(avx512, super::UNPACKED).into();
        let offset = _mm512_set1_ps(addition.offset);
        let ratio = _mm512_set1_ps(addition.ratio);
        let residual_ratio = _mm512_set1_ps(addition.residual_ratio);
        for (values, residual) in values.iter_mut().zip(residual) {
            let parts = values.as_chunks::<16>().0;
            let residuals = residual.as_chunks::<16>().0;
            let [a, b, c, d] = [0, 1, 2, 3].map(|part| {
                let wide = |bytes: [u8; 16]| {
                    let bytes = u8x16::simd_from(avx512, bytes).into();
                    _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))
                };
                let (x, residual) = (wide(parts[part]), wide(residuals[part]));
                let sum = if addition.residual_first {
                    let sum = _mm512_fmadd_ps(x, ratio, offset);
                    _mm512_fmadd_ps(residual, residual_ratio, sum)
                } else {
                    let sum = _mm512_fmadd_ps(residual, residual_ratio, offset);
                    _mm512_fmadd_ps(x, ratio, sum)
                };
                _mm512_cvtps_epi32(sum)
            });
            let low = _mm512_packs_epi32(a, b);
            let high = _mm512_packs_epi32(c, d);
            let sums = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high));
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
