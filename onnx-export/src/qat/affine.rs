//! The scale and zero point of a module's output, out of the two tensors that hold them.

use std::fmt::Debug;

use super::QatError;
use crate::quantize::Affine;
use crate::weights::Tensor;

/// Out of the tensors of a module, each with its name.
pub(super) fn read(
    scale: (&str, &Tensor),
    zero_point: (&str, &Tensor),
) -> Result<Affine, QatError> {
    Ok(Affine {
        scale: read_scale(scale.0, scale.1)?,
        zero_point: read_zero_point(zero_point.0, zero_point.1)?,
    })
}

fn read_scale(name: &str, tensor: &Tensor) -> Result<f32, QatError> {
    let values = single(tensor).then(|| tensor.to_f32().ok()).flatten();
    match values.as_deref() {
        Some(&[scale]) if scale.is_finite() && scale > 0.0 => Ok(scale),
        values => Err(refused(name, "one finite number above 0", tensor, values)),
    }
}

fn read_zero_point(name: &str, tensor: &Tensor) -> Result<u8, QatError> {
    let values = single(tensor).then(|| tensor.to_i64()).flatten();
    let number = match values.as_deref() {
        Some(&[number]) => u8::try_from(number).ok(),
        _ => None,
    };
    let expected = "one whole number, 0 to 255";
    number.ok_or_else(|| refused(name, expected, tensor, values.as_deref()))
}

/// Whether there is one element. Modules write a scalar or a vector of it.
fn single(tensor: &Tensor) -> bool {
    tensor.shape().iter().all(|n| *n == 1)
}

fn refused<T: Debug>(
    name: &str,
    expected: &'static str,
    tensor: &Tensor,
    values: Option<&[T]>,
) -> QatError {
    let got = match values {
        Some([value]) => format!("{value:?}"),
        _ => format!("{:?} {}", tensor.shape(), tensor.dtype()),
    };
    let name = name.to_owned();
    QatError::Scale {
        name,
        expected,
        got,
    }
}
