//! The ONNX Runtime library, and sessions of one network.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use onnx_export::{reject_external_data, reject_foreign_data};
use ort::environment::Environment;
use ort::session::builder::SessionBuilder;
use ort::session::{RunOptions, Session};
use ort::value::{DynValue, TensorRef};

use super::library;
use super::outputs::{extract, split};
use super::stop::SharedOptions;
use super::wide::Sessions;
use super::{EMBEDDING, Engine, EngineError, LibraryError, Output, Outputs, StopRuns, TensorView};
use crate::cores::Cores;
use crate::image::{Planes, PreparedImage};

/// ONNX Runtime's environment, and the path of its library; a process can create only one environment.
static ENVIRONMENT: OnceLock<(Environment, Arc<Path>)> = OnceLock::new();

/// The loaded ONNX Runtime library, with the settings of the sessions that it creates.
#[derive(Debug, Clone)]
pub struct OnnxRuntime {
    environment: Environment,
    library: Arc<Path>,
    plan: SessionPlan,
    /// Cores that runs may take while they are idle. `None` outside of the server.
    cores: Option<Arc<Cores>>,
}

/// Thread count and int8 arithmetic of new sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SessionPlan {
    /// Thread count of the session, including the calling thread.
    threads: usize,
    /// Whether threads that wait for others within a run spin instead of sleeping.
    spins: bool,
    arithmetic: Arithmetic,
}

impl Default for SessionPlan {
    fn default() -> Self {
        Self {
            threads: 1,
            spins: false,
            arithmetic: Arithmetic::Kernels,
        }
    }
}

/// How sessions compute int8 networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// int8 layers run on the integer kernels of this CPU, as when requests are served.
    Kernels,
    /// int8 layers are simulated in fp32: each `QuantizeLinear` and `DequantizeLinear` node of the
    /// file is executed, and the layers between these nodes compute in fp32. The results stand for
    /// any CPU whose integer kernels do not overflow.
    Simulated,
}

impl OnnxRuntime {
    /// Loads the library at `path`. A process loads only one library: later calls ignore `path` and
    /// return the library that was loaded first.
    ///
    /// # Errors
    /// [`EngineError::Library`] if the file is not a library for this CPU, or its version is too
    /// old.
    pub fn load(path: &Path) -> Result<Self, EngineError> {
        if let Some(loaded) = ENVIRONMENT.get() {
            return Ok(Self::of(loaded));
        }
        library::check(path)?;
        let unusable = |reason: String| LibraryError::Unusable {
            path: path.to_path_buf(),
            reason,
        };
        let builder = ort::init_from(path).map_err(|error| unusable(error.to_string()))?;
        let builder = builder.with_name("sightline").with_telemetry(false);
        let environment = builder
            .build()
            .map_err(|error| unusable(error.to_string()))?;
        let loaded = ENVIRONMENT.get_or_init(|| (environment, path.into()));
        Ok(Self::of(loaded))
    }

    fn of((environment, library): &(Environment, Arc<Path>)) -> Self {
        Self {
            environment: environment.clone(),
            library: Arc::clone(library),
            plan: SessionPlan::default(),
            cores: None,
        }
    }

    /// Returns the path of the library.
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// Returns a handle to the same library that creates sessions with `arithmetic`.
    #[must_use]
    pub fn with_arithmetic(&self, arithmetic: Arithmetic) -> Self {
        let plan = SessionPlan {
            arithmetic,
            ..self.plan
        };
        Self {
            plan,
            ..self.clone()
        }
    }

    /// Returns a handle to the same library that creates sessions with `threads` threads, including the calling
    /// thread. The default of [`OnnxRuntime::load`] is 1.
    #[must_use]
    pub fn with_threads(&self, threads: usize) -> Self {
        let plan = SessionPlan {
            threads,
            ..self.plan
        };
        Self {
            plan,
            ..self.clone()
        }
    }

    /// Returns a handle to the same library for models whose runs may take idle ones of `cores`.
    #[must_use]
    pub fn with_cores(&self, cores: Arc<Cores>) -> Self {
        Self {
            cores: Some(cores),
            ..self.clone()
        }
    }

