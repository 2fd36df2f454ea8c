//! The AVX-512 VNNI kernel of [`Pointwise`], which computes the output channels of a block.

use std::arch::x86_64::{
    __m512i, _mm512_dpbusd_epi32, _mm512_permutexvar_epi32, _mm512_set1_epi16, _mm512_set1_epi32,
    _mm512_set1_ps,
};

use fearless_simd::{Avx512, SimdFrom, f32x16, i8x64, i32x16, u8x64};

use super::lookup::{find, table_parts};
use super::pointwise::{COLUMNS, Pointwise, WIDE, WideBlock};
use super::requantize_avx512::{packed, source};
use super::{LANES, QUAD, UNPACKED_WIDE, Weights};

/// Computes the output channels of `block` for all `pixels`, `[pixels, input channels]`, and writes
/// them to their places in `output`, `[pixels, output channels]`.
///
/// Whole registers of results are written. If the block has fewer channels, this overwrites the first
/// channels of the next pixels: blocks must be computed in descending order of their channels, so that
/// these are computed afterwards.
pub(super) fn run(
    avx512: Avx512,
    layer: &Pointwise,
    block: &WideBlock,
    pixels: &[u8],
    output: &mut [u8],
) {
    let count = pixels.len() / layer.inputs;
    let written = match block.bias.len() {
        1 => COLUMNS,
        2 => 2 * COLUMNS,
        _ => LANES,
    };
    let channels = layer.outputs - block.first;
    let whole = Place {
        first: block.first,
        pitch: layer.outputs,
    };
    if channels >= written {
        return run_tiles(avx512, layer, block, pixels, (whole, output));
    }
    // Registers written for the last pixels would end behind the output.
    let last = LAST.max(LANES.div_ceil(layer.outputs));
    let last = if count < last + LAST { count } else { last };
    let (pixels, last_pixels) = pixels.split_at((count - last) * layer.inputs);
    if !pixels.is_empty() {
        run_tiles(avx512, layer, block, pixels, (whole, output));
    }
    let mut results = [0; (LANES + LAST) * LANES];
    let place = Place {
        first: 0,
        pitch: LANES,
    };
    run_tiles(avx512, layer, block, last_pixels, (place, &mut results));
    let output = output[(count - last) * layer.outputs..].chunks_exact_mut(layer.outputs);
    for (output, results) in output.zip(results.as_chunks::<LANES>().0) {
        output[block.first..].copy_from_slice(&results[..channels]);
    }
}

/// Minimum number of pixels at the end of an output that are computed separately if the registers written
/// for the last ones would end behind the output, and minimum number of pixels before them: they fill a
/// tile of any size. More are computed separately if a pixel has fewer than 8 channels.
const LAST: usize = 8;

/// Maximum number of pixels behind the last whole tile that are computed in smaller tiles, which takes less time than
/// another tile of the same size.
const FEW: usize = 3;

/// Where the results of a block are written.
#[derive(Clone, Copy)]
struct Place {
    /// Index of the first result of the first pixel.
    first: usize,
    /// Distance from the results of a pixel to those of the next one.
    pitch: usize,
}

/// Computes the output channels of `block` in tiles of as many pixels as the registers have room for. A few pixels behind
/// the last whole tile are computed in smaller ones.
fn run_tiles(
    avx512: Avx512,
    layer: &Pointwise,
    block: &WideBlock,
    pixels: &[u8],
    (place, output): (Place, &mut [u8]),
) {
    let count = pixels.len() / layer.inputs;
    let tile = if block.bias.len() < WIDE { 8 } else { 6 };
    let rest = match count % tile {
        rest if rest <= FEW && count > tile => rest,
        // The last tile overlaps the one before.
        _ => 0,
    };
    let (whole, last) = pixels.split_at((count - rest) * layer.inputs);
    let place_of_last = Place {
        first: place.first + (count - rest) * place.pitch,
        ..place
    };
    for (place, pixels) in [(place, whole), (place_of_last, last)] {
        tiles(avx512, layer, block, pixels, (place, &mut *output));
    }
}

/// Computes the output channels of `block` in tiles of one size: the largest one that `pixels` fill, if there are any.
fn tiles(
    avx512: Avx512,
    layer: &Pointwise,
    block: &WideBlock,
    pixels: &[u8],
    output: (Place, &mut [u8]),
) {
    let count = pixels.len() / layer.inputs;
    match (block.bias.len(), count) {
        (_, 0) => {}
        (1, 8..) => tiles_1_8(avx512, layer, block, pixels, output),
        (1, 4..) => tiles_1_4(avx512, layer, block, pixels, output),
        (1, 2..) => tiles_1_2(avx512, layer, block, pixels, output),
        (1, _) => tiles_1_1(avx512, layer, block, pixels, output),
        (2, 8..) => tiles_2_8(avx512, layer, block, pixels, output),
        (2, 4..) => tiles_2_4(avx512, layer, block, pixels, output),
        (2, 2..) => tiles_2_2(avx512, layer, block, pixels, output),
        (2, _) => tiles_2_1(avx512, layer, block, pixels, output),
        (3, 8..) => tiles_3_8(avx512, layer, block, pixels, output),
        (3, 4..) => tiles_3_4(avx512, layer, block, pixels, output),
        (3, 2..) => tiles_3_2(avx512, layer, block, pixels, output),
        (3, _) => tiles_3_1(avx512, layer, block, pixels, output),
        (_, 6..) => tiles_4_6(avx512, layer, block, pixels, output),
        (_, 4..) => tiles_4_4(avx512, layer, block, pixels, output),
        (_, 2..) => tiles_4_2(avx512, layer, block, pixels, output),
        _ => tiles_4_1(avx512, layer, block, pixels, output),
    }
}

