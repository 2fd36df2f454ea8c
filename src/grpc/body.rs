//! The body of a call's request, whose memory is reserved as it arrives.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep_until};
use tonic::Status;

use super::call::Call;
use crate::error::ServeError;
use crate::http::body::unreadable;
use crate::http::upload::Pausing;

/// Bytes of a message before its content: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// What the messages of a request may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Maximum number of bytes of a message.
    pub(super) limit: usize,
    /// Whether there is one message only. Tonic reads what follows it, and drops it.
    pub(super) single: bool,
}

/// The body of a call's request. Memory for its bytes is reserved before they are passed on. Reading it fails with the
/// status of the call if the memory is exhausted, if the client is too slow, or if the connection fails.
pub(super) struct Metered {
    body: Body,
    call: Call,
    shape: Shape,
    /// Bytes that have arrived in all.
    arrived: u64,
    /// Offset in the body at which the next message begins.
    next: u64,
    /// The bytes of a prefix that has arrived in part.
    prefix: Vec<u8>,
    /// Completes when the time to send the request has passed. `None` for a stream, and until the client is waited for.
    timer: Option<Pin<Box<Sleep>>>,
    /// Lets the client of a stream pause between messages. `None` for other requests, whose end is awaited.
    pausing: Option<Pausing>,
}

impl Metered {
    /// Returns `body`, the body of `call`, whose messages have `shape`. Without `pausing`, it has to arrive before the
    /// deadline of the call; with it, the client may pause between messages.
    pub(super) fn new(body: Body, call: Call, shape: Shape, pausing: Option<Pausing>) -> Self {
        if let Some(pausing) = &pausing {
            pausing.set(true);
        }
        Self {
            body,
            call,
            shape,
            arrived: 0,
            next: 0,
            prefix: Vec::with_capacity(PREFIX),
            timer: None,
            pausing,
        }
    }

    /// Checks the lengths of the messages that begin in `data`, and reserves memory for it.
    ///
    /// # Errors
    /// [`ServeError::BodyTooLarge`] for a message over the limit, before its content has arrived;
    /// [`ServeError::BadBody`] for a second message where there is one only; [`ServeError::BodyMemory`] if the memory is exhausted.
    fn admit(&mut self, data: &[u8]) -> Result<(), ServeError> {
        let end = self.arrived + data.len() as u64;
        while self.next < end {
            if self.shape.single && self.next > 0 {
                return Err(ServeError::BadBody {
                    field: "body".to_owned(),
                    expected: "one message",
                    reason: "the call has a second message".to_owned(),
                });
            }
            // Bytes of the prefix that have arrived before are in `prefix`.
            let at = self.next + self.prefix.len() as u64;
            let rest = at.checked_sub(self.arrived).map(|at| at as usize);
            let rest = rest.and_then(|at| data.get(at..)).unwrap_or_default();
            let missing = PREFIX - self.prefix.len();
            self.prefix.extend(rest.iter().take(missing));
            let Some(&[_, length @ ..]) = self.prefix.first_chunk::<PREFIX>() else {
                break;
            };
            let length = u32::from_be_bytes(length);
            let limit = self.shape.limit;
            if length as usize > limit {
                return Err(ServeError::BodyTooLarge { limit });
            }
            self.prefix.clear();
            self.next += PREFIX as u64 + u64::from(length);
        }
        self.arrived = end;
        if let Some(pausing) = &self.pausing {
            pausing.set(self.next == end && self.prefix.is_empty());
        }
        Ok(self.call.reserve(data.len())?)
    }

    /// Completes when the time to send the request has passed.
    fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.pausing.is_some() {
            return Poll::Pending;
        }
        let at = self.call.deadline.at();
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(at.into())));
        timer.as_mut().poll(context)
    }

    fn fail(&self, error: ServeError) -> Status {
        self.call.failed(error.into())
    }
}

impl hyper::body::Body for Metered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        // A client that never lets the body wait cannot keep a stream open.
        let is_late =
            !self.shape.single && self.pausing.is_none() && self.call.deadline.check().is_err();
        let frame = Pin::new(&mut self.body).poll_frame(context);
        let frame = match frame {
            Poll::Ready(frame) if !is_late => frame,
            Poll::Ready(_) | Poll::Pending => {
                if !is_late {
                    ready!(self.poll_late(context));
                }
                let limit = self.call.deadline.limit();
                return Poll::Ready(Some(Err(self.fail(ServeError::BodyTimeout { limit }))));
            }
        };
        Poll::Ready(frame.map(|frame| {
            let frame = frame.map_err(|error| self.fail(unreadable(error)))?;
            if let Some(data) = frame.data_ref() {
                let admitted = self.admit(data);
                admitted.map_err(|error| self.fail(error))?;
            }
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::{App, Limits};
    use crate::telemetry::Trace;

    fn message(length: usize) -> Vec<u8> {
        let mut message = vec![0; PREFIX + length];
        message[1..PREFIX].copy_from_slice(&(length as u32).to_be_bytes());
        message
    }

    #[test]
    fn lengths_are_checked_however_the_bytes_arrive() {
        let app = App::new(Limits::default(), 1);
        let small = [message(0), message(10), message(3)].concat();
        let stream = Shape {
            limit: 10,
            single: false,
        };
        let large = [message(10), message(11)].concat();
        for step in 1..=small.len() {
            let call = Call::new(&app, None, Trace::default());
            let mut body = Metered::new(Body::empty(), call.clone(), stream, None);
            for data in small.chunks(step) {
                body.admit(data).unwrap();
            }
            assert!(call.take_memory(&app).amount() >= small.len() as u64);
            let mut body = Metered::new(Body::empty(), call, stream, None);
            let admitted = large.chunks(step).try_for_each(|data| body.admit(data));
            assert!(matches!(
                admitted,
                Err(ServeError::BodyTooLarge { limit: 10 })
            ));
            // The content of the large message was not needed.
            assert!(
                body.arrived <= (message(10).len() + PREFIX) as u64,
                "{step}"
            );
        }
    }

    #[test]
    fn nothing_follows_the_message_of_a_unary_call() {
        let app = App::new(Limits::default(), 1);
        let unary = Shape {
            limit: 10,
            single: true,
        };
        for step in 1..=20 {
            let call = Call::new(&app, None, Trace::default());
            let mut body = Metered::new(Body::empty(), call, unary, None);
            for data in message(10).chunks(step) {
                body.admit(data).unwrap();
            }
            assert!(matches!(body.admit(&[0]), Err(ServeError::BadBody { .. })));
        }
    }
}
