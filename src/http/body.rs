//! Reads the bodies of requests into memory, within the limits on size, memory and time.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, EXPECT};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};

use super::gunzip::{self, Compression};
use super::joined::Joined;
use crate::admission::{Admission, Deadline};
use crate::app::App;
use crate::budget::Budget;
use crate::error::ServeError;
use crate::metrics::Stage;

/// Maximum number of bytes of a rejected body that are read and dropped, so that the client can
/// read the response.
const DISCARD_BYTES: usize = 64 << 20;
/// Maximum time spent on reading and dropping a rejected body.
const DISCARD_TIME: Duration = Duration::from_secs(2);

/// Size in bytes up to which the buffer of a body is allocated at once, if its length is announced.
const AT_ONCE_BYTES: usize = 4 << 20;
/// The share of the memory for bodies up to which buffers are allocated at once, as a divisor. Clients that announce bodies
/// and send little of them hold no more.
const AT_ONCE_SHARE: u64 = 4;

/// How the body of a request is laid out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    /// How the body is compressed. `None` if it is not.
    pub(super) encoding: Option<Compression>,
    /// Offset of the first tensor in the body. 0 for a body without tensors.
    pub(super) tensors: usize,
}

/// Reads a request body of this layout into memory that `admission` reserves while the body arrives. If the body cannot be
/// used, or does not arrive before the deadline, the remainder of the body is read and dropped, and an error is returned.
pub(super) async fn read_body(
    app: &App,
    admission: &mut Admission,
    layout: Layout,
    headers: &HeaderMap,
    body: &mut Body,
) -> Result<Bytes, ServeError> {
    let started = Instant::now();
    admission.progress.enter(Stage::receive);
    let collected = match check_length(app.limits.max_body_bytes, headers) {
        Err(error) => Err(error),
        Ok(announced) => match layout.encoding {
            None => {
                let joined = Joined::new(layout.tensors);
                collect(app, admission, (joined, announced), body).await
            }
            Some(compression) => gunzip::collect(app, admission, compression, body).await,
        },
    };
    admission.timing[Stage::receive] += started.elapsed();
    if let Err(error) = &collected
        && !matches!(
            error,
            ServeError::BodyInterrupted | ServeError::BodyTooSlow { .. }
        )
    {
        refuse(headers, body).await;
    }
    if collected.is_ok() {
        admission.progress.enter(Stage::admission);
    }
    collected
}

/// Returns the length of the body that the `Content-Length` header announces, or `None` without this header.
fn check_length(limit: usize, headers: &HeaderMap) -> Result<Option<usize>, ServeError> {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: usize| length > limit) {
        return Err(ServeError::BodyTooLarge { limit });
    }
    Ok(announced)
}

/// Reads a body that is not compressed into `joined`. `admission` reserves the memory before the buffer grows.
async fn collect(
    app: &App,
    admission: &mut Admission,
    (mut joined, announced): (Joined, Option<usize>),
    body: &mut Body,
) -> Result<Bytes, ServeError> {
    let limit = app.limits.max_body_bytes;
    while let Some(data) = next_data(body, admission.deadline).await? {
        let needed = joined.len() + data.len();
        if needed > limit {
            return Err(ServeError::BodyTooLarge { limit });
        }
        if needed > joined.capacity() {
            let at_once = announced.filter(|length| is_allocated_at_once(&app.bodies, *length));
            // Doubling the capacity amortizes the cost of copying, as in a vector. It stops at the
            // length that the `Content-Length` header announces.
            let doubled = || (2 * joined.capacity()).min(announced.unwrap_or(limit));
            let capacity = at_once.unwrap_or_else(doubled).max(needed);
            admission.reserve_body(capacity)?;
            joined.grow_to(capacity);
        }
        joined.push(&data);
    }
    Ok(joined.into_bytes())
}

/// Returns whether the buffer of a body of `length` bytes is allocated when its first bytes have arrived.
fn is_allocated_at_once(bodies: &Budget, length: usize) -> bool {
    let most = bodies.total() / AT_ONCE_SHARE;
    length <= AT_ONCE_BYTES && bodies.used().saturating_add(length as u64) <= most
}

