//! Pseudo-random numbers.

/// The pseudo-random generator `SplitMix64`, with equal values on every machine. Not for secrets.
#[derive(Debug, Clone)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// Returns a generator. Equal seeds give equal values.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns 64 pseudo-random bits.
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Returns a pseudo-random integer in `0..end`. `end` must not be 0.
    pub fn below(&mut self, end: usize) -> usize {
        // The high half of the product is uniform without a division.
        ((u128::from(self.bits()) * end as u128) >> 64) as usize
    }

    /// Returns a pseudo-random value of the exponential distribution with the mean 1, such as the time between two events
    /// of a Poisson process with the rate 1.
    pub fn exponential(&mut self) -> f64 {
        // 53 bits, without 0.
        let uniform = ((self.bits() >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        -uniform.ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_values_have_their_mean_and_tail() {
        let mut random = SplitMix64::new(3);
        let values: Vec<f64> = (0..100_000).map(|_| random.exponential()).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let tail = values.iter().filter(|value| **value > 3.0).count() as f64 / values.len() as f64;
        assert!((mean - 1.0).abs() < 0.02, "{mean}");
        assert!((tail - (-3.0_f64).exp()).abs() < 0.003, "{tail}");
        assert!(
            values
                .iter()
                .all(|value| value.is_finite() && *value >= 0.0)
        );
    }

    #[test]
    fn integers_cover_their_range() {
        let mut random = SplitMix64::new(3);
        let mut counts = [0; 7];
        (0..7000).for_each(|_| counts[random.below(7)] += 1);
        assert!(
            counts.iter().all(|count| (850..1150).contains(count)),
            "{counts:?}"
        );
    }
}
