//! See [`QUANTIZE`].

use onnx_export::lower::QUANTIZE;
use ort::operator::{ComputeContext, KernelContext, OperatorInput};
use ort::value::Shape;
use ort::value::TensorElementType::Float32;

use super::{
    Compute, Form, in_parallel, input, number, output, parts, refused, sizes_of_four, task_size,
};
use crate::int8::{CHANNEL_BLOCK, quantize_blocked};

pub(super) const FORM: Form = Form {
    name: QUANTIZE,
    inputs: || vec![OperatorInput::required(Float32)],
    kernel,
};

fn kernel(context: &KernelContext<'_>, threads: usize) -> ort::Result<Compute> {
    let rounding = Rounding::new(context)?;
    Ok(Box::new(move |context| rounding.run(context, threads)))
}

/// How a tensor is rounded.
struct Rounding {
    channels: usize,
    steps: (f32, u8),
}

impl Rounding {
    fn new(context: &KernelContext<'_>) -> ort::Result<Self> {
        let scale: Option<f32> = context.get("scale");
        let scale = scale.ok_or_else(|| refused("attribute scale"))?;
        Ok(Self {
            channels: number(context, "channels")?,
            steps: (scale, number(context, "zero")?),
        })
    }

    fn run(&self, context: &ComputeContext, threads: usize) -> ort::Result<()> {
        let input = input(context)?;
        let (shape, input) = input.try_extract_tensor::<f32>()?;
        let [count, padded, height, width] = sizes_of_four(shape)?;
        if self.channels == 0 || padded != self.channels.next_multiple_of(CHANNEL_BLOCK) {
            return Err(refused("it takes blocks of 16 channels"));
        }
        let sizes = [count, height, width, self.channels].map(|size| size as i64);
        let mut output = output(context, Shape::new(sizes))?;
        let (_, output) = output.try_extract_tensor_mut::<u8>()?;
        let pixels = height * width;
        let size = task_size(pixels * self.channels, self.channels, threads);
        let outputs = output.chunks_mut(pixels * self.channels);
        let tasks = parts(
            input.chunks(pixels * padded),
            outputs,
            (self.channels, size),
        );
        in_parallel(context, tasks, |(picture, first, output)| {
            quantize_blocked(picture, self.channels, self.steps, *first, output);
            Ok(())
        })
    }
}
