//! Quantization of ONNX Runtime's blocked fp32 layout to channels-last uint8.

use std::ops::Range;

use super::isa::Isa;
#[cfg(target_arch = "x86_64")]
use super::store::store;

/// Parameters for quantizing an fp32 image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockedQuantization {
    /// Number of channels of the image, without the channels that pad it to whole blocks.
    pub channels: usize,
    /// Number of channels that are stored next to each other for each pixel: 8 or 16.
    pub block: usize,
    /// Scale of the quantized image.
    pub scale: f32,
    /// Zero point of the quantized image.
    pub zero_point: u8,
}

/// Quantizes the pixels of one image, from index `first_pixel` on, and writes them to `output`,
/// `[pixels, C] u8`. The length of `output` determines the number of pixels.
///
/// `image` is `[ceil(C / block), H * W, block] f32`. Results are `round(x / scale) + zero_point`, ties
/// to even, saturated to 0..=255. Writes nothing if `spec.block` is neither 8 nor 16.
///
/// Source: ONNX `QuantizeLinear`; the layout is that of ONNX Runtime's `NCHWc` operators.
pub fn quantize_blocked(
    isa: Isa,
    spec: &BlockedQuantization,
    image: &[f32],
    first_pixel: usize,
    output: &mut [u8],
) {
    match spec.block {
        8 => quantize_planes::<8>(isa, spec, image, first_pixel, output),
        16 => quantize_planes::<16>(isa, spec, image, first_pixel, output),
        _ => {}
    }
}

fn quantize_planes<const BLOCK: usize>(
    isa: Isa,
    spec: &BlockedQuantization,
    image: &[f32],
    first_pixel: usize,
    output: &mut [u8],
) {
    let channels = spec.channels;
    let blocks = channels.div_ceil(BLOCK).max(1);
    let pixels = image.as_chunks::<BLOCK>().0;
    let planes = pixels.chunks_exact((pixels.len() / blocks).max(1));
    for (block, plane) in planes.take(blocks).enumerate() {
        let place = block * BLOCK..channels;
        let plane = plane.get(first_pixel..).unwrap_or_default();
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(avx512) if BLOCK == 16 => {
                let plane = plane.as_flattened().as_chunks().0;
                avx512_plane(avx512, plane, place, spec, output);
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(avx2) if BLOCK == 8 => {
                let plane = plane.as_flattened().as_chunks().0;
                avx2_plane(avx2, plane, place, spec, output);
            }
            _ => plain_plane(plane, place, spec, output),
        }
    }
}

/// Quantizes one block of channels of all pixels in `plane`, `[pixels, block] f32`, without vector
/// instructions, and writes the results to `output`, `[pixels, C] u8`. The channels of the block are
/// the first ones of `place`, or all of it at the last block; `place` ends at `C`.
fn plain_plane<const BLOCK: usize>(
    plane: &[[f32; BLOCK]],
    place: Range<usize>,
    spec: &BlockedQuantization,
    output: &mut [u8],
) {
    let zero_point = f32::from(spec.zero_point);
    for (values, pixel) in plane.iter().zip(output.chunks_exact_mut(place.end)) {
        for (value, output) in values.iter().zip(&mut pixel[place.start..]) {
            let q = (value / spec.scale).round_ties_even() + zero_point;
            *output = q.clamp(0.0, 255.0) as u8;
        }
    }
}

