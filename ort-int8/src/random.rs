//! Pseudo-random values for sample inputs.

/// Returns an endless iterator of pseudo-random values in [-1, 1), the same for each call with
/// `seed`.
///
/// Source: the `SplitMix64` generator.
pub(crate) fn uniform(seed: u64) -> impl Iterator<Item = f32> {
    (1_u64..).map(move |index| {
        let state = seed.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        // Only the upper 24 bits are used, because an f32 represents every 24-bit integer exactly.
        let unit = ((z ^ (z >> 31)) >> 40) as f32 * 2.0_f32.powi(-24);
        unit * 2.0 - 1.0
    })
}
