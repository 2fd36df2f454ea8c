//! ONNX Runtime: the library, a model optimised once, and the sessions that share its weights.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use onnx_export::formula;
use onnx_export::lower::lower;
use ort::environment::Environment;
use ort::session::builder::{GraphOptimizationLevel, PrepackedWeights, SessionBuilder};
use ort::session::{RunOptions, Session};
use ort::value::{DynValue, Outlet, TensorElementType, ValueType};

use super::operators::operators;
use super::{Engine, EngineError, LibraryError, Propose, Tensor, TensorView, TwoStageSession};
use crate::image::ImageTensor;
use crate::int8;

/// Weights below this many bytes are not worth sharing.
const MIN_SHARED_BYTES: usize = 4096;

/// Side of the picture with which kernels are compared.
const SAMPLE_SIDE: usize = 128;

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

    /// Optimises a model for this CPU, once, so that every session made of it shares its weights.
    ///
    /// ONNX Runtime rewrites convolution weights into a blocked layout while it optimises; sessions
    /// that each optimise would each hold a copy. So a first session writes the optimised graph to
    /// memory, its weights are read out of it, and the others are given those.
    ///
    /// # Errors
    /// [`EngineError::Load`] for a model that ONNX Runtime refuses, [`EngineError::Signature`] for
    /// one that does not take pictures.
    pub fn prepare(&self, model: &[u8]) -> Result<PreparedModel, EngineError> {
        self.prepare_checked(model, check_signature)
    }

    /// [`OnnxRuntime::prepare`] for the second network of a detector, which takes feature maps.
    ///
    /// # Errors
    /// [`EngineError::Load`] for a model that ONNX Runtime refuses.
    pub fn prepare_box_head(&self, model: &[u8]) -> Result<PreparedModel, EngineError> {
        self.prepare_checked(model, |_| Ok(None))
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

    fn prepare_checked(
        &self,
        model: &[u8],
        check: impl Fn(&Session) -> Result<Option<usize>, EngineError>,
    ) -> Result<PreparedModel, EngineError> {
        let (graph, fixed_batch) = self.optimise(model, check)?;
        let graph = self.lowered(graph)?;
        let mut weights = Vec::new();
        for tensor in onnx_export::read_initializers(&graph, MIN_SHARED_BYTES)? {
            let value = ort::value::Tensor::from_array((tensor.shape, tensor.data));
            let value = value.map_err(EngineError::Load)?.into_dyn();
            weights.push((tensor.name, Arc::new(value)));
        }
        Ok(PreparedModel {
            runtime: self.clone(),
            fixed_batch,
            graph,
            weights,
            prepacked: PrepackedWeights::new(),
        })
    }

    /// An optimised graph with Sightline's operators in it, if there is a use for them and they give the
    /// same results: those of another version of ONNX Runtime may round otherwise.
    fn lowered(&self, graph: Vec<u8>) -> Result<Vec<u8>, EngineError> {
        let Some(lowered) = lower(&graph, int8::is_supported())? else {
            return Ok(graph);
        };
        let run = |graph: &[u8]| -> ort::Result<Vec<Vec<u32>>> {
            let mut session = self.optimised_session(1)?.commit_from_memory(graph)?;
            let input = sample_input(&session)?;
            let outputs = session.run(ort::inputs![input])?;
            let bits = outputs.values().map(|output| {
                let (_, numbers) = output.try_extract_tensor::<f32>()?;
                Ok(numbers.iter().map(|number| number.to_bits()).collect())
            });
            bits.collect()
        };
        match (run(&graph), run(&lowered)) {
            (Ok(expected), Ok(got)) if got == expected => Ok(lowered),
            (_, got) => {
                let error = got.err().map(tracing::field::display);
                tracing::warn!(
                    error,
                    "int8 kernels of ONNX Runtime's own are used: others differ"
                );
                Ok(graph)
            }
        }
    }

    /// What sessions of an optimised graph have in common.
    fn optimised_session(&self, threads: usize) -> ort::Result<SessionBuilder> {
        let builder = self.session_builder(threads)?;
        let builder = builder.with_optimization_level(GraphOptimizationLevel::Disable)?;
        Ok(builder.with_operators(operators(threads)?)?)
    }

    /// The model after every optimisation, as the bytes of an ONNX file, and its batch size where
    /// that is fixed.
    fn optimise(
        &self,
        model: &[u8],
        check: impl Fn(&Session) -> Result<Option<usize>, EngineError>,
    ) -> Result<(Vec<u8>, Option<usize>), EngineError> {
        // ONNX Runtime writes to a path only; an anonymous file in memory has one, and works
        // where the whole file system is read-only.
        let memory = rustix::fs::memfd_create("optimised", rustix::fs::MemfdFlags::CLOEXEC)
            .map_err(|error| EngineError::Share(error.into()))?;
        let mut file = File::from(memory);
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let builder = self.session_builder(1).map_err(EngineError::Load)?;
        let builder = builder.with_optimized_model_path(path);
        let mut builder = builder.map_err(|error| EngineError::Load(error.into()))?;
        let session = builder
            .commit_from_memory(model)
            .map_err(EngineError::Load)?;
        let fixed_batch = check(&session)?;
        drop(session);
        let mut graph = Vec::new();
        file.rewind()
            .and_then(|()| file.read_to_end(&mut graph))
            .map_err(EngineError::Share)?;
        Ok((graph, fixed_batch))
    }
}

