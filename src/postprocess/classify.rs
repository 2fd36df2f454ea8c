//! Logits to the most probable classes.

use serde::Serialize;

/// One class of an answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// Position in the label file.
    pub class_id: usize,
    /// Name in the label file.
    pub label: String,
    /// Softmax probability, 0..=1.
    pub score: f32,
}

/// The `top_k` most probable classes, best first; equal scores keep the order of the classes.
///
/// `logits` is `[classes] f32` and `labels` has a name for each. Source: `torch.softmax` and
/// `torch.topk`.
pub fn classify(logits: &[f32], labels: &[String], top_k: usize) -> Vec<Prediction> {
    let scores = softmax(logits);
    let mut order: Vec<usize> = (0..scores.len()).collect();
    let best_first = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
    let top_k = top_k.min(order.len());
    if top_k < order.len() {
        // Everything before the pivot is better than it: only the head needs sorting.
        order.select_nth_unstable_by(top_k, best_first);
        order.truncate(top_k);
    }
    order.sort_unstable_by(best_first);
    let prediction = |class_id: usize| Prediction {
        class_id,
        label: labels.get(class_id).cloned().unwrap_or_default(),
        score: scores[class_id],
    };
    order.into_iter().map(prediction).collect()
}

/// Probabilities of `logits`; the largest is subtracted first, so that none overflows.
fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut scores: Vec<f32> = logits.iter().map(|logit| (logit - largest).exp()).collect();
    let sum: f32 = scores.iter().sum();
    for score in &mut scores {
        *score /= sum;
    }
    scores
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(logits: &[f32], top_k: usize) -> Vec<(usize, f32)> {
        let labels: Vec<String> = (0..logits.len()).map(|n| format!("class {n}")).collect();
        let predictions = classify(logits, &labels, top_k);
        assert!(
            predictions
                .iter()
                .all(|p| p.label == format!("class {}", p.class_id))
        );
        predictions.iter().map(|p| (p.class_id, p.score)).collect()
    }

    #[test]
    fn the_best_come_first_and_ties_keep_their_order() {
        let cases: [(&[f32], usize, &[usize]); 5] = [
            (&[0.0, 2.0, 1.0], 2, &[1, 2]),
            (&[0.0, 2.0, 1.0], 3, &[1, 2, 0]),
            (&[0.0, 2.0, 1.0], 9, &[1, 2, 0]),
            (&[1.0, 1.0, 1.0, 1.0], 2, &[0, 1]),
            (&[-1000.0, 1000.0], 1, &[1]),
        ];
        for (logits, top_k, expected) in cases {
            let got: Vec<usize> = classes(logits, top_k).iter().map(|c| c.0).collect();
            assert_eq!(got, expected, "{logits:?}");
        }
    }

    #[test]
    fn scores_are_the_softmax() {
        // torch.softmax(torch.tensor([1., 2., 3.]), 0)
        let expected = [0.665_240_9, 0.244_728_48, 0.090_030_57];
        for ((_, score), expected) in classes(&[1.0, 2.0, 3.0], 3).into_iter().zip(expected) {
            assert!((score - expected).abs() < 1e-6, "{score} {expected}");
        }
        let huge = classes(&[1e30, 0.0], 2);
        assert_eq!(huge, [(0, 1.0), (1, 0.0)]);
    }
}
