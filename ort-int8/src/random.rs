//! Pseudo-random values for sample inputs.

/// Returns endless values in [-1, 1) that depend on `seed` alone.
///
/// Source: the `SplitMix64` generator.
pub(crate) fn uniform(seed: u64) -> impl Iterator<Item = f32> {
    (1_u64..).map(move |index| {
        let state = seed.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        // An f32 holds 24 bits exactly.
        let unit = ((z ^ (z >> 31)) >> 40) as f32 * 2.0_f32.powi(-24);
        unit * 2.0 - 1.0
    })
}
