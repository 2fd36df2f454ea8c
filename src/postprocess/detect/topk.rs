//! Selection of the k best scores of a feature map.
//!
//! A score and its index (`place`) are packed into one integer key, which is larger for a higher
//! score and, between equal scores, for a lower index. Keys are never equal, so sorting needs no
//! other tie-break.

use super::FeatureMap;

/// Packs a score and its place into a key that is larger for a higher score and then for a lower
/// place. NaN is above all other scores.
pub(super) fn key(score: f32, place: u32) -> u64 {
    // Adding zero turns -0.0 into 0.0.
    let bits = (score + 0.0).to_bits();
    // The bits of negative floats are in descending order, and must sort below positive floats.
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
    /// Keys up to this one are not among the `k` best.
    floor: u64,
}

impl TopK {
    /// Number of collected keys below which a selection is not worth its cost.
    const MIN_KEYS: usize = 64;

    /// Returns an empty selection of the `k` best scores.
    pub(super) fn new(k: usize) -> Self {
        Self {
            k,
            keys: Vec::new(),
            floor: 0,
        }
    }

    /// Adds a score, which must not be NaN, and its place.
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

    /// Returns a lower bound of the scores that can still enter the selection.
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

/// Conversion of a logit to a score, for implementations with or without a threshold.
pub(super) trait Scoring {
    /// Returns the score of a logit, `None` if it is not above the threshold.
    fn score(&self, logit: f32) -> Option<f32>;

    /// Returns a logit such that no lower logit has a score of at least `score`.
    fn least_logit(&self, score: f32) -> f32;
}

/// Scores are the logits themselves, without a threshold.
pub(super) struct Raw;

impl Scoring for Raw {
    fn score(&self, logit: f32) -> Option<f32> {
        Some(logit)
    }

    fn least_logit(&self, score: f32) -> f32 {
        score
    }
}

/// Scores are the sigmoid of the logits and must be above this threshold.
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

/// Returns a logit slightly below every logit whose sigmoid rounds to `score` or more.
///
/// Comparing logits with it first saves nearly all exponentials without changing the result.
fn logit_below(score: f32) -> f32 {
    // The margin of 1e-3 is thousands of rounding errors of the sigmoid. Near 1, where the sigmoid is
    // flat, subtracting a few epsilons from the score first covers the rounding.
    let score = f64::from(score) - 4.0 * f64::from(f32::EPSILON);
    if score <= 0.0 {
        return f32::NEG_INFINITY;
    }
    ((score / (1.0 - score)).ln() - 1e-3) as f32
}

/// Number of elements that are compared together in a few vector instructions.
const CHUNK: usize = 32;

/// Returns the `k` best elements of a map `[C, h, w]`, best first, with their index in the order
/// (h, w, c).
///
/// Memory is proportional to `k`, whatever the size of the map. Of equal scores the lower index comes
/// first; torch leaves their order open. Source: `torch.topk` of the permuted and flattened map.
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

/// Returns whether any of `logits` is at least `least`. It counts instead of stopping at the first,
/// since a count vectorizes.
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

    /// Pseudo-random values with NaN and infinities among them; few `levels` make many ties.
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
