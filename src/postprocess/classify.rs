//! Postprocessing of classification: from logits to the most probable classes.

use serde::Serialize;

use super::scores::softmax;
use crate::manifest::Activation;

/// One class and its probability.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// Index of the class in the model's label file.
    pub class_id: usize,
    /// Name of the class, read from the model's label file; empty if the file has too few lines.
    pub label: String,
    /// Score of the class, 0..=1: its softmax probability, or the network's own score if the network
    /// ends in an activation.
    pub score: f32,
}

/// Returns the scores of all classes. `output` is the network's output for one image, `[classes] f32`,
/// to which the network has applied `activation`.
pub fn scores(output: &[f32], activation: Activation) -> Vec<f32> {
    match activation {
        Activation::None => softmax(output),
        Activation::Softmax | Activation::Sigmoid => output.to_vec(),
    }
}

/// Returns the `top_k` classes with the highest of `scores`, best first, or all classes if there are
/// fewer. Classes of equal score are in ascending order of index.
///
/// `scores` is `[classes] f32`, and `labels` has one name per class. Source: `torch.topk`.
pub fn classify(scores: &[f32], labels: &[String], top_k: usize) -> Vec<Prediction> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    let best_first = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
    let top_k = top_k.min(order.len());
    if top_k < order.len() {
        // Selecting the `top_k` best classes and sorting only these costs less than sorting all
        // classes.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn best_classes_come_first_and_ties_keep_their_order() {
        let cases: [(&[f32], usize, &[usize]); 5] = [
            (&[0.0, 2.0, 1.0], 2, &[1, 2]),
            (&[0.0, 2.0, 1.0], 3, &[1, 2, 0]),
            (&[0.0, 2.0, 1.0], 9, &[1, 2, 0]),
            (&[1.0, 1.0, 1.0, 1.0], 2, &[0, 1]),
            (&[-1000.0, 1000.0], 1, &[1]),
        ];
        for (logits, top_k, expected) in cases {
            let labels: Vec<String> = (0..logits.len()).map(|n| format!("class {n}")).collect();
            let scores = scores(logits, Activation::None);
            let predictions = classify(&scores, &labels, top_k);
            let got: Vec<usize> = predictions.iter().map(|p| p.class_id).collect();
            assert_eq!(got, expected, "{logits:?}");
            for prediction in predictions {
                assert_eq!(prediction.label, format!("class {}", prediction.class_id));
                assert_eq!(prediction.score, scores[prediction.class_id]);
            }
        }
    }

    #[test]
    fn scores_of_a_network_with_an_activation_are_kept() {
        let output = [0.25, 0.75];
        for activation in [Activation::Softmax, Activation::Sigmoid] {
            assert_eq!(scores(&output, activation), output);
        }
        let softmax = scores(&output, Activation::None);
        assert!((softmax[0] - 0.377_54).abs() < 1e-5, "{softmax:?}");
        // The softmax of log probabilities are the probabilities.
        let log = output.map(f32::ln);
        for (score, expected) in scores(&log, Activation::None).iter().zip(output) {
            assert!((score - expected).abs() < 1e-6, "{score} {expected}");
        }
    }
}
