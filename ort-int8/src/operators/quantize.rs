//! The ONNX Runtime operator [`QUANTIZE`].

use ort::operator::{ComputeContext, KernelContext, OperatorInput};
use ort::value::Shape;
use ort::value::TensorElementType::{Float32, Uint8};

use super::tasks::{TaskSize, run_parallel};
use super::{Compute, Definition, float, image_sizes, input, integer, output, unsupported_shape};
use crate::kernels::{BlockedQuantization, Isa, quantize_blocked};
use crate::rewrite::QUANTIZE;

pub(super) const DEFINITION: Definition = Definition {
    name: QUANTIZE,
    inputs: || vec![OperatorInput::required(Float32)],
    output: Uint8,
    kernel,
};

fn kernel(context: &KernelContext<'_>, threads: usize) -> ort::Result<Compute> {
    let spec = BlockedQuantization {
        channels: integer(context, "channels")?,
        block: integer(context, "block")?,
        scale: float(context, "scale")?,
        zero_point: integer(context, "zero_point")?,
    };
    Ok(Box::new(move |context| run(&spec, context, threads)))
}

/// Quantizes the batch of images in input 0, `[N, C, H, W] f32` in blocks of channels, to output
/// 0, `[N, H, W, C] u8`.
fn run(spec: &BlockedQuantization, context: &ComputeContext, threads: usize) -> ort::Result<()> {
    let (channels, block) = (spec.channels, spec.block.max(1));
    let isa = Isa::detect();
    let input = input(context)?;
    let (shape, input) = input.try_extract_tensor::<f32>()?;
    let [count, padded, height, width] = image_sizes(shape)?;
    if channels == 0 || padded != channels.next_multiple_of(block) {
        let expected = format!("{channels} channels, padded to blocks of {block}");
        return Err(unsupported_shape(shape, expected));
    }
    let sizes = [count, height, width, channels].map(|size| size as i64);
    let mut output = output(context, Shape::new(sizes))?;
    let (_, output) = output.try_extract_tensor_mut::<u8>()?;
    let pixels = height * width;
    let size = TaskSize::new(pixels * channels, channels, threads);
    let images = input.chunks(pixels * padded);
    let tasks = size.tasks(images, output.chunks_mut(pixels * channels));
    run_parallel(context, tasks, |task| {
        quantize_blocked(isa, spec, task.image, task.first_unit, task.output);
        Ok(())
    })
}
