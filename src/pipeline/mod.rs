//! One request's walk from compressed pictures to answers. Newcomers start here.
//!
//! ```text
//! bytes ─(picture pool)─> decode ─> preprocess ─> queue ─(worker)─> inference ─> postprocess
//! ```
//!
//! [`answer`] is that walk, which all tasks share. What differs is its last step, outputs to answers:
//! [`Classify`], [`Detect`] and [`Segment`] are a [`Finish`] each.

mod classify;
mod detect;
mod infer;
mod segment;

use std::ops::{Add, Index, IndexMut};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use classify::Classify;
pub use detect::{Detect, Detected};
pub use infer::{Finish, Inferred, Need, answer};
pub use segment::{EncodedMask, MaskFormat, MaskSize, Segment, SegmentView, Segmentation};

use crate::budget::Permit;
use crate::engine::Tensor;
use crate::error::ServeError;
use crate::image::Orientation;
use crate::metrics::Stage;
use crate::registry::LoadedModel;

/// A validated request, whatever its task.
pub struct Request {
    /// The model.
    pub model: Arc<LoadedModel>,
    /// Whether EXIF orientation counts.
    pub orientation: Orientation,
    /// The pictures.
    pub images: Images,
}

/// The compressed pictures of a request, and the memory that was set aside for them.
#[derive(Debug)]
pub struct Images {
    /// The bytes of each file.
    pub pictures: Vec<Bytes>,
    /// Given back when the last picture is decoded, or drawn into; none for pictures that came by
    /// another way.
    pub memory: Option<Arc<Permit>>,
}

/// One answer per picture, and where the time went.
pub struct Answer<T> {
    /// The model that answered.
    pub model: Arc<LoadedModel>,
    /// In the order of the pictures.
    pub results: Vec<T>,
    /// Summed over the pictures.
    pub timing: Timing,
    /// What the results take of the memory for bodies.
    pub memory: Permit,
}

/// Time spent in each stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing([Duration; 6]);

impl Index<Stage> for Timing {
    type Output = Duration;

    fn index(&self, stage: Stage) -> &Duration {
        &self.0[stage as usize]
    }
}

impl IndexMut<Stage> for Timing {
    fn index_mut(&mut self, stage: Stage) -> &mut Duration {
        &mut self.0[stage as usize]
    }
}

impl Add for Timing {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        for (total, part) in self.0.iter_mut().zip(other.0) {
            *total += part;
        }
        self
    }
}

/// The network's first output, if it is made of numbers.
fn finite(outputs: &[Tensor]) -> Result<&Tensor, ServeError> {
    let first = outputs.first().filter(|tensor| !tensor.data.is_empty());
    let finite = first.filter(|tensor| tensor.data.iter().all(|number| number.is_finite()));
    finite.ok_or(ServeError::Internal(
        "the network answered with what is no number",
    ))
}

/// Encoding is measured later, for the answer as a whole.
fn record(model: &LoadedModel, timing: Timing) {
    for stage in Stage::ALL
        .into_iter()
        .filter(|stage| *stage != Stage::encode)
    {
        model.metrics.stage(stage, timing[stage]);
    }
    model.metrics.images.inc();
}
