//! Writing of a register of results of which the output may have room for a part only.

/// Writes `results` to the beginning of `output`, or as many of them as it has elements.
#[inline]
pub(super) fn store<const N: usize>(output: &mut [u8], results: [u8; N]) {
    if let Some(whole) = output.first_chunk_mut() {
        *whole = results;
    } else {
        // Only this copy is in memory; the results that are stored above stay in a register.
        let copy = results;
        store_part(output, &copy);
    }
}

/// Writes as many `results` as `output` has elements: the last channels, if they do not fill a register. A
/// separate function: as a part of [`store`], the compiler would call `memcpy` for all results, and
/// kernels would keep their registers on the stack meanwhile.
#[cold]
#[inline(never)]
fn store_part(output: &mut [u8], results: &[u8]) {
    let length = output.len();
    output.copy_from_slice(&results[..length]);
}
