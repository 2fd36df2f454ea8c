//! The body of a request, whose rate of arrival is measured.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::BoxError;
use axum::body::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::activity::{Activity, BodyWait, Unread};
use super::frames::data_overhead;
use crate::error::ServeError;

/// Whether a body may pause: that of a stream of messages, between two of them. The handler of the request sets it, and the
/// body reads it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pausing(Arc<AtomicBool>);

impl Pausing {
    /// Sets whether the body may pause from now on.
    pub(crate) fn set(&self, may_pause: bool) {
        self.0.store(may_pause, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The body of a request. Its arrival is recorded in `activity`, and reading it fails with
/// [`BodyTooSlow`](ServeError::BodyTooSlow) if it arrives too slowly.
pub(super) struct Upload {
    body: Incoming,
    activity: Arc<Activity>,
    /// Exists while the handler does not read a body that has not ended.
    unread: Option<Unread>,
    /// Created when the reader of the body first has to wait, and dropped at the end of the body. `None`
    /// for a body that arrives together with its head, which is therefore not measured.
    wait: Option<BodyWait>,
    /// When the reader got the last data. It may do other work before it asks for more, such as decoding the data.
    passed: Option<Instant>,
    /// Time that the reader has taken for other work since `wait` began.
    busy: Duration,
    pausing: Pausing,
}

impl Upload {
    /// Returns the body of a request that belongs to `activity`. `pausing` is also an extension of the request.
    pub(super) fn new(body: Incoming, activity: &Arc<Activity>, pausing: Pausing) -> Self {
        Self {
            unread: (!body.is_end_stream()).then(|| activity.unread()),
            body,
            activity: Arc::clone(activity),
            wait: None,
            passed: None,
            busy: Duration::ZERO,
            pausing,
        }
    }

    /// Begins to measure the rate of the client, or checks it.
    ///
    /// # Errors
    /// [`BodyTooSlow`](ServeError::BodyTooSlow) if the client was too slow, unless it may have waited for the reader or may
    /// pause.
    fn check(&mut self) -> Result<(), ServeError> {
        match self.wait.as_ref().map(BodyWait::check) {
            Some(Ok(())) => return Ok(()),
            Some(Err(error))
                if !self.pausing.get() && self.busy < self.activity.slow_body() / 2 =>
            {
                return Err(error);
            }
            Some(Err(_)) | None => {}
        }
        self.busy = Duration::ZERO;
        // An old wait ends before the new one begins.
        self.wait = None;
        self.wait = Some(self.activity.body());
        Ok(())
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.unread = None;
        if let Some(passed) = self.passed.take() {
            self.busy += passed.elapsed();
        }
        let frame = Pin::new(&mut self.body).poll_frame(context);
        // With a known length, the last frame already ends the body, before `None` is returned.
        let ended = self.body.is_end_stream();
        match &frame {
            Poll::Ready(Some(Ok(frame))) if !ended => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                self.activity.progress(data_overhead(bytes));
                if let Some(wait) = &self.wait {
                    wait.received(bytes);
                }
                self.passed = Some(Instant::now());
                self.unread = Some(self.activity.unread());
            }
            Poll::Pending if !ended => self.check()?,
            Poll::Ready(_) | Poll::Pending => self.wait = None,
        }
        frame.map_err(BoxError::from)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