    /// Returns a handle to the same library that creates sessions whose threads spin while a run lasts, and sleep
    /// between runs. Threads that sleep within a run are woken too late to gain much.
    #[must_use]
    pub(super) fn with_spinning(&self) -> Self {
        let plan = SessionPlan {
            spins: true,
            ..self.plan
        };
        Self {
            plan,
            ..self.clone()
        }
    }

    /// Returns the cores that runs may take while they are idle. `None` outside of the server.
    pub(super) fn cores(&self) -> Option<&Arc<Cores>> {
        self.cores.as_ref()
    }

    /// Returns the thread count of new sessions, including the calling thread.
    pub(super) fn threads(&self) -> usize {
        self.plan.threads
    }

    /// Returns how new sessions compute int8 networks.
    pub(super) fn arithmetic(&self) -> Arithmetic {
        self.plan.arithmetic
    }

    /// Returns a session builder with the thread count and arithmetic of this handle. Between runs, threads sleep.
    pub(super) fn session_builder(&self) -> ort::Result<SessionBuilder> {
        let builder = Session::builder(&self.environment)?
            // Without this entry, ONNX Runtime reads a file with the mark `ORTM` as its own format,
            // in which `commit` does not search for external data.
            .with_config_entry("session.load_model_format", "ONNX")?
            .with_intra_threads(self.plan.threads)?
            .with_intra_op_spinning(self.plan.spins)?
            // Ends the spinning with the run.
            .with_config_entry("session.force_spinning_stop", "1")?
            .with_inter_op_spinning(false)?;
        Ok(match self.plan.arithmetic {
            Arithmetic::Kernels => builder,
            Arithmetic::Simulated => builder.with_config_entry("session.disable_quant_qdq", "1")?,
        })
    }
}

/// Creates a session from the bytes of an ONNX file. Only this function and [`commit_detached`] do so: ONNX
/// Runtime would look for tensors in other files ("external data") in the current directory, so a
/// model could read files that are not its own.
///
/// # Errors
/// [`EngineError::External`] if a tensor is in another file, [`EngineError::Load`] if ONNX Runtime
/// rejects the model.
pub(super) fn commit(mut builder: SessionBuilder, model: &[u8]) -> Result<Session, EngineError> {
    reject_external_data(model)?;
    builder.commit_from_memory(model).map_err(EngineError::Load)
}

/// Creates a session from the graph of a [`DetachedFile`](onnx_export::DetachedFile), whose weights `builder` has.
///
/// # Errors
/// As [`commit`].
pub(super) fn commit_detached(
    mut builder: SessionBuilder,
    graph: &[u8],
) -> Result<Session, EngineError> {
    reject_foreign_data(graph)?;
    builder.commit_from_memory(graph).map_err(EngineError::Load)
}

/// A session of a model with one stage, owned by one worker.
pub struct OnnxSession {
    sessions: Sessions,
    memory: ArenaPolicy,
    /// Whether the last output is the embedding, which is read for the images only that need it.
    has_embedding: bool,
}

impl OnnxSession {
    pub(super) fn new(sessions: Sessions, has_embedding: bool) -> ort::Result<Self> {
        Ok(Self {
            sessions,
            memory: ArenaPolicy::new()?,
            has_embedding,
        })
    }

    /// Runs images of one size as a batch. `embeds` says for the index of an image whether its embedding is read.
    fn run_batch(
        &mut self,
        batch: Vec<PreparedImage>,
        embeds: impl Fn(usize) -> bool,
    ) -> Result<Vec<Outputs>, EngineError> {
        let count = batch.len();
        if count == 0 {
            return Ok(Vec::new());
        }
        let options = self.memory.options(&batch);
        let pixels = batch.iter().map(|image| image.size.pixels()).sum();
        // Declared before the outputs, because an output can be the input itself.
        let input = BatchInput::new(batch);
        let inputs = ort::inputs![input.view()?];
        let (mut session, run) = self.sessions.begin(pixels);
        let outputs = session.run_with_options(inputs, options);
        let outputs = outputs.map_err(EngineError::Run)?;
        run.succeeded();
        let mut images = vec![Outputs::default(); count];
        let all = |_: usize| true;
        for (name, value) in &outputs {
            let is_embedding = self.has_embedding && name == EMBEDDING;
            let wanted: &dyn Fn(usize) -> bool = if is_embedding { &embeds } else { &all };
            let name: Arc<str> = name.into();
            for (index, values) in split(&name, &value, count, wanted)? {
                let name = Arc::clone(&name);
                images[index].push(Output { name, values });
            }
        }
        Ok(images)
    }
}

