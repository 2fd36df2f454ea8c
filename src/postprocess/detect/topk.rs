//! Selection of the k best scores of a feature map.
//!
//! A score and its index in the map (`place`) are packed into one integer key, which is larger for
//! a higher score and, between equal scores, for a lower index. Keys are never equal, so sorting
//! needs no other tie-break.

use super::FeatureMap;

/// Packs a score and its index `place` into a key. The key is larger for a higher score and,
/// between equal scores, for a lower place. A NaN is above or below all other scores, depending on
/// its sign.
pub(super) fn key(score: f32, place: u32) -> u64 {
    // Adding zero turns -0.0 into 0.0, so that both have the same key.
    let bits = (score + 0.0).to_bits();
    // Read as an integer, the bit pattern of a negative float is above that of every positive
    // float, and it falls as the float rises. Inverting negative patterns, and setting the top bit
    // of positive ones, gives integers in the order of the floats.
    let ordered = if bits >> 31 == 0 {
        bits | 1 << 31
    } else {
        !bits
    };
    u64::from(ordered) << 32 | u64::from(!place)
}

/// Returns the score and the place that a key was packed from.
pub(super) fn unpack(key: u64) -> (f32, u32) {
    let ordered = (key >> 32) as u32;
    let bits = if ordered >> 31 == 0 {
        !ordered
    } else {
        ordered & !(1 << 31)
    };
    (f32::from_bits(bits), !(key as u32))
}

/// Keeps the `k` best of the scores pushed so far, in memory for about `2 * k` keys.
#[derive(Debug)]
pub(super) struct TopK {
    k: usize,
    keys: Vec<u64>,
    /// The `k`-th best key when keys were last dropped; 0 before that. A further key that is not
    /// larger than this one cannot be among the `k` best.
    floor: u64,
}

impl TopK {
    /// Minimum number of collected keys for dropping all but the `k` best: with fewer keys, this
    /// would cost more than it saves.
    const MIN_KEYS: usize = 64;

    /// Returns an empty selection of the `k` best scores.
    pub(super) fn new(k: usize) -> Self {
        Self {
            k,
            keys: Vec::new(),
            floor: 0,
        }
    }

    /// Adds a score, which must not be NaN, with its index `place`.
    pub(super) fn push(&mut self, score: f32, place: u32) {
        let key = key(score, place);
        if key <= self.floor {
            return;
        }
        self.keys.push(key);
        if self.keys.len() >= self.k.saturating_mul(2).max(Self::MIN_KEYS) {
            self.shrink();
        }
    }

    /// Returns a lower bound of the scores that can still enter the selection; negative infinity if
    /// every score can.
    pub(super) fn bound(&self) -> f32 {
        if self.floor == 0 {
            f32::NEG_INFINITY
        } else {
            unpack(self.floor).0
        }
    }

    /// Drops all keys but the `k` best.
    fn shrink(&mut self) {
        if self.k == 0 {
            self.keys.clear();
            self.floor = u64::MAX;
        } else if self.keys.len() > self.k {
            let descending = |a: &u64, b: &u64| b.cmp(a);
            let (_, last, _) = self.keys.select_nth_unstable_by(self.k - 1, descending);
            self.floor = *last;
            self.keys.truncate(self.k);
        }
    }

    /// Returns the `k` best scores with their places, best first.
    pub(super) fn into_sorted(mut self) -> impl Iterator<Item = (f32, u32)> {
        self.shrink();
        self.keys.sort_unstable_by(|a, b| b.cmp(a));
        self.keys.into_iter().map(unpack)
    }
}

/// Conversion of logits to scores. An implementation may have a threshold that scores must exceed.
pub(super) trait Scoring {
    /// Returns the score of `logit`. `None` if the score is not above the implementation's
    /// threshold.
    fn score(&self, logit: f32) -> Option<f32>;

    /// Returns a lower bound of the logits that must be scored: every lower logit has a score that
    /// is below `score` or not above the threshold.
    fn least_logit(&self, score: f32) -> f32;
}

/// Scoring by the logits themselves, without a threshold.
pub(super) struct Raw;

impl Scoring for Raw {
    fn score(&self, logit: f32) -> Option<f32> {
        Some(logit)
    }

    fn least_logit(&self, score: f32) -> f32 {
        score
    }
}

/// Scoring by the sigmoid of the logits, which must be above the threshold in this field.
pub(super) struct SigmoidOver(pub(super) f32);

impl Scoring for SigmoidOver {
    fn score(&self, logit: f32) -> Option<f32> {
        Some(sigmoid(logit)).filter(|score| *score > self.0)
    }

    fn least_logit(&self, score: f32) -> f32 {
        logit_below(score.max(self.0))
    }
}

/// Returns `1 / (1 + exp(-logit))`.
pub(super) fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

