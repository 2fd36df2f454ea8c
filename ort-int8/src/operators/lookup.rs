//! The ONNX Runtime operator [`LOOKUP`].

use ort::operator::{KernelContext, OperatorInput};
use ort::value::TensorElementType::Uint8;

use super::tasks::{TaskSize, run_parallel};
use super::{Compute, Definition, input, output, table};
use crate::kernels::{Isa, lookup};
use crate::rewrite::LOOKUP;

pub(super) const DEFINITION: Definition = Definition {
    name: LOOKUP,
    inputs: || Vec::from([Uint8, Uint8].map(OperatorInput::required)),
    output: Uint8,
    kernel,
};

fn kernel(context: &KernelContext<'_>, threads: usize) -> ort::Result<Compute> {
    let table = table(context, 1)?;
    let isa = Isa::detect();
    Ok(Box::new(move |context| {
        let input = input(context)?;
        let (shape, input) = input.try_extract_tensor::<u8>()?;
        let mut output = output(context, shape.clone())?;
        let (_, output) = output.try_extract_tensor_mut::<u8>()?;
        let size = TaskSize::new(output.len(), 1, threads).len;
        let tasks = input.chunks(size).zip(output.chunks_mut(size));
        run_parallel(context, tasks, |(input, output)| {
            lookup(isa, &table, input, output);
            Ok(())
        })
    }))
}
