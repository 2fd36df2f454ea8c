//! Sightline's own operators in ONNX Runtime: the kernels of `int8`.
//!
//! ONNX Runtime calls them from C, where a panic would end the process: [`guarded`] makes an error of it.

mod depthwise;
mod lookup;
mod quantize;

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

use onnx_export::lower::DOMAIN;
use ort::operator::{
    BoxedKernel, ComputeContext, KernelContext, Operator, OperatorDomain, OperatorInput,
    OperatorOutput,
};
use ort::value::TensorElementType::Uint8;
use ort::value::{DynTensorValueType, PrimitiveTensorElementType, Shape, ValueRef, ValueRefMut};

/// Numbers that are worth a thread.
const NUMBERS_PER_TASK: usize = 32 * 1024;

/// The operators, for sessions that run on `threads` threads.
pub(super) fn operators(threads: usize) -> ort::Result<OperatorDomain> {
    let own = |form| Own { form, threads };
    OperatorDomain::new(DOMAIN)?
        .add(own(&lookup::FORM))?
        .add(own(&depthwise::FORM))?
        .add(own(&quantize::FORM))
}

/// What a kernel does in every run.
type Compute = Box<dyn FnMut(&ComputeContext) -> ort::Result<()> + Send>;

/// An operator whose output is 8-bit numbers.
struct Form {
    name: &'static str,
    inputs: fn() -> Vec<OperatorInput>,
    /// The kernel of a node, for as many threads.
    kernel: fn(&KernelContext<'_>, usize) -> ort::Result<Compute>,
}

/// An operator in the sessions of so many threads.
struct Own {
    form: &'static Form,
    threads: usize,
}

impl Operator for Own {
    type Kernel<'attr> = BoxedKernel<'attr>;

    fn name(&self) -> &str {
        self.form.name
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        (self.form.inputs)()
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(Uint8)]
    }

    fn create_kernel<'attr>(
        &self,
        context: &KernelContext<'attr>,
    ) -> ort::Result<Self::Kernel<'attr>> {
        let mut compute = guarded(|| (self.form.kernel)(context, self.threads))?;
        Ok(Box::new(move |context: &ComputeContext| {
            guarded(|| compute(context))
        }))
    }
}

/// What `work` gives, or an error if it panics.
fn guarded<T>(work: impl FnOnce() -> ort::Result<T>) -> ort::Result<T> {
    let result = catch_unwind(AssertUnwindSafe(work));
    result.unwrap_or_else(|_| Err(refused("a panic")))
}

/// Does `work` for every task, on the threads of the session.
fn in_parallel<T: Send>(
    context: &ComputeContext,
    tasks: impl IntoIterator<Item = T>,
    work: impl Fn(&mut T) -> ort::Result<()> + Sync + Send,
) -> ort::Result<()> {
    let tasks: Vec<_> = tasks.into_iter().map(Mutex::new).collect();
    let failed = Mutex::new(None);
    context.par_for(tasks.len(), tasks.len(), |index| {
        // Of one thread alone: nothing waits here.
        let done = guarded(|| work(&mut lock(&tasks[index])));
        if let Err(error) = done {
            *lock(&failed) = Some(error);
        }
    })?;
    let failed = lock(&failed).take();
    failed.map_or(Ok(()), Err)
}

/// How many of `length` numbers are a task for one of the threads, in multiples of `unit`.
fn task_size(length: usize, unit: usize, threads: usize) -> usize {
    let tasks = threads.min(length / NUMBERS_PER_TASK).max(1);
    let unit = unit.max(1);
    length.div_ceil(tasks).next_multiple_of(unit).max(unit)
}

/// Parts of `output`, each with the input of its picture and the index of its first unit, of `unit` numbers, there.
fn parts<'a, T>(
    input: std::slice::Chunks<'a, T>,
    output: std::slice::ChunksMut<'a, u8>,
    (unit, size): (usize, usize),
) -> impl Iterator<Item = (&'a [T], usize, &'a mut [u8])> {
    input.zip(output).flat_map(move |(picture, output)| {
        let parts = output.chunks_mut(size).enumerate();
        parts.map(move |(index, part)| (picture, index * (size / unit), part))
    })
}

