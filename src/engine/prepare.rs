//! Optimization of a model for this CPU, and the sessions that share its weights.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use onnx_export::{DetachedFile, WeightTensor, attach, with_embedding};
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, PrepackedWeights, SessionBuilder};
use ort::value::DynValue;
use ort_int8::Accelerated;

use super::onnx_runtime::{OnnxSession, commit, commit_detached};
use super::signature::{check_embedding, check_signature};
use super::wide::{MeasuredScaling, Sessions, WideSessions};
use super::{EngineError, OnnxRuntime, Propose, TwoStageSession};
use crate::image::MAX_INPUT_PIXELS;

/// Maximum number of input elements for which the results of custom int8 operators are compared
/// with the results of ONNX Runtime. A model with a larger fixed input size runs without custom
/// operators.
const MAX_INPUT: usize = 3 * MAX_INPUT_PIXELS as usize;
/// Weights below this many bytes are not shared between sessions: sharing costs more than a copy.
const MIN_SHARED_BYTES: usize = 4096;

impl OnnxRuntime {
    /// Optimizes an image network for this CPU, once for all of its sessions.
    ///
    /// ONNX Runtime rewrites convolution weights into a blocked layout while it optimizes. If each
    /// session optimized the model, each would hold its own copy of the weights. So one session
    /// writes the optimized graph to memory, and the weights are read from there and shared by all
    /// other sessions.
    ///
    /// # Errors
    /// [`EngineError::External`] if a tensor is in another file, [`EngineError::Load`] if ONNX
    /// Runtime rejects the model, [`EngineError::Signature`] if its input is not a batch of images,
    /// [`EngineError::Share`] or [`EngineError::Graph`] if the optimized graph cannot be stored in
    /// memory or parsed.
    pub fn prepare(&self, model: &[u8]) -> Result<PreparedModel, EngineError> {
        self.prepare_checked(model, false, check_signature)
    }

    /// Optimizes a classification network, whose pooled features become the output [`EMBEDDING`](super::EMBEDDING) if it has them; see
    /// [`OnnxRuntime::prepare`]. No other network is needed for the features, and they cost a run nothing.
    ///
    /// # Errors
    /// As [`OnnxRuntime::prepare`].
    pub fn prepare_classifier(&self, model: &[u8]) -> Result<PreparedModel, EngineError> {
        if let Some(extended) = with_embedding(model) {
            let prepared = self.prepare_checked(&extended, true, |session| {
                check_embedding(session)?;
                check_signature(session)
            });
            match prepared {
                Ok(prepared) => return Ok(prepared),
                // The network may still be one without features.
                Err(error) => tracing::debug!(%error, "network without features"),
            }
        }
        self.prepare(model)
    }

    /// Optimizes the second network of a detector, whose inputs are feature maps; see [`OnnxRuntime::prepare`].
    ///
    /// # Errors
    /// As [`OnnxRuntime::prepare`], except [`EngineError::Signature`].
    pub fn prepare_box_head(&self, model: &[u8]) -> Result<PreparedModel, EngineError> {
        self.prepare_checked(model, false, |_| Ok(None))
    }

    /// Returns a text that identifies this library and its arithmetic: graphs that it optimizes are the same wherever the
    /// text is.
    pub fn identity(&self) -> String {
        let size = std::fs::metadata(self.library()).map_or(0, |file| file.len());
        format!("{}, {size} bytes, {:?}", ort::info(), self.arithmetic())
    }

    fn prepare_checked(
        &self,
        model: &[u8],
        has_embedding: bool,
        check: impl Fn(&Session) -> Result<Option<usize>, EngineError>,
    ) -> Result<PreparedModel, EngineError> {
        let (optimized, fixed_batch) = self.optimize(model, check)?;
        let Accelerated {
            model: graph,
            operator_count: own_operators,
        } = self.accelerated(optimized);
        tracing::debug!(custom_int8_operators = own_operators, "model optimized");
        self.prepare_optimized(OptimizedGraph {
            file: DetachedFile::new(&graph, MIN_SHARED_BYTES)?,
            fixed_batch,
            own_operators,
            has_embedding,
        })
    }

    /// Takes over a graph that [`OnnxRuntime::prepare`] or [`OnnxRuntime::prepare_box_head`] has optimized, in this
    /// process or in another one with the same library and thread count.
    ///
    /// # Errors
    /// [`EngineError::Load`] if ONNX Runtime rejects a tensor.
    pub fn prepare_optimized(
        &self,
        optimized: OptimizedGraph,
    ) -> Result<PreparedModel, EngineError> {
        let OptimizedGraph {
            file: DetachedFile { graph, weights },
            fixed_batch,
            own_operators,
            has_embedding,
        } = optimized;
        let shared = |WeightTensor { name, shape, data }| {
            let value = ort::value::Tensor::from_array((shape, data));
            Ok((name, Arc::new(value.map_err(EngineError::Load)?.into_dyn())))
        };
        let weights: Result<Vec<_>, EngineError> = weights.into_iter().map(shared).collect();
        Ok(PreparedModel {
            runtime: self.clone(),
            fixed_batch,
            own_operators,
            has_embedding,
            graph: graph.into(),
            weights: weights?.into(),
            prepacked: PrepackedWeights::new(),
            wide: None,
        }
        .widened())
    }

