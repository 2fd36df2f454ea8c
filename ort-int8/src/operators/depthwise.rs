//! The ONNX Runtime operator [`DEPTHWISE`].

use std::sync::Mutex;

use ort::operator::{ComputeContext, KernelContext, OperatorInput};
use ort::value::Shape;
use ort::value::TensorElementType::{Float32, Int8, Int32, Uint8};

use super::tasks::{TaskSize, run_parallel};
use super::{
    Compute, Definition, constant, flag, image_sizes, input, integer, lock, operator_error, output,
    sizes, table, unsupported_shape,
};
use crate::kernels::{Depthwise, DepthwiseSpec, Image, Isa, Scratch};
use crate::rewrite::DEPTHWISE;

/// Index of the operator's optional input that holds the lookup table.
const TABLE: usize = 4;

pub(super) const DEFINITION: Definition = Definition {
    name: DEPTHWISE,
    inputs: || {
        let required = [Uint8, Int8, Int32, Float32].map(OperatorInput::required);
        required
            .into_iter()
            .chain([OperatorInput::optional(Uint8)])
            .collect()
    },
    output: Uint8,
    kernel,
};

fn kernel(context: &KernelContext<'_>, threads: usize) -> ort::Result<Compute> {
    let mut convolution = Convolution {
        layer: Depthwise::new(spec(context)?, Isa::detect()).map_err(operator_error)?,
        threads,
        scratches: Mutex::default(),
    };
    Ok(Box::new(move |context| convolution.run(context)))
}

/// Reads the parameters of a convolution from the attributes and constant inputs of a node.
fn spec(context: &KernelContext<'_>) -> ort::Result<DepthwiseSpec> {
    let has_table = context.inputs()?.len() > TABLE;
    let table = has_table.then(|| table(context, TABLE)).transpose()?;
    Ok(DepthwiseSpec {
        kernel: sizes(context, "kernel_shape")?,
        strides: sizes(context, "strides")?,
        pads: sizes(context, "pads")?,
        same_upper: flag(context, "same_upper")?,
        dilations: sizes(context, "dilations")?,
        input_zero_point: integer(context, "input_zero_point")?,
        output_zero_point: integer(context, "output_zero_point")?,
        weights: constant(context, 1)?,
        bias: constant(context, 2)?,
        multipliers: constant(context, 3)?,
        table: table.map(Box::new),
    })
}

/// A depthwise convolution, created once per node.
struct Convolution {
    layer: Depthwise,
    threads: usize,
    /// Buffers that no thread uses at the moment. A task takes one and puts it back when it has
    /// finished.
    scratches: Mutex<Vec<Scratch>>,
}

impl Convolution {
    /// Convolves the batch of images in input 0, `[N, H, W, C] u8`, and writes output 0 in the same
    /// layout.
    fn run(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let (layer, scratches) = (&self.layer, &self.scratches);
        let input = input(context)?;
        let (shape, input) = input.try_extract_tensor::<u8>()?;
        let [count, height, width, channels] = image_sizes(shape)?;
        if channels != layer.channels() {
            let expected = format!("{} channels", layer.channels());
            return Err(unsupported_shape(shape, expected));
        }
        let size = layer.output_size([height, width]);
        let too_small = || unsupported_shape(shape, "images that the dilated kernel fits into");
        let [rows, columns] = size.ok_or_else(too_small)?;
        let sizes = [count, rows, columns, channels].map(|size| size as i64);
        let mut output = output(context, Shape::new(sizes))?;
        let (_, output) = output.try_extract_tensor_mut::<u8>()?;
        let row = columns * channels;
        let images = input.chunks(height * width * channels);
        let size = TaskSize::new(rows * row, row, self.threads);
        let tasks = size.tasks(images, output.chunks_mut(rows * row));
        run_parallel(context, tasks, |task| {
            let image = Image {
                data: task.image,
                height,
                width,
            };
            let mut scratch = lock(scratches).pop().unwrap_or_default();
            let done = layer.run(image, task.first_unit, task.output, &mut scratch);
            lock(scratches).push(scratch);
            done.map_err(operator_error)
        })
    }
}
