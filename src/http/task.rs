//! The common handler of the routes that take images: parameters, admission, body, pipeline,
//! response.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use axum::response::Response;
use bytes::Bytes;

use super::begun::Begun;
use super::body::{Layout, read_body};
use super::extract::{
    BodyFormat, Fields, Form, Framing, GZIP, INLINE_BYTES, encoding, framing, read_inputs,
};
use super::gunzip::Compression;
use super::problem::Problem;
use super::respond::Finished;
use crate::admission::{Admission, Watch, pace};
use crate::app::App;
use crate::error::ServeError;
use crate::image::{DecodeMode, DecodeOptions, Orientation};
use crate::manifest::Task;
use crate::metrics::Stage;
use crate::parameters::Params;
use crate::pipeline::{self, Cost, Postprocess, check_memory, decode_fast};
use crate::pool::JobCost;
use crate::registry::{Entry, LoadedModel};
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
    /// The parts that a form may have.
    const FORM: Form = Form::OWN;
    /// Maximum number of images in a request, in addition to the limit of the server.
    const MAX_IMAGES: usize = usize::MAX;
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

    /// Checks that the model can serve the route, before the body of the request is read. Does nothing by default.
    ///
    /// # Errors
    /// [`ServeError`] with what the model lacks.
    fn check_model(&self, _: &LoadedModel) -> Result<(), ServeError> {
        Ok(())
    }

    /// Adds the options that are texts of a form. Does nothing by default.
    ///
    /// # Errors
    /// [`ServeError::BadParameter`] if a text has an invalid value.
    fn complete(&mut self, _: &Fields) -> Result<(), ServeError> {
        Ok(())
    }

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

/// The model of a request whose path names it, an extension of the request.
#[derive(Clone)]
pub(super) struct NamedModel(pub(super) String);

/// The pipeline's response, with the results that the task route `T` returns.
pub(super) type ResponseOf<T> =
    pipeline::Response<<<T as TaskRoute>::Postprocess as Postprocess>::Output>;

/// Handles a request to the task route `T` within its deadline.
pub(super) async fn handle<T: TaskRoute>(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let find = |parts: &Parts| Head::<T>::parse(&app, parts);
    let check = |head: &Head<T>, admission: &Admission| head.task.check_model(&admission.model);
    let Begun {
        head,
        admission,
        parts,
        mut body,
        outcome,
    } = Begun::new(&app, request, find, check).await?;
    let finished = process(&app, head, admission, parts, &mut body).await;
    outcome.respond(finished).await
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
    let layout = Layout {
        encoding: head.encoding,
        tensors: 0,
    };
    let body = read_body(app, &mut admission, layout, &parts.headers, body).await?;
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

/// Counts a request that failed with `error`, delays its response if there are many of them, and returns the problem
/// document.
pub(crate) async fn failed(app: &App, watch: Watch<'_>, error: ServeError) -> Problem {
    // Counted first: the client may disconnect while the response is delayed.
    let model = watch.failed(&error);
    pace(app, &error).await;
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
    encoding: Option<Compression>,
    framing: Framing,
    task: T,
}

impl<T: TaskRoute> Head<T> {
    /// Checks the query and headers. Returns the checked values with the model that the query
    /// selects, which may not be loaded yet.
    fn parse(app: &App, parts: &Parts) -> Result<(Self, Arc<Entry>), ServeError> {
        let models = app.registry()?.snapshot();
        let mut params = Params::parse(&parts.uri)?;
        let named = parts.extensions.get::<NamedModel>();
        let model = match named {
            Some(NamedModel(name)) => Some(name.clone()),
            None => params.take("model")?,
        };
        let orientation = params.orientation()?;
        let decode = params.decode()?;
        let model = models.for_task(T::TASK, model.as_deref())?;
        let task = T::parse(&mut params, &parts.headers, model.source())?;
        params.finish(&[&COMMON_PARAMETERS, T::PARAMETERS].concat())?;
        let head = Self {
            orientation,
            decode,
            encoding: encoding(&parts.headers, GZIP)?,
            framing: framing(&parts.headers)?,
            task,
        };
        Ok((head, Arc::clone(model)))
    }

    /// Finds the images in the request body and runs the pipeline on them. Returns the task of this
    /// head and the results.
    async fn run(
        mut self,
        app: &App,
        mut admission: Admission,
        parts: Parts,
        body: Bytes,
    ) -> Result<(T, ResponseOf<T>), ServeError> {
        let format = BodyFormat {
            framing: self.framing,
            form: T::FORM,
            options: DecodeOptions {
                max_pixels: app.limits.max_pixels,
                orientation: self.orientation,
            },
            max_density: app.limits.max_pixels_per_byte,
            max_images: app.limits.max_images.min(T::MAX_IMAGES),
        };
        let content = read_inputs(app, &mut admission, format, parts, body).await?;
        self.task.complete(&content.fields)?;
        let mut inputs = content.images;
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
