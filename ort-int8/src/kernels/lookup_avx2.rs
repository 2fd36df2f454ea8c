//! The AVX2 form of [`lookup`](super::lookup()).

use std::arch::x86_64::{
    __m256i, _mm256_and_si256, _mm256_blendv_epi8, _mm256_broadcastsi128_si256, _mm256_set1_epi8,
    _mm256_shuffle_epi8, _mm256_slli_epi16,
};

use fearless_simd::{SimdBase, SimdFrom, u8x16, u8x32};

use super::LANES;

/// Number of table entries that one instruction looks up.
const ROW: usize = 16;
/// Number of bytes of a vector.
const VECTOR: usize = 32;

fearless_simd::kernel!(
    /// Replaces every byte of `values` by its entry in `table`.
    pub(super) fn replace(avx2: Avx2, table: &[u8; 256], values: &mut [[u8; LANES]]) {
        let rows = rows(avx2, table);
        for values in values {
            for values in values.as_chunks_mut::<VECTOR>().0 {
                let found = find(avx2, &rows, u8x32::simd_from(avx2, *values).into());
                u8x32::simd_from(avx2, found).store_slice(values);
            }
        }
    }
);

fearless_simd::kernel!(
    /// Writes the table entries of all bytes of `input` to `output`.
    pub(super) fn copy(
        avx2: Avx2,
        table: &[u8; 256],
        input: &[[u8; LANES]],
        output: &mut [[u8; LANES]],
    ) {
        let rows = rows(avx2, table);
        for (output, input) in output.iter_mut().zip(input) {
            let output = output.as_chunks_mut::<VECTOR>().0;
            for (output, input) in output.iter_mut().zip(input.as_chunks::<VECTOR>().0) {
                let found = find(avx2, &rows, u8x32::simd_from(avx2, *input).into());
                u8x32::simd_from(avx2, found).store_slice(output);
            }
        }
    }
);

fearless_simd::kernel!(
    /// Loads a table into 16 registers of 16 entries each, in order. Each register holds its entries
    /// twice, because the lookup instruction works on halves of a register.
    #[inline(always)]
    fn rows(avx2: Avx2, table: &[u8; 256]) -> [__m256i; 16] {
        let rows = table.as_chunks::<ROW>().0;
        let mut registers = [_mm256_set1_epi8(0); 16];
        for (register, row) in registers.iter_mut().zip(rows) {
            *register = _mm256_broadcastsi128_si256(u8x16::simd_from(avx2, *row).into());
        }
        registers
    }
);

fearless_simd::kernel!(
    /// Returns the table entries at 32 `indices`; `rows` is the result of `rows`. The lower four bits
    /// of each index select an entry of every row. Then each of the upper four bits, beginning with
    /// the lowest, halves the number of rows.
    #[inline(always)]
    fn find(_avx2: Avx2, rows: &[__m256i; 16], indices: __m256i) -> __m256i {
        let place = _mm256_and_si256(indices, _mm256_set1_epi8(15));
        // A blend selects by the highest bit of each byte.
        let bits = [
            _mm256_slli_epi16::<3>(indices),
            _mm256_slli_epi16::<2>(indices),
            _mm256_slli_epi16::<1>(indices),
            indices,
        ];
        let mut quarters = [place; 4];
        for (quarter, rows) in quarters.iter_mut().zip(rows.as_chunks::<4>().0) {
            let mut found = *rows;
            for row in &mut found {
                *row = _mm256_shuffle_epi8(*row, place);
            }
            let [a, b, c, d] = found;
            let low = _mm256_blendv_epi8(a, b, bits[0]);
            let high = _mm256_blendv_epi8(c, d, bits[0]);
            *quarter = _mm256_blendv_epi8(low, high, bits[1]);
        }
        let low = _mm256_blendv_epi8(quarters[0], quarters[1], bits[2]);
        let high = _mm256_blendv_epi8(quarters[2], quarters[3], bits[2]);
        _mm256_blendv_epi8(low, high, bits[3])
    }
);
