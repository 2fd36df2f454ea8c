//! What the layers around a call and its handler share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http_body_util::BodyExt as _;
use tonic::Status;

use super::status::{load_status, status};
use crate::admission::Deadline;
use crate::app::App;
use crate::budget::{Exhausted, Permit};
use crate::http::problem::Problem;
use crate::http::respond::Served;
use crate::telemetry::Trace;

/// The state of one call, an extension of its request.
#[derive(Clone)]
pub(super) struct Call {
    /// The time by which the call has to end. A stream without a time limit of its client has one for each message.
    pub(super) deadline: Deadline,
    /// Whether the client has set the time limit.
    pub(super) limited: bool,
    /// The time limit of the client, which the server may shorten.
    pub(super) timeout: Option<Duration>,
    pub(super) trace: Trace,
    /// Memory of the bytes that have arrived and that no handler has taken yet.
    memory: Arc<Mutex<Permit>>,
    /// What metrics and logs record of the call.
    report: Arc<Mutex<Report>>,
}

/// What metrics and logs record of a call.
#[derive(Default)]
struct Report {
    served: Option<Served>,
    problem: Option<Problem>,
    /// Reserved memory of the response.
    memory: Option<Arc<Permit>>,
}

impl Call {
    /// Begins a call whose client has set `timeout`.
    pub(super) fn new(app: &App, timeout: Option<Duration>, trace: Trace) -> Self {
        let longest = app.limits.request_timeout;
        Self {
            deadline: Deadline::after(timeout.map_or(longest, |timeout| timeout.min(longest))),
            limited: timeout.is_some(),
            timeout,
            trace,
            memory: Arc::new(Mutex::new(app.bodies.empty())),
            report: Arc::default(),
        }
    }

    /// Returns the state of the call whose request has these extensions.
    ///
    /// # Errors
    /// `INTERNAL` without the layers of [`super::router`].
    pub(super) fn of(extensions: &tonic::Extensions) -> Result<Self, Status> {
        let call = extensions.get::<Self>().cloned();
        call.ok_or_else(|| status(&Problem::internal("the call has no state")))
    }

    /// Reserves memory for `bytes` more bytes of the request.
    ///
    /// # Errors
    /// [`Exhausted`] if other requests leave too little.
    pub(super) fn reserve(&self, bytes: usize) -> Result<(), Exhausted> {
        lock(&self.memory).grow_by(bytes as u64)
    }

    /// Returns the reserved memory of the bytes that have arrived since the last call.
    pub(super) fn take_memory(&self, app: &App) -> Permit {
        std::mem::replace(&mut lock(&self.memory), app.bodies.empty())
    }

    /// Records the model and the times of a call that succeeded.
    pub(super) fn served(&self, served: Served) {
        lock(&self.report).served = Some(served);
    }

    /// Keeps `memory` reserved until the client has been sent the response.
    pub(super) fn hold(&self, memory: Arc<Permit>) {
        lock(&self.report).memory = Some(memory);
    }

    /// Records the problem of a call that failed, and returns its status.
    pub(super) fn failed(&self, problem: Problem) -> Status {
        let status = status(&problem);
        lock(&self.report).problem = Some(problem);
        status
    }

    /// Records the problem of a call to load a model, and returns its status.
    pub(super) fn load_failed(&self, problem: Problem) -> Status {
        let status = load_status(&problem);
        lock(&self.report).problem = Some(problem);
        status
    }

    /// Adds what was recorded to `response`.
    pub(super) fn finish(&self, mut response: Response) -> Response {
        let Report {
            served,
            problem,
            memory,
        } = std::mem::take(&mut *lock(&self.report));
        let extensions = response.extensions_mut();
        if let Some(served) = served {
            extensions.insert(served);
        }
        if let Some(problem) = problem {
            extensions.insert(problem);
        }
        match memory {
            None => response,
            Some(memory) => response.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    // The closure owns the memory.
                    let _ = &memory;
                    frame
                }))
            }),
        }
    }
}

/// Locks `mutex`, even if a thread panicked while it held the lock. The values are always consistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
