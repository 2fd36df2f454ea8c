//! Sightline's own operators in ONNX Runtime: the kernels of `int8`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use onnx_export::lower::{DEPTHWISE, DOMAIN, LOOKUP, QUANTIZE};
use ort::operator::{
    BoxedKernel, ComputeContext, KernelContext, Operator, OperatorDomain, OperatorInput,
    OperatorOutput,
};
use ort::value::TensorElementType::{Float32, Int8, Int32, Uint8};
use ort::value::{DynTensorValueType, PrimitiveTensorElementType, Shape, ValueRef, ValueRefMut};

use crate::int8::{
    CHANNEL_BLOCK, Depthwise, DepthwiseError, DepthwiseSpec, Scratch, lookup, quantize_blocked,
};

/// Numbers that are worth a thread.
const NUMBERS_PER_TASK: usize = 32 * 1024;

/// The operators, for sessions that run on `threads` threads.
pub(super) fn operators(threads: usize) -> ort::Result<Arc<OperatorDomain>> {
    let domain = OperatorDomain::new(DOMAIN)?
        .add(Lookup { threads })?
        .add(DepthwiseConv { threads })?
        .add(QuantizeBlocked)?;
    Ok(Arc::new(domain))
}

/// See [`LOOKUP`].
struct Lookup {
    threads: usize,
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
        let table = whole_table(constant(context, 1)?)?;
        let threads = self.threads;
        Ok(Box::new(move |context: &ComputeContext| {
            let input = input(context)?;
            let (shape, input) = input.try_extract_tensor::<u8>()?;
            let mut output = output(context, shape.clone())?;
            let (_, output) = output.try_extract_tensor_mut::<u8>()?;
            let size = task_size(output.len(), 1, threads);
            let tasks = input
                .chunks(size)
                .zip(output.chunks_mut(size))
                .map(Mutex::new);
            let tasks: Vec<_> = tasks.collect();
            context.par_for(tasks.len(), tasks.len(), |index| {
                let (input, output) = &mut *lock(&tasks[index]);
                lookup(&table, input, output);
            })
        }))
    }
}

/// See [`DEPTHWISE`].
struct DepthwiseConv {
    threads: usize,
}

impl Operator for DepthwiseConv {
    type Kernel<'attr> = BoxedKernel<'attr>;

    fn name(&self) -> &str {
        DEPTHWISE
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [
            OperatorInput::required(Uint8),
            OperatorInput::required(Int8),
            OperatorInput::required(Int32),
            OperatorInput::required(Float32),
            OperatorInput::optional(Uint8),
        ]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(Uint8)]
    }

    fn create_kernel<'attr>(
        &self,
        context: &KernelContext<'attr>,
    ) -> ort::Result<Self::Kernel<'attr>> {
        let layer = Depthwise::new(spec(context)?).map_err(refused)?;
        let threads = self.threads;
        let mut scratches = Vec::new();
        Ok(Box::new(move |context: &ComputeContext| {
            run(&layer, context, threads, &mut scratches)
        }))
    }
}

/// See [`QUANTIZE`].
struct QuantizeBlocked;

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
        let scale: Option<f32> = context.get("scale");
        let scale = scale.ok_or_else(|| refused("attribute scale"))?;
        let steps = (scale, zero_point(context, "zero")?);
        let channels: Option<i64> = context.get("channels");
        let channels = channels.and_then(|channels| usize::try_from(channels).ok());
        let channels = channels.ok_or_else(|| refused("attribute channels"))?;
        Ok(Box::new(move |context: &ComputeContext| {
            let input = input(context)?;
            let (shape, input) = input.try_extract_tensor::<f32>()?;
            let blocks = channels.div_ceil(CHANNEL_BLOCK);
            let &[count, padded, height, width] = &shape[..] else {
                return Err(refused("it takes blocks of channels"));
            };
            if padded != (blocks * CHANNEL_BLOCK) as i64 {
                return Err(refused("it takes blocks of 16 channels"));
            }
            let mut output = output(context, Shape::new([count, height, width, channels as i64]))?;
            let (_, output) = output.try_extract_tensor_mut::<u8>()?;
            let pixels = (height * width) as usize;
            let pictures = input.chunks(pixels * blocks * CHANNEL_BLOCK);
            for (picture, output) in pictures.zip(output.chunks_mut(pixels * channels)) {
                quantize_blocked(picture, channels, steps, output);
            }
            Ok(())
        }))
    }
}

