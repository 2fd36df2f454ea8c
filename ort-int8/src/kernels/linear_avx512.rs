//! The AVX-512 VNNI kernel of [`Pointwise::run_to_f32`], which computes the output channels of a block.

use std::arch::x86_64::{
    __m512, __m512i, _mm512_cvtepi32_ps, _mm512_dpbusd_epi32, _mm512_mul_ps, _mm512_set1_epi32,
    _mm512_set1_ps,
};

use fearless_simd::{Avx512, SimdFrom, f32x16, i8x64, i32x16};

use super::pointwise::{COLUMNS, Pointwise, WideBlock};
use super::{QUAD, Weights};

/// Computes the output channels of `block` for all `pixels`, `[pixels, input channels]`, and writes them to their places
/// in `output`, `[pixels, output channels]`.
pub(super) fn run(
    avx512: Avx512,
    layer: &Pointwise,
    block: &WideBlock,
    pixels: &[u8],
    output: &mut [f32],
) {
    match block.bias.len() {
        1 => pixels_1(avx512, layer, block, pixels, output),
        2 => pixels_2(avx512, layer, block, pixels, output),
        3 => pixels_3(avx512, layer, block, pixels, output),
        _ => pixels_4(avx512, layer, block, pixels, output),
    }
}

macro_rules! pixels {
    ($name:ident, $groups:literal) => {
        fearless_simd::kernel!(
            /// Computes the output channels of a block, in groups of 16, pixel by pixel: there are few pixels, and each of
            /// them waits for the weights.
            fn $name(
                avx512: Avx512,
                layer: &Pointwise,
                block: &WideBlock,
                pixels: &[u8],
                output: &mut [f32],
            ) {
                let weights: &[[Weights; $groups]] = block.weights.as_chunks().0;
                let mut bias = [_mm512_set1_epi32(0); $groups];
                let mut multipliers = [_mm512_set1_ps(0.0); $groups];
                for group in 0..$groups {
                    bias[group] = i32x16::simd_from(avx512, block.bias[group]).into();
                    multipliers[group] = f32x16::simd_from(avx512, block.multipliers[group]).into();
                }
                let pixels = pixels.chunks_exact(layer.inputs);
                for (pixel, output) in pixels.zip(output.chunks_exact_mut(layer.outputs)) {
                    let mut sums: [__m512i; $groups] = bias;
                    for (four, weights) in pixel.as_chunks::<QUAD>().0.iter().zip(weights) {
                        let four = _mm512_set1_epi32(i32::from_le_bytes(*four));
                        for group in 0..$groups {
                            let weights = i8x64::simd_from(avx512, weights[group].0).into();
                            sums[group] = _mm512_dpbusd_epi32(sums[group], four, weights);
                        }
                    }
                    let output = output[block.first..].chunks_mut(COLUMNS);
                    for (group, output) in output.take($groups).enumerate() {
                        let sums: __m512 = _mm512_cvtepi32_ps(sums[group]);
                        let scaled = _mm512_mul_ps(sums, multipliers[group]);
                        let scaled: [f32; COLUMNS] = f32x16::simd_from(avx512, scaled).into();
                        output.copy_from_slice(&scaled[..output.len()]);
                    }
                }
            }
        );
    };
}

pixels!(pixels_1, 1);
pixels!(pixels_2, 2);
pixels!(pixels_3, 3);
pixels!(pixels_4, 4);
