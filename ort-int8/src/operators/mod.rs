//! ONNX Runtime operators that run this crate's int8 kernels.
//!
//! ONNX Runtime calls operators from C, where a panic would end the process: [`guarded`] turns
//! panics into errors.

mod depthwise;
mod gate;
mod linear;
mod lookup;
mod pointwise;
mod quantize;
mod tasks;

use std::fmt::{Debug, Display};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ort::operator::{
    BoxedKernel, ComputeContext, KernelContext, Operator, OperatorDomain, OperatorInput,
    OperatorOutput,
};
use ort::value::{
    DynTensorValueType, PrimitiveTensorElementType, Shape, TensorElementType, ValueRef, ValueRefMut,
};

use crate::rewrite::DOMAIN;

/// Returns the operators of this crate for a session whose intra-op pool has `threads` threads.
///
/// A session needs them to run a graph from [`accelerate`](fn@crate::accelerate); they have no
/// effect on other graphs.
///
/// # Errors
/// Returns ONNX Runtime's error if it cannot create the operators.
pub fn operators(threads: usize) -> ort::Result<OperatorDomain> {
    let operator = |definition| SessionOperator {
        definition,
        threads,
    };
    OperatorDomain::new(DOMAIN)?
        .add(operator(&lookup::DEFINITION))?
        .add(operator(&depthwise::DEFINITION))?
        .add(operator(&pointwise::DEFINITION))?
        .add(operator(&gate::DEFINITION))?
        .add(operator(&linear::DEFINITION))?
        .add(operator(&quantize::DEFINITION))
}

/// The computation of one node. It is created with the session and called in every run of the
/// session.
type Compute = Box<dyn FnMut(&ComputeContext) -> ort::Result<()> + Send>;

/// The name, inputs, output and kernel of an operator of this crate. A definition serves sessions of any
/// thread count.
struct Definition {
    name: &'static str,
    inputs: fn() -> Vec<OperatorInput>,
    /// Data type of the only output.
    output: TensorElementType,
    /// Creates the computation of a node, given the session's thread count.
    kernel: fn(&KernelContext<'_>, usize) -> ort::Result<Compute>,
}

/// A [`Definition`], specialized to a session's thread count.
struct SessionOperator {
    definition: &'static Definition,
    threads: usize,
}

impl Operator for SessionOperator {
    type Kernel<'attr> = BoxedKernel<'attr>;

    fn name(&self) -> &str {
        self.definition.name
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        (self.definition.inputs)()
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(self.definition.output)]
    }

    fn create_kernel<'attr>(
        &self,
        context: &KernelContext<'attr>,
    ) -> ort::Result<Self::Kernel<'attr>> {
        let mut compute = guarded(|| (self.definition.kernel)(context, self.threads))?;
        Ok(Box::new(move |context: &ComputeContext| {
            guarded(|| compute(context))
        }))
    }
}

/// Runs `work` and returns its result, or an error if it panics.
fn guarded<T>(work: impl FnOnce() -> ort::Result<T>) -> ort::Result<T> {
    let result = catch_unwind(AssertUnwindSafe(work));
    result.unwrap_or_else(|_| {
        Err(operator_error(
            "the computation panicked; this is a bug in ort-int8",
        ))
    })
}

fn input(context: &ComputeContext) -> ort::Result<ValueRef<'_>> {
    input_at(context, 0)
}

fn input_at(context: &ComputeContext, index: usize) -> ort::Result<ValueRef<'_>> {
    let input = context.input(index)?;
    input.ok_or_else(|| operator_error(format!("input {index} is missing")))
}

fn output(context: &ComputeContext, shape: Shape) -> ort::Result<ValueRefMut<'_>> {
    let output = context.output(0, shape)?;
    output.ok_or_else(|| operator_error("output 0 is missing"))
}

/// Returns the four sizes of a batch of images, in the order of `shape`: `[N, H, W, C]` or
/// `[N, C, H, W]`.
///
/// # Errors
/// Fails unless `shape` has four axes, each longer than 0.
fn image_sizes(shape: &Shape) -> ort::Result<[usize; 4]> {
    let sizes = shape
        .iter()
        .map(|size| usize::try_from(*size).ok().filter(|size| *size > 0));
    let sizes: Option<Vec<usize>> = sizes.collect();
    let sizes = sizes.and_then(|sizes| sizes.try_into().ok());
    sizes.ok_or_else(|| unsupported_shape(shape, "four axes, each longer than 0"))
}

/// Returns the shape of the output of a layer that computes `outputs` channels from the `inputs` channels
/// of each pixel of an input of `shape`, `[..., inputs]`.
///
/// # Errors
/// Fails unless the last axis has `inputs` elements.
fn pixels_shape(shape: &Shape, inputs: usize, outputs: usize) -> ort::Result<Vec<i64>> {
    match &shape[..] {
        [pixels @ .., channels]
            if usize::try_from(*channels) == Ok(inputs) && pixels.iter().all(|size| *size >= 0) =>
        {
            Ok([pixels, &[outputs as i64]].concat())
        }
        _ => Err(unsupported_shape(shape, format!("{inputs} channels"))),
    }
}

