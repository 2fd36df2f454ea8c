//! Product of a uint8 image with a gate of one value per channel.

use super::isa::Isa;

/// Number of elements of an AVX-512 register.
const VECTOR: usize = 64;

/// The product of the pixels `x` of an image with a gate, quantized again: `saturate(round(product *
/// scale) + output_zero_point)`, ties to even, of `product = (x - input_zero_point) * (gate -
/// gate_zero_point)`.
///
/// Source: ONNX Runtime's `QLinearMul`, in squeeze-and-excitation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gate {
    /// Zero point of the image.
    pub input_zero_point: u8,
    /// Zero point of the gate.
    pub gate_zero_point: u8,
    /// Zero point of the product.
    pub output_zero_point: u8,
    /// Scale of the image times scale of the gate, divided by the scale of the product. The caller makes
    /// sure that `255 * 255 * scale` is within the range of int32.
    pub scale: f32,
}

impl Gate {
    /// Multiplies `pixels`, `[pixels, C] u8`, by `gate`, `[C] u8`, and writes the products to `output`,
    /// `[pixels, C] u8`. Elements beyond the shorter slice are not written, and none if `gate` is empty.
    pub fn multiply(&self, isa: Isa, pixels: &[u8], gate: &[u8], output: &mut [u8]) {
        if gate.is_empty() {
            return;
        }
        let length = pixels.len().min(output.len());
        let (pixels, output) = (&pixels[..length], &mut output[..length]);
        let centered = gate
            .iter()
            .map(|gate| f32::from(*gate) - f32::from(self.gate_zero_point));
        // A vector may begin at any channel.
        let factors: Vec<f32> = centered.cycle().take(gate.len() + VECTOR).collect();
        let done = match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(avx512) => {
                let (pixels, output) = (pixels.as_chunks().0, output.as_chunks_mut().0);
                avx512_multiply(avx512, *self, pixels, &factors, output);
                pixels.len() * VECTOR
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(avx2) => {
                let (pixels, output) = (pixels.as_chunks().0, output.as_chunks_mut().0);
                avx2_multiply(avx2, *self, pixels, &factors, output);
                pixels.len() * (VECTOR / 2)
            }
            Isa::Scalar => 0,
        };
        let factors = factors[..gate.len()].iter().cycle().skip(done % gate.len());
        let rest = pixels[done..].iter().zip(&mut output[done..]);
        for ((x, output), factor) in rest.zip(factors) {
            let centered = f32::from(*x) - f32::from(self.input_zero_point);
            let product = (centered * factor * self.scale).round_ties_even();
            *output = (product + f32::from(self.output_zero_point)) as u8;
        }
    }
}

#[cfg(target_arch = "x86_64")]
fearless_simd::kernel!(
    /// The AVX-512 form of `Gate::multiply`. `factors` are the centered values of the gate, followed by
    /// 64 more of their repetitions.
    fn avx512_multiply(
        avx512: Avx512,
        gate: Gate,
        pixels: &[[u8; 64]],
        factors: &[f32],
        output: &mut [[u8; 64]],
    ) {
        use std::arch::x86_64::{
            __m512i, _mm512_adds_epi16, _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32,
            _mm512_cvtps_epi32, _mm512_mul_ps, _mm512_packs_epi32, _mm512_packus_epi16,
            _mm512_permutexvar_epi32, _mm512_set1_epi16, _mm512_set1_ps, _mm512_sub_ps,
        };

        use fearless_simd::{SimdBase, SimdFrom, f32x16, i32x16, u8x16, u8x64};

        let order: __m512i = i32x16::simd_from(avx512, super::UNPACKED_WIDE).into();
        let input_zero = _mm512_set1_ps(gate.input_zero_point.into());
        let output_zero = _mm512_set1_epi16(gate.output_zero_point.into());
        let scale = _mm512_set1_ps(gate.scale);
        let channels = factors.len() - VECTOR;
        let mut channel = 0;
        for (pixels, output) in pixels.iter().zip(output) {
            let factors = &factors[channel..][..VECTOR];
            let (pixels, factors) = (pixels.as_chunks::<16>().0, factors.as_chunks::<16>().0);
            let mut products = [order; 4];
            for (part, product) in products.iter_mut().enumerate() {
                let x = _mm512_cvtepu8_epi32(u8x16::simd_from(avx512, pixels[part]).into());
                let x = _mm512_sub_ps(_mm512_cvtepi32_ps(x), input_zero);
                let factors = f32x16::simd_from(avx512, factors[part]).into();
                *product = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_mul_ps(x, factors), scale));
            }
            let [a, b, c, d] = products;
            let low = _mm512_adds_epi16(_mm512_packs_epi32(a, b), output_zero);
            let high = _mm512_adds_epi16(_mm512_packs_epi32(c, d), output_zero);
            let products = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high));
            u8x64::simd_from(avx512, products).store_slice(output);
            channel += VECTOR;
            while channel >= channels {
                channel -= channels;
            }
        }
    }
);

