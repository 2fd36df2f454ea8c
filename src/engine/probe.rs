//! Runs a network and returns all of its outputs as `f32` tensors, for calibration and for the
//! comparison of fp32 and int8 networks.

use std::sync::Arc;

use ort::session::{Session, SessionOutputs};

use super::onnx_runtime::{BatchInput, commit, view};
use super::wide::Sessions;
use super::{EngineError, OnnxRuntime, Propose, Tensor, TwoStageSession};
use crate::image::PreparedImage;

/// A session of one network of a model, which returns all outputs of that network for one image.
pub struct Probe {
    stage: Stage,
    outputs: Vec<String>,
}

/// The first stage of a two-stage detector, which computes the inputs of the box head.
#[derive(Clone)]
pub struct FirstStage<'a> {
    /// The bytes of the network's ONNX file.
    pub network: &'a [u8],
    /// Selects the regions that the box head reads from the network's proposals.
    pub propose: Arc<dyn Propose>,
}

/// Position of the probed network in the model.
enum Stage {
    /// The network that reads the image.
    First(Session),
    /// The box head, with the session of the first network, which computes its inputs.
    Second(TwoStageSession),
}

impl OnnxRuntime {
    /// Creates a probe of `model`, a network whose input is an image.
    ///
    /// # Errors
    /// [`EngineError::External`] if a tensor is in another file, [`EngineError::Load`] if ONNX
    /// Runtime rejects the model.
    pub fn probe(&self, model: &[u8]) -> Result<Probe, EngineError> {
        let session = self.observed_session(model)?;
        Ok(Probe {
            outputs: names(&session),
            stage: Stage::First(session),
        })
    }

    /// Creates a [`Probe`] of a detector's box head: a session that returns the outputs added for
    /// calibration. `first` is the detector's first network, which computes the feature maps and
    /// regions that the box head reads.
    ///
    /// # Errors
    /// [`EngineError::External`] if a tensor of one of the networks is in another file,
    /// [`EngineError::Load`] if ONNX Runtime rejects one of them, [`EngineError::Signature`] if
    /// `first` lacks outputs that the box head reads.
    pub fn probe_box_head(
        &self,
        first: &FirstStage<'_>,
        box_head: &[u8],
    ) -> Result<Probe, EngineError> {
        let features = self.observed_session(first.network)?;
        let boxes = self.observed_session(box_head)?;
        Ok(Probe {
            outputs: names(&boxes),
            stage: Stage::Second(TwoStageSession::new(
                Sessions::new(features, None),
                Sessions::new(boxes, None),
                Arc::clone(&first.propose),
            )?),
        })
    }

    /// Creates a session that uses neither custom int8 operators nor shared weights.
    fn observed_session(&self, model: &[u8]) -> Result<Session, EngineError> {
        commit(self.session_builder().map_err(EngineError::Load)?, model)
    }
}

/// Returns the names of a session's outputs, in order.
fn names(session: &Session) -> Vec<String> {
    let outputs = session.outputs().iter();
    outputs.map(|output| output.name().to_owned()).collect()
}

impl Probe {
    /// Returns all outputs of the probed network for one image, in the order of its ONNX file.
    /// Returns `None` if this network is a box head and no region was selected.
    ///
    /// # Errors
    /// [`EngineError`] if ONNX Runtime fails, or if the shapes of the proposal maps do not match
    /// the anchors.
    pub fn run(&mut self, image: PreparedImage) -> Result<Option<Vec<Tensor>>, EngineError> {
        let outputs = &self.outputs;
        match &mut self.stage {
            Stage::First(session) => {
                let input = BatchInput::new(vec![image]);
                let values = session.run(ort::inputs![input.view()?]);
                let values = values.map_err(EngineError::Run)?;
                read(outputs, &values).map(Some)
            }
            Stage::Second(session) => {
                let (_, answer) =
                    session.run_stages(vec![image], false, |heads| read(outputs, heads))?;
                Ok(answer)
            }
        }
    }
}

/// Copies the `f32` outputs called `names`.
fn read(names: &[String], values: &SessionOutputs<'_>) -> Result<Vec<Tensor>, EngineError> {
    let read = names.iter().map(|name| {
        let value = values
            .get(name)
            .ok_or_else(|| EngineError::Missing { name: name.clone() })?;
        Ok(view(value)?.to_tensor())
    });
    read.collect()
}
