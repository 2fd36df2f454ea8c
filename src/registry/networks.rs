//! The networks of a model, which are optimized once, and the engines that share their weights.

use std::sync::Arc;

use onnx_export::Role;

use super::LoadReason;
use crate::engine::{Engine, EngineError, OnnxRuntime, PreparedModel, Propose};
use crate::postprocess::detect::Detector;
use crate::store::ModelSource;

/// The optimized stages of a model. All engines created from them share their weights.
pub struct Networks {
    network: PreparedModel,
    /// The second stage of a two-stage detector, and the selection of region proposals for it.
    /// `None` for models with one stage.
    box_head: Option<(PreparedModel, Arc<dyn Propose>)>,
}

impl Networks {
    /// Reads and optimizes the stages of `source`. `detector` is the postprocessing of a detection
    /// model, `None` for other tasks.
    ///
    /// # Errors
    /// [`LoadReason`] if a file cannot be read or loaded, or if the stages do not fit the
    /// architecture.
    pub fn prepare(
        source: &ModelSource,
        detector: Option<&Detector>,
        runtime: &OnnxRuntime,
    ) -> Result<Self, LoadReason> {
        let graphs = source.graphs()?;
        let propose = detector.and_then(Detector::proposer);
        let box_head = match (graphs.get(Role::BoxHead), propose) {
            (Some(graph), Some(propose)) => Some((runtime.prepare_box_head(graph)?, propose)),
            (None, None) => None,
            (graph, _) => {
                let expected = graph.is_none();
                return Err(LoadReason::Stages { expected });
            }
        };
        Ok(Self {
            network: runtime.prepare(graphs.network())?,
            box_head,
        })
    }

    /// Returns the only batch size that the model's first stage accepts. `None` if the stage
    /// accepts any batch size.
    pub fn fixed_batch(&self) -> Option<usize> {
        self.network.fixed_batch
    }

    /// Returns the number of nodes of all stages that run in Sightline's custom int8 kernels; 0 for
    /// fp32 models.
    pub fn own_operators(&self) -> usize {
        let box_head = self.box_head.as_ref();
        self.network.own_operators + box_head.map_or(0, |(network, _)| network.own_operators)
    }

    /// Creates an engine with new sessions, which share the weights of this model's other engines.
    ///
    /// # Errors
    /// [`EngineError`] if ONNX Runtime cannot create a session, or if the stages do not fit each
    /// other.
    pub fn engine(&self) -> Result<Box<dyn Engine>, EngineError> {
        let Some((box_head, propose)) = &self.box_head else {
            return Ok(Box::new(self.network.session()?));
        };
        let propose = Arc::clone(propose);
        Ok(Box::new(self.network.two_stage_session(box_head, propose)?))
    }
}