/// Returns a logit slightly below every logit whose sigmoid, in f32, is `score` or more.
///
/// Comparing logits with this bound before their sigmoid is computed saves nearly all exponentials
/// without changing the result.
fn logit_below(score: f32) -> f32 {
    // Expressed as logits, the rounding errors of the sigmoid are thousands of times smaller than
    // the margin of 1e-3, except near a score of 1: there the sigmoid is flat, and a rounding error
    // of the score stands for a large change of the logit. Subtracting a few epsilons from the
    // score covers this case.
    let score = f64::from(score) - 4.0 * f64::from(f32::EPSILON);
    if score <= 0.0 {
        return f32::NEG_INFINITY;
    }
    ((score / (1.0 - score)).ln() - 1e-3) as f32
}

/// Number of logits that are compared with a bound together, in a few vector instructions.
const CHUNK: usize = 32;

/// Returns the scores of the `k` best elements of a map `[C, h, w]`, best first. Each has the
/// element's index in the order (h, w, c).
///
/// Memory is proportional to `k`, whatever the size of the map. Of two equal scores, the one with
/// the lower index comes first; torch leaves their order open. Source: `torch.topk` of the permuted
/// and flattened map.
pub(super) fn top_of_map(
    map: &FeatureMap<'_>,
    k: usize,
    scoring: &impl Scoring,
) -> Vec<(f32, u32)> {
    let mut best = TopK::new(k);
    let mut least = scoring.least_logit(best.bound());
    for channel in 0..map.channels {
        for (i, logits) in map.plane(channel).chunks(CHUNK).enumerate() {
            if !any_from(logits, least) {
                continue;
            }
            for (j, logit) in logits.iter().enumerate().filter(|(_, l)| **l >= least) {
                if let Some(score) = scoring.score(*logit) {
                    let place = (i * CHUNK + j) * map.channels + channel;
                    best.push(score, place as u32);
                }
            }
            least = scoring.least_logit(best.bound());
        }
    }
    best.into_sorted().collect()
}

/// Returns whether at least one of `logits` is `least` or more. The function counts these logits
/// instead of stopping at the first, because the compiler vectorizes a count.
fn any_from(logits: &[f32], least: f32) -> bool {
    logits
        .iter()
        .map(|logit| u32::from(*logit >= least))
        .sum::<u32>()
        > 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::ImageSize;
    use crate::testing::random::Random;

    #[test]
    fn keys_order_by_score_and_then_by_place() {
        let scores = [
            f32::NEG_INFINITY,
            -2.0,
            -1e-30,
            0.0,
            1e-30,
            0.5,
            f32::INFINITY,
        ];
        for pair in scores.windows(2) {
            assert!(key(pair[0], 0) < key(pair[1], u32::MAX), "{pair:?}");
        }
        for score in scores {
            assert!(key(score, 3) > key(score, 4));
            assert_eq!(unpack(key(score, 7)), (score, 7));
        }
        assert_eq!(key(-0.0, 1), key(0.0, 1));
    }

    /// Returns `len` pseudo-random values, some of them NaN or negative infinity. The finite values
    /// take `levels` different values; few levels make many ties.
    fn noise(len: usize, levels: u64) -> Vec<f32> {
        let mut random = Random::new(len as u64 ^ levels << 20);
        let mut next = || match random.below(64) {
            0 => f32::NAN,
            1 => f32::NEG_INFINITY,
            _ => random.below(levels as usize) as f32 / levels as f32 * 20.0 - 10.0,
        };
        (0..len).map(|_| next()).collect()
    }

    fn check(map: &FeatureMap<'_>, k: usize, scoring: &impl Scoring) {
        let mut all = Vec::new();
        for (point, channel) in
            (0..map.points()).flat_map(|p| (0..map.channels).map(move |c| (p, c)))
        {
            let logit = map.plane(channel)[point];
            let score = Some(logit)
                .filter(|l| !l.is_nan())
                .and_then(|l| scoring.score(l));
            all.extend(score.map(|score| (score, (point * map.channels + channel) as u32)));
        }
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        all.truncate(k);
        assert_eq!(top_of_map(map, k, scoring), all, "{k} of {:?}", map.size);
    }

    #[test]
    fn the_k_best_equal_those_of_a_stable_sort() {
        for (channels, width, height) in [(1, 1, 1), (3, 33, 7), (20, 31, 9), (2, 0, 5)] {
            let size = ImageSize { width, height };
            for levels in [2, 7, 1 << 24] {
                let data = noise(channels * (width * height) as usize, levels);
                let map = FeatureMap::new(&data, channels, size).unwrap();
                for k in [0, 1, 10, 100, 5000] {
                    check(&map, k, &Raw);
                    for threshold in [0.0, 0.05, 0.5, 0.999] {
                        check(&map, k, &SigmoidOver(threshold));
                    }
                }
            }
        }
    }

    #[test]
    fn the_logit_bound_excludes_no_logit_of_that_score() {
        for step in -4000..4000 {
            let logit = step as f32 * 0.01;
            let least = logit_below(sigmoid(logit));
            assert!(least <= logit, "{logit}: {least}");
            assert!(
                logit.abs() > 14.0 || least > logit - 1.0,
                "{logit}: {least}"
            );
        }
    }
}