fn input(context: &ComputeContext) -> ort::Result<ValueRef<'_>> {
    context.input(0)?.ok_or_else(|| refused("no input"))
}

fn output(context: &ComputeContext, shape: Shape) -> ort::Result<ValueRefMut<'_>> {
    context
        .output(0, shape)?
        .ok_or_else(|| refused("no output"))
}

/// The sizes of a picture batch, none of them 0.
fn sizes_of_four(shape: &Shape) -> ort::Result<[usize; 4]> {
    let sizes = shape
        .iter()
        .map(|size| usize::try_from(*size).ok().filter(|size| *size > 0));
    let sizes: Option<Vec<usize>> = sizes.collect();
    let sizes = sizes.and_then(|sizes| sizes.try_into().ok());
    sizes.ok_or_else(|| refused(format!("an input of shape {shape:?}")))
}

/// The numbers of a constant input.
fn constant<T: PrimitiveTensorElementType + Clone>(
    context: &KernelContext<'_>,
    index: usize,
) -> ort::Result<Vec<T>> {
    let value = context.constant_input::<DynTensorValueType>(index)?;
    Ok(value.try_extract_tensor::<T>()?.1.to_vec())
}

fn table(context: &KernelContext<'_>, index: usize) -> ort::Result<[u8; 256]> {
    let table = constant(context, index)?.try_into();
    table.map_err(|_| refused("a table has 256 numbers"))
}

/// An attribute that is a whole number in the range of `T`.
fn number<T: TryFrom<i64>>(context: &KernelContext<'_>, name: &str) -> ort::Result<T> {
    let number: Option<i64> = context.get(name);
    let number = number.and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| refused(format!("attribute {name}")))
}

/// An attribute that is `N` sizes.
fn sizes<const N: usize>(context: &KernelContext<'_>, name: &str) -> ort::Result<[usize; N]> {
    let numbers: Option<Vec<i64>> = context.get(name);
    let numbers = numbers.unwrap_or_default().into_iter();
    let sizes: Result<Vec<usize>, _> = numbers.map(usize::try_from).collect();
    let sizes = sizes.ok().and_then(|sizes| sizes.try_into().ok());
    sizes.ok_or_else(|| refused(format!("attribute {name}")))
}

fn refused(reason: impl Display) -> ort::Error {
    ort::Error::new(format!("operator of {DOMAIN}: {reason}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{OnnxRuntime, find_library};

    /// Errors are made by the library.
    fn load() {
        OnnxRuntime::load(&find_library(None).unwrap()).unwrap();
    }

    #[test]
    fn a_panic_is_an_error() {
        load();
        let result = guarded(|| -> ort::Result<()> { panic!("a kernel's") });
        assert!(result.unwrap_err().to_string().contains("a panic"));
    }

    #[test]
    fn tasks_are_whole_rows_for_as_many_threads() {
        let cases = [
            ((1_000_000, 1000, 4), 250_000),
            ((1_000_000, 300_000, 4), 300_000),
            ((1000, 10, 4), 1000),
            ((100_000, 7, 8), 33_334),
            ((0, 0, 2), 1),
        ];
        for ((length, unit, threads), expected) in cases {
            assert_eq!(
                task_size(length, unit, threads),
                expected,
                "{length} {unit}"
            );
        }
    }

    #[test]
    fn empty_pictures_are_refused() {
        load();
        assert_eq!(
            sizes_of_four(&Shape::new([1, 2, 3, 4])).unwrap(),
            [1, 2, 3, 4]
        );
        for shape in [&[1, 0, 3, 4][..], &[0, 1, 1, 1], &[1, 2, 3], &[1, 1, 1, -1]] {
            assert!(sizes_of_four(&Shape::new(shape.iter().copied())).is_err());
        }
    }
}
