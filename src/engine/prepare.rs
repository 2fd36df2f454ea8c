//! Optimization of a model for this CPU, and the sessions that share its weights.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use onnx_export::{GraphReadError, HollowFile, read_initializers};
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, PrepackedWeights, SessionBuilder};
use ort::value::DynValue;
use ort_int8::Accelerated;

use super::onnx_runtime::{OnnxSession, commit};
use super::signature::check_signature;
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
        self.prepare_checked(model, check_signature)
    }

    /// Optimizes the second network of a detector, whose inputs are feature maps; see [`OnnxRuntime::prepare`].
    ///
    /// # Errors
    /// As [`OnnxRuntime::prepare`], except [`EngineError::Signature`].
    pub fn prepare_box_head(&self, model: &[u8]) -> Result<PreparedModel, EngineError> {
        self.prepare_checked(model, |_| Ok(None))
    }

    fn prepare_checked(
        &self,
        model: &[u8],
        check: impl Fn(&Session) -> Result<Option<usize>, EngineError>,
    ) -> Result<PreparedModel, EngineError> {
        let (optimized, fixed_batch) = self.optimize(model, check)?;
        let Accelerated {
            model: graph,
            operator_count: own_operators,
        } = self.accelerated(optimized);
        tracing::debug!(custom_int8_operators = own_operators, "model optimized");
        self.prepare_optimized(OptimizedGraph {
            graph,
            fixed_batch,
            own_operators,
        })
    }

    /// Reads the weights of a graph that [`OnnxRuntime::prepare`] or [`OnnxRuntime::prepare_box_head`] has optimized,
    /// in this process or in another one with the same library.
    ///
    /// # Errors
    /// [`EngineError::Graph`] if the graph cannot be parsed, [`EngineError::Load`] if ONNX Runtime rejects a tensor.
    pub fn prepare_optimized(
        &self,
        optimized: OptimizedGraph,
    ) -> Result<PreparedModel, EngineError> {
        let OptimizedGraph {
            graph,
            fixed_batch,
            own_operators,
        } = optimized;
        let mut weights = Vec::new();
        for tensor in read_initializers(&graph, MIN_SHARED_BYTES)? {
            let value = ort::value::Tensor::from_array((tensor.shape, tensor.data));
            let value = value.map_err(EngineError::Load)?.into_dyn();
            weights.push((tensor.name, Arc::new(value)));
        }
        Ok(PreparedModel {
            runtime: self.clone(),
            fixed_batch,
            own_operators,
            graph: Graph::Whole(graph),
            weights: weights.into(),
            prepacked: PrepackedWeights::new(),
        })
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

/// An optimized graph, in the form in which the child process returns it to the parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptimizedGraph<B = Vec<u8>> {
    /// Bytes of the optimized ONNX file.
    pub graph: B,
    /// The only batch size that the network accepts. `None` if its batch size is dynamic.
    pub fixed_batch: Option<usize>,
    /// Number of custom int8 operators in the graph.
    pub own_operators: usize,
}

/// An optimized model, from which sessions are created without optimizing again.
pub struct PreparedModel {
    runtime: OnnxRuntime,
    /// The only batch size that the network accepts. `None` if its batch size is dynamic.
    pub fixed_batch: Option<usize>,
    /// Number of custom int8 operators in the graph; 0 for fp32 models, and if custom operators are
    /// disabled.
    pub own_operators: usize,
    graph: Graph,
    /// Large weights by initializer name, shared by all sessions.
    weights: Arc<[(String, Arc<DynValue>)]>,
    prepacked: PrepackedWeights,
}

/// The optimized ONNX file of a [`PreparedModel`].
enum Graph {
    /// All bytes of the file.
    Whole(Vec<u8>),
    /// The file without the weights that all sessions share.
    Hollow(HollowFile),
}

impl Graph {
    /// Returns all bytes of the file. `weights` are the weights that all sessions share.
    fn bytes(&self, weights: &[(String, Arc<DynValue>)]) -> Result<Cow<'_, [u8]>, EngineError> {
        let file = match self {
            Self::Whole(bytes) => return Ok(Cow::Borrowed(bytes)),
            Self::Hollow(file) => file,
        };
        let mut elements = HashMap::with_capacity(weights.len());
        for (name, value) in weights {
            let (_, values) = value.try_extract_tensor().map_err(EngineError::Load)?;
            elements.entry(name.as_str()).or_insert(values);
        }
        let restored = file.restore(|name| elements.get(name).copied());
        let missing = |name: &str| GraphReadError::Missing {
            name: name.to_owned(),
        };
        Ok(Cow::Owned(restored.map_err(missing)?))
    }
}

impl PreparedModel {
    /// Returns the same model without a second copy of the weights that its sessions share. Creating a session from it
    /// copies these weights for the time of the creation.
    #[must_use]
    pub fn hollow(&self) -> Self {
        let graph = match &self.graph {
            Graph::Whole(bytes) => HollowFile::new(bytes, MIN_SHARED_BYTES),
            Graph::Hollow(file) => file.clone(),
        };
        Self {
            runtime: self.runtime.clone(),
            graph: Graph::Hollow(graph),
            weights: Arc::clone(&self.weights),
            prepacked: self.prepacked.clone(),
            ..*self
        }
    }

    /// Returns the optimized graph.
    ///
    /// # Errors
    /// [`EngineError::Load`] or [`EngineError::Graph`] if shared weights cannot be read back.
    pub fn optimized(&self) -> Result<OptimizedGraph<Cow<'_, [u8]>>, EngineError> {
        Ok(OptimizedGraph {
            graph: self.graph.bytes(&self.weights)?,
            fixed_batch: self.fixed_batch,
            own_operators: self.own_operators,
        })
    }

    /// Returns the thread count of the runtime that prepared the model.
    pub(crate) fn threads(&self) -> usize {
        self.runtime.threads()
    }

    /// Creates a session, which shares the weights with all other sessions of this model. It has the thread count of
    /// the runtime that prepared the model.
    ///
    /// # Errors
    /// [`EngineError::Load`] if ONNX Runtime rejects the graph.
    pub fn session(&self) -> Result<OnnxSession, EngineError> {
        self.session_with_threads(self.threads())
    }

    /// Creates a session as [`PreparedModel::session`] does, with `threads` threads.
    ///
    /// # Errors
    /// As [`PreparedModel::session`].
    pub(crate) fn session_with_threads(&self, threads: usize) -> Result<OnnxSession, EngineError> {
        OnnxSession::new(self.raw_session(threads)?).map_err(EngineError::Load)
    }

    /// Creates the session of a two-stage detector: this network proposes regions, `propose`
    /// selects some of them, and `box_head` classifies the selected regions. Both networks run on `threads` threads.
    ///
    /// # Errors
    /// [`EngineError::Load`] if ONNX Runtime rejects one of the two graphs,
    /// [`EngineError::Signature`] if this network lacks outputs that `box_head` reads.
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
        let builder = || {
            let builder = self.runtime.with_threads(threads).optimized_session()?;
            let mut builder = builder.with_prepacked_weights(&self.prepacked)?;
            for (name, value) in self.weights.iter() {
                builder = builder.with_initializer(name, Arc::clone(value))?;
            }
            Ok(builder)
        };
        let graph = self.graph.bytes(&self.weights)?;
        commit(builder().map_err(EngineError::Load)?, &graph)
    }
}