macro_rules! tiles {
    ($name:ident, $groups:literal, $tile:literal: $($row:literal)*, packed from $($packed:literal)*) => {
        fearless_simd::kernel!(
            /// Computes the output channels of a block, in groups of 16, in tiles of pixels. The last
            /// tile overlaps the one before if the pixels do not fill it.
            ///
            /// For four input channels at a time, the four values of each pixel are broadcast, and
            /// `vpdpbusd` multiplies them by the weights of 16 output channels. The loops over the
            /// pixels are written out so that all sums stay in registers until they are stored.
            fn $name(
                avx512: Avx512,
                layer: &Pointwise,
                block: &WideBlock,
                pixels: &[u8],
                output: (Place, &mut [u8]),
            ) {
                /// Number of pixels whose results are packed into a register.
                const PACKED: usize = LANES / COLUMNS / $groups;
                /// Number of results that are written for each pixel.
                const WRITTEN: usize = LANES / PACKED;
                let (place, output) = output;
                let values = pixels.as_chunks::<QUAD>().0;
                let weights: &[[Weights; $groups]] = block.weights.as_chunks().0;
                let quads = weights.len();
                let count = pixels.len() / layer.inputs;
                let zero = _mm512_set1_epi16(i16::from(layer.output_zero_point));
                let order: __m512i = i32x16::simd_from(avx512, UNPACKED_WIDE).into();
                let table = layer.table.as_deref();
                let table = table.map(|table| table_parts(avx512, table));
                let mut bias = [zero; $groups];
                let mut multipliers = [_mm512_set1_ps(0.0); $groups];
                for group in 0..$groups {
                    bias[group] = i32x16::simd_from(avx512, block.bias[group]).into();
                    multipliers[group] = f32x16::simd_from(avx512, block.multipliers[group]).into();
                }
                for start in (0..count).step_by($tile) {
                    let first = start.min(count - $tile);
                    let rows = [$(&values[(first + $row) * quads..][..quads]),*];
                    let mut sums = [bias; $tile];
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
                    let mut results = [zero; $tile];
                    $(
                        let mut four = [zero; 4];
                        let mut factors = [multipliers[0]; 4];
                        for register in 0..4 {
                            let (pixel, group) = source($groups, register);
                            four[register] = sums[($packed + pixel).min($tile - 1)][group];
                            factors[register] = multipliers[group];
                        }
                        let bytes = packed(avx512, four, factors, zero);
                        results[$packed] = _mm512_permutexvar_epi32(order, bytes);
                    )*
                    if let Some(table) = table {
                        $(results[$packed] = find(avx512, table, results[$packed]);)*
                    }
                    $(
                        let bytes = u8x64::simd_from(avx512, results[$packed]);
                        let bytes: [u8; LANES] = bytes.into();
                        let bytes: &[[u8; WRITTEN]] = bytes.as_chunks().0;
                        for pixel in 0..PACKED.min($tile) {
                            let start = place.first + (first + $packed + pixel) * place.pitch;
                            output[start..start + WRITTEN].copy_from_slice(&bytes[pixel]);
                        }
                    )*
                }
            }
        );
    };
}

tiles!(tiles_1_1, 1, 1: 0, packed from 0);
tiles!(tiles_1_2, 1, 2: 0 1, packed from 0);
tiles!(tiles_1_4, 1, 4: 0 1 2 3, packed from 0);
tiles!(tiles_1_8, 1, 8: 0 1 2 3 4 5 6 7, packed from 0 4);
tiles!(tiles_2_1, 2, 1: 0, packed from 0);
tiles!(tiles_2_2, 2, 2: 0 1, packed from 0);
tiles!(tiles_2_4, 2, 4: 0 1 2 3, packed from 0 2);
tiles!(tiles_2_8, 2, 8: 0 1 2 3 4 5 6 7, packed from 0 2 4 6);
tiles!(tiles_3_1, 3, 1: 0, packed from 0);
tiles!(tiles_3_2, 3, 2: 0 1, packed from 0 1);
tiles!(tiles_3_4, 3, 4: 0 1 2 3, packed from 0 1 2 3);
tiles!(tiles_3_8, 3, 8: 0 1 2 3 4 5 6 7, packed from 0 1 2 3 4 5 6 7);
tiles!(tiles_4_1, 4, 1: 0, packed from 0);
tiles!(tiles_4_2, 4, 2: 0 1, packed from 0 1);
tiles!(tiles_4_4, 4, 4: 0 1 2 3, packed from 0 1 2 3);
tiles!(tiles_4_6, 4, 6: 0 1 2 3 4 5, packed from 0 1 2 3 4 5);
