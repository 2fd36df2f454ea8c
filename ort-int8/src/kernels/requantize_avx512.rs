//! Requantization of sums on AVX-512, which the kernels of convolutions share.

use std::arch::x86_64::{
    __m512, __m512i, _mm512_adds_epi16, _mm512_cvtepi32_ps, _mm512_cvtps_epi32, _mm512_mul_ps,
    _mm512_packs_epi32, _mm512_packus_epi16,
};

fearless_simd::kernel!(
    /// Requantizes four registers of 16 sums and packs them into bytes. `zero` is the output's zero
    /// point in every 16-bit element.
    ///
    /// Each group of 16 bytes has four results of each register, one register after the other: this is
    /// the order of the output's elements if the registers were interleaved from them, and
    /// `UNPACKED_WIDE` orders the results by register.
    #[inline(always)]
    pub(super) fn packed(
        _avx512: Avx512,
        sums: [__m512i; 4],
        multipliers: [__m512; 4],
        zero: __m512i,
    ) -> __m512i {
        let mut scaled = sums;
        for (sum, multipliers) in scaled.iter_mut().zip(multipliers) {
            *sum = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(*sum), multipliers));
        }
        let [a, b, c, d] = scaled;
        let low = _mm512_adds_epi16(_mm512_packs_epi32(a, b), zero);
        let high = _mm512_adds_epi16(_mm512_packs_epi32(c, d), zero);
        _mm512_packus_epi16(low, high)
    }
);

/// Returns the pixel and the group of channels of the sums in one of the four registers that are packed
/// together, given the number of groups. The last of three groups is packed twice.
#[inline]
pub(super) fn source(groups: usize, register: usize) -> (usize, usize) {
    match groups {
        3 => (0, register.min(2)),
        _ => (register / groups, register % groups),
    }
}