/// Returns the next data of the body, or `None` at its end.
///
/// # Errors
/// [`ServeError::BodyTimeout`] if nothing arrives before `deadline`, [`ServeError::BodyInterrupted`] and
/// [`ServeError::BodyTooSlow`] if the connection fails or is too slow.
pub(super) async fn next_data(
    body: &mut Body,
    deadline: Deadline,
) -> Result<Option<Bytes>, ServeError> {
    loop {
        let frame = deadline.bound(async { Ok(body.frame().await) }).await;
        let frame = frame.map_err(|error| match error {
            ServeError::DeadlinePassed { limit } => ServeError::BodyTimeout { limit },
            error => error,
        })?;
        let Some(frame) = frame else {
            return Ok(None);
        };
        // A frame without data holds trailers, which are not part of the image.
        if let Ok(data) = frame.map_err(unreadable)?.into_data() {
            return Ok(Some(data));
        }
    }
}

/// Returns the error of a request whose body cannot be read because of `error`.
pub(crate) fn unreadable(error: axum::Error) -> ServeError {
    let known = error.into_inner().downcast::<ServeError>();
    known.map_or(ServeError::BodyInterrupted, |error| *error)
}

/// Reads and drops the body of a rejected request. A client that sent `Expect: 100-continue` sends
/// no body before it gets permission, so its body is not read.
pub(super) async fn refuse(headers: &HeaderMap, body: &mut Body) {
    if !headers.contains_key(EXPECT) {
        discard(body).await;
    }
}

/// Reads and drops a bounded part of `body`. Closing a connection with unread data resets it, and
/// the client would never see the response.
async fn discard(body: &mut Body) {
    let mut body = Limited::new(body, DISCARD_BYTES);
    let read = async { while let Some(Ok(_)) = body.frame().await {} };
    let _ = tokio::time::timeout(DISCARD_TIME, read).await;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::{StreamExt as _, stream};

    use super::super::router_tests::{Behavior, Setup, within};
    use super::*;

    /// Reads a body whose client announces `announced` bytes, sends `sent` of them and then nothing. Returns the memory
    /// that the request holds then, and the total for bodies.
    async fn held(announced: Option<usize>, sent: usize) -> (u64, u64) {
        let app = Setup::running(Behavior::Logits, within(50));
        let model = Arc::clone(&app.registry().unwrap().snapshot().models()[0]);
        let deadline = Deadline::after(Duration::from_millis(50));
        let mut admission = Admission::new(&app, model, deadline).unwrap();
        let start = stream::once(async move { Ok::<_, std::io::Error>(vec![1; sent]) });
        let mut body = Body::from_stream(start.chain(stream::pending()));
        let joined = (Joined::new(0), announced);
        let collected = collect(&app, &mut admission, joined, &mut body).await;
        assert!(matches!(collected, Err(ServeError::BodyTimeout { .. })));
        (app.bodies.used(), app.bodies.total())
    }

    #[tokio::test]
    async fn a_long_body_holds_memory_for_what_has_arrived() {
        let (least, _) = held(None, 1).await;
        assert_eq!(held(Some(20 << 20), 1).await.0, least);
        assert_eq!(held(Some(20 << 20), 1 << 20).await.0, 1 << 20);
        assert_eq!(held(Some(1 << 20), 1).await.0, 1 << 20);
    }

    #[test]
    fn buffers_are_not_allocated_at_once_if_bodies_hold_much() {
        let bodies = Budget::new("bodies", 1 << 10, 20 << 20);
        assert!(is_allocated_at_once(&bodies, AT_ONCE_BYTES));
        assert!(!is_allocated_at_once(&bodies, AT_ONCE_BYTES + 1));
        assert!(!is_allocated_at_once(&bodies, usize::MAX));
        let other = bodies.try_acquire(4 << 20).unwrap();
        assert!(is_allocated_at_once(&bodies, 1 << 20));
        assert!(!is_allocated_at_once(&bodies, (1 << 20) + 1));
        drop(other);
        assert!(is_allocated_at_once(&bodies, AT_ONCE_BYTES));
    }
}
