//! The ONNX Runtime operator [`GATE`].

use ort::operator::{ComputeContext, KernelContext, OperatorInput};
use ort::value::TensorElementType::Uint8;

use super::tasks::{TaskSize, run_parallel};
use super::{
    Compute, Definition, float, image_sizes, input, input_at, integer, operator_error, output,
};
use crate::kernels::{Gate, Isa};
use crate::rewrite::GATE;

pub(super) const DEFINITION: Definition = Definition {
    name: GATE,
    inputs: || Vec::from([Uint8, Uint8].map(OperatorInput::required)),
    output: Uint8,
    kernel,
};

fn kernel(context: &KernelContext<'_>, threads: usize) -> ort::Result<Compute> {
    let gate = Gate {
        input_zero_point: integer(context, "input_zero_point")?,
        gate_zero_point: integer(context, "gate_zero_point")?,
        output_zero_point: integer(context, "output_zero_point")?,
        scale: float(context, "scale")?,
    };
    Ok(Box::new(move |context| run(gate, context, threads)))
}

/// Multiplies each pixel of the batch of images in input 0, `[N, H, W, C] u8`, by the values of its
/// image in input 1, `[N, 1, 1, C] u8`, and writes output 0 in the layout of input 0.
fn run(gate: Gate, context: &ComputeContext, threads: usize) -> ort::Result<()> {
    let isa = Isa::detect();
    let (input, values) = (input(context)?, input_at(context, 1)?);
    let (shape, input) = input.try_extract_tensor::<u8>()?;
    let (gate_shape, values) = values.try_extract_tensor::<u8>()?;
    let [count, height, width, channels] = image_sizes(shape)?;
    let expected = [count, 1, 1, channels].map(|size| size as i64);
    if gate_shape[..] != expected {
        return Err(operator_error(format!(
            "input 1 must have shape {expected:?}, got {:?}",
            &gate_shape[..]
        )));
    }
    let mut output = output(context, shape.clone())?;
    let (_, output) = output.try_extract_tensor_mut::<u8>()?;
    let image = height * width * channels;
    let size = TaskSize::new(image, channels, threads).len;
    let images = input.chunks(image).zip(output.chunks_mut(image));
    let tasks = images
        .zip(values.chunks(channels))
        .flat_map(|((input, output), values)| {
            let parts = input.chunks(size).zip(output.chunks_mut(size));
            parts.map(move |(input, output)| (input, values, output))
        });
    run_parallel(context, tasks, |(input, values, output)| {
        gate.multiply(isa, input, values, output);
        Ok(())
    })
}
