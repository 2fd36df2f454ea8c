//! Inference: a message becomes a request of [`crate::inference`], and its response a message.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use open_inference::model_infer_response::InferOutputTensor;
use open_inference::{ModelInferRequest, ModelInferResponse};

use super::convert;
use crate::admission::{Admission, Deadline, Watch, admit};
use crate::app::App;
use crate::budget::Permit;
use crate::error::ServeError;
use crate::http::problem::Problem;
use crate::http::respond::Served;
use crate::http::task::failed;
use crate::inference::{self, InferRequest, InferResponse, OutputTensor, Target, VERSION};
use crate::metrics::Stage;
use crate::pipeline::INLINE_BYTES;
use crate::pool::JobCost;
use crate::telemetry::Trace;

/// Predicted time to convert typed values to bytes, in nanoseconds per byte.
const CONVERT_NANOS_PER_BYTE: u64 = 1;

/// A message whose inference begins.
pub(super) struct Inferring<'a> {
    pub(super) app: &'a App,
    pub(super) trace: Trace,
    pub(super) deadline: Deadline,
    /// Reserved memory of the encoded message.
    pub(super) body: Permit,
}

/// The response to a message.
pub(super) struct Inferred {
    pub(super) response: ModelInferResponse,
    pub(super) served: Served,
    /// Reserved memory of the tensors of the response.
    pub(super) memory: Arc<Permit>,
}

/// The elements of an output. Their memory stays reserved until they are dropped.
struct Elements {
    data: Vec<u8>,
    _memory: Arc<Permit>,
}

impl AsRef<[u8]> for Elements {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Inferring<'_> {
    /// Runs the model that `message` names, and counts the outcome in metrics.
    ///
    /// # Errors
    /// The problem, which is delayed if there are many.
    pub(super) async fn run(self, message: ModelInferRequest) -> Result<Inferred, Problem> {
        let app = self.app;
        let (name, id) = (message.model_name.clone(), message.id.clone());
        let mut watch = Watch::new(&app.metrics);
        match self.infer(message, &mut watch).await {
            Ok(response) => {
                let served = Served {
                    model: Arc::clone(&response.model),
                    timing: response.timing.clone(),
                };
                watch.succeeded(&served.model, &served.timing);
                let memory = Arc::new(response.memory);
                Ok(Inferred {
                    response: encoded((name, id), response.outputs, &memory),
                    served,
                    memory,
                })
            }
            Err(error) => Err(failed(app, watch, error).await),
        }
    }

    async fn infer(
        self,
        message: ModelInferRequest,
        watch: &mut Watch<'_>,
    ) -> Result<InferResponse, ServeError> {
        let Self {
            app,
            trace,
            deadline,
            mut body,
        } = self;
        // A compressed message takes more memory than its bytes on the wire, also while its model is loaded.
        body.grow_to(convert::bytes(&message) as u64)?;
        let admitted = admit(app, deadline, watch, || {
            let snapshot = app.registry()?.snapshot();
            let version = Some(message.model_version.as_str());
            let target = Target::find(&snapshot, &message.model_name, version)?;
            let entry = Arc::clone(&target.entry);
            Ok((target, entry))
        });
        let (target, admission) = admitted.await?;
        let mut admission: Admission = admission.traced(trace);
        admission.hold_body(body);
        let request = converted(app, &mut admission, message).await?;
        inference::infer(app, admission, &target, request).await
    }
}

/// Converts a message, on the image pool if it has many typed values.
async fn converted(
    app: &App,
    admission: &mut Admission,
    message: ModelInferRequest,
) -> Result<InferRequest, ServeError> {
    let started = Instant::now();
    let bytes = convert::copied(&message);
    let request = if bytes <= INLINE_BYTES {
        convert::request(message)
    } else {
        let cost = JobCost::time(bytes as u64 * CONVERT_NANOS_PER_BYTE);
        let job = app.pool.run(cost, move || convert::request(message));
        admission.deadline.bound(job).await?
    };
    admission.timing[Stage::decode] += started.elapsed();
    request
}

/// Returns the message with `outputs` for the model and the id of a request. Its elements are raw, because
/// `tritonclient` reads no others.
fn encoded(
    (model_name, id): (String, String),
    outputs: Vec<OutputTensor>,
    memory: &Arc<Permit>,
) -> ModelInferResponse {
    let tensor = |output: OutputTensor| {
        let elements = Elements {
            data: output.data,
            _memory: Arc::clone(memory),
        };
        let tensor = InferOutputTensor {
            name: output.name,
            datatype: output.datatype.as_str().to_owned(),
            shape: output.shape.into_iter().map(|size| size as i64).collect(),
            ..InferOutputTensor::default()
        };
        (tensor, Bytes::from_owner(elements))
    };
    let (outputs, raw_output_contents) = outputs.into_iter().map(tensor).unzip();
    ModelInferResponse {
        model_name,
        model_version: VERSION.to_owned(),
        id,
        outputs,
        raw_output_contents,
        ..ModelInferResponse::default()
    }
}
