//! What a network must take and give.

use onnx_export::formula;
use ort::session::Session;
use ort::value::{Outlet, TensorElementType, ValueType};

use super::EngineError;
use crate::image::MAX_INPUT_PIXELS;

/// Side of the picture with which kernels are compared.
const SAMPLE_SIDE: usize = 128;
/// Most values of that image: three channels of the largest input of a network.
const MAX_SAMPLE: usize = 3 * MAX_INPUT_PIXELS as usize;

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

/// One picture without a pattern, of [`SAMPLE_SIDE`] where the network takes any size.
///
/// # Errors
/// If the network takes more than [`MAX_SAMPLE`] numbers.
pub(super) fn sample_input(session: &Session) -> ort::Result<ort::value::Tensor<f32>> {
    let input = session.inputs().first();
    let shape = input.and_then(|input| input.dtype().tensor_shape());
    let usual = [1, 3, SAMPLE_SIDE, SAMPLE_SIDE];
    let sizes = shape.into_iter().flat_map(|shape| shape.iter()).zip(usual);
    let sizes: Vec<usize> = sizes
        .map(|(size, usual)| usize::try_from(*size).unwrap_or(usual))
        .collect();
    let numbers = sizes
        .iter()
        .try_fold(1, |product: usize, size| product.checked_mul(*size));
    let numbers = numbers.filter(|numbers| *numbers <= MAX_SAMPLE);
    let numbers = numbers.ok_or_else(|| ort::Error::new("its input is too large for a sample"))?;
    let numbers = formula::uniform("sample", numbers);
    let numbers: Vec<f32> = numbers.map(|number| 2.0 * number).collect();
    ort::value::Tensor::from_array((sizes, numbers))
}

/// The input's batch size, where it is not left open.
fn fixed_batch(session: &Session) -> Option<usize> {
    match session.inputs().first()?.dtype() {
        ValueType::Tensor { shape, .. } => usize::try_from(*shape.first()?).ok(),
        _ => None,
    }
}
