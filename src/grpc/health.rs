//! `grpc.health.v1.Health`: probes of the server and of single models.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::call::Call;
use crate::app::App;
use crate::error::ServeError;

/// Period in which a watch looks for changes.
const WATCH_PERIOD: Duration = Duration::from_millis(500);

/// The service for probes.
pub(super) struct Probes(pub(super) Arc<App>);

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
        match serving(&self.0, &request.get_ref().service) {
            Ok(status) => Ok(Response::new(response(status))),
            Err(error) => Err(call.failed(error.into())),
        }
    }

    /// Sends the status now and whenever it changes, until the server rejects new requests.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Changes>, Status> {
        let service = request.into_inner().service;
        let state = (Arc::clone(&self.0), service, None);
        let changes = unfold(state, |(app, service, last)| async move {
            loop {
                // A model that is not served may be served later.
                let status = serving(&app, &service).unwrap_or(ServingStatus::ServiceUnknown);
                if last != Some(status) {
                    return Some((Ok(response(status)), (app, service, Some(status))));
                }
                if app.is_draining() {
                    return None;
                }
                tokio::time::sleep(WATCH_PERIOD).await;
            }
        });
        Ok(Response::new(Box::pin(changes)))
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
        "" | open_inference::SERVICE => snapshot.check_workers().is_ok(),
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
