//! Converts weights to half precision, which halves the size of a file.

use std::collections::BTreeMap;

use half::f16;

use super::{DType, SOURCE_SHA256, StateDict, Tensor};

impl StateDict {
    /// Converts floating-point tensors of rank 2 and more to f16, rounded to nearest.
    ///
    /// Unchanged are tensors of rank 0 and 1 (biases and batch-norm statistics need the range), tensors with a
    /// finite value beyond the range of f16, and quantized tensors. The digest of this state dict is added to the
    /// metadata under [`SOURCE_SHA256`].
    #[must_use]
    pub fn to_half(&self) -> Self {
        let tensors: BTreeMap<_, _> = self
            .iter()
            .map(|(name, tensor)| {
                let packed = halved(tensor).unwrap_or_else(|| tensor.clone());
                (name.to_owned(), packed)
            })
            .collect();
        let mut packed = Self::from_tensors(tensors);
        packed.metadata = self.metadata.clone();
        packed
            .metadata
            .insert(SOURCE_SHA256.to_owned(), self.sha256().to_owned());
        packed
    }

    /// Returns a state dict without the tensors whose names end with `suffix`. The metadata is kept.
    #[must_use]
    pub fn without_suffix(&self, suffix: &str) -> Self {
        let kept = self.iter().filter(|(name, _)| !name.ends_with(suffix));
        let tensors = kept.map(|(name, t)| (name.to_owned(), t.clone())).collect();
        let mut out = Self::from_tensors(tensors);
        out.metadata = self.metadata.clone();
        out
    }
}

/// Converts a tensor to half precision. `None` if the tensor is to stay unchanged.
fn halved(tensor: &Tensor) -> Option<Tensor> {
    let quantized = tensor.quantizer().is_some();
    if tensor.shape().len() < 2 || tensor.dtype() == DType::F16 || quantized {
        return None;
    }
    let values = tensor.to_f32().ok()?;
    let halves: Vec<f16> = values.iter().map(|&v| f16::from_f32(v)).collect();
    let fits = |(v, h): (&f32, &f16)| h.is_finite() || !v.is_finite();
    if !values.iter().zip(&halves).all(fits) {
        return None;
    }
    let bytes = halves.iter().flat_map(|h| h.to_le_bytes()).collect();
    Tensor::new(DType::F16, tensor.shape().to_vec(), bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_matrices_within_range_are_halved() {
        let whole = Tensor::new(DType::I64, vec![1, 1], vec![0; 8]).unwrap();
        let cases = [
            (
                "matrix",
                Tensor::from_f32(&[2, 1], &[0.1, -2.0]).unwrap(),
                DType::F16,
            ),
            (
                "vector",
                Tensor::from_f32(&[2], &[0.1, -2.0]).unwrap(),
                DType::F32,
            ),
            (
                "large",
                Tensor::from_f32(&[1, 1], &[1e6]).unwrap(),
                DType::F32,
            ),
            (
                "infinite",
                Tensor::from_f32(&[1, 1], &[f32::INFINITY]).unwrap(),
                DType::F16,
            ),
            ("whole", whole, DType::I64),
        ];
        let state = StateDict::from_tensors(
            cases
                .iter()
                .map(|(name, t, _)| ((*name).to_owned(), t.clone()))
                .collect(),
        );
        let packed = state.to_half();
        for (name, _, dtype) in &cases {
            assert_eq!(packed.get(name).unwrap().dtype(), *dtype, "{name}");
        }
        assert_eq!(packed.metadata()[SOURCE_SHA256], state.sha256());
        assert_eq!(
            packed.get("matrix").unwrap().to_f32().unwrap(),
            [0.099_975_586, -2.0]
        );
    }
}
