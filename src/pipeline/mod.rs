//! The path of one request from encoded images to results. Newcomers start here.
//!
//! ```text
//! EncodedImage ─(image pool)─> PreparedImage ─(queue)─> QueueEntry ─(worker)─> outputs ─> result
//! ```
//!
//! [`run()`] is that path, which all tasks and protocols share. A ready tensor ([`Input::Prepared`]) enters
//! at the queue. Tasks differ in the last step only: [`Classify`], [`Embed`], [`Detect`], [`Segment`] and
//! [`RawOutputs`] implement [`Postprocess`], and their fields are the options of a request.
//!
//! What is *not* here: the memory and queue places that a request reserves first
//! ([`crate::admission`]), and the protocols ([`crate::http`]).

mod classify;
mod cpu;
mod detect;
mod embed;
mod input;
mod postprocess;
mod raw;
mod run;
mod segment;
mod tensor;
mod timing;

use std::sync::Arc;

pub use classify::Classify;
pub use detect::{Detect, Detected};
pub use embed::Embed;
pub(crate) use input::check_masks;
pub use input::{
    EncodedImage, Input, MAX_DRAWN_PIXELS, MAX_MASK_PIXELS, check_densities, check_memory,
    decode_fast, encoded_images,
};
pub use postprocess::{Cost, Postprocess, PostprocessInput};
pub use raw::RawOutputs;
pub use run::run;
pub use segment::{MaskSize, Masks, Segment, Segmentation};
pub use tensor::RawTensor;
pub use timing::{RequestTiming, Timing};

use crate::budget::Permit;
use crate::engine::{Outputs, Tensor};
use crate::error::ServeError;
use crate::manifest::Task;
use crate::postprocess::primary_output;
use crate::registry::LoadedModel;

/// Maximum size in bytes of a request body that is scanned for images, and of a response that is
/// encoded, on the thread that serves the connection; larger ones are processed on the image pool.
/// The work on this many bytes takes at most a tenth of a millisecond, while a job on the image
/// pool costs 30 microseconds in addition to its work (measured on 2 busy cores).
pub(crate) const INLINE_BYTES: usize = 64 << 10;

/// The images of a request and the postprocessing of their outputs.
pub struct Request<P> {
    /// The images, in the order of the request.
    pub inputs: Vec<Input>,
    /// The postprocessing of the outputs, with its options.
    pub postprocess: P,
}

/// The results of a request.
pub struct Response<T> {
    /// The model that ran.
    pub model: Arc<LoadedModel>,
    /// One result per image, in the order of the request.
    pub results: Vec<T>,
    /// Times of the stages.
    pub timing: RequestTiming,
    /// Memory of the results, reserved in the budget for responses.
    pub memory: Permit,
}

/// Returns the output that a task reads, if all of its values are finite.
///
/// # Errors
/// [`ServeError::Internal`] if the output is missing, is empty, or holds NaN or infinite values.
pub(crate) fn finite(task: Task, outputs: &Outputs) -> Result<&Tensor, ServeError> {
    let output = primary_output(task, outputs).ok();
    let output = output.filter(|tensor| !tensor.data.is_empty());
    let first = output.ok_or(ServeError::Internal("the model produced no outputs"))?;
    if first.data.iter().all(|value| value.is_finite()) {
        return Ok(first);
    }
    Err(ServeError::Internal(
        "the model produced NaN or infinite outputs",
    ))
}
