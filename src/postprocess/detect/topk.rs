//! The best few of many scores, in order.
//!
//! A score and its place are packed into one integer, larger for a higher score and, between equal
//! scores, for a lower place. So every order is total, and ties need no thought.

use super::FeatureMap;

/// Larger for higher scores, then for lower places. NaN is above all.
pub(super) fn key(score: f32, place: u32) -> u64 {
    // Adding zero makes one of the two zeros.
    let bits = (score + 0.0).to_bits();
    // Negative numbers count backwards in their bits, and come before the others.
    let ordered = if bits >> 31 == 0 {
        bits | 1 << 31
    } else {
        !bits
    };
    u64::from(ordered) << 32 | u64::from(!place)
}

/// The score and the place in a key.
pub(super) fn unpack(key: u64) -> (f32, u32) {
    let ordered = (key >> 32) as u32;
    let bits = if ordered >> 31 == 0 {
        !ordered
    } else {
        ordered & !(1 << 31)
    };
    (f32::from_bits(bits), !(key as u32))
}

/// Keeps the `k` best of what is pushed, in memory for about twice as many.
#[derive(Debug)]
pub(super) struct TopK {
    k: usize,
    keys: Vec<u64>,
    /// Only larger keys can still be among the best.
    floor: u64,
}

impl TopK {
    /// Fewest keys that are worth sorting out.
    const ROOM: usize = 64;

    pub(super) fn new(k: usize) -> Self {
        Self {
            k,
            keys: Vec::new(),
            floor: 0,
        }
    }

    /// Takes a score, which must not be NaN, and its place.
    pub(super) fn push(&mut self, score: f32, place: u32) {
        let key = key(score, place);
        if key <= self.floor {
            return;
        }
        self.keys.push(key);
        if self.keys.len() >= self.k.saturating_mul(2).max(Self::ROOM) {
            self.shrink();
        }
    }

    /// A score below this cannot get in any more.
    pub(super) fn bound(&self) -> f32 {
        if self.floor == 0 {
            f32::NEG_INFINITY
        } else {
            unpack(self.floor).0
        }
    }

    /// Drops all but the best.
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

    /// Scores and places, best first.
    pub(super) fn into_sorted(mut self) -> impl Iterator<Item = (f32, u32)> {
        self.shrink();
        self.keys.sort_unstable_by(|a, b| b.cmp(a));
        self.keys.into_iter().map(unpack)
    }
}

/// How the logits of a map become scores.
pub(super) trait Scoring {
    /// The score of a logit, `None` if it is not enough.
    fn score(&self, logit: f32) -> Option<f32>;

    /// No logit below this has a score of `score`.
    fn least_logit(&self, score: f32) -> f32;
}

/// Logits that are compared as they are.
pub(super) struct Raw;

impl Scoring for Raw {
    fn score(&self, logit: f32) -> Option<f32> {
        Some(logit)
    }

    fn least_logit(&self, score: f32) -> f32 {
        score
    }
}

/// Logits whose sigmoid must be more than this.
pub(super) struct SigmoidOver(pub(super) f32);

impl Scoring for SigmoidOver {
    fn score(&self, logit: f32) -> Option<f32> {
        Some(sigmoid(logit)).filter(|score| *score > self.0)
    }

    fn least_logit(&self, score: f32) -> f32 {
        logit_below(score.max(self.0))
    }
}

/// `1 / (1 + exp(-logit))`.
pub(super) fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

/// A logit that is surely below all whose sigmoid rounds to `score` or more, but only by a little:
/// comparing with it first saves nearly all exponentials and decides nothing.
fn logit_below(score: f32) -> f32 {
    // A thousandth is thousands of roundings of the sigmoid, except where it is nearly 1: there the
    // share of the distance to 1 that rounding makes is added.
    let score = f64::from(score) - 4.0 * f64::from(f32::EPSILON);
    if score <= 0.0 {
        return f32::NEG_INFINITY;
    }
    ((score / (1.0 - score)).ln() - 1e-3) as f32
}

/// Elements that are compared together: what a few vector instructions do.
const CHUNK: usize = 32;

/// The `k` best elements of a map `[C, h, w]`, best first, with their places in the order (h, w, c).
///
/// Memory is bounded by `k`, whatever the map holds. Source: `torch.topk` of the permuted and
/// flattened map; of equal scores the lower place is taken first, where torch leaves it open.
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

/// Whether any of `logits` is at least `least`; counted, so that vectors do it.
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

    #[test]
    fn keys_order_scores_and_then_places() {
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

    /// Few levels make many ties; some values are no numbers.
    fn noise(len: usize, levels: u64) -> Vec<f32> {
        let mut state = len as u64 ^ levels << 20;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            match state >> 58 {
                0 => f32::NAN,
                1 => f32::NEG_INFINITY,
                _ => ((state >> 33) % levels) as f32 / levels as f32 * 20.0 - 10.0,
            }
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
    fn the_best_of_a_map_equal_a_stable_sort() {
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
    fn the_logit_below_a_score_excludes_none_that_has_it() {
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
