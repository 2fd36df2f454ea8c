//! A model optimised for this CPU once, and the sessions that share its weights.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use onnx_export::lower::RuntimeGraph;
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, PrepackedWeights, SessionBuilder};
use ort::value::DynValue;

use super::onnx_runtime::OnnxSession;
use super::operators::operators;
use super::signature::{check_signature, sample_input};
use super::{EngineError, OnnxRuntime, Propose, TwoStageSession};
use crate::int8;

/// Weights below this many bytes are not worth sharing.
const MIN_SHARED_BYTES: usize = 4096;

impl OnnxRuntime {
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

    fn prepare_checked(
        &self,
        model: &[u8],
        check: impl Fn(&Session) -> Result<Option<usize>, EngineError>,
    ) -> Result<PreparedModel, EngineError> {
        let (bytes, fixed_batch) = self.optimise(model, check)?;
        let graph = RuntimeGraph::read(&bytes)?;
        let lowered = self.lowered(&graph, &bytes);
        let (graph, bytes) = lowered.unwrap_or((graph, bytes));
        let own_operators = graph.own_operators();
        tracing::debug!(own_operators, "model optimised");
        let mut weights = Vec::new();
        for tensor in graph.into_weights(MIN_SHARED_BYTES)? {
            let value = ort::value::Tensor::from_array((tensor.shape, tensor.data));
            let value = value.map_err(EngineError::Load)?.into_dyn();
            weights.push((tensor.name, Arc::new(value)));
        }
        Ok(PreparedModel {
            runtime: self.clone(),
            fixed_batch,
            own_operators,
            graph: bytes,
            weights,
            prepacked: PrepackedWeights::new(),
        })
    }

    /// An optimised graph with Sightline's operators in it, and its bytes, if there is a use for them and they
    /// give the same results as `bytes`, which another version of ONNX Runtime may round otherwise.
    fn lowered(&self, graph: &RuntimeGraph, bytes: &[u8]) -> Option<(RuntimeGraph, Vec<u8>)> {
        let lowered = graph.lowered(int8::is_supported())?;
        let lowered_bytes = lowered.to_bytes();
        match self.compare(bytes, &lowered_bytes) {
            Ok(true) => return Some((lowered, lowered_bytes)),
            Ok(false) => tracing::warn!(
                "this version of ONNX Runtime rounds 8-bit numbers otherwise: it computes them alone, slower"
            ),
            Err(error) => tracing::warn!(
                %error,
                "8-bit kernels could not be compared: ONNX Runtime computes alone, slower"
            ),
        }
        None
    }

    /// Whether two optimised graphs give the same of a sample, to the bit.
    fn compare(&self, one: &[u8], other: &[u8]) -> ort::Result<bool> {
        Ok(self.sample_bits(one)? == self.sample_bits(other)?)
    }

    /// The bits of what an optimised graph computes of a sample.
    fn sample_bits(&self, graph: &[u8]) -> ort::Result<Vec<Vec<u32>>> {
        let mut session = self.optimised_session(1)?.commit_from_memory(graph)?;
        let input = sample_input(&session)?;
        let outputs = session.run(ort::inputs![input])?;
        let bits = outputs.values().map(|output| {
            let (_, numbers) = output.try_extract_tensor::<f32>()?;
            Ok(numbers.iter().map(|number| number.to_bits()).collect())
        });
        bits.collect()
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
    /// How many of its nodes are operators of Sightline's: of int8 networks, as far as the CPU has what they need.
    pub own_operators: usize,
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
        OnnxSession::new(self.raw_session(threads)?).map_err(EngineError::Load)
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
            for (name, value) in &self.weights {
                builder = builder.with_initializer(name, Arc::clone(value))?;
            }
            builder.commit_from_memory(&self.graph)
        };
        load(threads).map_err(EngineError::Load)
    }
}
