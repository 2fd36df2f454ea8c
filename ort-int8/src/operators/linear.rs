//! The ONNX Runtime operator [`LINEAR`].

use ort::operator::{ComputeContext, KernelContext, OperatorInput};
use ort::value::Shape;
use ort::value::TensorElementType::{Float32, Int8, Int32, Uint8};

use super::pointwise::MULTIPLICATIONS;
use super::tasks::{TaskSize, run_parallel};
use super::{Compute, Definition, constant, input, integer, operator_error, output, pixels_shape};
use crate::kernels::{Isa, Pointwise, PointwiseSpec};
use crate::rewrite::LINEAR;

pub(super) const DEFINITION: Definition = Definition {
    name: LINEAR,
    inputs: || Vec::from([Uint8, Int8, Int32, Float32].map(OperatorInput::required)),
    output: Float32,
    kernel,
};

fn kernel(context: &KernelContext<'_>, threads: usize) -> ort::Result<Compute> {
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
    Ok(Box::new(move |context| run(&layer, threads, context)))
}

/// Multiplies the rows in input 0, `[..., C] u8`, and writes output 0, `[..., M] f32`.
fn run(layer: &Pointwise, threads: usize, context: &ComputeContext) -> ort::Result<()> {
    let (inputs, outputs) = (layer.inputs(), layer.outputs());
    let input = input(context)?;
    let (shape, rows) = input.try_extract_tensor::<u8>()?;
    let sizes = pixels_shape(shape, inputs, outputs)?;
    let mut output = output(context, Shape::new(sizes))?;
    let (_, output) = output.try_extract_tensor_mut::<f32>()?;
    if output.is_empty() {
        return Ok(());
    }
    let work = output.len().saturating_mul(inputs) / MULTIPLICATIONS;
    let size = TaskSize::for_work(work, output.len(), outputs, threads).len;
    let rows = rows.chunks(size / outputs * inputs);
    run_parallel(context, rows.zip(output.chunks_mut(size)), |task| {
        let (rows, output) = task;
        layer.run_to_f32(rows, output).map_err(operator_error)
    })
}