    /// Replaces operators of an optimized graph by custom int8 operators. Returns the graph unchanged if none can be
    /// replaced, or if results with and without custom operators differ or cannot be compared.
    fn accelerated(&self, optimized: Vec<u8>) -> Accelerated {
        let accelerated = ort_int8::accelerate(&optimized, MAX_INPUT, || {
            self.with_threads(1).session_builder()
        });
        match accelerated {
            Ok(Some(accelerated)) => return accelerated,
            Ok(None) => {}
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "custom int8 operators disabled: int8 inference will be slower"
            ),
        }
        Accelerated {
            model: optimized,
            operator_count: 0,
        }
    }

    /// Returns a builder of sessions for an optimized graph. These sessions do not optimize the
    /// graph again and provide the custom int8 operators.
    fn optimized_session(&self) -> ort::Result<SessionBuilder> {
        let builder = self.session_builder()?;
        let builder = builder.with_optimization_level(GraphOptimizationLevel::Disable)?;
        Ok(builder.with_operators(ort_int8::operators(self.threads())?)?)
    }

    /// Optimizes the model for this CPU. Returns the bytes of the optimized ONNX file, and the
    /// batch size that `check` returns for the model.
    fn optimize(
        &self,
        model: &[u8],
        check: impl Fn(&Session) -> Result<Option<usize>, EngineError>,
    ) -> Result<(Vec<u8>, Option<usize>), EngineError> {
        // ONNX Runtime writes the optimized model only to a path. An anonymous file in memory has a path even if the
        // whole file system is read-only.
        let memory = rustix::fs::memfd_create("optimized", rustix::fs::MemfdFlags::CLOEXEC)
            .map_err(|error| EngineError::Share(error.into()))?;
        let mut file = File::from(memory);
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let builder = self
            .with_threads(1)
            .session_builder()
            .map_err(EngineError::Load)?;
        let builder = builder.with_optimized_model_path(path);
        let builder = builder.map_err(|error| EngineError::Load(error.into()))?;
        let session = commit(builder, model)?;
        let fixed_batch = check(&session)?;
        drop(session);
        let mut graph = Vec::new();
        file.rewind()
            .and_then(|()| file.read_to_end(&mut graph))
            .map_err(EngineError::Share)?;
        Ok((graph, fixed_batch))
    }
}

/// An optimized graph, in the form in which it is passed between processes and stored in files.
#[derive(Debug, Clone, PartialEq)]
pub struct OptimizedGraph {
    /// The optimized ONNX file, with its large weights apart.
    pub file: DetachedFile,
    /// The only batch size that the network accepts. `None` if its batch size is dynamic.
    pub fixed_batch: Option<usize>,
    /// Number of custom int8 operators in the graph.
    pub own_operators: usize,
    /// Whether the output [`EMBEDDING`](super::EMBEDDING) of the network are its pooled features.
    pub has_embedding: bool,
}

impl OptimizedGraph {
    /// Returns the size of the file and its weights in bytes.
    pub fn bytes(&self) -> u64 {
        let weights = self.file.weights.iter();
        let weights: usize = weights.map(|weight| size_of_val(&weight.data[..])).sum();
        (self.file.graph.len() + weights) as u64
    }
}

/// A borrowed weight of a [`PreparedModel`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SharedWeight<'a> {
    /// Name of the initializer.
    pub name: &'a str,
    /// Sizes of the axes, outermost axis first.
    pub shape: &'a [i64],
    /// Elements in C order.
    pub data: &'a [f32],
}

/// An optimized model, from which sessions are created without optimizing again. Clones share the graph and the weights.
#[derive(Clone)]
pub struct PreparedModel {
    runtime: OnnxRuntime,
    /// The only batch size that the network accepts. `None` if its batch size is dynamic.
    pub fixed_batch: Option<usize>,
    /// Number of custom int8 operators in the graph; 0 for fp32 models, and if custom operators are
    /// disabled.
    pub own_operators: usize,
    /// Whether the output [`EMBEDDING`](super::EMBEDDING) of the network are its pooled features.
    pub has_embedding: bool,
    /// The optimized ONNX file without the elements of `weights`.
    graph: Arc<[u8]>,
    /// Large weights by initializer name, shared by all sessions.
    weights: Arc<[(String, Arc<DynValue>)]>,
    prepacked: PrepackedWeights,
    /// Sessions for runs that find idle cores. `None` outside of the server.
    wide: Option<Arc<WideSessions>>,
}

