//! Quantization of ONNX Runtime's blocked fp32 layout to channels-last uint8.

use std::ops::Range;

use super::CHANNEL_BLOCK;

/// Parameters for quantizing an fp32 image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockedQuantization {
    /// Number of channels of the image, without the channels that pad it to whole blocks of 16.
    pub channels: usize,
    /// Scale of the quantized image.
    pub scale: f32,
    /// Zero point of the quantized image.
    pub zero_point: u8,
}

/// Quantizes the pixels of one image, from index `first_pixel` on, and writes them to `output`,
/// `[pixels, C] u8`. The length of `output` determines the number of pixels.
///
/// `image` is `[ceil(C / 16), H * W, 16] f32`. Results are `round(x / scale) + zero_point`, ties to
/// even, saturated to 0..=255.
///
/// Source: ONNX `QuantizeLinear`; the layout is that of ONNX Runtime's `NCHWc` operators on CPUs
/// with AVX-512.
pub fn quantize_blocked(
    spec: &BlockedQuantization,
    image: &[f32],
    first_pixel: usize,
    output: &mut [u8],
) {
    let channels = spec.channels;
    let blocks = channels.div_ceil(CHANNEL_BLOCK).max(1);
    let pixels = image.as_chunks().0;
    let planes = pixels.chunks_exact((pixels.len() / blocks).max(1));
    for (block, plane) in planes.take(blocks).enumerate() {
        let place = block * CHANNEL_BLOCK..channels;
        let plane = plane.get(first_pixel..).unwrap_or_default();
        #[cfg(target_arch = "x86_64")]
        if let Some(avx512) = fearless_simd::Level::new().as_avx512() {
            avx512_plane(avx512, plane, place, spec, output);
            continue;
        }
        plain_plane(plane, place, spec, output);
    }
}

/// Quantizes one block of channels of all pixels in `plane`, `[pixels, 16] f32`, without vector
/// instructions, and writes the results to `output`, `[pixels, C] u8`. The channels of the block are
/// the first sixteen of `place`, or all of it at the last block; `place` ends at `C`.
fn plain_plane(
    plane: &[[f32; CHANNEL_BLOCK]],
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
    /// The AVX-512 form of [`plain_plane`].
    fn avx512_plane(
        avx512: Avx512,
        plane: &[[f32; CHANNEL_BLOCK]],
        place: Range<usize>,
        spec: &BlockedQuantization,
        output: &mut [u8],
    ) {
        use std::arch::x86_64::_mm512_add_epi32;
        use std::arch::x86_64::{
            __m512, _mm512_cvtps_epi32, _mm512_cvtusepi32_epi8, _mm512_div_ps, _mm512_max_ps,
            _mm512_min_ps, _mm512_set1_epi32, _mm512_set1_ps,
        };

        use fearless_simd::{SimdBase, SimdFrom, f32x16, u8x16};

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
            let pixel = &mut pixel[place.start..];
            if let Some(whole) = pixel.first_chunk_mut::<CHANNEL_BLOCK>() {
                rounded.store_slice(whole);
            } else {
                let rounded: [u8; CHANNEL_BLOCK] = rounded.into();
                let length = pixel.len();
                pixel.copy_from_slice(&rounded[..length]);
            }
        }
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_channel_of_every_pixel_is_quantized() {
        for (channels, pixels) in [(16_usize, 3), (32, 5), (24, 4), (8, 2), (40, 1)] {
            let blocks = channels.div_ceil(CHANNEL_BLOCK);
            let image: Vec<f32> = (0..blocks * pixels * CHANNEL_BLOCK)
                .map(|index| index as f32 * 0.25 - 20.0)
                .collect();
            let mut output = vec![0; pixels * channels];
            let spec = BlockedQuantization {
                channels,
                scale: 0.5,
                zero_point: 7,
            };
            for first in 0..pixels {
                let output = &mut output[first * channels..];
                quantize_blocked(&spec, &image, first, output);
            }
            for (index, got) in output.iter().enumerate() {
                let (pixel, channel) = (index / channels, index % channels);
                let (block, lane) = (channel / CHANNEL_BLOCK, channel % CHANNEL_BLOCK);
                let value = image[(block * pixels + pixel) * CHANNEL_BLOCK + lane];
                let expected = ((value / 0.5).round_ties_even() + 7.0).clamp(0.0, 255.0);
                assert_eq!(
                    f32::from(*got),
                    expected,
                    "{channels} channels, output element {index}"
                );
            }
        }
    }
}
