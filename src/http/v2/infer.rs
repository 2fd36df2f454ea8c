//! `POST /v2/models/{model}/infer`.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::response::Response;
use bytes::Bytes;

use super::super::begun::Begun;
use super::super::body::{Layout, read_body};
use super::super::extract::{GZIP_OR_DEFLATE, encoding};
use super::super::gunzip::Compression;
use super::super::problem::Problem;
use super::super::respond::Finished;
use super::Named;
use super::elements;
use super::message::{Framing, Message, framing, parse};
use super::write::{Form, write};
use crate::admission::Admission;
use crate::app::App;
use crate::error::ServeError;
use crate::inference::{self, InferRequest, InferResponse, InputTensor, Target, whole_body};
use crate::metrics::Stage;
use crate::parameters::bad;
use crate::pipeline::INLINE_BYTES;
use crate::pool::JobCost;
use crate::registry::Entry;

/// Predicted time to parse a message, in nanoseconds per byte of JSON.
const PARSE_NANOS_PER_BYTE: u64 = 10;
/// Predicted time to write a response, in nanoseconds per byte of its outputs.
const WRITE_NANOS_PER_BYTE: u64 = 10;

/// Handles an inference request within its deadline.
pub(super) async fn infer(
    State(app): State<Arc<App>>,
    named: Named,
    request: Request,
) -> Result<Response, Problem> {
    let find = |parts: &Parts| Head::parse(&app, parts, &named);
    let Begun {
        head,
        admission,
        parts,
        mut body,
        outcome,
    } = Begun::new(&app, request, find, |_, _| Ok(())).await?;
    let finished = head.process(&app, admission, &parts, &mut body).await;
    outcome.respond(finished).await
}

/// The checked path and headers of a request.
struct Head {
    target: Target,
    encoding: Option<Compression>,
    framing: Framing,
}

impl Head {
    fn parse(app: &App, parts: &Parts, named: &Named) -> Result<(Self, Arc<Entry>), ServeError> {
        let snapshot = app.registry()?.snapshot();
        let target = named.find(&snapshot)?;
        if let Some(query) = parts.uri.query().filter(|query| !query.is_empty()) {
            let expected = "no query: parameters are part of the message";
            return Err(bad("query", expected, query));
        }
        let entry = Arc::clone(&target.entry);
        let head = Self {
            target,
            encoding: encoding(&parts.headers, GZIP_OR_DEFLATE)?,
            framing: framing(&parts.headers)?,
        };
        Ok((head, entry))
    }

    /// Reads the body of an admitted request, runs it, and writes its response.
    async fn process(
        self,
        app: &App,
        mut admission: Admission,
        parts: &Parts,
        body: &mut Body,
    ) -> Result<Finished, ServeError> {
        let (deadline, trace) = (admission.deadline, admission.trace.clone());
        let receiving = trace.begin(Stage::receive);
        let layout = Layout {
            encoding: self.encoding,
            tensors: match self.framing {
                Framing::Binary { header } => header,
                Framing::Json | Framing::Tensor => 0,
            },
        };
        let body = read_body(app, &mut admission, layout, &parts.headers, body).await?;
        receiving.end();
        let work = async {
            let (request, form) = self.read(app, &mut admission, body).await?;
            let response = inference::infer(app, admission, &self.target, request).await?;
            let encoding = trace.begin(Stage::encode);
            let finished = respond(app, form, response).await?;
            encoding.end();
            Ok(finished)
        };
        deadline.bound(work).await
    }

    /// Reads the message in `body`. Returns the request, and the form of its response.
    async fn read(
        &self,
        app: &App,
        admission: &mut Admission,
        body: Bytes,
    ) -> Result<(InferRequest, Form), ServeError> {
        let header = match self.framing {
            Framing::Json => None,
            Framing::Binary { header } => Some(header),
            Framing::Tensor => {
                let input = whole_body(&admission.model, self.target.face, body)?;
                let request = InferRequest {
                    inputs: vec![input],
                    ..InferRequest::default()
                };
                return Ok((request, self.form(None, Vec::new(), true)));
            }
        };
        let started = Instant::now();
        let whole = body.len();
        // The header may state more than there is, which is an error when the message is parsed.
        let length = header.unwrap_or(whole).min(whole);
        let message = on_pool(app, length, move || parse(body, header)).await??;
        let inputs = message.inputs.iter().map(elements::memory);
        let memory = inputs.sum::<Result<usize, _>>()?;
        if memory > 0 {
            admission.reserve_body(whole + memory)?;
        }
        let read = move || {
            let Message {
                id,
                parameters,
                inputs,
                outputs,
                binary_outputs,
            } = message;
            let inputs = inputs.into_iter().map(elements::read);
            let inputs: Vec<InputTensor> = inputs.collect::<Result<_, _>>()?;
            Ok::<_, ServeError>((id, parameters, inputs, outputs, binary_outputs))
        };
        let (id, parameters, inputs, outputs, default) = if memory > 0 {
            on_pool(app, length, read).await??
        } else {
            read()?
        };
        admission.timing[Stage::decode] += started.elapsed();
        let binary = outputs.iter();
        let binary = binary.map(|output| output.binary.unwrap_or(default));
        let form = self.form(id, binary.collect(), default);
        let outputs = outputs.into_iter().map(|output| output.requested);
        let request = InferRequest {
            parameters,
            inputs,
            outputs: outputs.collect(),
        };
        Ok((request, form))
    }

    fn form(&self, id: Option<String>, binary: Vec<bool>, default: bool) -> Form {
        Form {
            model: self.target.name.clone(),
            id,
            binary,
            default,
        }
    }
}

/// Runs `job`, which reads `bytes` bytes of JSON: on the image pool if they are many.
async fn on_pool<T: Send + 'static>(
    app: &App,
    bytes: usize,
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ServeError> {
    if bytes <= INLINE_BYTES {
        return Ok(job());
    }
    let cost = JobCost::time(bytes as u64 * PARSE_NANOS_PER_BYTE);
    app.pool.run(cost, job).await
}

/// Writes the response, a large one on the image pool, so that it does not block the thread that serves the connection.
async fn respond(app: &App, form: Form, response: InferResponse) -> Result<Finished, ServeError> {
    let started = Instant::now();
    let bytes: usize = response
        .outputs
        .iter()
        .map(|output| output.data.len())
        .sum();
    let mut finished = if bytes <= INLINE_BYTES {
        write(&form, response)
    } else {
        let cost = JobCost::time(bytes as u64 * WRITE_NANOS_PER_BYTE);
        app.pool.run(cost, move || write(&form, response)).await?
    }?;
    finished.served.timing.add_wait(started.elapsed());
    Ok(finished)
}
