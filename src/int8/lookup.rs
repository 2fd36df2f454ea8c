//! Functions of one 8-bit number.

use super::LANES;

/// Replaces every number by its entry in `table`. `output` is as long as `input`.
pub fn lookup(table: &[u8; 256], input: &[u8], output: &mut [u8]) {
    let (input, last) = input.as_chunks::<LANES>();
    let (output, last_output) = output.as_chunks_mut::<LANES>();
    wide(table, input, output);
    plain(table, last, last_output);
}

fn wide(table: &[u8; 256], input: &[[u8; LANES]], output: &mut [[u8; LANES]]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(avx512) = fearless_simd::Level::new().as_avx512() {
        avx512_lookup(avx512, table, input, output);
        return;
    }
    plain(table, input.as_flattened(), output.as_flattened_mut());
}

fn plain(table: &[u8; 256], input: &[u8], output: &mut [u8]) {
    for (output, input) in output.iter_mut().zip(input) {
        *output = table[usize::from(*input)];
    }
}

#[cfg(target_arch = "x86_64")]
fearless_simd::kernel!(
    /// Each of two instructions looks into one half of the table, by the lower seven bits; the eighth
    /// chooses between them.
    fn avx512_lookup(
        avx512: Avx512,
        table: &[u8; 256],
        input: &[[u8; LANES]],
        output: &mut [[u8; LANES]],
    ) {
        use std::arch::x86_64::_mm512_permutex2var_epi8;
        use std::arch::x86_64::{__m512i, _mm512_mask_blend_epi8, _mm512_movepi8_mask};

        use fearless_simd::{SimdBase, SimdFrom, u8x64};

        let part = |index: usize| -> __m512i {
            let part = table.as_chunks::<LANES>().0[index];
            u8x64::simd_from(avx512, part).into()
        };
        let parts = [part(0), part(1), part(2), part(3)];
        for (output, input) in output.iter_mut().zip(input) {
            let index: __m512i = u8x64::simd_from(avx512, *input).into();
            let low = _mm512_permutex2var_epi8(parts[0], index, parts[1]);
            let high = _mm512_permutex2var_epi8(parts[2], index, parts[3]);
            let found = _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), low, high);
            u8x64::simd_from(avx512, found).store_slice(output);
        }
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_finds_its_entry() {
        let table: [u8; 256] = std::array::from_fn(|index| (index * 167 + 13) as u8);
        for length in [0, 1, 63, 64, 65, 256, 1000] {
            let input: Vec<u8> = (0..length).map(|index| (index * 31) as u8).collect();
            let (mut got, mut expected) = (vec![0; length], vec![0; length]);
            lookup(&table, &input, &mut got);
            plain(&table, &input, &mut expected);
            assert_eq!(got, expected, "{length}");
        }
    }
}
