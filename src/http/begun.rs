//! The beginning and the end of a request that runs a model: what the routes of all protocols over HTTP share.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Response};

use super::body::refuse;
use super::problem::Problem;
use super::respond::Finished;
use super::task::failed;
use super::traces;
use crate::admission::{Admission, Deadline, Watch, admit};
use crate::app::App;
use crate::error::ServeError;
use crate::metrics::Stage;
use crate::registry::Entry;

/// A request that was admitted by its head, `H`.
pub(super) struct Begun<'a, H> {
    pub(super) head: H,
    pub(super) admission: Admission,
    pub(super) parts: Parts,
    /// The body, of which nothing was read.
    pub(super) body: Body,
    pub(super) outcome: Outcome<'a>,
}

/// Counts the outcome of a request, and converts it to the response.
pub(super) struct Outcome<'a> {
    app: &'a App,
    watch: Watch<'a>,
}

impl<'a, H> Begun<'a, H> {
    /// Begins the deadline of `request` and admits it. `find` checks the head and returns it with its model, and `check`
    /// checks that the loaded model can serve the request.
    ///
    /// # Errors
    /// The problem of a request that is rejected. A bounded part of its body was read and dropped.
    pub(super) async fn new(
        app: &'a App,
        request: Request,
        find: impl Fn(&Parts) -> Result<(H, Arc<Entry>), ServeError>,
        check: impl FnOnce(&H, &Admission) -> Result<(), ServeError>,
    ) -> Result<Self, Problem> {
        let deadline = Deadline::after(app.limits.request_timeout);
        let (parts, mut body) = request.into_parts();
        let trace = traces::trace_of(&parts.extensions);
        let admitting = trace.begin(Stage::admission);
        let mut watch = Watch::new(&app.metrics);
        let admitted = admit(app, deadline, &mut watch, || find(&parts)).await;
        let admitted = admitted.and_then(|(head, admission)| {
            check(&head, &admission)?;
            Ok((head, admission))
        });
        match admitted {
            Ok((head, admission)) => {
                admitting.end();
                Ok(Self {
                    head,
                    admission: admission.traced(trace),
                    parts,
                    body,
                    outcome: Outcome { app, watch },
                })
            }
            Err(error) => {
                let rejected = failed(app, watch, error).await;
                drop(admitting);
                refuse(&parts.headers, &mut body).await;
                Err(rejected)
            }
        }
    }
}

impl Outcome<'_> {
    /// Counts the result of the request and returns the response.
    ///
    /// # Errors
    /// The problem of a request that failed.
    pub(super) async fn respond(
        self,
        result: Result<Finished, ServeError>,
    ) -> Result<Response, Problem> {
        match result {
            Ok(finished) => {
                let served = &finished.served;
                self.watch.succeeded(&served.model, &served.timing);
                Ok(finished.into_response())
            }
            Err(error) => Err(failed(self.app, self.watch, error).await),
        }
    }
}
