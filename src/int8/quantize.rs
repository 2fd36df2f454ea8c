//! Floats in ONNX Runtime's blocked layout into 8-bit numbers, channels last.

use std::ops::Range;

use super::CHANNEL_BLOCK;

/// Rounds the pixels from `first` on, as many as `output` has room for, of a picture of `channels` channels,
/// `[ceil(C / 16), H W, 16] f32`, to `[pixels, C] u8`: `round(x / scale) + zero`, halves to even, or the end
/// of the range that is nearer.
///
/// Source: ONNX `QuantizeLinear`; the layout is that of ONNX Runtime's `NCHWc` operators on CPUs with AVX-512.
pub fn quantize_blocked(
    picture: &[f32],
    channels: usize,
    (scale, zero): (f32, u8),
    first: usize,
    output: &mut [u8],
) {
    let blocks = channels.div_ceil(CHANNEL_BLOCK).max(1);
    let numbers = picture.as_chunks().0;
    let planes = numbers.chunks_exact((numbers.len() / blocks).max(1));
    for (block, plane) in planes.take(blocks).enumerate() {
        let place = block * CHANNEL_BLOCK..channels;
        let plane = plane.get(first..).unwrap_or_default();
        #[cfg(target_arch = "x86_64")]
        if let Some(avx512) = fearless_simd::Level::new().as_avx512() {
            avx512_plane(avx512, plane, place, (scale, zero), output);
            continue;
        }
        plain_plane(plane, place, (scale, zero), output);
    }
}

/// Sixteen channels of every pixel: as many as there are at this `place` in a pixel, which ends with it.
fn plain_plane(
    plane: &[[f32; CHANNEL_BLOCK]],
    place: Range<usize>,
    (scale, zero): (f32, u8),
    output: &mut [u8],
) {
    for (numbers, pixel) in plane.iter().zip(output.chunks_exact_mut(place.end)) {
        for (number, output) in numbers.iter().zip(&mut pixel[place.start..]) {
            let steps = (number / scale).round_ties_even() + f32::from(zero);
            *output = steps.clamp(0.0, 255.0) as u8;
        }
    }
}

#[cfg(target_arch = "x86_64")]
fearless_simd::kernel!(
    /// [`plain_plane`] with AVX-512.
    fn avx512_plane(
        avx512: Avx512,
        plane: &[[f32; CHANNEL_BLOCK]],
        place: Range<usize>,
        steps: (f32, u8),
        output: &mut [u8],
    ) {
        use std::arch::x86_64::_mm512_add_epi32;
        use std::arch::x86_64::{
            __m512, _mm512_cvtps_epi32, _mm512_cvtusepi32_epi8, _mm512_div_ps, _mm512_max_ps,
            _mm512_min_ps, _mm512_set1_epi32, _mm512_set1_ps,
        };

        use fearless_simd::{SimdBase, SimdFrom, f32x16, u8x16};

        let zero = f32::from(steps.1);
        let (least, most) = (_mm512_set1_ps(-zero), _mm512_set1_ps(255.0 - zero));
        let (scale, zero) = (
            _mm512_set1_ps(steps.0),
            _mm512_set1_epi32(i32::from(steps.1)),
        );
        let pixels = output.chunks_exact_mut(place.end);
        for (numbers, pixel) in plane.iter().zip(pixels) {
            let numbers: __m512 = f32x16::simd_from(avx512, *numbers).into();
            let steps = _mm512_div_ps(numbers, scale);
            let steps = _mm512_min_ps(_mm512_max_ps(steps, least), most);
            let steps = _mm512_add_epi32(_mm512_cvtps_epi32(steps), zero);
            let rounded = u8x16::simd_from(avx512, _mm512_cvtusepi32_epi8(steps));
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
    fn every_channel_of_every_pixel() {
        for (channels, pixels) in [(16_usize, 3), (32, 5), (24, 4), (8, 2), (40, 1)] {
            let blocks = channels.div_ceil(CHANNEL_BLOCK);
            let picture: Vec<f32> = (0..blocks * pixels * CHANNEL_BLOCK)
                .map(|index| index as f32 * 0.25 - 20.0)
                .collect();
            let mut output = vec![0; pixels * channels];
            for first in 0..pixels {
                let output = &mut output[first * channels..];
                quantize_blocked(&picture, channels, (0.5, 7), first, output);
            }
            for (index, number) in output.iter().enumerate() {
                let (pixel, channel) = (index / channels, index % channels);
                let (block, lane) = (channel / CHANNEL_BLOCK, channel % CHANNEL_BLOCK);
                let value = picture[(block * pixels + pixel) * CHANNEL_BLOCK + lane];
                let expected = ((value / 0.5).round_ties_even() + 7.0).clamp(0.0, 255.0);
                assert_eq!(f32::from(*number), expected, "{channels} {index}");
            }
        }
    }
}
