//! ONNX Runtime: the library, and what a session takes and gives.

use std::path::Path;
use std::sync::OnceLock;

use ort::environment::Environment;
use ort::session::builder::SessionBuilder;
use ort::session::{RunOptions, Session};
use ort::value::DynValue;

use super::{Engine, EngineError, LibraryError, Tensor, TensorView};
use crate::image::PreparedImage;

/// ONNX Runtime allows one environment in a process.
static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();

/// The loaded library.
#[derive(Debug, Clone)]
pub struct OnnxRuntime {
    environment: Environment,
    arithmetic: Arithmetic,
}

/// How a network of 8-bit numbers is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// By the kernels of this processor: how models are served.
    Kernels,
    /// In floats that are rounded where the file says: what the numbers of the file give on any
    /// processor whose kernels do not overflow.
    Simulated,
}

impl OnnxRuntime {
    /// Loads the library at `path`. A second call gives the library that was loaded first.
    ///
    /// # Errors
    /// [`LibraryError::Unusable`] if the file is no library, or one that is too old.
    pub fn load(path: &Path) -> Result<Self, EngineError> {
        if let Some(environment) = ENVIRONMENT.get() {
            return Ok(Self {
                environment: environment.clone(),
                arithmetic: Arithmetic::Kernels,
            });
        }
        let unusable = |reason: String| LibraryError::Unusable {
            path: path.to_path_buf(),
            reason,
        };
        let builder = ort::init_from(path).map_err(|error| unusable(error.to_string()))?;
        let builder = builder.with_name("sightline").with_telemetry(false);
        let environment = builder
            .build()
            .map_err(|error| unusable(error.to_string()))?;
        Ok(Self {
            environment: ENVIRONMENT.get_or_init(|| environment).clone(),
            arithmetic: Arithmetic::Kernels,
        })
    }

    /// The same library, whose sessions compute so.
    #[must_use]
    pub fn with_arithmetic(&self, arithmetic: Arithmetic) -> Self {
        Self {
            arithmetic,
            ..self.clone()
        }
    }

    /// What every session has in common: its threads sleep when there is no work.
    pub(super) fn session_builder(&self, threads: usize) -> ort::Result<SessionBuilder> {
        let builder = Session::builder(&self.environment)?
            .with_intra_threads(threads)?
            .with_intra_op_spinning(false)?
            .with_inter_op_spinning(false)?;
        Ok(match self.arithmetic {
            Arithmetic::Kernels => builder,
            Arithmetic::Simulated => builder.with_config_entry("session.disable_quant_qdq", "1")?,
        })
    }
}

/// One session, owned by one worker.
pub struct OnnxSession {
    session: Session,
    memory: ArenaPolicy,
}

impl OnnxSession {
    pub(super) fn new(session: Session) -> ort::Result<Self> {
        Ok(Self {
            session,
            memory: ArenaPolicy::new()?,
        })
    }
}

/// When a session gives memory back. ONNX Runtime keeps the most that a run ever took, which makes
/// the next runs fast; of a picture much larger than the others nothing should stay.
pub(super) struct ArenaPolicy {
    /// Pixels of the first run: the one that warms up, of usual pictures.
    usual: Option<u64>,
    keeping: RunOptions,
    shrinking: RunOptions,
}

impl ArenaPolicy {
    pub(super) fn new() -> ort::Result<Self> {
        let mut shrinking = RunOptions::new()?;
        shrinking.set("memory.enable_memory_arena_shrinkage", "cpu:0")?;
        Ok(Self {
            usual: None,
            keeping: RunOptions::new()?,
            shrinking,
        })
    }

    /// How to run this batch.
    pub(super) fn options(&mut self, batch: &[PreparedImage]) -> &RunOptions {
        let pixels = batch.iter().map(|picture| picture.size.pixels()).sum();
        if pixels > 2 * *self.usual.get_or_insert(pixels) {
            &self.shrinking
        } else {
            &self.keeping
        }
    }
}

impl Engine for OnnxSession {
    fn run(&mut self, batch: Vec<PreparedImage>) -> Result<Vec<Vec<Tensor>>, EngineError> {
        let count = batch.len();
        if count == 0 {
            return Ok(Vec::new());
        }
        let options = self.memory.options(&batch);
        let inputs = ort::inputs![input_tensor(batch)?];
        let outputs = self.session.run_with_options(inputs, options);
        let outputs = outputs.map_err(EngineError::Run)?;
        let mut pictures = vec![Vec::new(); count];
        for output in outputs.values() {
            let output = view(&output)?;
            for (index, picture) in pictures.iter_mut().enumerate() {
                picture.push(output.row(index, count)?.to_tensor());
            }
        }
        Ok(pictures)
    }
}

/// A batch of at least one picture as the networks' input `[N, 3, H, W] f32`.
pub(super) fn input_tensor(
    batch: Vec<PreparedImage>,
) -> Result<ort::value::Tensor<f32>, EngineError> {
    let size = batch.first().map_or((0, 0), |picture| {
        (picture.size.height as usize, picture.size.width as usize)
    });
    let shape = [batch.len(), 3, size.0, size.1];
    let tensor = ort::value::Tensor::from_array((shape, concatenate(batch)));
    tensor.map_err(EngineError::Run)
}

/// The numbers of a session's output.
pub(super) fn view(value: &DynValue) -> Result<TensorView<'_>, EngineError> {
    let sizes = |shape: &[i64]| shape.iter().map(|size| *size as usize).collect();
    // A tensor without elements has no memory to look at.
    if let Some(shape) = value
        .dtype()
        .tensor_shape()
        .filter(|shape| shape.contains(&0))
    {
        return Ok(TensorView {
            shape: sizes(shape),
            data: &[],
        });
    }
    let (shape, data) = value
        .try_extract_tensor::<f32>()
        .map_err(EngineError::Run)?;
    Ok(TensorView {
        shape: sizes(shape),
        data,
    })
}

/// The pictures' pixels one after the other; a batch of one is passed through without a copy.
fn concatenate(mut batch: Vec<PreparedImage>) -> Vec<f32> {
    if batch.len() == 1 {
        return batch.remove(0).data;
    }
    let mut data = Vec::with_capacity(batch.iter().map(|picture| picture.data.len()).sum());
    for picture in &batch {
        data.extend_from_slice(&picture.data);
    }
    data
}
