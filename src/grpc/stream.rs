//! `ModelStreamInfer`: several requests in one call. Some run at the same time, and responses have the order of the
//! requests.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::unfold;
use futures_util::{Stream, StreamExt as _};
use open_inference::{ModelInferRequest, ModelInferResponse, ModelStreamInferResponse};
use tokio::time::timeout_at;
use tonic::{Code, Status, Streaming};

use super::call::Call;
use super::infer::Inferring;
use super::status::status_of;
use crate::admission::Deadline;
use crate::app::App;
use crate::error::ServeError;

/// Maximum number of requests of a stream that run at the same time. Further ones are not read before.
const DEPTH: usize = 8;
/// Longest pause between two requests of a stream.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);
/// Period in which a stream that waits for a request looks whether the server stops.
const DRAIN_PERIOD: Duration = Duration::from_millis(500);

/// The responses of a stream.
pub(super) type Responses =
    Pin<Box<dyn Stream<Item = Result<ModelStreamInferResponse, Status>> + Send>>;

/// Returns the responses to `requests`, the requests of `call`. A request that fails gets a response with an error, and
/// the stream goes on; a request that cannot be read ends it.
pub(super) fn responses(
    app: Arc<App>,
    call: Call,
    requests: Streaming<ModelInferRequest>,
) -> Responses {
    let received = {
        let (app, call) = (Arc::clone(&app), call.clone());
        unfold(Some(requests), move |requests| {
            let (app, call) = (Arc::clone(&app), call.clone());
            async move {
                let mut requests = requests?;
                match next(&app, &call, &mut requests).await {
                    Ok(Some(request)) => Some((Ok(request), Some(requests))),
                    Ok(None) => None,
                    Err(status) => Some((Err(status), None)),
                }
            }
        })
    };
    let answers = received.map(move |request| {
        let (app, call) = (Arc::clone(&app), call.clone());
        async move { Ok(answer(&app, &call, request?).await) }
    });
    Box::pin(answers.buffered(DEPTH))
}

/// Returns the next request of a stream; `None` at its end.
///
/// # Errors
/// If the request cannot be read, if the time limit of the client passes, or if the server rejects new requests.
async fn next(
    app: &App,
    call: &Call,
    requests: &mut Streaming<ModelInferRequest>,
) -> Result<Option<ModelInferRequest>, Status> {
    let wait = async {
        let pause = Deadline::after(LONGEST_PAUSE);
        let mut tick = tokio::time::interval(DRAIN_PERIOD);
        loop {
            tokio::select! {
                biased;
                request = requests.message() => return request.map_err(of_client),
                _ = tick.tick() => {
                    if app.is_draining() {
                        return Err(status_of(ServeError::Draining));
                    }
                    pause.check().map_err(status_of)?;
                }
            }
        }
    };
    if !call.limited {
        return wait.await;
    }
    let passed = |_| Err(status_of(call.deadline.passed()));
    timeout_at(call.deadline.at().into(), wait)
        .await
        .unwrap_or_else(passed)
}

/// Returns `status` as a mistake of the client if the framing or the size of its message is wrong, which tonic reports as a
/// fault or a lack of the server.
pub(super) fn of_client(status: Status) -> Status {
    match status.code() {
        Code::Internal | Code::ResourceExhausted | Code::OutOfRange => {
            Status::invalid_argument(status.message())
        }
        _ => status,
    }
}

/// Returns the response to one request of a stream.
async fn answer(app: &App, call: &Call, request: ModelInferRequest) -> ModelStreamInferResponse {
    let deadline = if call.limited {
        call.deadline
    } else {
        Deadline::after(app.limits.request_timeout)
    };
    let id = request.id.clone();
    let inferring = Inferring {
        app,
        trace: call.trace.clone(),
        deadline,
        body: call.take_memory(app),
    };
    match inferring.run(request).await {
        Ok(done) => ModelStreamInferResponse {
            error_message: String::new(),
            infer_response: Some(done.response),
        },
        Err(problem) => ModelStreamInferResponse {
            error_message: problem.open_inference_text(false),
            infer_response: Some(ModelInferResponse {
                id,
                ..ModelInferResponse::default()
            }),
        },
    }
}
