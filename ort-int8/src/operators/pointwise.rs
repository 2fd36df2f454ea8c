//! The ONNX Runtime operator [`POINTWISE`].

use ort::operator::{ComputeContext, KernelContext, OperatorInput};
use ort::value::Shape;
use ort::value::TensorElementType::{Float32, Int8, Int32, Uint8};

use super::tasks::{TaskSize, run_parallel};
use super::{
    Compute, Definition, constant, flag, float, input, input_at, integer, operator_error, output,
    pixels_shape, table,
};
use crate::kernels::{Addition, Isa, Pointwise, PointwiseSpec};
use crate::rewrite::POINTWISE;

/// Index of the operator's optional input that holds the lookup table.
const TABLE: usize = 4;
/// Index of the operator's optional input that is added to the convolution's output.
const RESIDUAL: usize = 5;
/// Number of multiplications that take as long as an element of a depthwise convolution.
pub(super) const MULTIPLICATIONS: usize = 32;

pub(super) const DEFINITION: Definition = Definition {
    name: POINTWISE,
    inputs: || {
        let required = [Uint8, Int8, Int32, Float32].map(OperatorInput::required);
        let optional = [Uint8, Uint8].map(OperatorInput::optional);
        required.into_iter().chain(optional).collect()
    },
    output: Uint8,
    kernel,
};

fn kernel(context: &KernelContext<'_>, threads: usize) -> ort::Result<Compute> {
    let isa = Isa::detect();
    let convolution = Convolution {
        isa,
        layer: Pointwise::new(spec(context)?, isa).map_err(operator_error)?,
        addition: addition(context)?,
        threads,
    };
    Ok(Box::new(move |context| convolution.run(context)))
}

/// Reads the parameters of a convolution from the attributes and constant inputs of a node.
fn spec(context: &KernelContext<'_>) -> ort::Result<PointwiseSpec> {
    let table = flag(context, "has_table")?;
    let table = table.then(|| table_input(context)).transpose()?;
    Ok(PointwiseSpec {
        inputs: integer(context, "inputs")?,
        input_zero_point: integer(context, "input_zero_point")?,
        output_zero_point: integer(context, "output_zero_point")?,
        weights: constant(context, 1)?,
        bias: constant(context, 2)?,
        multipliers: constant(context, 3)?,
        table,
    })
}

fn table_input(context: &KernelContext<'_>) -> ort::Result<Box<[u8; 256]>> {
    Ok(Box::new(table(context, TABLE)?))
}

/// Reads the addition that follows the convolution. `None` if the node has no residual.
fn addition(context: &KernelContext<'_>) -> ort::Result<Option<Addition>> {
    if !flag(context, "has_residual")? {
        return Ok(None);
    }
    Ok(Some(Addition {
        ratio: float(context, "ratio")?,
        residual_ratio: float(context, "residual_ratio")?,
        offset: float(context, "offset")?,
        residual_first: flag(context, "residual_first")?,
    }))
}

/// A pointwise convolution, created once per node.
struct Convolution {
    layer: Pointwise,
    addition: Option<Addition>,
    isa: Isa,
    threads: usize,
}

/// Pixels that one thread convolves, and the residual that it adds to them.
struct Task<'a> {
    pixels: &'a [u8],
    residual: &'a [u8],
    output: &'a mut [u8],
}

impl Convolution {
    /// Convolves the pixels in input 0, `[..., C] u8`, and writes output 0 in the same layout.
    fn run(&self, context: &ComputeContext) -> ort::Result<()> {
        let (inputs, outputs) = (self.layer.inputs(), self.layer.outputs());
        let input = input(context)?;
        let (shape, pixels) = input.try_extract_tensor::<u8>()?;
        let sizes = pixels_shape(shape, inputs, outputs)?;
        let residual = self.addition.is_some();
        let residual = residual.then(|| input_at(context, RESIDUAL)).transpose()?;
        let residual = residual.as_ref().map(|value| {
            let (shape, values) = value.try_extract_tensor::<u8>()?;
            if shape[..] == sizes[..] {
                return Ok(values);
            }
            Err(operator_error(format!(
                "input {RESIDUAL} must have shape {sizes:?}, got {:?}",
                &shape[..]
            )))
        });
        let residual = residual.transpose()?.unwrap_or_default();
        let mut output = output(context, Shape::new(sizes.iter().copied()))?;
        let (_, output) = output.try_extract_tensor_mut::<u8>()?;
        if output.is_empty() {
            return Ok(());
        }
        let work = output.len().saturating_mul(inputs) / MULTIPLICATIONS;
        let size = TaskSize::for_work(work, output.len(), outputs, self.threads).len;
        let mut residuals = residual.chunks(size);
        let pixels = pixels.chunks(size / outputs * inputs);
        let tasks = pixels
            .zip(output.chunks_mut(size))
            .map(|(pixels, output)| Task {
                pixels,
                residual: residuals.next().unwrap_or_default(),
                output,
            });
        run_parallel(context, tasks, |task| self.run_task(task))
    }

    /// Convolves the pixels of a task panel by panel, and adds the residual to each panel while it
    /// is in the cache.
    fn run_task(&self, task: &mut Task<'_>) -> ort::Result<()> {
        let (inputs, outputs) = (self.layer.inputs(), self.layer.outputs());
        let panel = self.layer.panel(task.output.len() / outputs);
        let mut residuals = task.residual.chunks(panel * outputs);
        let pixels = task.pixels.chunks(panel * inputs);
        for (pixels, output) in pixels.zip(task.output.chunks_mut(panel * outputs)) {
            self.layer.run(pixels, output).map_err(operator_error)?;
            if let (Some(addition), Some(residual)) = (&self.addition, residuals.next()) {
                addition.add(self.isa, output, residual);
            }
        }
        Ok(())
    }
}
