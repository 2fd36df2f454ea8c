//! What a network must take and give.

use ort::session::Session;
use ort::value::{Outlet, TensorElementType, ValueType};

use super::EngineError;

/// Refuses networks that do not read one `[N, 3, H, W] f32` and write `[N, ...] f32`.
/// Gives the batch size where the network was exported with a fixed one.
pub(super) fn check_signature(session: &Session) -> Result<Option<usize>, EngineError> {
    let show = |outlet: &Outlet| format!("`{}` {:?}", outlet.name(), outlet.dtype());
    let is_float = |outlet: &Outlet| {
        matches!(
            outlet.dtype(),
            ValueType::Tensor {
                ty: TensorElementType::Float32,
                ..
            }
        )
    };
    let is_picture = |outlet: &Outlet| {
        let ValueType::Tensor {
            ty: TensorElementType::Float32,
            shape,
            ..
        } = outlet.dtype()
        else {
            return false;
        };
        shape.len() == 4 && matches!(shape[1], 3 | -1)
    };
    match session.inputs() {
        [input] if is_picture(input) => {}
        inputs => {
            let got = inputs.iter().map(show).collect::<Vec<_>>().join(", ");
            return Err(EngineError::Signature {
                what: "input",
                expected: "one [N, 3, H, W] f32",
                got,
            });
        }
    }
    match session.outputs().iter().find(|output| !is_float(output)) {
        None => Ok(fixed_batch(session)),
        Some(output) => {
            let got = show(output);
            Err(EngineError::Signature {
                what: "output",
                expected: "[N, ...] f32",
                got,
            })
        }
    }
}

/// The input's batch size, where it is not left open.
fn fixed_batch(session: &Session) -> Option<usize> {
    match session.inputs().first()?.dtype() {
        ValueType::Tensor { shape, .. } => usize::try_from(*shape.first()?).ok(),
        _ => None,
    }
}
