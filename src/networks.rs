//! A model's networks, optimised once, and the engines that are made of them.

use std::sync::Arc;

use crate::engine::{Engine, EngineError, OnnxRuntime, PreparedModel, Propose};
use crate::postprocess::detect::Detector;
use crate::registry::LoadReason;
use crate::store::ModelSource;

/// Networks from which any number of engines is made cheaply.
pub struct Networks {
    network: PreparedModel,
    /// The second stage of a detector, and what chooses its regions.
    box_head: Option<(PreparedModel, Arc<dyn Propose>)>,
}

impl Networks {
    /// Reads and optimises the networks of `source`, whose `detector` is what its manifest describes.
    ///
    /// # Errors
    /// [`LoadReason`] if a file cannot be read or is not what the manifest says.
    pub fn prepare(
        source: &ModelSource,
        detector: Option<&Detector>,
        runtime: &OnnxRuntime,
    ) -> Result<Self, LoadReason> {
        let graphs = source.graphs()?;
        let propose = detector.and_then(Detector::proposer);
        let box_head = match (graphs.box_head, propose) {
            (Some(graph), Some(propose)) => Some((runtime.prepare_box_head(&graph)?, propose)),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => return Err(LoadReason::Stages),
        };
        Ok(Self {
            network: runtime.prepare(&graphs.network)?,
            box_head,
        })
    }

    /// The only batch size that the network takes, where it was exported with one.
    pub fn fixed_batch(&self) -> Option<usize> {
        self.network.fixed_batch
    }

    /// How many of the networks' nodes run in kernels of Sightline's.
    pub fn own_operators(&self) -> usize {
        let box_head = self.box_head.as_ref();
        self.network.own_operators + box_head.map_or(0, |(network, _)| network.own_operators)
    }

    /// An engine whose sessions run on `threads` threads, the caller's among them.
    ///
    /// # Errors
    /// [`EngineError`] if ONNX Runtime refuses.
    pub fn engine(&self, threads: usize) -> Result<Box<dyn Engine>, EngineError> {
        let Some((box_head, propose)) = &self.box_head else {
            return Ok(Box::new(self.network.session(threads)?));
        };
        let propose = Arc::clone(propose);
        Ok(Box::new(
            self.network.two_stage_session(box_head, propose, threads)?,
        ))
    }
}
