//! See [`QUANTIZE`].

use onnx_export::lower::QUANTIZE;
use ort::operator::{
    BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput,
};
use ort::value::Shape;
use ort::value::TensorElementType::{Float32, Uint8};

use super::{
    guarded, in_parallel, input, kernel, number, output, refused, sizes_of_four, task_size,
};
use crate::int8::{CHANNEL_BLOCK, quantize_blocked};

pub(super) struct QuantizeBlocked {
    pub(super) threads: usize,
}

impl Operator for QuantizeBlocked {
    type Kernel<'attr> = BoxedKernel<'attr>;

    fn name(&self) -> &str {
        QUANTIZE
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::required(Float32)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(Uint8)]
    }

    fn create_kernel<'attr>(
        &self,
        context: &KernelContext<'attr>,
    ) -> ort::Result<Self::Kernel<'attr>> {
        let form = guarded(|| Form::new(context))?;
        let threads = self.threads;
        Ok(kernel(move |context| form.run(context, threads)))
    }
}

/// How a tensor is rounded.
struct Form {
    channels: usize,
    steps: (f32, u8),
}

impl Form {
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
        let pictures = input.chunks(pixels * padded);
        let pictures = pictures.zip(output.chunks_mut(pixels * self.channels));
        let tasks = pictures.flat_map(|(picture, output)| {
            let parts = output.chunks_mut(size).enumerate();
            parts.map(move |(index, part)| (picture, index * (size / self.channels), part))
        });
        in_parallel(context, tasks, |(picture, first, output)| {
            quantize_blocked(picture, self.channels, self.steps, *first, output);
            Ok(())
        })
    }
}
