//! See [`DEPTHWISE`].

use std::sync::Mutex;

use onnx_export::lower::DEPTHWISE;
use ort::operator::{ComputeContext, KernelContext, OperatorInput};
use ort::value::Shape;
use ort::value::TensorElementType::{Float32, Int8, Int32, Uint8};

use super::{
    Compute, Form, constant, in_parallel, input, lock, number, output, parts, refused, sizes,
    sizes_of_four, table, task_size,
};
use crate::int8::{Depthwise, DepthwiseSpec, Scratch};

/// The input that not every node has.
const TABLE: usize = 4;

pub(super) const FORM: Form = Form {
    name: DEPTHWISE,
    inputs: || {
        let required = [Uint8, Int8, Int32, Float32].map(OperatorInput::required);
        required
            .into_iter()
            .chain([OperatorInput::optional(Uint8)])
            .collect()
    },
    kernel,
};

fn kernel(context: &KernelContext<'_>, threads: usize) -> ort::Result<Compute> {
    let layer = Depthwise::new(spec(context)?).map_err(refused)?;
    let scratches = Mutex::default();
    Ok(Box::new(move |context| {
        run(&layer, context, threads, &scratches)
    }))
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
    let tasks = parts(pictures, output.chunks_mut(rows * row), (row, size));
    in_parallel(context, tasks, |(picture, first, output)| {
        let mut scratch = lock(scratches).pop().unwrap_or_default();
        let done = layer.run(picture, [height, width], *first, output, &mut scratch);
        lock(scratches).push(scratch);
        done.map_err(refused)
    })
}
