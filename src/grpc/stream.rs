//! `ModelStreamInfer`: several requests in one call. Some run at the same time, and responses have the order of the
//! requests.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::unfold;
use futures_util::{Stream, StreamExt as _};
use open_inference::{ModelInferRequest, ModelInferResponse, ModelStreamInferResponse};
use tokio::time::timeout_at;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status, Streaming};
use tracing::Instrument as _;

use super::call::Call;
use super::infer::{Inferred, Inferring};
use super::status::status_of;
use crate::admission::{Deadline, Watch};
use crate::app::App;
use crate::budget::Permit;
use crate::error::ServeError;
use crate::http::problem::Problem;
use crate::http::task::failed;
use crate::keys::{ApiKeys, Grant};

/// Maximum number of requests of a stream that run at the same time. Further ones are not read before.
const DEPTH: usize = 8;
/// Longest pause between two requests of a stream.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);
/// Period in which a stream that waits for a request looks whether the server stops and whether its key still applies.
const TICK: Duration = Duration::from_millis(500);

/// The responses of a stream.
pub(super) type Responses =
    Pin<Box<dyn Stream<Item = Result<ModelStreamInferResponse, Status>> + Send>>;

/// A stream whose requests are answered.
pub(super) struct Session {
    pub(super) app: Arc<App>,
    pub(super) call: Call,
    /// The permission of the stream's key. `None` if no keys are configured.
    pub(super) grant: Option<Arc<Grant>>,
}

/// Returns the responses to `requests`, the requests of `session`. A request that fails gets a response with an error, and
/// the stream goes on; a request that cannot be read ends it, and so does the removal of its key.
pub(super) fn responses(session: Session, requests: Streaming<ModelInferRequest>) -> Responses {
    let session = Arc::new(session);
    let received = {
        let session = Arc::clone(&session);
        unfold(Some(requests), move |requests| {
            let session = Arc::clone(&session);
            async move {
                let mut requests = requests?;
                match session.next(&mut requests).await {
                    Ok(Some(request)) => Some((Ok(request), Some(requests))),
                    Ok(None) => None,
                    Err(status) => Some((Err(status), None)),
                }
            }
        })
    };
    let answers = received.enumerate().map(move |(index, request)| {
        let session = Arc::clone(&session);
        // The key's rate counts the call and its first request as one.
        let answer = async move { Ok(session.answer(index > 0, request?).await) };
        // A task, so that the request proceeds, and ends at its deadline, also while the client reads no response.
        let task = AbortOnDropHandle::new(tokio::spawn(answer.in_current_span()));
        async move {
            let panicked = ServeError::Internal("a request of a stream panicked");
            task.await.unwrap_or_else(|_| Err(status_of(panicked)))
        }
    });
    Box::pin(held(Box::pin(answers.buffered(DEPTH))))
}

/// A response and the memory that is reserved for it.
type Answer = (ModelStreamInferResponse, Option<Arc<Permit>>);

/// Returns the responses in `answers`. The memory of each stays reserved until the next one is asked for, because its
/// encoding takes as much as its tensors and is sent before.
fn held(
    answers: impl Stream<Item = Result<Answer, Status>> + Unpin + Send + 'static,
) -> impl Stream<Item = Result<ModelStreamInferResponse, Status>> + Send {
    unfold((answers, None), async |(mut answers, memory)| {
        drop(memory);
        Some(match answers.next().await? {
            Ok((response, memory)) => (Ok(response), (answers, memory)),
            Err(status) => (Err(status), (answers, None)),
        })
    })
}

impl Session {
    /// Returns the next request of the stream; `None` at its end.
    ///
    /// # Errors
    /// If the request cannot be read, if the time limit of the client passes, if the key is removed, or if the server
    /// rejects new requests.
    async fn next(
        &self,
        requests: &mut Streaming<ModelInferRequest>,
    ) -> Result<Option<ModelInferRequest>, Status> {
        let wait = async {
            let pause = Deadline::after(LONGEST_PAUSE);
            let mut tick = tokio::time::interval(TICK);
            loop {
                tokio::select! {
                    biased;
                    request = requests.message() => {
                        self.check_key().map_err(status_of)?;
                        return request.map_err(of_client);
                    }
                    _ = tick.tick() => {
                        if self.app.is_draining() {
                            return Err(status_of(ServeError::Draining));
                        }
                        self.check_key().map_err(status_of)?;
                        pause.check().map_err(status_of)?;
                    }
                }
            }
        };
        let Some(end) = self.call.end else {
            return wait.await;
        };
        let passed = |_| Err(status_of(end.passed()));
        timeout_at(end.at().into(), wait)
            .await
            .unwrap_or_else(passed)
    }

    /// Returns the deadline of a request that arrives now: it has the time of the server, up to the end of the stream.
    fn deadline(&self) -> Deadline {
        let longest = self.app.limits.request_timeout;
        let left = self.call.end.map(Deadline::left);
        Deadline::after(left.map_or(longest, |left| left.min(longest)))
    }

    /// Returns the key of the stream, with the keys that apply now.
    fn key(&self) -> Option<(&ApiKeys, &Grant)> {
        let keys = self.app.keys.as_deref()?;
        Some((keys.keys(), self.grant.as_deref()?))
    }

    /// Checks that the key of the stream has not been removed.
    fn check_key(&self) -> Result<(), ServeError> {
        let checked = self.key().map(|(keys, grant)| keys.check(grant));
        Ok(checked.unwrap_or(Ok(()))?)
    }

    /// Counts a request of the stream towards the rate of its key.
    fn count(&self) -> Result<(), ServeError> {
        let counted = self.key().map(|(keys, grant)| keys.count(grant));
        Ok(counted.unwrap_or(Ok(()))?)
    }

    /// Returns the response to one request. `counts` says whether it counts towards the rate of the key.
    async fn answer(&self, counts: bool, request: ModelInferRequest) -> Answer {
        let id = request.id.clone();
        match self.infer(counts, request).await {
            Ok(done) => {
                let response = ModelStreamInferResponse {
                    error_message: String::new(),
                    infer_response: Some(done.response),
                };
                (response, Some(done.memory))
            }
            Err(problem) => {
                let response = ModelStreamInferResponse {
                    error_message: problem.open_inference_text(false),
                    infer_response: Some(ModelInferResponse {
                        id,
                        ..ModelInferResponse::default()
                    }),
                };
                (response, None)
            }
        }
    }

    async fn infer(&self, counts: bool, request: ModelInferRequest) -> Result<Inferred, Problem> {
        let (app, call) = (&*self.app, &self.call);
        let deadline = self.deadline();
        let body = call.take_memory(app);
        if counts && let Err(error) = self.count() {
            // Nothing of the request is kept while its response is delayed.
            drop((request, body));
            return Err(failed(app, Watch::new(&app.metrics), error).await);
        }
        let inferring = Inferring {
            app,
            trace: call.trace.clone(),
            deadline,
            body,
        };
        let inferring = inferring.run(request);
        // A model that is loaded first gives its request the full time again, but not more than the stream has.
        match self.call.end {
            None => inferring.await,
            Some(end) => {
                let passed = |_| Err(end.passed().into());
                timeout_at(end.at().into(), inferring)
                    .await
                    .unwrap_or_else(passed)
            }
        }
    }
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
