//! The operator `Gemm`, used as torch's linear layer, and layer normalization.

use super::super::{Attr, Dim, Graph, Scope, Value};
use crate::error::BuildError;

impl Graph {
    /// Adds `torch.nn.Linear` as `Gemm`, from `x` `[N, features]` to `[N, out]`. The weight and
    /// bias are read from `scope`.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if `x` is not `[N, features]` with a fixed number of features.
    pub fn gemm(&mut self, scope: &Scope<'_>, x: Value, out: usize) -> Result<Value, BuildError> {
        let path = scope.path();
        let [batch, Dim::Fixed(features)] = *self.shape(x) else {
            return Err(self.shape_error("Gemm", path, x, "[N, C] with a fixed C"));
        };
        let shape = [out, features];
        let [weight_name, bias_name] = ["weight", "bias"].map(|name| format!("{path}.{name}"));
        let weight = scope.parameter("weight", &shape);
        let bias = scope.parameter("bias", &[out]);
        let weight = self.weight("Gemm", &weight_name, &shape, weight)?;
        let bias = self.weight("Gemm", &bias_name, &[out], bias)?;
        let attrs = vec![("transB", Attr::Int(1))];
        let shape = vec![batch, Dim::Fixed(out)];
        Ok(self.node("Gemm", path, vec![x, weight, bias], shape, attrs))
    }

    /// Adds layer normalization over the last axis of `x` `[..., C]`. The weight and bias, each
    /// `[C]`, are read from `scope`. From opset 17 on, this is one `LayerNormalization` node;
    /// before, an equivalent chain of arithmetic operators.
    ///
    /// Source: `torch.nn.LayerNorm`.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if `x` is a scalar or its last axis is dynamic.
    pub fn layer_norm(
        &mut self,
        scope: &Scope<'_>,
        x: Value,
        eps: f32,
    ) -> Result<Value, BuildError> {
        let (op, path) = ("LayerNormalization", scope.path());
        let shape = self.shape(x).to_vec();
        let Some(Dim::Fixed(size)) = shape.last().copied() else {
            return Err(self.shape_error(op, path, x, "[..., C] with a fixed C"));
        };
        let mut load = |name: &str| {
            let data = scope.parameter(name, &[size]);
            self.weight(op, &format!("{path}.{name}"), &[size], data)
        };
        let (weight, bias) = (load("weight")?, load("bias")?);
        if self.opset >= 17 {
            let attrs = vec![("axis", Attr::Int(-1)), ("epsilon", Attr::Float(eps))];
            return Ok(self.node(op, path, vec![x, weight, bias], shape, attrs));
        }
        let mean = self.mean_last(x)?;
        let centered = self.sub(x, mean)?;
        let squared = self.mul(centered, centered)?;
        let variance = self.mean_last(squared)?;
        let eps = self.scalar(eps);
        let variance = self.add(variance, eps)?;
        let deviation = self.sqrt(variance);
        let normalized = self.div(centered, deviation)?;
        let scaled = self.mul(normalized, weight)?;
        self.add(scaled, bias)
    }
}
