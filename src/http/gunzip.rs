//! Reads request bodies with `content-encoding: gzip` or `deflate`, and decodes them as they arrive.

use std::fmt::Display;

use axum::body::Body;
use bytes::{Buf, Bytes, BytesMut};

use super::body::next_data;
use super::extract::INLINE_BYTES;
use super::gzip::Gzip;
use super::zlib::Zlib;
use crate::admission::Admission;
use crate::app::App;
use crate::error::ServeError;
use crate::pool::JobCost;

/// Number of compressed bytes that are gathered for a job on the image pool, if the body does not end before.
const GATHERED: usize = 64 << 10;
/// Maximum number of bytes that a job on the image pool decodes. It takes a few milliseconds; between two jobs the
/// request can be cancelled.
const JOB_BYTES: usize = 1 << 20;
/// Smallest size of the decoded body in memory.
const FIRST_BYTES: usize = 16 << 10;
/// Memory in bytes for the decoder and for the gathered bytes.
const FIXED_BYTES: usize = 192 << 10;
/// Predicted time to decode, in nanoseconds per byte of input and output.
const NANOS_PER_BYTE: usize = 4;

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    /// Gzip data (RFC 1952).
    Gzip,
    /// Zlib data (RFC 1950), which HTTP calls `deflate`.
    Deflate,
}

/// A decoder of one kind of compressed data.
enum Decoder {
    Gzip(Gzip),
    Zlib(Zlib),
}

impl Decoder {
    fn new(compression: Compression) -> Self {
        match compression {
            Compression::Gzip => Self::Gzip(Gzip::new()),
            Compression::Deflate => Self::Zlib(Zlib::new()),
        }
    }

    /// Decodes as [`Gzip::decode`] does.
    fn decode(&mut self, input: &mut &[u8], output: &mut [u8]) -> Result<usize, ServeError> {
        match self {
            Self::Gzip(gzip) => gzip.decode(input, output).map_err(|e| self.malformed(e)),
            Self::Zlib(zlib) => zlib.decode(input, output).map_err(|e| self.malformed(e)),
        }
    }

    /// Checks that the data ends here.
    fn finish(&self) -> Result<(), ServeError> {
        match self {
            Self::Gzip(gzip) => gzip.finish().map_err(|e| self.malformed(e)),
            Self::Zlib(zlib) => zlib.finish().map_err(|e| self.malformed(e)),
        }
    }

    fn malformed(&self, reason: impl Display) -> ServeError {
        ServeError::BadBody {
            field: "body".to_owned(),
            expected: match self {
                Self::Gzip(_) => "gzip data (RFC 1952), as `content-encoding: gzip` states",
                Self::Zlib(_) => "zlib data (RFC 1950), as `content-encoding: deflate` states",
            },
            reason: reason.to_string(),
        }
    }
}

/// Reads a compressed body and returns it decoded. Both sizes are limited by `max_body_bytes`. `admission` reserves
/// the memory before the decoded body grows. The first [`INLINE_BYTES`] are decoded by this task, others on the image
/// pool.
///
/// # Errors
/// [`ServeError::BodyTooLarge`], [`ServeError::BodyMemory`], [`ServeError::BadBody`] if the body is not compressed as stated,
/// [`ServeError::BodyTimeout`] and [`ServeError::DeadlinePassed`] if the body arrives, or is decoded, too late.
pub(super) async fn collect(
    app: &App,
    admission: &mut Admission,
    compression: Compression,
    body: &mut Body,
) -> Result<Bytes, ServeError> {
    let limit = app.limits.max_body_bytes;
    let mut decoding = Decoding::new(limit, compression);
    let mut gathered = BytesMut::new();
    let mut received = 0;
    loop {
        let data = next_data(body, admission.deadline).await?;
        let ends = data.is_none();
        if let Some(data) = data {
            received += data.len();
            if received > limit {
                return Err(ServeError::BodyTooLarge { limit });
            }
            gathered.extend_from_slice(&data);
        }
        if ends || decoding.inline > 0 || gathered.len() >= GATHERED {
            let input = gathered.split().freeze();
            decoding = decoding.run(app, admission, input).await?;
        }
        if ends {
            return decoding.finish();
        }
    }
}