#[cfg(target_arch = "x86_64")]
fearless_simd::kernel!(
    /// The AVX2 form of [`plain_plane`], for blocks of 8 channels.
    fn avx2_plane(
        avx2: Avx2,
        plane: &[[f32; 8]],
        place: Range<usize>,
        spec: &BlockedQuantization,
        output: &mut [u8],
    ) {
        use std::arch::x86_64::{
            __m256, _mm_adds_epi16, _mm_cvtsi128_si64, _mm_packs_epi32, _mm_packus_epi16,
            _mm_set1_epi16, _mm256_castsi256_si128, _mm256_cvtps_epi32, _mm256_div_ps,
            _mm256_extracti128_si256, _mm256_max_ps, _mm256_min_ps, _mm256_set1_ps,
        };

        use fearless_simd::{SimdFrom, f32x8};

        let zero = f32::from(spec.zero_point);
        let (least, most) = (_mm256_set1_ps(-zero), _mm256_set1_ps(255.0 - zero));
        let scale = _mm256_set1_ps(spec.scale);
        let zero = _mm_set1_epi16(spec.zero_point.into());
        let pixels = output.chunks_exact_mut(place.end);
        for (values, pixel) in plane.iter().zip(pixels) {
            let values: __m256 = f32x8::simd_from(avx2, *values).into();
            let q = _mm256_div_ps(values, scale);
            let q = _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(q, least), most));
            let (low, high) = (_mm256_castsi256_si128(q), _mm256_extracti128_si256::<1>(q));
            let q = _mm_adds_epi16(_mm_packs_epi32(low, high), zero);
            let rounded = _mm_cvtsi128_si64(_mm_packus_epi16(q, q)).to_le_bytes();
            store(&mut pixel[place.start..], rounded);
        }
    }
);

#[cfg(target_arch = "x86_64")]
fearless_simd::kernel!(
    /// The AVX-512 form of [`plain_plane`], for blocks of 16 channels.
    fn avx512_plane(
        avx512: Avx512,
        plane: &[[f32; 16]],
        place: Range<usize>,
        spec: &BlockedQuantization,
        output: &mut [u8],
    ) {
        use std::arch::x86_64::_mm512_add_epi32;
        use std::arch::x86_64::{
            __m512, _mm512_cvtps_epi32, _mm512_cvtusepi32_epi8, _mm512_div_ps, _mm512_max_ps,
            _mm512_min_ps, _mm512_set1_epi32, _mm512_set1_ps,
        };

        use fearless_simd::{SimdFrom, f32x16, u8x16};

        let zero = f32::from(spec.zero_point);
        let (least, most) = (_mm512_set1_ps(-zero), _mm512_set1_ps(255.0 - zero));
        let (scale, zero) = (
            _mm512_set1_ps(spec.scale),
            _mm512_set1_epi32(i32::from(spec.zero_point)),
        );
        let pixels = output.chunks_exact_mut(place.end);
        for (values, pixel) in plane.iter().zip(pixels) {
            let values: __m512 = f32x16::simd_from(avx512, *values).into();
            let q = _mm512_div_ps(values, scale);
            let q = _mm512_min_ps(_mm512_max_ps(q, least), most);
            let q = _mm512_add_epi32(_mm512_cvtps_epi32(q), zero);
            let rounded = u8x16::simd_from(avx512, _mm512_cvtusepi32_epi8(q));
            store::<16>(&mut pixel[place.start..], rounded.into());
        }
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_channel_of_every_pixel_is_quantized() {
        for block in [8, 16] {
            for (channels, pixels) in [(16_usize, 3), (32, 5), (24, 4), (8, 2), (40, 1), (13, 3)] {
                for isa in Isa::available() {
                    check(isa, block, channels, pixels);
                }
            }
        }
    }

    fn check(isa: Isa, block: usize, channels: usize, pixels: usize) {
        let blocks = channels.div_ceil(block);
        // Ties and both ends of the range are among the values.
        let image: Vec<f32> = (0..blocks * pixels * block)
            .map(|index| index as f32 * 0.75 - 20.0)
            .collect();
        let mut output = vec![0; pixels * channels];
        let spec = BlockedQuantization {
            channels,
            block,
            scale: 0.5,
            zero_point: 7,
        };
        for first in 0..pixels {
            let output = &mut output[first * channels..];
            quantize_blocked(isa, &spec, &image, first, output);
        }
        for (index, got) in output.iter().enumerate() {
            let (pixel, channel) = (index / channels, index % channels);
            let place = (channel / block * pixels + pixel) * block + channel % block;
            let value = image[place];
            let expected = ((value / 0.5).round_ties_even() + 7.0).clamp(0.0, 255.0);
            assert_eq!(
                f32::from(*got),
                expected,
                "{isa:?}: {channels} channels in blocks of {block}, output element {index}"
            );
        }
    }
}
