//! Lookup of uint8 values in a table, which holds the results of a function for all 256 uint8
//! values.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::__m512i;

use super::LANES;
use super::isa::Isa;

/// Writes `table[input[i]]` to `output[i]` for every `i`. Both slices must have the same length.
pub fn lookup(isa: Isa, table: &[u8; 256], input: &[u8], output: &mut [u8]) {
    let (input, last) = input.as_chunks::<LANES>();
    let (output, last_output) = output.as_chunks_mut::<LANES>();
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(avx512) => avx512_lookup(avx512, table, input, output),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(avx2) => super::lookup_avx2::copy(avx2, table, input, output),
        Isa::Scalar => plain(table, input.as_flattened(), output.as_flattened_mut()),
    }
    plain(table, last, last_output);
}

/// Replaces every element of `values` by its entry in `table`.
pub(super) fn replace(isa: Isa, table: &[u8; 256], values: &mut [u8]) {
    let rest = match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(avx2) => {
            let (vectors, rest) = values.as_chunks_mut::<LANES>();
            super::lookup_avx2::replace(avx2, table, vectors);
            rest
        }
        _ => values,
    };
    for value in rest {
        *value = table[usize::from(*value)];
    }
}

fn plain(table: &[u8; 256], input: &[u8], output: &mut [u8]) {
    for (output, input) in output.iter_mut().zip(input) {
        *output = table[usize::from(*input)];
    }
}

#[cfg(target_arch = "x86_64")]
fearless_simd::kernel!(
    fn avx512_lookup(
        avx512: Avx512,
        table: &[u8; 256],
        input: &[[u8; LANES]],
        output: &mut [[u8; LANES]],
    ) {
        use fearless_simd::{SimdBase, SimdFrom, u8x64};

        let parts = table_parts(avx512, table);
        for (output, input) in output.iter_mut().zip(input) {
            let found = find(avx512, parts, u8x64::simd_from(avx512, *input).into());
            u8x64::simd_from(avx512, found).store_slice(output);
        }
    }
);

#[cfg(target_arch = "x86_64")]
fearless_simd::kernel!(
    /// Loads a table into four registers of 64 entries each, in order.
    #[inline(always)]
    pub(super) fn table_parts(avx512: Avx512, table: &[u8; 256]) -> [__m512i; 4] {
        use fearless_simd::{SimdFrom, u8x64};

        let parts = table.as_chunks::<LANES>().0;
        [0, 1, 2, 3].map(|part: usize| -> __m512i { u8x64::simd_from(avx512, parts[part]).into() })
    }
);

#[cfg(target_arch = "x86_64")]
fearless_simd::kernel!(
    /// Returns the table entries at 64 `indices`; `table` is the result of `table_parts`. One
    /// instruction looks the lower seven bits of each index up in the first 128 entries, another in
    /// the last 128; the eighth bit of the index selects one of the two results.
    #[inline(always)]
    pub(super) fn find(avx512: Avx512, table: [__m512i; 4], indices: __m512i) -> __m512i {
        use std::arch::x86_64::{
            _mm512_mask_blend_epi8, _mm512_movepi8_mask, _mm512_permutex2var_epi8,
        };

        let low = _mm512_permutex2var_epi8(table[0], indices, table[1]);
        let high = _mm512_permutex2var_epi8(table[2], indices, table[3]);
        _mm512_mask_blend_epi8(_mm512_movepi8_mask(indices), low, high)
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_equals_the_definition() {
        let table: [u8; 256] = std::array::from_fn(|index| (index * 167 + 13) as u8);
        for length in [0, 1, 31, 63, 64, 65, 256, 1000] {
            let input: Vec<u8> = (0..length).map(|index| (index * 31) as u8).collect();
            let expected: Vec<u8> = input.iter().map(|q| table[usize::from(*q)]).collect();
            for isa in Isa::available() {
                let mut got = vec![0; length];
                lookup(isa, &table, &input, &mut got);
                assert_eq!(got, expected, "{isa:?}: {length} elements");
                let mut got = input.clone();
                replace(isa, &table, &mut got);
                assert_eq!(got, expected, "{isa:?}, in place: {length} elements");
            }
        }
    }
}
