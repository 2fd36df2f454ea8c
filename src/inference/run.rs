//! The path of one request from its tensors to the tensors of its response.

use std::sync::Arc;
use std::time::Instant;

use super::answer::{Answer, ImageResult, TaskAnswer};
use super::face::{Face, Target};
use super::inputs::{Decoding, Inputs, Reader};
use super::outputs::Plan;
use super::parameters::{Parameters, Scheduling, split};
use super::tensor::{InputTensor, OutputTensor, TensorData};
use crate::admission::Admission;
use crate::app::{App, Limits};
use crate::budget::Permit;
use crate::error::ServeError;
use crate::manifest::Task;
use crate::metrics::Stage;
use crate::parameters::{Params, tasks};
use crate::pipeline::{
    self, Classify, Cost, Detect, INLINE_BYTES, Postprocess, RequestTiming, Segment, check_memory,
};
use crate::pool::JobCost;
use crate::postprocess::segment::MaskEncoding;
use crate::registry::LoadedModel;

/// Predicted time to read the headers of encoded images, in nanoseconds per byte. Progressive JPEG files are read to
/// their end.
const PROBE_NANOS_PER_BYTE: u64 = 1;

/// Predicted time to assemble the outputs, in nanoseconds per byte of the results.
const ASSEMBLE_NANOS_PER_BYTE: u64 = 1;

/// A request for inference, as a front end has decoded it. Nothing about its values is checked yet.
#[derive(Debug, Clone, Default)]
pub struct InferRequest {
    /// Parameters of the request.
    pub parameters: Parameters,
    /// The input tensors.
    pub inputs: Vec<InputTensor>,
    /// The outputs that the client wants. Empty for all outputs of the face.
    pub outputs: Vec<RequestedOutput>,
}

/// An output that a client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedOutput {
    /// Name of the output.
    pub name: String,
    /// Number of classes to return as texts `value:index:label`, instead of values. `None` for values.
    pub classes: Option<usize>,
}

impl RequestedOutput {
    /// Returns the output `name`, with values.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            classes: None,
        }
    }
}

/// The response to a request for inference.
pub struct InferResponse {
    /// The output tensors in the order of the request.
    pub outputs: Vec<OutputTensor>,
    /// The model that ran.
    pub model: Arc<LoadedModel>,
    /// Times of the stages.
    pub timing: RequestTiming,
    /// Memory of the outputs, reserved in the budget for responses.
    pub memory: Permit,
}

/// Runs an admitted request to `target` within its deadline.
///
/// # Errors
/// [`ServeError::BadParameter`], [`ServeError::UnknownParameter`], [`ServeError::TooManyImages`] and
/// [`ServeError::Image`] for a request that is wrong; those of [`pipeline::run`].
pub async fn infer(
    app: &App,
    mut admission: Admission,
    target: &Target,
    request: InferRequest,
) -> Result<InferResponse, ServeError> {
    let (scheduling, params) = split(request.parameters)?;
    schedule(&mut admission, scheduling)?;
    let deadline = admission.deadline;
    let work = async {
        let options = Options::parse(params, &admission.model)?;
        let inputs = read(app, &mut admission, request.inputs, options.decoding).await?;
        // The input that was sent decides, whichever name of the model the client has used.
        let plan = Plan::new(&admission.model, inputs.face, request.outputs)?;
        run(app, admission, (inputs, plan, options)).await
    };
    tracing::debug!(model = target.name, "inference requested");
    deadline.bound(work).await
}

/// Applies the parameters that schedule a request. A priority has no effect, because the queue has none.
fn schedule(admission: &mut Admission, scheduling: Scheduling) -> Result<(), ServeError> {
    match scheduling.timeout {
        Some(timeout) => admission.shorten(timeout),
        None => Ok(()),
    }
}

/// The parameters of a request for its model's task.
struct Options {
    decoding: Decoding,
    task: TaskAnswer,
    /// Number of classes of a classification.
    top_k: usize,
}

