//! The ONNX Runtime operator [`LINEAR`].

use ort::operator::{KernelContext, OperatorInput};
use ort::value::Shape;
use ort::value::TensorElementType::{Float32, Int8, Int32, Uint8};

use super::{Compute, Definition, constant, input, integer, operator_error, output, pixels_shape};
use crate::kernels::{Isa, Pointwise, PointwiseSpec};
use crate::rewrite::LINEAR;

pub(super) const DEFINITION: Definition = Definition {
    name: LINEAR,
    inputs: || Vec::from([Uint8, Int8, Int32, Float32].map(OperatorInput::required)),
    output: Float32,
    kernel,
};

fn kernel(context: &KernelContext<'_>, _threads: usize) -> ort::Result<Compute> {
    let spec = PointwiseSpec {
        inputs: integer(context, "inputs")?,
        input_zero_point: integer(context, "input_zero_point")?,
        output_zero_point: 0,
        weights: constant(context, 1)?,
        bias: constant(context, 2)?,
        multipliers: constant(context, 3)?,
        table: None,
    };
    let layer = Pointwise::new(spec, Isa::detect()).map_err(operator_error)?;
    Ok(Box::new(move |context| {
        let input = input(context)?;
        let (shape, rows) = input.try_extract_tensor::<u8>()?;
        let sizes = pixels_shape(shape, layer.inputs(), layer.outputs())?;
        let mut output = output(context, Shape::new(sizes))?;
        let (_, output) = output.try_extract_tensor_mut::<f32>()?;
        layer.run_to_f32(rows, output).map_err(operator_error)
    }))
}
