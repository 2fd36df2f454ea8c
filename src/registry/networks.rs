//! The networks of a model, which are optimized once, and the engines that share their weights.

use std::sync::Arc;

use onnx_export::{Role, Stages};

use super::LoadReason;
use crate::engine::{
    Engine, EngineError, MeasuredScaling, OnnxRuntime, OptimizedGraph, PreparedModel, Propose,
};
use crate::manifest::Task;
use crate::postprocess::detect::Detector;
use crate::store::ModelSource;

/// The optimized stages of a model. All engines created from them, and from clones, share their weights.
#[derive(Clone)]
pub struct Networks {
    stages: Stages<PreparedModel>,
    /// Selects the region proposals of a two-stage detector. `None` for models with one stage.
    propose: Option<Arc<dyn Propose>>,
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
        let task = source.manifest.task;
        Self::join(source.graphs()?, detector, |role, graph| match role {
            Role::Network if task == Task::Classification => runtime.prepare_classifier(&graph),
            Role::Network => runtime.prepare(&graph),
            Role::BoxHead => runtime.prepare_box_head(&graph),
        })
    }

    /// Joins the stages of a model that [`Networks::prepare`] has optimized, in this process or in
    /// another one with the same library and thread count.
    ///
    /// # Errors
    /// [`LoadReason`] if a graph cannot be loaded, or if the stages do not fit the architecture.
    pub fn prepare_optimized(
        graphs: Stages<OptimizedGraph>,
        detector: Option<&Detector>,
        runtime: &OnnxRuntime,
    ) -> Result<Self, LoadReason> {
        Self::join(graphs, detector, |_, graph| {
            runtime.prepare_optimized(graph)
        })
    }

    /// Checks that the model has the stages of its architecture, and prepares each with `prepare`.
    fn join<G>(
        graphs: Stages<G>,
        detector: Option<&Detector>,
        prepare: impl FnMut(Role, G) -> Result<PreparedModel, EngineError>,
    ) -> Result<Self, LoadReason> {
        let propose = detector.and_then(Detector::proposer);
        let expected = propose.is_some();
        if graphs.get(Role::BoxHead).is_some() != expected {
            return Err(LoadReason::Stages { expected });
        }
        Ok(Self {
            stages: graphs.try_map(prepare)?,
            propose,
        })
    }

    /// Returns the optimized stages.
    pub fn stages(&self) -> &Stages<PreparedModel> {
        &self.stages
    }

    /// Returns the only batch size that the model's first stage accepts. `None` if the stage
    /// accepts any batch size.
    pub fn fixed_batch(&self) -> Option<usize> {
        self.stages.network().fixed_batch
    }

    /// Returns whether the outputs of the engines' [`Engine::embed`] end with the pooled features of the images.
    pub fn has_embedding(&self) -> bool {
        self.stages.network().has_embedding
    }

    /// Sets the name with which the log mentions the networks.
    pub fn set_name(&self, name: &str) {
        for stage in self.stages.iter() {
            stage.content.set_name(name);
        }
    }

    /// Returns the source of what was measured about runs of the first stage on more threads.
    pub fn scaling(&self) -> MeasuredScaling {
        self.stages.network().scaling()
    }

    /// Returns the number of nodes of all stages that run in Sightline's custom int8 kernels; 0 for
    /// fp32 models.
    pub fn own_operators(&self) -> usize {
        let stages = self.stages.iter();
        stages.map(|stage| stage.content.own_operators).sum()
    }

    /// Creates an engine with new sessions, which share the weights of this model's other engines.
    ///
    /// # Errors
    /// [`EngineError`] if ONNX Runtime cannot create a session, or if the stages do not fit each
    /// other.
    pub fn engine(&self) -> Result<Box<dyn Engine>, EngineError> {
        let network = self.stages.network();
        Ok(match (self.stages.get(Role::BoxHead), &self.propose) {
            (Some(box_head), Some(propose)) => {
                Box::new(network.two_stage_session(box_head, Arc::clone(propose))?)
            }
            _ => Box::new(network.session()?),
        })
    }
}