/// A model from which any number of sessions is made cheaply.
pub struct PreparedModel {
    runtime: OnnxRuntime,
    /// The only batch size that the network takes, where it was exported with one.
    pub fixed_batch: Option<usize>,
    graph: Vec<u8>,
    weights: Vec<(String, Arc<DynValue>)>,
    prepacked: PrepackedWeights,
}

impl PreparedModel {
    /// A session that runs on `threads` threads (the caller's among them) and shares the weights.
    ///
    /// # Errors
    /// [`EngineError::Load`] if ONNX Runtime refuses.
    pub fn session(&self, threads: usize) -> Result<OnnxSession, EngineError> {
        Ok(OnnxSession {
            session: self.raw_session(threads)?,
            memory: ArenaPolicy::new().map_err(EngineError::Load)?,
        })
    }

    /// The session of this network and of the box head that looks into what `propose` chooses.
    ///
    /// # Errors
    /// [`EngineError::Load`] if ONNX Runtime refuses, [`EngineError::Signature`] if the two do not
    /// fit each other.
    pub fn two_stage_session(
        &self,
        box_head: &Self,
        propose: Arc<dyn Propose>,
        threads: usize,
    ) -> Result<TwoStageSession, EngineError> {
        let (features, boxes) = (self.raw_session(threads)?, box_head.raw_session(threads)?);
        TwoStageSession::new(features, boxes, propose)
    }

    fn raw_session(&self, threads: usize) -> Result<Session, EngineError> {
        let load = |threads| {
            let builder = self.runtime.optimised_session(threads)?;
            let mut builder = builder.with_prepacked_weights(&self.prepacked)?;
            if let Ok(p) = std::env::var("SL_PROFILE") {
                builder = builder.with_profiling(p)?;
            }
            for (name, value) in &self.weights {
                builder = builder.with_initializer(name, Arc::clone(value))?;
            }
            builder.commit_from_memory(&self.graph)
        };
        load(threads).map_err(EngineError::Load)
    }
}

/// One session, owned by one worker.
pub struct OnnxSession {
    session: Session,
    memory: ArenaPolicy,
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
    pub(super) fn options(&mut self, batch: &[ImageTensor]) -> &RunOptions {
        let pixels = batch.iter().map(|picture| picture.size.pixels()).sum();
        if pixels > 2 * *self.usual.get_or_insert(pixels) {
            &self.shrinking
        } else {
            &self.keeping
        }
    }
}

impl Engine for OnnxSession {
    fn run(&mut self, batch: Vec<ImageTensor>) -> Result<Vec<Vec<Tensor>>, EngineError> {
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
    batch: Vec<ImageTensor>,
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
fn concatenate(mut batch: Vec<ImageTensor>) -> Vec<f32> {
    if batch.len() == 1 {
        return batch.remove(0).data;
    }
    let mut data = Vec::with_capacity(batch.iter().map(|picture| picture.data.len()).sum());
    for picture in &batch {
        data.extend_from_slice(&picture.data);
    }
    data
}

/// Refuses networks that do not read one `[N, 3, H, W] f32` and write `[N, ...] f32`.
/// Gives the batch size where the network was exported with a fixed one.
fn check_signature(session: &Session) -> Result<Option<usize>, EngineError> {
    let show = |outlet: &Outlet| format!("`{}` {:?}", outlet.name(), outlet.dtype());
    let is_float = |outlet: &Outlet| {
        matches!(
            outlet.dtype(),
            ValueType::Tensor {
                ty: TensorElementType::Float32,
                ..
            }
        )
    };
    let is_picture = |outlet: &Outlet| {
        let ValueType::Tensor {
            ty: TensorElementType::Float32,
            shape,
            ..
        } = outlet.dtype()
        else {
            return false;
        };
        shape.len() == 4 && matches!(shape[1], 3 | -1)
    };
    match session.inputs() {
        [input] if is_picture(input) => {}
        inputs => {
            let got = inputs.iter().map(show).collect::<Vec<_>>().join(", ");
            return Err(EngineError::Signature {
                what: "input",
                expected: "one [N, 3, H, W] f32",
                got,
            });
        }
    }
    match session.outputs().iter().find(|output| !is_float(output)) {
        None => Ok(fixed_batch(session)),
        Some(output) => {
            let got = show(output);
            Err(EngineError::Signature {
                what: "output",
                expected: "[N, ...] f32",
                got,
            })
        }
    }
}

/// One picture without a pattern, of [`SAMPLE_SIDE`] where the network takes any size.
fn sample_input(session: &Session) -> ort::Result<ort::value::Tensor<f32>> {
    let input = session.inputs().first();
    let shape = input.and_then(|input| input.dtype().tensor_shape());
    let usual = [1, 3, SAMPLE_SIDE, SAMPLE_SIDE];
    let sizes = shape.into_iter().flat_map(|shape| shape.iter()).zip(usual);
    let sizes: Vec<usize> = sizes
        .map(|(size, usual)| usize::try_from(*size).unwrap_or(usual))
        .collect();
    let numbers = formula::uniform("sample", sizes.iter().product());
    let numbers: Vec<f32> = numbers.map(|number| 2.0 * number).collect();
    ort::value::Tensor::from_array((sizes, numbers))
}

/// The input's batch size, where it is not left open.
fn fixed_batch(session: &Session) -> Option<usize> {
    match session.inputs().first()?.dtype() {
        ValueType::Tensor { shape, .. } => usize::try_from(*shape.first()?).ok(),
        _ => None,
    }
}