/// A body that is being decoded.
struct Decoding {
    decoder: Decoder,
    decoded: Vec<u8>,
    limit: usize,
    /// Number of bytes of input and output that may still be decoded by the task of the connection.
    inline: usize,
}

/// The result of one step: the number of bytes of its input that were used, and whether further output may follow
/// without input.
struct Step {
    used: usize,
    full: bool,
}

impl Decoding {
    fn new(limit: usize, compression: Compression) -> Self {
        Self {
            decoder: Decoder::new(compression),
            decoded: Vec::new(),
            limit,
            inline: INLINE_BYTES,
        }
    }

    /// Decodes `input` completely.
    async fn run(
        mut self,
        app: &App,
        admission: &mut Admission,
        mut input: Bytes,
    ) -> Result<Self, ServeError> {
        let mut full = false;
        while full || !input.is_empty() {
            let room = self.grow(app, admission)?;
            let step = if self.inline > 0 {
                self.inline_step(&input, room)?
            } else {
                let step;
                (self, step) = self.pool_step(app, admission, &input, room).await?;
                step?
            };
            if step.used == 0 && !step.full && !input.is_empty() {
                // The decoder always uses its input or fills its output; an endless loop would be worse than this error.
                return Err(self.decoder.malformed("the compressed data is damaged"));
            }
            input.advance(step.used);
            full = step.full;
            if self.decoded.len() > self.limit {
                return Err(ServeError::BodyTooLarge { limit: self.limit });
            }
        }
        Ok(self)
    }

    /// Makes room for decoded bytes, after reserving the memory. Returns the number of bytes that fit, at least 1: one
    /// byte above the limit shows that the body is too large.
    fn grow(&mut self, app: &App, admission: &mut Admission) -> Result<usize, ServeError> {
        let (length, capacity) = (self.decoded.len(), self.decoded.capacity());
        if length < capacity {
            return Ok(capacity - length);
        }
        let grown = (2 * capacity).max(FIRST_BYTES).min(self.limit + 1);
        // A body of the maximum size must fit if no other request holds memory.
        let most = usize::try_from(app.bodies.total()).unwrap_or(usize::MAX);
        let most = most.max(grown.min(self.limit));
        admission.reserve_body((grown + FIXED_BYTES).min(most))?;
        self.decoded.reserve_exact(grown - length);
        Ok(grown - length)
    }

    /// Decodes a part of `input` into at most `room` bytes, within the bytes that this task may still decode.
    fn inline_step(&mut self, input: &[u8], room: usize) -> Result<Step, ServeError> {
        let before = self.decoded.len();
        let input = input.get(..self.inline).unwrap_or(input);
        let step = self.step(input, room.min(self.inline))?;
        let work = step.used + self.decoded.len() - before;
        self.inline = self.inline.saturating_sub(work.max(1));
        Ok(step)
    }

    /// Decodes a part of `input` into at most `room` bytes, on the image pool.
    async fn pool_step(
        mut self,
        app: &App,
        admission: &Admission,
        input: &Bytes,
        room: usize,
    ) -> Result<(Self, Result<Step, ServeError>), ServeError> {
        let input = input.slice(..input.len().min(GATHERED));
        let room = room.min(JOB_BYTES);
        let cost = JobCost::time((NANOS_PER_BYTE * (input.len() + room)) as u64);
        let job = move || {
            let step = self.step(&input, room);
            (self, step)
        };
        admission.deadline.bound(app.pool.run(cost, job)).await
    }

    /// Decodes `input` into at most `room` bytes.
    fn step(&mut self, input: &[u8], room: usize) -> Result<Step, ServeError> {
        let length = self.decoded.len();
        self.decoded.resize(length + room, 0);
        let mut left = input;
        let output = self.decoded.get_mut(length..).unwrap_or_default();
        let written = self.decoder.decode(&mut left, output)?;
        self.decoded.truncate(length + written);
        Ok(Step {
            used: input.len() - left.len(),
            full: written == room,
        })
    }

    fn finish(self) -> Result<Bytes, ServeError> {
        self.decoder.finish()?;
        Ok(Bytes::from(self.decoded))
    }
}