#[cfg(target_arch = "x86_64")]
fearless_simd::kernel!(
    /// The AVX2 form of `Gate::multiply`. `factors` are the centered values of the gate, followed by 64
    /// more of their repetitions.
    fn avx2_multiply(
        avx2: Avx2,
        gate: Gate,
        pixels: &[[u8; 32]],
        factors: &[f32],
        output: &mut [[u8; 32]],
    ) {
        use std::arch::x86_64::{
            __m256i, _mm_set_epi64x, _mm256_adds_epi16, _mm256_cvtepi32_ps, _mm256_cvtepu8_epi32,
            _mm256_cvtps_epi32, _mm256_mul_ps, _mm256_packs_epi32, _mm256_packus_epi16,
            _mm256_permutevar8x32_epi32, _mm256_set1_epi16, _mm256_set1_ps, _mm256_sub_ps,
        };

        use fearless_simd::{SimdBase, SimdFrom, f32x8, i32x8, u8x32};

        let order: __m256i = i32x8::simd_from(avx2, super::UNPACKED).into();
        let input_zero = _mm256_set1_ps(gate.input_zero_point.into());
        let output_zero = _mm256_set1_epi16(gate.output_zero_point.into());
        let scale = _mm256_set1_ps(gate.scale);
        let channels = factors.len() - VECTOR;
        let mut channel = 0;
        for (pixels, output) in pixels.iter().zip(output) {
            let factors = &factors[channel..][..VECTOR / 2];
            let (pixels, factors) = (pixels.as_chunks::<8>().0, factors.as_chunks::<8>().0);
            let mut products = [order; 4];
            for (part, product) in products.iter_mut().enumerate() {
                let x = _mm_set_epi64x(0, i64::from_le_bytes(pixels[part]));
                let x = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(x));
                let x = _mm256_sub_ps(x, input_zero);
                let factors = f32x8::simd_from(avx2, factors[part]).into();
                *product = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_mul_ps(x, factors), scale));
            }
            let [a, b, c, d] = products;
            let low = _mm256_adds_epi16(_mm256_packs_epi32(a, b), output_zero);
            let high = _mm256_adds_epi16(_mm256_packs_epi32(c, d), output_zero);
            let products = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order);
            u8x32::simd_from(avx2, products).store_slice(output);
            channel += VECTOR / 2;
            while channel >= channels {
                channel -= channels;
            }
        }
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_equal_the_definition_for_every_instruction_set() {
        for (scale, output_zero_point) in [(1.0 / 255.0, 0), (0.003, 128), (0.01, 255), (1.5, 7)] {
            let gate = Gate {
                input_zero_point: 117,
                gate_zero_point: 3,
                output_zero_point,
                scale,
            };
            for channels in [1, 8, 24, 64, 72, 120, 200] {
                for count in [0, 1, 2, 3, 49] {
                    let x: Vec<u8> = (0..count * channels).map(|i| (i * 31) as u8).collect();
                    let factors: Vec<u8> = (0..channels).map(|i| (i * 77 + 5) as u8).collect();
                    let expected = x.iter().enumerate().map(|(index, x)| {
                        let product =
                            (i32::from(*x) - 117) * (i32::from(factors[index % channels]) - 3);
                        let product = (product as f32 * scale).round_ties_even() as i32;
                        (product + i32::from(output_zero_point)).clamp(0, 255) as u8
                    });
                    let expected: Vec<u8> = expected.collect();
                    for isa in Isa::available() {
                        let mut got = vec![0; x.len()];
                        gate.multiply(isa, &x, &factors, &mut got);
                        assert_eq!(
                            got, expected,
                            "{isa:?}: {count} pixels, {channels} channels"
                        );
                    }
                }
            }
        }
    }
}
