//! Softmax and argmax of one row of class scores.

/// Returns the softmax of `logits`: values of 0..=1 whose sum is 1.
///
/// The largest logit is subtracted first, so that no exponential overflows. Source:
/// `torch.softmax`.
pub fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = largest(logits);
    let mut scores: Vec<f32> = logits.iter().map(|logit| (logit - largest).exp()).collect();
    let sum: f32 = scores.iter().sum();
    for score in &mut scores {
        *score /= sum;
    }
    scores
}

/// Returns the largest of `logits`, ignoring NaN. Negative infinity if `logits` is empty or all
/// NaN.
pub(crate) fn largest(logits: &[f32]) -> f32 {
    logits.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// Returns the index of the highest of `scores`, ignoring NaN. If several scores are the highest,
/// returns the lowest of their indices. `None` if no score is above negative infinity.
///
/// Source: `torch.argmax`, which leaves open which of equal scores is chosen.
pub fn argmax(scores: &[f32]) -> Option<usize> {
    let mut best = None;
    let mut highest = f32::NEG_INFINITY;
    for (index, score) in scores.iter().enumerate() {
        if *score > highest {
            (best, highest) = (Some(index), *score);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_is_torchs_and_does_not_overflow() {
        // The expected values are `torch.softmax(torch.tensor([1., 2., 3.]), 0)`.
        let expected = [0.090_030_57, 0.244_728_48, 0.665_240_9];
        for (score, expected) in softmax(&[1.0, 2.0, 3.0]).into_iter().zip(expected) {
            assert!((score - expected).abs() < 1e-6, "{score} {expected}");
        }
        assert_eq!(softmax(&[1e30, 0.0]), [1.0, 0.0]);
        assert!(softmax(&[]).is_empty());
    }

    #[test]
    fn argmax_takes_the_first_of_equal_scores_and_ignores_nan() {
        assert_eq!(argmax(&[0.0, 2.0, 2.0, 1.0]), Some(1));
        assert_eq!(argmax(&[f32::NAN, -1.0]), Some(1));
        assert_eq!(argmax(&[f32::NAN]), None);
        assert_eq!(argmax(&[]), None);
    }
}
