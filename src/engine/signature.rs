//! Checks the inputs and outputs of a network when it is loaded.

use ort::session::Session;
use ort::value::{Outlet, TensorElementType, ValueType};

use super::{DataType, EMBEDDING, EngineError};

/// Checks that a network has one input, `[N, 3, H, W] f32`, and only outputs of supported data
/// types. Returns the batch size of the network, or `None` if it accepts any batch size.
pub(super) fn check_signature(session: &Session) -> Result<Option<usize>, EngineError> {
    let show = |outlet: &Outlet| format!("`{}` {:?}", outlet.name(), outlet.dtype());
    let is_supported = |outlet: &Outlet| DataType::of(outlet.dtype()).is_some();
    let is_image = |outlet: &Outlet| {
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
        [input] if is_image(input) => {}
        inputs => {
            let got = inputs.iter().map(show).collect::<Vec<_>>().join(", ");
            return Err(EngineError::Signature {
                what: "input",
                expected: "one f32 tensor of shape [N, 3, H, W]",
                got,
            });
        }
    }
    match session
        .outputs()
        .iter()
        .find(|output| !is_supported(output))
    {
        None => Ok(fixed_batch(session)),
        Some(output) => {
            let got = show(output);
            Err(EngineError::Signature {
                what: "output",
                expected: "a tensor of data type f32, i64, i32 or u8",
                got,
            })
        }
    }
}

/// Checks that the output [`EMBEDDING`] is one vector for each image: `[N, D] f32` or `[N, D, 1, 1] f32`.
pub(super) fn check_embedding(session: &Session) -> Result<(), EngineError> {
    let mut outputs = session.outputs().iter();
    let found = outputs.rfind(|output| output.name() == EMBEDDING);
    let dtype = found.map(Outlet::dtype);
    if let Some(ValueType::Tensor {
        ty: TensorElementType::Float32,
        shape,
        ..
    }) = dtype
        && matches!(shape[..], [_, _] | [_, _, 1, 1])
    {
        return Ok(());
    }
    Err(EngineError::Signature {
        what: "embedding",
        expected: "a tensor [N, D] of data type f32",
        got: format!("{dtype:?}"),
    })
}

/// Returns the batch size of the input, or `None` if it is dynamic.
fn fixed_batch(session: &Session) -> Option<usize> {
    match session.inputs().first()?.dtype() {
        ValueType::Tensor { shape, .. } => usize::try_from(*shape.first()?).ok(),
        _ => None,
    }
}
