//! Reads scales and zero points of activations from a checkpoint's tensors.

use std::fmt::Debug;

use super::QatError;
use crate::quantize::Affine;
use crate::weights::Tensor;

/// A tensor of a checkpoint and the name that error messages use for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Named<'a> {
    pub(super) name: &'a str,
    pub(super) tensor: &'a Tensor,
}

/// Returns the scale and zero point of a module's output from the two tensors that hold them.
///
/// # Errors
/// [`QatError::Scale`] unless `scale` holds one finite value above 0 and `zero_point` one integer
/// in 0..=255.
pub(super) fn read(scale: Named<'_>, zero_point: Named<'_>) -> Result<Affine, QatError> {
    Ok(Affine {
        scale: read_scale(scale.name, scale.tensor)?,
        zero_point: read_zero_point(zero_point.name, zero_point.tensor)?,
    })
}

fn read_scale(name: &str, tensor: &Tensor) -> Result<f32, QatError> {
    let values = single(tensor).then(|| tensor.to_f32().ok()).flatten();
    match values.as_deref() {
        Some(&[scale]) if scale.is_finite() && scale > 0.0 => Ok(scale),
        values => Err(rejected(name, "one finite scale above 0", tensor, values)),
    }
}

fn read_zero_point(name: &str, tensor: &Tensor) -> Result<u8, QatError> {
    let values = single(tensor).then(|| tensor.to_i64()).flatten();
    let zero_point = match values.as_deref() {
        Some(&[zero_point]) => u8::try_from(zero_point).ok(),
        _ => None,
    };
    let expected = "one integer zero point from 0 to 255";
    zero_point.ok_or_else(|| rejected(name, expected, tensor, values.as_deref()))
}

/// Returns whether a tensor has one element, as a scalar or as a vector: modules store either.
fn single(tensor: &Tensor) -> bool {
    tensor.shape().iter().all(|n| *n == 1)
}

fn rejected<T: Debug>(
    name: &str,
    expected: &'static str,
    tensor: &Tensor,
    values: Option<&[T]>,
) -> QatError {
    let got = match values {
        Some([value]) => format!("{value:?}"),
        _ => format!("shape {:?} of {}", tensor.shape(), tensor.dtype()),
    };
    let name = name.to_owned();
    QatError::Scale {
        name,
        expected,
        got,
    }
}
