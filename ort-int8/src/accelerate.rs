//! Accelerates an optimized graph: rewrites it and compares its outputs with those of the original
//! graph.

use onnx_export::GraphReadError;
use onnx_export::proto::ModelProto;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{Session, SessionInputValue};
use ort::value::Tensor;
use prost::Message;
use thiserror::Error;

use crate::operators::operators;
use crate::random::uniform;
use crate::rewrite::{Operators, rewrite};

/// Input shapes `[N, C, H, W]` for comparing two graphs; a size that the model fixes replaces the
/// size in the same place here. The second shape has another batch size and aspect ratio than the
/// first. Heights and widths are multiples of 32, which detection networks need.
const SAMPLES: [[usize; 4]; 2] = [[1, 3, 128, 128], [2, 3, 96, 160]];
/// Thread count of this crate's operators while graphs are compared. It is above 1 so that outputs
/// that are divided among threads are compared, too.
const COMPARED_THREADS: usize = 2;

/// An optimized graph that contains operators of this crate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accelerated {
    /// The graph as an ONNX file. Its sessions need [`operators`].
    pub model: Vec<u8>,
    /// Number of nodes that are operators of this crate; at least 1.
    pub operator_count: usize,
}

/// The reason why a graph with replaceable nodes was not accelerated. The original graph remains
/// usable.
#[derive(Debug, Error)]
pub enum AccelerateError {
    /// The bytes are not an ONNX file.
    #[error(transparent)]
    Read(#[from] GraphReadError),
    /// The rewritten graph and the original graph have different outputs for the same input.
    #[error(
        "outputs of the rewritten graph differ from those of the original graph for an input of \
         shape {shape:?}"
    )]
    Mismatch {
        /// Shape of the input for which the results differ.
        shape: Vec<usize>,
    },
    /// The input of the model has more elements than the caller allows for a comparison of results.
    #[error(
        "cannot compare results: the model's input of shape {shape:?} has more than {max} elements"
    )]
    LargeInput {
        /// Shape of the input in the comparison, with the sizes that the model fixes.
        shape: Vec<usize>,
        /// Maximum number of elements that the caller allows for the input.
        max: usize,
    },
    /// ONNX Runtime failed to load or run one of the two graphs.
    #[error("cannot compare results: ONNX Runtime failed: {0}")]
    Runtime(#[from] ort::Error),
}

/// Replaces nodes of a graph that ONNX Runtime has optimized by faster operators with bit-identical
/// results.
///
/// `optimized_model` is the ONNX file that ONNX Runtime writes when `with_optimized_model_path` is
/// set. `max_input` is the maximum number of elements of an input with which the graphs are
/// compared; it bounds memory and time. `session_builder` creates the builder of a session in the
/// caller's environment; this function turns optimization off and adds the operators.
///
/// Returns `None` if no node can be replaced, as in fp32 models. If it returns an accelerated
/// graph, both graphs have run on the same pseudo-random inputs, and every output was
/// bit-identical.
///
/// # Errors
/// [`AccelerateError`] if the results differ, which another version of ONNX Runtime may cause, or
/// if they cannot be compared, for example because the model fixes an input of more than
/// `max_input` elements. The caller should run the original graph then.
pub fn accelerate(
    optimized_model: &[u8],
    max_input: usize,
    session_builder: impl Fn() -> ort::Result<SessionBuilder>,
) -> Result<Option<Accelerated>, AccelerateError> {
    let mut failure = None;
    for operators in Operators::for_this_cpu() {
        match attempt(optimized_model, operators, max_input, &session_builder) {
            Ok(accelerated) => return Ok(accelerated),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    failure.map_or(Ok(None), Err)
}

/// Rewrites the graph with some of the operators and compares its results. `None` if no node can be
/// replaced.
fn attempt(
    optimized_model: &[u8],
    allowed: Operators,
    max_input: usize,
    session_builder: impl Fn() -> ort::Result<SessionBuilder>,
) -> Result<Option<Accelerated>, AccelerateError> {
    let model = ModelProto::decode(optimized_model).map_err(GraphReadError::from)?;
    let Some(rewritten) = rewrite(model, allowed) else {
        return Ok(None);
    };
    let accelerated = Accelerated {
        model: rewritten.model.encode_to_vec(),
        operator_count: rewritten.operator_count,
    };
    let session = |model: &[u8]| {
        let builder = session_builder()?;
        let builder = builder.with_optimization_level(GraphOptimizationLevel::Disable)?;
        let builder = builder.with_operators(operators(COMPARED_THREADS)?);
        builder?.commit_from_memory(model)
    };
    let original = session(optimized_model)?;
    compare(original, session(&accelerated.model)?, max_input)?;
    Ok(Some(accelerated))
}

/// Compares the outputs of two graphs for an input of each shape in [`SAMPLES`]. The second shape
/// is skipped if the original graph fails for it.
///
/// # Errors
/// [`AccelerateError::Mismatch`] if an output differs; the error of [`run`] if a graph fails.
fn compare(
    mut original: Session,
    mut rewritten: Session,
    max_input: usize,
) -> Result<(), AccelerateError> {
    let mut compared = Vec::new();
    for sizes in SAMPLES {
        let shape = sample_shape(&original, sizes);
        if compared.contains(&shape) {
            continue;
        }
        let expected = match run(&mut original, &shape, max_input) {
            Ok(expected) => expected,
            // An axis that the model declares as dynamic may still accept one length only. The
            // original graph fails for any other length, which says nothing about the rewritten
            // graph.
            Err(_) if !compared.is_empty() => continue,
            Err(error) => return Err(error),
        };
        if run(&mut rewritten, &shape, max_input)? != expected {
            return Err(AccelerateError::Mismatch { shape });
        }
        compared.push(shape);
    }
    Ok(())
}

/// Returns the declared shape of the session's first input. The dynamic sizes are replaced by those
/// at the same index in `sizes`.
fn sample_shape(session: &Session, sizes: [usize; 4]) -> Vec<usize> {
    let input = session.inputs().first();
    let shape = input.and_then(|input| input.dtype().tensor_shape());
    let declared = shape.into_iter().flat_map(|shape| shape.iter());
    let declared = declared.zip(sizes);
    declared
        .map(|(declared, size)| usize::try_from(*declared).unwrap_or(size))
        .collect()
}

/// Runs a session on a pseudo-random input of `shape` in [-2, 2) and returns the bits of every f32
/// output.
///
/// # Errors
/// [`AccelerateError::LargeInput`] if the input would have more than `max` elements;
/// [`AccelerateError::Runtime`] if ONNX Runtime fails.
fn run(
    session: &mut Session,
    shape: &[usize],
    max: usize,
) -> Result<Vec<Vec<u32>>, AccelerateError> {
    let length = shape
        .iter()
        .try_fold(1, |product: usize, size| product.checked_mul(*size));
    let length = length.filter(|length| *length <= max);
    let length = length.ok_or_else(|| AccelerateError::LargeInput {
        shape: shape.to_vec(),
        max,
    })?;
    let values: Vec<f32> = uniform(0).take(length).map(|value| 2.0 * value).collect();
    let input = Tensor::from_array((shape.to_vec(), values))?;
    let outputs = session.run([SessionInputValue::from(input)])?;
    let bits = outputs.values().map(|output| {
        let (_, values) = output.try_extract_tensor::<f32>()?;
        Ok(values.iter().map(|value| value.to_bits()).collect())
    });
    bits.collect()
}

#[cfg(test)]
mod tests;
