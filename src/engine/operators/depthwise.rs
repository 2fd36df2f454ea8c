//! See [`DEPTHWISE`].

use std::sync::Mutex;

use onnx_export::lower::DEPTHWISE;
use ort::operator::{
    BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput,
};
use ort::value::Shape;
use ort::value::TensorElementType::{Float32, Int8, Int32, Uint8};

use super::{
    constant, guarded, in_parallel, input, kernel, lock, number, output, refused, sizes,
    sizes_of_four, table, task_size,
};
use crate::int8::{Depthwise, DepthwiseSpec, Scratch};

/// The input that not every node has.
const TABLE: usize = 4;

pub(super) struct DepthwiseConv {
    pub(super) threads: usize,
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
        let layer = guarded(|| Depthwise::new(spec(context)?).map_err(refused))?;
        let (threads, scratches) = (self.threads, Mutex::default());
        Ok(kernel(move |context| {
            run(&layer, context, threads, &scratches)
        }))
    }
}

/// What a node's attributes and constants say.
fn spec(context: &KernelContext<'_>) -> ort::Result<DepthwiseSpec> {
    let has_table = context.inputs()?.len() > TABLE;
    let table = has_table.then(|| table(context, TABLE)).transpose()?;
    Ok(DepthwiseSpec {
        kernel: sizes(context, "kernel_shape")?,
        strides: sizes(context, "strides")?,
        pads: sizes(context, "pads")?,
        same_upper: number::<u8>(context, "same_upper")? != 0,
        dilations: sizes(context, "dilations")?,
        input_zero: number(context, "input_zero")?,
        output_zero: number(context, "output_zero")?,
        weights: constant(context, 1)?,
        bias: constant(context, 2)?,
        multipliers: constant(context, 3)?,
        table: table.map(Box::new),
    })
}

/// Convolves a batch; `scratches` are those that no thread uses.
fn run(
    layer: &Depthwise,
    context: &ComputeContext,
    threads: usize,
    scratches: &Mutex<Vec<Scratch>>,
) -> ort::Result<()> {
    let input = input(context)?;
    let (shape, input) = input.try_extract_tensor::<u8>()?;
    let [count, height, width, channels] = sizes_of_four(shape)?;
    let rows = layer.output_size([height, width]);
    let rows = rows.filter(|_| channels == layer.channels());
    let [rows, columns] = rows.ok_or_else(|| refused(format!("an input of shape {shape:?}")))?;
    let sizes = [count, rows, columns, channels].map(|size| size as i64);
    let mut output = output(context, Shape::new(sizes))?;
    let (_, output) = output.try_extract_tensor_mut::<u8>()?;
    let row = columns * channels;
    let size = task_size(rows * row, row, threads);
    let pictures = input.chunks(height * width * channels);
    let tasks = pictures.zip(output.chunks_mut(rows * row));
    let tasks = tasks.flat_map(|(picture, output)| {
        let parts = output.chunks_mut(size).enumerate();
        parts.map(move |(index, part)| (picture, index * (size / row), part))
    });
    in_parallel(context, tasks, |(picture, first, output)| {
        let mut scratch = lock(scratches).pop().unwrap_or_default();
        let done = layer.run(picture, [height, width], *first, output, &mut scratch);
        lock(scratches).push(scratch);
        done.map_err(refused)
    })
}
