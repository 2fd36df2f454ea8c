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
    match (block.bias.len(), pixels.len() / layer.inputs) {
        (_, 0) => {}
        (1, 4..) => tiles_1_4(avx512, layer, block, pixels, output),
        (1, 2..) => tiles_1_2(avx512, layer, block, pixels, output),
        (1, _) => tiles_1_1(avx512, layer, block, pixels, output),
        (2, 4..) => tiles_2_4(avx512, layer, block, pixels, output),
        (2, 2..) => tiles_2_2(avx512, layer, block, pixels, output),
        (2, _) => tiles_2_1(avx512, layer, block, pixels, output),
        (3, 4..) => tiles_3_4(avx512, layer, block, pixels, output),
        (3, 2..) => tiles_3_2(avx512, layer, block, pixels, output),
        (3, _) => tiles_3_1(avx512, layer, block, pixels, output),
        (_, 4..) => tiles_4_4(avx512, layer, block, pixels, output),
        (_, 2..) => tiles_4_2(avx512, layer, block, pixels, output),
        _ => tiles_4_1(avx512, layer, block, pixels, output),
    }
}

macro_rules! tiles {
    ($name:ident, $groups:literal, $tile:literal: $($row:literal)*) => {
        fearless_simd::kernel!(
            /// Computes the output channels of a block, in groups of 16, in tiles of pixels. The last tile overlaps the
            /// one before if the pixels do not fill it.
            fn $name(
                avx512: Avx512,
                layer: &Pointwise,
                block: &WideBlock,
                pixels: &[u8],
                output: &mut [f32],
            ) {
                let values = pixels.as_chunks::<QUAD>().0;
                let weights: &[[Weights; $groups]] = block.weights.as_chunks().0;
                let quads = weights.len();
                let count = pixels.len() / layer.inputs;
                let mut bias = [_mm512_set1_epi32(0); $groups];
                let mut multipliers = [_mm512_set1_ps(0.0); $groups];
                for group in 0..$groups {
                    bias[group] = i32x16::simd_from(avx512, block.bias[group]).into();
                    multipliers[group] = f32x16::simd_from(avx512, block.multipliers[group]).into();
                }
                for start in (0..count).step_by($tile) {
                    let first = start.min(count - $tile);
                    let rows = [$(&values[(first + $row) * quads..][..quads]),*];
                    let mut sums: [[__m512i; $groups]; $tile] = [bias; $tile];
                    for (quad, weights) in weights.iter().enumerate() {
                        let mut vectors = bias;
                        for group in 0..$groups {
                            vectors[group] = i8x64::simd_from(avx512, weights[group].0).into();
                        }
                        $(
                            let four = _mm512_set1_epi32(i32::from_le_bytes(rows[$row][quad]));
                            for group in 0..$groups {
                                let sum = &mut sums[$row][group];
                                *sum = _mm512_dpbusd_epi32(*sum, four, vectors[group]);
                            }
                        )*
                    }
                    $(
                        let pixel = &mut output[(first + $row) * layer.outputs..][..layer.outputs];
                        let pixel = pixel[block.first..].chunks_mut(COLUMNS).take($groups);
                        for (group, results) in pixel.enumerate() {
                            let sums: __m512 = _mm512_cvtepi32_ps(sums[$row][group]);
                            let scaled = _mm512_mul_ps(sums, multipliers[group]);
                            let scaled: [f32; COLUMNS] = f32x16::simd_from(avx512, scaled).into();
                            results.copy_from_slice(&scaled[..results.len()]);
                        }
                    )*
                }
            }
        );
    };
}

tiles!(tiles_1_1, 1, 1: 0);
tiles!(tiles_1_2, 1, 2: 0 1);
tiles!(tiles_1_4, 1, 4: 0 1 2 3);
tiles!(tiles_2_1, 2, 1: 0);
tiles!(tiles_2_2, 2, 2: 0 1);
tiles!(tiles_2_4, 2, 4: 0 1 2 3);
tiles!(tiles_3_1, 3, 1: 0);
tiles!(tiles_3_2, 3, 2: 0 1);
tiles!(tiles_3_4, 3, 4: 0 1 2 3);
tiles!(tiles_4_1, 4, 1: 0);
tiles!(tiles_4_2, 4, 2: 0 1);
tiles!(tiles_4_4, 4, 4: 0 1 2 3);
