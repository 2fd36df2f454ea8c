//! See [`LOOKUP`].

use onnx_export::lower::LOOKUP;
use ort::operator::{KernelContext, OperatorInput};
use ort::value::TensorElementType::Uint8;

use super::{Compute, Form, in_parallel, input, output, table, task_size};
use crate::int8::lookup;

pub(super) const FORM: Form = Form {
    name: LOOKUP,
    inputs: || {
        vec![
            OperatorInput::required(Uint8),
            OperatorInput::required(Uint8),
        ]
    },
    kernel,
};

fn kernel(context: &KernelContext<'_>, threads: usize) -> ort::Result<Compute> {
    let table = table(context, 1)?;
    Ok(Box::new(move |context| {
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
