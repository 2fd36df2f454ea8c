//! `grpc.health.v1.Health`: probes of the server and of single models.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::call::Call;
use super::status::status_of;
use crate::admission::{Deadline, Watch};
use crate::app::App;
use crate::error::ServeError;
use crate::http::activity::{Standby, StandingBy};
use crate::http::keys::authorize;
use crate::http::task::failed;
use crate::keys::Grant;

/// Period in which a watch looks for changes.
const WATCH_PERIOD: Duration = Duration::from_millis(500);

/// Services that stand for the whole server.
const SERVER: [&str; 2] = ["", open_inference::SERVICE];
/// Maximum size in bytes of a request.
pub(super) const MAX_BYTES: usize = 4 << 10;
/// Longest time of a watch. Clients begin another one.
const LONGEST_WATCH: Duration = Duration::from_mins(10);
/// Maximum number of watches at the same time. Each keeps its connection.
const MAX_WATCHES: usize = 128;

/// The service for probes.
pub(super) struct Probes {
    app: Arc<App>,
    /// The watches that may still begin.
    watches: Arc<Semaphore>,
}

impl Probes {
    pub(super) fn new(app: Arc<App>) -> Self {
        Self {
            app,
            watches: Arc::new(Semaphore::new(MAX_WATCHES)),
        }
    }

    /// Checks the API key of a probe of the model `service`, if keys are configured: the answer tells whether the model
    /// is served. Probes of the server need no key.
    ///
    /// # Errors
    /// [`ServeError::Key`] without a valid key, and if the key is over a limit.
    fn authorize(&self, service: &str, headers: &HeaderMap) -> Result<Option<Grant>, ServeError> {
        match &self.app.keys {
            Some(keys) if !SERVER.contains(&service) => Ok(Some(authorize(keys, headers)?)),
            _ => Ok(None),
        }
    }
}

/// Responses of a watch.
type Changes = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Health for Probes {
    type WatchStream = Changes;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let call = Call::of(request.extensions())?;
        let service = &request.get_ref().service;
        let _grant = match self.authorize(service, request.metadata().as_ref()) {
            Ok(grant) => grant,
            Err(error) => {
                let watch = Watch::new(&self.app.metrics);
                return Err(call.failed(failed(&self.app, watch, error).await));
            }
        };
        match serving(&self.app, service) {
            Ok(status) => Ok(Response::new(response(status))),
            Err(error) => Err(call.failed(error.into())),
        }
    }

    /// Sends the status now and whenever it changes, until the server rejects new requests or the time of a watch is
    /// over.
    ///
    /// # Errors
    /// `UNAVAILABLE` if there are too many watches; at the end of the responses, `DEADLINE_EXCEEDED` if the client has
    /// set a shorter time.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Changes>, Status> {
        let call = Call::of(request.extensions())?;
        let standby = request.extensions().get::<Standby>().cloned();
        let standby = standby.unwrap_or_default();
        let place = Arc::clone(&self.watches).try_acquire_owned();
        let place = place.map_err(|_| Status::unavailable("too many watches at the same time"))?;
        let timeout = call
            .end
            .map(Deadline::left)
            .filter(|timeout| *timeout < LONGEST_WATCH);
        let watched = Watched {
            app: Arc::clone(&self.app),
            service: request.into_inner().service,
            last: None,
            standby,
            since: None,
            deadline: Deadline::after(timeout.unwrap_or(LONGEST_WATCH)),
            limited: timeout.is_some(),
            _place: place,
        };
        let changes = unfold(Some(watched), async |watched| {
            let mut watched = watched?;
            match watched.change().await {
                Ok(Some(status)) => Some((Ok(response(status)), Some(watched))),
                Ok(None) => None,
                Err(error) => Some((Err(status_of(error)), None)),
            }
        });
        Ok(Response::new(Box::pin(changes)))
    }
}

/// One watch.
struct Watched {
    app: Arc<App>,
    service: String,
    /// The status that was sent last.
    last: Option<ServingStatus>,
    /// Tells the connection that nothing is to be done until the status changes.
    standby: Standby,
    /// Exists while the watch waits for a change.
    since: Option<StandingBy>,
    deadline: Deadline,
    /// Whether the client has set the deadline.
    limited: bool,
    _place: OwnedSemaphorePermit,
}

impl Watched {
    /// Returns the next status that differs from the last one; `None` at the end of the watch.
    ///
    /// # Errors
    /// [`ServeError::DeadlinePassed`] if the client has set the time limit and it has passed.
    async fn change(&mut self) -> Result<Option<ServingStatus>, ServeError> {
        loop {
            // A model that is not served may be served later.
            let status = serving(&self.app, &self.service);
            let status = status.unwrap_or(ServingStatus::ServiceUnknown);
            if self.last.replace(status) != Some(status) {
                self.since = None;
                return Ok(Some(status));
            }
            self.since.get_or_insert_with(|| self.standby.begin());
            match self.deadline.check() {
                Err(error) if self.limited => return Err(error),
                Err(_) => return Ok(None),
                Ok(()) if self.app.is_draining() => return Ok(None),
                Ok(()) => {}
            }
            let next = (Instant::now() + WATCH_PERIOD).min(self.deadline.at());
            tokio::time::sleep_until(next.into()).await;
        }
    }
}

/// Returns the status of `service`: of the server, if it is empty or the name of the inference service, or of the model
/// with this name.
///
/// # Errors
/// [`ServeError::UnknownModel`] if no served model has the name.
fn serving(app: &App, service: &str) -> Result<ServingStatus, ServeError> {
    let Ok(registry) = app.ready() else {
        return Ok(ServingStatus::NotServing);
    };
    let snapshot = registry.snapshot();
    let ready = match service {
        server if SERVER.contains(&server) => snapshot.check_workers().is_ok(),
        model => {
            let entry = snapshot.named(model)?;
            entry
                .model()
                .is_some_and(|model| model.batcher.unready().is_none())
        }
    };
    Ok(if ready {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    })
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}
