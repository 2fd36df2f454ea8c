//! See [`LOOKUP`].

use onnx_export::lower::LOOKUP;
use ort::operator::{BoxedKernel, KernelContext, Operator, OperatorInput, OperatorOutput};
use ort::value::TensorElementType::Uint8;

use super::{guarded, in_parallel, input, kernel, output, table, task_size};
use crate::int8::lookup;

pub(super) struct Lookup {
    pub(super) threads: usize,
}

impl Operator for Lookup {
    type Kernel<'attr> = BoxedKernel<'attr>;

    fn name(&self) -> &str {
        LOOKUP
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [const { OperatorInput::required(Uint8) }; 2]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(Uint8)]
    }

    fn create_kernel<'attr>(
        &self,
        context: &KernelContext<'attr>,
    ) -> ort::Result<Self::Kernel<'attr>> {
        let table = guarded(|| table(context, 1))?;
        let threads = self.threads;
        Ok(kernel(move |context| {
            let input = input(context)?;
            let (shape, input) = input.try_extract_tensor::<u8>()?;
            let mut output = output(context, shape.clone())?;
            let (_, output) = output.try_extract_tensor_mut::<u8>()?;
            let size = task_size(output.len(), 1, threads);
            let tasks = input.chunks(size).zip(output.chunks_mut(size));
            in_parallel(context, tasks, |(input, output)| {
                lookup(&table, input, output);
                Ok(())
            })
        }))
    }
}
