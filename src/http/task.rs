//! The common handler of the routes that take images: parameters, admission, body, pipeline,
//! response.

use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};

use super::extract::{
    BodyFormat, Encoding, Framing, INLINE_BYTES, encoding, framing, read_body, read_inputs, refuse,
};
use super::params::Params;
use super::problem::Problem;
use super::respond::Finished;
use super::traces;
use crate::admission::{Admission, Deadline, Watch, pace};
use crate::app::App;
use crate::error::ServeError;
use crate::image::{DecodeMode, DecodeOptions, Orientation};
use crate::manifest::Task;
use crate::metrics::Stage;
use crate::pipeline::{self, Cost, Postprocess, check_memory, decode_fast};
use crate::pool::JobCost;
use crate::registry::{Entry, LoadState};
use crate::store::ModelSource;

/// Query parameters that every task takes.
pub(super) const COMMON_PARAMETERS: [&str; 3] = ["model", "orientation", "decode"];

/// Predicted time to encode results as base64 and JSON, in nanoseconds per byte of the response.
const ENCODE_NANOS_PER_BYTE: u64 = 3;

/// The parts of a route that depend on its task: parameters, postprocessing, response.
pub(super) trait TaskRoute: Sized + Send + Sync + 'static {
    /// Task of the models that the route serves.
    const TASK: Task;
    /// Query parameters that the route takes in addition to [`COMMON_PARAMETERS`].
    const PARAMETERS: &'static [&'static str];
    /// The pipeline step that computes results from a network's outputs.
    type Postprocess: Postprocess;

    /// Parses the task's own query parameters and headers.
    ///
    /// # Errors
    /// [`ServeError::BadParameter`] if a parameter or header has an invalid value.
    fn parse(
        params: &mut Params,
        headers: &HeaderMap,
        model: &ModelSource,
    ) -> Result<Self, ServeError>;

    /// Returns the postprocessing step with the request's options.
    fn postprocess(&self) -> Self::Postprocess;

    /// Returns the part of the request that makes the response one image file, for error messages; then the
    /// request must contain only one image. `None` if the response is JSON.
    fn image_response(&self) -> Option<&'static str> {
        None
    }

    /// Returns the approximate size of the response in bytes: by default, the size of the results
    /// in memory.
    fn response_bytes(results: &ResponseOf<Self>) -> usize {
        let results = results.results.iter();
        results.map(<Self::Postprocess as Postprocess>::bytes).sum()
    }

    /// Converts the results to the HTTP response.
    fn respond(&self, results: ResponseOf<Self>) -> Result<Finished, ServeError>;
}

/// The pipeline's response, with the results that the task route `T` returns.
pub(super) type ResponseOf<T> =
    pipeline::Response<<<T as TaskRoute>::Postprocess as Postprocess>::Output>;

/// Handles a request to the task route `T` within its deadline.
pub(super) async fn handle<T: TaskRoute>(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let deadline = Deadline::after(app.limits.request_timeout);
    let (parts, mut body) = request.into_parts();
    let trace = traces::trace_of(&parts.extensions);
    let admitting = trace.begin(Stage::admission);
    let mut watch = Watch::new(&app.metrics);
    let admitted = admit::<T>(&app, &parts, deadline, &mut watch).await;
    let (head, admission) = match admitted {
        Ok((head, admission)) => {
            admitting.end();
            (head, admission.traced(trace))
        }
        Err(error) => {
            let model = watch.failed(&error);
            pace(&app, &error).await;
            drop(admitting);
            refuse(&parts.headers, &mut body).await;
            return Err(problem(error, model));
        }
    };
    match process(&app, head, admission, parts, &mut body).await {
        Ok(finished) => {
            let served = &finished.served;
            watch.succeeded(&served.model, &served.timing);
            Ok(finished.into_response())
        }
        Err(error) => {
            // Counted first: the client may disconnect while the response is delayed.
            let model = watch.failed(&error);
            pace(&app, &error).await;
            Err(problem(error, model))
        }
    }
}

/// Reads the body of an admitted request, runs the pipeline, and converts the results to the response.
async fn process<T: TaskRoute>(
    app: &App,
    head: Head<T>,
    mut admission: Admission,
    parts: Parts,
    body: &mut Body,
) -> Result<Finished, ServeError> {
    let (deadline, trace) = (admission.deadline, admission.trace.clone());
    let receiving = trace.begin(Stage::receive);
    let body = read_body(app, &mut admission, head.encoding, &parts.headers, body).await?;
    receiving.end();
    let work = async {
        let (task, results) = head.run(app, admission, parts, body).await?;
        let encoding = trace.begin(Stage::encode);
        let response = respond(app, task, results).await?;
        encoding.end();
        Ok(response)
    };
    deadline.bound(work).await
}