impl PreparedModel {
    /// Adds wide sessions, if the runtime's handle has cores for them.
    fn widened(self) -> Self {
        let cores = self.runtime.cores();
        let wide = cores.map(|cores| WideSessions::of(self.clone(), cores));
        Self { wide, ..self }
    }

    /// Returns the thread count of a session, including the calling thread.
    pub(super) fn threads(&self) -> usize {
        self.runtime.threads()
    }

    /// Sets the name with which the log mentions the network.
    pub fn set_name(&self, name: &str) {
        if let Some(wide) = &self.wide {
            wide.set_name(name);
        }
    }

    /// Returns the source of what was measured about runs on more threads.
    pub fn scaling(&self) -> MeasuredScaling {
        MeasuredScaling(self.wide.clone())
    }

    /// Returns the optimized ONNX file without the elements of [`PreparedModel::weights`].
    pub fn graph(&self) -> &[u8] {
        &self.graph
    }

    /// Returns the weights that are not in [`PreparedModel::graph`], in the order of the file.
    ///
    /// # Errors
    /// [`EngineError::Load`] if ONNX Runtime does not return the elements.
    pub fn weights(&self) -> Result<Vec<SharedWeight<'_>>, EngineError> {
        let weights = self.weights.iter().map(|(name, value)| {
            let (shape, data) = value.try_extract_tensor().map_err(EngineError::Load)?;
            Ok(SharedWeight { name, shape, data })
        });
        weights.collect()
    }

    /// Creates a session, which shares the weights with all other sessions of this model.
    ///
    /// # Errors
    /// [`EngineError::Load`] if ONNX Runtime rejects the graph.
    pub fn session(&self) -> Result<OnnxSession, EngineError> {
        OnnxSession::new(self.sessions()?, self.has_embedding).map_err(EngineError::Load)
    }

    /// Creates the session of a two-stage detector: this network proposes regions, `propose`
    /// selects some of them, and `box_head` classifies the selected regions.
    ///
    /// # Errors
    /// [`EngineError::Load`] if ONNX Runtime rejects one of the two graphs,
    /// [`EngineError::Signature`] if this network lacks outputs that `box_head` reads.
    pub fn two_stage_session(
        &self,
        box_head: &Self,
        propose: Arc<dyn Propose>,
    ) -> Result<TwoStageSession, EngineError> {
        let (features, boxes) = (self.sessions()?, box_head.sessions()?);
        TwoStageSession::new(features, boxes, propose)
    }

    fn sessions(&self) -> Result<Sessions, EngineError> {
        let wide = self.wide.as_ref().map(Arc::clone);
        Ok(Sessions::new(self.raw_session()?, wide))
    }

    /// Creates a session with `threads` threads that wait for each other without sleeping while a run lasts.
    ///
    /// # Errors
    /// As [`PreparedModel::session`].
    pub(super) fn spinning_session(&self, threads: usize) -> Result<Session, EngineError> {
        let runtime = self.runtime.with_threads(threads).with_spinning();
        let model = Self {
            runtime,
            ..self.clone()
        };
        model.raw_session()
    }

    fn raw_session(&self) -> Result<Session, EngineError> {
        let builder = self.session_builder().map_err(EngineError::Load)?;
        let error = match commit_detached(builder, &self.graph) {
            Ok(session) => return Ok(session),
            Err(error) => error,
        };
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            "graph without weights rejected: the session copies the weights while it is created"
        );
        self.attached_session()
    }

    /// Creates a session from a file that has all weights, for versions of ONNX Runtime that do not take the weights apart
    /// from the file. The session uses the shared weights and not those of the file.
    fn attached_session(&self) -> Result<Session, EngineError> {
        let weights: HashMap<_, _> = self.weights()?.iter().map(|w| (w.name, w.data)).collect();
        let file = attach(&self.graph, |name| weights.get(name).copied())?;
        let builder = self.session_builder().map_err(EngineError::Load)?;
        commit(builder, &file)
    }

    /// Returns a builder with the shared weights. ONNX Runtime uses them in place of the tensors of the file, whose
    /// elements it then neither needs nor reads. Its functions for external initializers would copy them.
    fn session_builder(&self) -> ort::Result<SessionBuilder> {
        let builder = self.runtime.optimized_session()?;
        let mut builder = builder.with_prepacked_weights(&self.prepacked)?;
        for (name, value) in self.weights.iter() {
            builder = builder.with_initializer(name, Arc::clone(value))?;
        }
        Ok(builder)
    }
}