/// What a node's attributes and constants say.
fn spec(context: &KernelContext<'_>) -> ort::Result<DepthwiseSpec> {
    Ok(DepthwiseSpec {
        kernel: sizes(context, "kernel_shape")?,
        strides: sizes(context, "strides")?,
        pads: sizes(context, "pads")?,
        dilations: sizes(context, "dilations")?,
        input_zero: zero_point(context, "input_zero")?,
        output_zero: zero_point(context, "output_zero")?,
        weights: constant(context, 1)?,
        bias: constant(context, 2)?,
        multipliers: constant(context, 3)?,
        table: match constant(context, 4) {
            Ok(table) => Some(Box::new(whole_table(table)?)),
            Err(_) => None,
        },
    })
}

fn run(
    layer: &Depthwise,
    context: &ComputeContext,
    threads: usize,
    scratches: &mut Vec<Scratch>,
) -> ort::Result<()> {
    let input = input(context)?;
    let (shape, input) = input.try_extract_tensor::<u8>()?;
    let &[count, height, width, channels] = &shape[..] else {
        return Err(refused("it takes [N, H, W, C]"));
    };
    let size = [height as usize, width as usize];
    let rows = layer
        .output_size(size)
        .ok_or_else(|| refused("the picture is too small"))?;
    let shape = [count, rows[0] as i64, rows[1] as i64, channels];
    let mut output = output(context, Shape::new(shape))?;
    let (_, output) = output.try_extract_tensor_mut::<u8>()?;
    let row = rows[1] * channels as usize;
    let picture_length = size[0] * size[1] * channels as usize;
    let size_of_task = task_size(rows[0] * row, row, threads);
    let mut tasks = Vec::new();
    let pictures = input.chunks(picture_length);
    for (picture, output) in pictures.zip(output.chunks_mut(rows[0] * row)) {
        for (index, output) in output.chunks_mut(size_of_task).enumerate() {
            tasks.push((picture, index * (size_of_task / row), output));
        }
    }
    scratches.resize_with(tasks.len().max(scratches.len()), Scratch::default);
    let tasks: Vec<_> = tasks.into_iter().zip(scratches).map(Mutex::new).collect();
    let failed = Mutex::new(None);
    context.par_for(tasks.len(), tasks.len(), |index| {
        let ((picture, first, output), scratch) = &mut *lock(&tasks[index]);
        if let Err(error) = layer.run(picture, size, *first, output, scratch) {
            *lock(&failed) = Some(error);
        }
    })?;
    let failed = lock(&failed).take();
    failed.map_or(Ok(()), |error: DepthwiseError| Err(refused(error)))
}

/// How many of `length` numbers are a task for one of the threads, in multiples of `unit`.
fn task_size(length: usize, unit: usize, threads: usize) -> usize {
    let tasks = threads.min(length / NUMBERS_PER_TASK).max(1);
    length.div_ceil(tasks).next_multiple_of(unit.max(1)).max(1)
}

fn input(context: &ComputeContext) -> ort::Result<ValueRef<'_>> {
    context.input(0)?.ok_or_else(|| refused("no input"))
}

fn output(context: &ComputeContext, shape: Shape) -> ort::Result<ValueRefMut<'_>> {
    context
        .output(0, shape)?
        .ok_or_else(|| refused("no output"))
}

/// The numbers of a constant input.
fn constant<T: PrimitiveTensorElementType + Clone>(
    context: &KernelContext<'_>,
    index: usize,
) -> ort::Result<Vec<T>> {
    let value = context.constant_input::<DynTensorValueType>(index)?;
    Ok(value.try_extract_tensor::<T>()?.1.to_vec())
}

fn whole_table(numbers: Vec<u8>) -> ort::Result<[u8; 256]> {
    let table = numbers.try_into();
    table.map_err(|_| refused("a table has 256 numbers"))
}

fn sizes<const N: usize>(context: &KernelContext<'_>, name: &str) -> ort::Result<[usize; N]> {
    let numbers: Option<Vec<i64>> = context.get(name);
    let numbers = numbers.unwrap_or_default().into_iter();
    let sizes: Result<Vec<usize>, _> = numbers.map(usize::try_from).collect();
    let sizes = sizes.ok().and_then(|sizes| sizes.try_into().ok());
    sizes.ok_or_else(|| refused(format!("attribute {name}")))
}

fn zero_point(context: &KernelContext<'_>, name: &str) -> ort::Result<u8> {
    let number: Option<i64> = context.get(name);
    let number = number.and_then(|number| u8::try_from(number).ok());
    number.ok_or_else(|| refused(format!("attribute {name}")))
}

fn refused(reason: impl std::fmt::Display) -> ort::Error {
    ort::Error::new(format!("operator of {DOMAIN}: {reason}"))
}

/// A task's part: of one thread alone, so that nothing waits here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