/// Converts the results to the HTTP response. A response of more than [`INLINE_BYTES`] is encoded
/// on the image pool, so that it does not block the thread that serves the connection.
async fn respond<T: TaskRoute>(
    app: &App,
    task: T,
    results: ResponseOf<T>,
) -> Result<Finished, ServeError> {
    let started = Instant::now();
    let bytes = T::response_bytes(&results);
    let mut finished = if bytes <= INLINE_BYTES {
        task.respond(results)
    } else {
        let cost = JobCost::time(bytes as u64 * ENCODE_NANOS_PER_BYTE);
        app.pool.run(cost, move || task.respond(results)).await?
    }?;
    finished.served.timing.add_wait(started.elapsed());
    Ok(finished)
}

/// Checks the head of a request, and that the queue can take it, before the body is read. Waits until
/// the model is loaded if it is loaded on first use, but not longer than until `deadline`; the request
/// then has its full time again, because the body is not read meanwhile. `watch` learns the model as soon
/// as it is known, so that metrics can name it if a later check fails.
async fn admit<T: TaskRoute>(
    app: &App,
    parts: &Parts,
    deadline: Deadline,
    watch: &mut Watch<'_>,
) -> Result<(Head<T>, Admission), ServeError> {
    loop {
        let (head, entry) = Head::<T>::parse(app, parts)?;
        watch.set_model(Arc::clone(&entry));
        entry.touch();
        let (loaded, deadline) = if let Some(loaded) = entry.model() {
            (loaded, deadline)
        } else {
            // While the server leaves, requests wait for a load that has begun, but none begins.
            let registry = match entry.state() {
                LoadState::Loading | LoadState::Loaded => app.registry()?,
                _ => app.ready()?,
            };
            match deadline.bound(registry.load(&entry)).await {
                Ok(loaded) => (loaded, Deadline::after(app.limits.request_timeout)),
                Err(error) if registry.snapshot().contains(&entry) => return Err(error),
                // The model was replaced meanwhile: the request is for the new one.
                Err(_) => {
                    deadline.check()?;
                    continue;
                }
            }
        };
        let mut admission = Admission::new(app, loaded, deadline)?;
        watch.follow(&mut admission);
        return Ok((head, admission));
    }
}

/// Returns the problem document for `error` in a request for `model`.
fn problem(error: ServeError, model: Option<Arc<Entry>>) -> Problem {
    let problem = Problem::from(error);
    match model {
        Some(model) => problem.of(model),
        None => problem,
    }
}

/// The checked query and headers of a request.
struct Head<T> {
    orientation: Orientation,
    /// How the images are decoded. `None` for the setting of the model.
    decode: Option<DecodeMode>,
    encoding: Encoding,
    framing: Framing,
    task: T,
}

impl<T: TaskRoute> Head<T> {
    /// Checks the query and headers. Returns the checked values with the model that the query
    /// selects, which may not be loaded yet.
    fn parse(app: &App, parts: &Parts) -> Result<(Self, Arc<Entry>), ServeError> {
        let models = app.registry()?.snapshot();
        let mut params = Params::parse(&parts.uri)?;
        let model = params.take("model")?;
        let orientation = params.orientation()?;
        let decode = params.decode()?;
        let model = models.for_task(T::TASK, model.as_deref())?;
        let task = T::parse(&mut params, &parts.headers, model.source())?;
        params.finish(&[&COMMON_PARAMETERS, T::PARAMETERS].concat())?;
        let head = Self {
            orientation,
            decode,
            encoding: encoding(&parts.headers)?,
            framing: framing(&parts.headers)?,
            task,
        };
        Ok((head, Arc::clone(model)))
    }

    /// Finds the images in the request body and runs the pipeline on them. Returns the task of this
    /// head and the results.
    async fn run(
        self,
        app: &App,
        mut admission: Admission,
        parts: Parts,
        body: Bytes,
    ) -> Result<(T, ResponseOf<T>), ServeError> {
        let format = BodyFormat {
            framing: self.framing,
            options: DecodeOptions {
                max_pixels: app.limits.max_pixels,
                orientation: self.orientation,
            },
            max_density: app.limits.max_pixels_per_byte,
            max_images: app.limits.max_images,
        };
        let mut inputs = read_inputs(app, &mut admission, format, parts, body).await?;
        let model = &admission.model;
        if self.decode.unwrap_or(model.plan.decode) == DecodeMode::Fast {
            decode_fast(&mut inputs, &model.preprocessor);
        }
        if let Some(cause) = self.task.image_response() {
            require_one_image(inputs.len(), cause)?;
        }
        let postprocess = self.task.postprocess();
        postprocess.check(&inputs)?;
        check_memory(&inputs, &app.pool, postprocess.cost() == Cost::Image)?;
        let request = pipeline::Request {
            inputs,
            postprocess,
        };
        let results = pipeline::run(app, admission, request).await?;
        Ok((self.task, results))
    }
}

/// Rejects a request of several images whose response would be one image file because of `cause`.
fn require_one_image(images: usize, cause: &str) -> Result<(), ServeError> {
    if images <= 1 {
        return Ok(());
    }
    Err(ServeError::BadParameter {
        field: "images".to_owned(),
        expected: format!("one image, because the response to {cause} is one image file"),
        got: format!("{images} images"),
    })
}