impl Options {
    fn parse(mut params: Params, model: &LoadedModel) -> Result<Self, ServeError> {
        let decoding = Decoding {
            orientation: params.orientation()?,
            mode: params.decode()?.unwrap_or(model.plan.decode),
        };
        let mut known = vec!["priority", "timeout", "orientation", "decode"];
        let mut top_k = usize::MAX;
        let task = match model.manifest.task {
            Task::Classification => {
                known.push("top_k");
                top_k = tasks::top_k(&mut params)?;
                TaskAnswer::Classes(Classify { top_k })
            }
            Task::Detection => {
                known.extend([
                    "score_threshold",
                    "iou_threshold",
                    "max_detections",
                    "classes",
                ]);
                let mut options = tasks::detect_options(&mut params, &model.labels)?;
                options.max_detections =
                    params.optional_integer("max_detections", tasks::MAX_DETECTIONS)?;
                TaskAnswer::Boxes(Detect {
                    options,
                    drawn: None,
                })
            }
            Task::Segmentation => {
                known.push("size");
                TaskAnswer::Mask(Segment {
                    size: tasks::mask_size(&mut params)?,
                    encoding: MaskEncoding::None,
                })
            }
        };
        params.finish(&known)?;
        Ok(Self {
            decoding,
            task,
            top_k,
        })
    }
}

/// Checks the input tensors, on the image pool if many bytes of encoded images have to be read for that.
async fn read(
    app: &App,
    admission: &mut Admission,
    tensors: Vec<InputTensor>,
    decoding: Decoding,
) -> Result<Inputs, ServeError> {
    // Before the images are looked at, so that an overloaded server rejects a request for little work.
    admission.reserve_images(1)?;
    let bytes = encoded_bytes(&tensors);
    let started = Instant::now();
    let (limits, model) = (app.limits, Arc::clone(&admission.model));
    let job = move || {
        let started = Instant::now();
        let inputs = read_inputs(&limits, &model, tensors, decoding);
        (inputs, started.elapsed())
    };
    let (inputs, reading) = if bytes <= INLINE_BYTES {
        job()
    } else {
        let cost = JobCost::time(bytes as u64 * PROBE_NANOS_PER_BYTE);
        app.pool.run(cost, job).await?
    };
    admission.timing[Stage::decode] += reading;
    // The rest was a wait for a thread.
    admission.timing[Stage::admission] += started.elapsed().saturating_sub(reading);
    inputs
}

fn read_inputs(
    limits: &Limits,
    model: &LoadedModel,
    tensors: Vec<InputTensor>,
    decoding: Decoding,
) -> Result<Inputs, ServeError> {
    let reader = Reader {
        limits,
        preprocessor: &model.preprocessor,
        decoding,
    };
    reader.read(tensors)
}

/// Returns the number of bytes that have to be read to find the headers of encoded images. FP32 tensors are not read.
fn encoded_bytes(tensors: &[InputTensor]) -> usize {
    let bytes = |tensor: &InputTensor| match &tensor.data {
        TensorData::Raw(_) if tensor.name == Face::Tensor.input() => 0,
        TensorData::Raw(data) => data.len(),
        TensorData::Elements(elements) => elements.iter().map(bytes::Bytes::len).sum(),
    };
    tensors.iter().map(bytes).sum()
}

/// Runs the pipeline and assembles the outputs, on the image pool if they are large.
async fn run(
    app: &App,
    admission: Admission,
    (inputs, plan, options): (Inputs, Plan, Options),
) -> Result<InferResponse, ServeError> {
    let answer = Answer::new(&admission.model, &inputs, &plan, options.task)?;
    answer.check(&inputs.images)?;
    check_memory(&inputs.images, &app.pool, answer.cost() == Cost::Image)?;
    let request = pipeline::Request {
        inputs: inputs.images,
        postprocess: answer,
    };
    let pipeline::Response {
        model,
        results,
        mut timing,
        mut memory,
    } = pipeline::run(app, admission, request).await?;
    let started = Instant::now();
    let bytes: u64 = results.iter().map(|r| ImageResult::bytes(r) as u64).sum();
    let loaded = Arc::clone(&model);
    let job = move || {
        let started = Instant::now();
        let mut held = bytes;
        let mut reserve = |bytes: u64| {
            held = held.saturating_add(bytes);
            memory.grow_to(held).map_err(ServeError::response_memory)
        };
        let outputs = plan.tensors(&loaded, (results, options.top_k), &mut reserve)?;
        Ok::<_, ServeError>((outputs, memory, started.elapsed()))
    };
    let (outputs, memory, assembling) = if bytes <= INLINE_BYTES as u64 {
        job()
    } else {
        let cost = JobCost::time(bytes.saturating_mul(ASSEMBLE_NANOS_PER_BYTE));
        app.pool.run(cost, job).await?
    }?;
    timing.add_encoding(assembling);
    timing.add_wait(started.elapsed());
    Ok(InferResponse {
        outputs,
        model,
        timing,
        memory,
    })
}