/// Decides whether a run returns memory to the operating system. ONNX Runtime keeps the memory of its largest
/// run, which makes later runs fast, but must not keep the memory of a single unusually large image.
pub(super) struct ArenaPolicy {
    /// Number of pixels in the first batch, which warms the session up with images of the usual size. `None` before
    /// that batch.
    usual: Option<u64>,
    options: Arc<SharedOptions>,
}

impl ArenaPolicy {
    pub(super) fn new() -> ort::Result<Self> {
        Ok(Self {
            usual: None,
            options: SharedOptions::new()?,
        })
    }

    /// Returns the handle that stops runs with these options.
    pub(super) fn stop_handle(&self) -> Arc<dyn StopRuns> {
        Arc::clone(&self.options) as Arc<dyn StopRuns>
    }

    /// Returns the options for the run of `batch`, which returns its memory to the operating system
    /// if the batch has more than twice the pixels of the first batch of the session.
    pub(super) fn options(&mut self, batch: &[PreparedImage]) -> &RunOptions {
        let pixels = batch.iter().map(|image| image.size.pixels()).sum();
        if pixels > 2 * *self.usual.get_or_insert(pixels) {
            &self.options.shrinking
        } else {
            &self.options.keeping
        }
    }
}

impl Engine for OnnxSession {
    fn run(&mut self, batch: Vec<PreparedImage>) -> Result<Vec<Outputs>, EngineError> {
        self.run_batch(batch, |_| false)
    }

    fn embed(
        &mut self,
        batch: Vec<PreparedImage>,
        wanted: &[bool],
    ) -> Result<Vec<Outputs>, EngineError> {
        self.run_batch(batch, |index| wanted.get(index) == Some(&true))
    }

    fn stop_handle(&self) -> Arc<dyn StopRuns> {
        self.memory.stop_handle()
    }
}

/// The input `[N, 3, H, W] f32` of a network. It must outlive the outputs of the run, because an output can be the input
/// itself.
pub(super) struct BatchInput {
    shape: [usize; 4],
    data: Planes,
}

impl BatchInput {
    /// Joins the images of a batch, at least one and all of one size.
    pub(super) fn new(batch: Vec<PreparedImage>) -> Self {
        let size = batch.first().map_or((0, 0), |image| {
            (image.size.height as usize, image.size.width as usize)
        });
        Self {
            shape: [batch.len(), 3, size.0, size.1],
            data: concatenate(batch),
        }
    }

    /// Returns the input as a tensor of ONNX Runtime, without a copy.
    ///
    /// # Errors
    /// [`EngineError::Run`] if the images do not have as many values as their size states.
    pub(super) fn view(&self) -> Result<TensorRef<'_, f32>, EngineError> {
        TensorRef::from_array_view((self.shape, &*self.data)).map_err(EngineError::Run)
    }
}

/// Borrows the `f32` elements of a session's output.
pub(super) fn view(value: &DynValue) -> Result<TensorView<'_>, EngineError> {
    let (shape, data) = extract::<f32>(value)?;
    Ok(TensorView { shape, data })
}

/// Concatenates the elements of all images in batch order. A batch of one image is not copied.
fn concatenate(mut batch: Vec<PreparedImage>) -> Planes {
    if batch.len() == 1 {
        return batch.remove(0).data;
    }
    let mut data: Vec<f32> = Vec::with_capacity(batch.iter().map(|image| image.data.len()).sum());
    for image in &batch {
        data.extend_from_slice(&image.data);
    }
    data.into()
}
