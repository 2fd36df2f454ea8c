//! Generates weights for tests and benchmarks from the names of the tensors.
//!
//! A Rust test and the script that computes its expected values (`tests/golden/formula.py`) generate
//! bit-identical weights for the same network, without a shared file. The generator is `SplitMix64`, seeded
//! with the FNV-1a hash of the name. A network with these weights classifies at random.

use std::collections::BTreeMap;

use crate::weights::{StateDict, Tensor, WeightsError};

/// Returns `n` values in [-1, 1) that depend on `name` alone. A larger `n` appends values and does
/// not change the first ones.
pub fn uniform(name: &str, n: usize) -> impl Iterator<Item = f32> {
    let seed = fnv1a(name);
    (1..=n as u64).map(move |i| {
        let random = split_mix(seed.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        // The upper 24 bits are used, because an f32 holds integers of 24 bits exactly.
        let unit = (random >> 40) as f32 * 2.0_f32.powi(-24);
        unit * 2.0 - 1.0
    })
}

/// Returns values for the tensor `name` of shape `shape`, in C order: `center + spread * u` with
/// `u` from [`uniform`].
///
/// For tensors of rank 2 and more, the spread is `sqrt(6 / fan_in)` (He's uniform bound; `fan_in`
/// is the product of all axes but the first), so that the scale of activations stays the same from
/// layer to layer. The center is 1 for batch-norm weights and variances and 0 for all other
/// tensors.
pub fn fill(name: &str, shape: &[usize]) -> Vec<f32> {
    let (center, spread) = distribution(name, shape);
    uniform(name, shape.iter().product())
        .map(|v| center + spread * v)
        .collect()
}

/// Returns an f32 state dict with a tensor for each name and shape in `shapes`, whose values are
/// those of [`fill`].
///
/// `scale` lists pairs of a prefix and a factor: a tensor of rank 2 or more is multiplied by the
/// factor of every prefix that its name starts with, in order. `num_batches_tracked` is left out,
/// since inference does not use it.
///
/// # Errors
/// [`WeightsError::Shape`] if the number of elements of a tensor overflows.
pub fn state_dict(
    shapes: &BTreeMap<String, Vec<usize>>,
    scale: &[(String, f32)],
) -> Result<StateDict, WeightsError> {
    let mut tensors = BTreeMap::new();
    for (name, shape) in shapes {
        if name.ends_with("num_batches_tracked") {
            continue;
        }
        let mut values = fill(name, shape);
        let factors = scale.iter().filter(|(prefix, _)| name.starts_with(prefix));
        for (_, factor) in factors.filter(|_| shape.len() >= 2) {
            for value in &mut values {
                *value *= factor;
            }
        }
        tensors.insert(name.clone(), Tensor::from_f32(shape, &values)?);
    }
    Ok(StateDict::from_tensors(tensors))
}

/// Returns the center and the spread of the values that [`fill`] generates for the tensor `name`.
fn distribution(name: &str, shape: &[usize]) -> (f32, f32) {
    if name.ends_with("running_var") {
        (1.0, 0.5)
    } else if name.ends_with("running_mean") {
        (0.0, 0.1)
    } else if shape.len() >= 2 {
        let fan_in: usize = shape[1..].iter().product();
        (0.0, (6.0 / fan_in as f64).sqrt() as f32)
    } else if name.ends_with("weight") {
        (1.0, 0.1)
    } else {
        (0.0, 0.05)
    }
}

/// Returns the 64-bit FNV-1a hash of `text`.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

/// Returns the output of `SplitMix64` for the generator state `state`.
fn split_mix(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_within_their_range() {
        let cases: [(&str, &[usize], f32, f32); 5] = [
            ("bn.running_var", &[500], 0.5, 1.5),
            ("bn.running_mean", &[500], -0.1, 0.1),
            ("bn.weight", &[500], 0.9, 1.1),
            ("fc.bias", &[500], -0.05, 0.05),
            ("conv.weight", &[50, 2, 3, 1], -1.0, 1.0),
        ];
        for (name, shape, low, high) in cases {
            let values = fill(name, shape);
            assert_eq!(values.len(), shape.iter().product::<usize>());
            assert!(values.iter().all(|v| (low..=high).contains(v)), "{name}");
            let spread = values
                .iter()
                .fold(0.0_f32, |m, v| m.max((v - values[0]).abs()));
            assert!(spread > (high - low) / 2.0, "{name}: {spread}");
        }
    }

    #[test]
    fn factors_multiply_matrices_by_prefix() {
        let shapes = BTreeMap::from([
            ("head.a.bias".to_owned(), vec![2]),
            ("head.a.num_batches_tracked".to_owned(), vec![]),
            ("head.a.weight".to_owned(), vec![2, 3]),
            ("tail.weight".to_owned(), vec![2, 3]),
        ]);
        let scale = [("head.".to_owned(), 0.5), ("head.a".to_owned(), 0.5)];
        let state = state_dict(&shapes, &scale).unwrap();
        let names: Vec<_> = state.names().collect();
        assert_eq!(names, ["head.a.bias", "head.a.weight", "tail.weight"]);
        for (name, factor) in [
            ("head.a.bias", 1.0),
            ("head.a.weight", 0.25),
            ("tail.weight", 1.0),
        ] {
            let expected: Vec<f32> = fill(name, &shapes[name])
                .iter()
                .map(|v| v * factor)
                .collect();
            assert_eq!(
                state.get(name).unwrap().to_f32().unwrap(),
                expected,
                "{name}"
            );
        }
    }
}
