//! A pseudo-random generator for tests.

/// The pseudo-random generator `SplitMix64`. Equal seeds produce equal values on every machine.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Returns a random integer in `0..end`. Panics if `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
    }

    /// Returns a random value in [0, 1).
    pub fn unit(&mut self) -> f32 {
        // Only 24 bits are used, since an f32 represents every 24-bit integer exactly.
        (self.bits() >> 40) as f32 / 16_777_216.0
    }
}