fn unsupported_shape(shape: &Shape, expected: impl Display) -> ort::Error {
    operator_error(format!(
        "input 0 must have {expected}, got shape {:?}",
        &shape[..]
    ))
}

/// Returns the elements of the constant tensor in input `index`.
fn constant<T: PrimitiveTensorElementType + Clone>(
    context: &KernelContext<'_>,
    index: usize,
) -> ort::Result<Vec<T>> {
    let value = context.constant_input::<DynTensorValueType>(index)?;
    Ok(value.try_extract_tensor::<T>()?.1.to_vec())
}

/// Returns the 256 entries of the lookup table in input `index`.
///
/// # Errors
/// Fails if the input is not constant or does not have 256 elements.
fn table(context: &KernelContext<'_>, index: usize) -> ort::Result<[u8; 256]> {
    let table: Vec<u8> = constant(context, index)?;
    let table = table.try_into();
    table.map_err(|table: Vec<u8>| {
        let got = table.len();
        operator_error(format!(
            "the lookup table in input {index} must have 256 elements, got {got}"
        ))
    })
}

/// Returns the value of the integer attribute `name`.
///
/// # Errors
/// Fails if the node does not have the attribute or if its value does not fit into `T`.
fn integer<T: TryFrom<i64>>(context: &KernelContext<'_>, name: &str) -> ort::Result<T> {
    let value: Option<i64> = context.get(name);
    let fitting = value.and_then(|value| T::try_from(value).ok());
    fitting.ok_or_else(|| wrong_attribute(name, "an integer within its range", value.as_ref()))
}

/// Returns the value of the integer attribute `name`, which is 0 for `false` and 1 for `true`.
///
/// # Errors
/// Fails if the node does not have the attribute.
fn flag(context: &KernelContext<'_>, name: &str) -> ort::Result<bool> {
    Ok(integer::<u8>(context, name)? != 0)
}

/// Returns the value of the float attribute `name`.
///
/// # Errors
/// Fails if the node does not have the attribute.
fn float(context: &KernelContext<'_>, name: &str) -> ort::Result<f32> {
    let value: Option<f32> = context.get(name);
    value.ok_or_else(|| wrong_attribute(name, "a float", value.as_ref()))
}

/// Returns the value of the attribute `name`, a list of `N` non-negative integers.
///
/// # Errors
/// Fails if the node does not have the attribute or if its value is not a list of `N` non-negative
/// integers.
fn sizes<const N: usize>(context: &KernelContext<'_>, name: &str) -> ort::Result<[usize; N]> {
    let values: Option<Vec<i64>> = context.get(name);
    let sizes = values.iter().flatten().map(|size| usize::try_from(*size));
    let sizes: Result<Vec<usize>, _> = sizes.collect();
    let sizes = sizes.ok().and_then(|sizes| sizes.try_into().ok());
    sizes.ok_or_else(|| wrong_attribute(name, format!("{N} integers >= 0"), values.as_ref()))
}

fn wrong_attribute(name: &str, expected: impl Display, got: Option<&impl Debug>) -> ort::Error {
    operator_error(format!(
        "attribute `{name}` must be {expected}, got {got:?}"
    ))
}

fn operator_error(reason: impl Display) -> ort::Error {
    ort::Error::new(format!("operator of domain {DOMAIN}: {reason}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_library;

    #[test]
    fn a_panic_is_an_error() {
        test_library::load();
        let result = guarded(|| -> ort::Result<()> { panic!("in a kernel") });
        assert!(result.unwrap_err().to_string().contains("panicked"));
    }

    #[test]
    fn empty_images_are_rejected() {
        test_library::load();
        assert_eq!(
            image_sizes(&Shape::new([1, 2, 3, 4])).unwrap(),
            [1, 2, 3, 4]
        );
        for shape in [&[1, 0, 3, 4][..], &[0, 1, 1, 1], &[1, 2, 3], &[1, 1, 1, -1]] {
            assert!(image_sizes(&Shape::new(shape.iter().copied())).is_err());
        }
        for (shape, expected) in [
            (&[2, 3, 4][..], Some(vec![2, 3, 8])),
            (&[4], Some(vec![8])),
            (&[0, 4], Some(vec![0, 8])),
            (&[2, -1, 4], None),
            (&[2, 3], None),
            (&[], None),
        ] {
            let shape = Shape::new(shape.iter().copied());
            assert_eq!(pixels_shape(&shape, 4, 8).ok(), expected, "{shape:?}");
        }
    }
}
