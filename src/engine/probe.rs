//! Sessions that answer with whole tensors, whatever a network's outputs: for calibration and
//! comparison, not for serving.

use std::sync::Arc;

use ort::session::{Session, SessionOutputs};

use super::onnx_runtime::{input_tensor, view};
use super::{EngineError, OnnxRuntime, Propose, Tensor, TwoStageSession};
use crate::image::PreparedImage;

/// A network under observation.
pub struct Probe {
    stage: Stage,
    outputs: Vec<String>,
}

enum Stage {
    First(Session),
    Second(TwoStageSession),
}

impl OnnxRuntime {
    /// A session of a network that reads pictures.
    ///
    /// # Errors
    /// [`EngineError::Load`] for a model that ONNX Runtime refuses.
    pub fn probe(&self, model: &[u8], threads: usize) -> Result<Probe, EngineError> {
        let session = self.observed_session(model, threads)?;
        Ok(Probe {
            outputs: names(&session),
            stage: Stage::First(session),
        })
    }

    /// A session of a detector's second network, fed by the first one and `propose`.
    ///
    /// # Errors
    /// [`EngineError::Load`] for a model that ONNX Runtime refuses, [`EngineError::Signature`] if
    /// the two do not fit each other.
    pub fn probe_box_head(
        &self,
        (features, propose): (&[u8], Arc<dyn Propose>),
        box_head: &[u8],
        threads: usize,
    ) -> Result<Probe, EngineError> {
        let features = self.observed_session(features, threads)?;
        let boxes = self.observed_session(box_head, threads)?;
        Ok(Probe {
            outputs: names(&boxes),
            stage: Stage::Second(TwoStageSession::new(features, boxes, propose)?),
        })
    }

    fn observed_session(&self, model: &[u8], threads: usize) -> Result<Session, EngineError> {
        let load = || self.session_builder(threads)?.commit_from_memory(model);
        load().map_err(EngineError::Load)
    }
}

fn names(session: &Session) -> Vec<String> {
    let outputs = session.outputs().iter();
    outputs.map(|output| output.name().to_owned()).collect()
}

impl Probe {
    /// Every output for one picture, in the network's order; nothing where a second network had
    /// no regions to look into.
    ///
    /// # Errors
    /// [`EngineError`] if ONNX Runtime fails, or no regions can be chosen.
    pub fn run(&mut self, picture: PreparedImage) -> Result<Option<Vec<Tensor>>, EngineError> {
        let outputs = &self.outputs;
        match &mut self.stage {
            Stage::First(session) => {
                // Lent, since an output may be the input itself: it must outlive what is read.
                let input = input_tensor(vec![picture])?;
                let values = session.run(ort::inputs![&input]);
                let values = values.map_err(EngineError::Run)?;
                read(outputs, &values).map(Some)
            }
            Stage::Second(session) => {
                let (_, answer) =
                    session.run_stages(vec![picture], |heads| read(outputs, heads))?;
                Ok(answer)
            }
        }
    }
}

fn read(names: &[String], values: &SessionOutputs<'_>) -> Result<Vec<Tensor>, EngineError> {
    let read = names.iter().map(|name| {
        let value = values
            .get(name)
            .ok_or_else(|| EngineError::Missing { name: name.clone() })?;
        Ok(view(value)?.to_tensor())
    });
    read.collect()
}
