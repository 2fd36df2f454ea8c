//! From compressed pictures to the network's outputs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use image::RgbImage;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::task::JoinHandle;

use super::{Images, Timing};
use crate::app::{App, BodyMemory};
use crate::batch::{BatchError, Inference, Reservation};
use crate::engine::Tensor;
use crate::error::ServeError;
use crate::image::{
    DecodeOptions, ImageError, ImageFormat, ImageSize, check_pixels, decode, probe,
};
use crate::metrics::Stage;
use crate::pool::joined;
use crate::registry::LoadedModel;

/// Whether a picture is needed after the network has seen it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// Its size only.
    Size,
    /// Its pixels too, to be drawn into. For requests of one picture: each keeps its part of the
    /// memory for pixels to the end, and several of one request could wait for each other.
    Pixels,
}

/// A picture on its way through the network.
pub(super) struct Pending(JoinHandle<Result<Queued, ServeError>>);

/// A picture that waits for a worker.
struct Queued {
    reply: oneshot::Receiver<Result<Inference, BatchError>>,
    timing: Timing,
    size: ImageSize,
    pixels: Option<Pixels>,
}

/// A decoded picture and its part of the memory for pixels.
pub(super) struct Pixels {
    pub(super) image: RgbImage,
    _room: OwnedSemaphorePermit,
}

/// What the network gave for one picture.
pub(super) struct Inferred {
    /// Its outputs, without the batch axis.
    pub(super) outputs: Vec<Tensor>,
    /// The stages up to and with inference.
    pub(super) timing: Timing,
    /// Columns and rows of the picture as a viewer shows it.
    pub(super) size: ImageSize,
    /// Its pixels, where they were to be kept.
    pub(super) pixels: Option<Pixels>,
}

impl Pending {
    /// Waits for the network's outputs.
    ///
    /// # Errors
    /// [`ServeError`] if the picture or the network failed.
    pub(super) async fn outputs(self) -> Result<Inferred, ServeError> {
        let Queued {
            reply,
            mut timing,
            size,
            pixels,
        } = joined(self.0).await??;
        let inference = reply.await.map_err(|_| BatchError::Closed)??;
        timing[Stage::queue] = inference.queue;
        timing[Stage::inference] = inference.inference;
        Ok(Inferred {
            outputs: inference.outputs,
            timing,
            size,
            pixels,
        })
    }
}

/// Starts to decode, preprocess, queue and run every picture; they overlap and keep their order.
///
/// Room in the queue is taken before anything is decoded, so that an overloaded server says so at
/// once and for little work.
pub(super) async fn infer(
    app: &App,
    model: &Arc<LoadedModel>,
    images: Images,
    options: DecodeOptions,
    deadline: Instant,
    keep: Keep,
) -> Result<Vec<Pending>, ServeError> {
    let Images { pictures, memory } = images;
    let capacity = model.batcher.capacity();
    if pictures.len() > capacity {
        // Room for so many never comes, so trying again must not be the advice.
        return Err(ServeError::TooManyImages { limit: capacity });
    }
    let mut room = model.batcher.reserve(pictures.len())?;
    let mut pending = Vec::with_capacity(pictures.len());
    for (index, bytes) in pictures.into_iter().enumerate() {
        let failed = |source| ServeError::Image { index, source };
        let (format, size) = probe(&bytes).map_err(failed)?;
        check_pixels(size, options.max_pixels).map_err(failed)?;
        let Some(mut room) = room.split_one() else {
            return Err(ServeError::Internal("a reservation was too small"));
        };
        let tensor = model.preprocessor.output_size(size).map_err(failed)?;
        room.hold(model.batcher.tensor_room(tensor).await?);
        let pixels = app.pixel_room(size.pixels()).await?;
        let picture = Picture {
            index,
            format,
            bytes,
            options,
            deadline,
            room,
            pixels,
            _memory: memory.clone(),
        };
        let model = Arc::clone(model);
        let job = app.pool.start(move || picture.submit(&model, keep)).await?;
        pending.push(Pending(job));
    }
    Ok(pending)
}

/// One picture on its way to the queue.
struct Picture {
    index: usize,
    format: ImageFormat,
    bytes: Bytes,
    options: DecodeOptions,
    deadline: Instant,
    room: Reservation,
    /// Its part of the memory for pixels, and of that for bodies.
    pixels: OwnedSemaphorePermit,
    _memory: Option<Arc<BodyMemory>>,
}

impl Picture {
    /// Decodes and preprocesses the picture and puts it into the queue. Runs on the picture pool.
    fn submit(self, model: &LoadedModel, keep: Keep) -> Result<Queued, ServeError> {
        let started = Instant::now();
        if started >= self.deadline {
            return Err(BatchError::DeadlinePassed.into());
        }
        let failed = |source| ServeError::Image {
            index: self.index,
            source,
        };
        let image = self.decode().map_err(failed)?;
        let decoded = Instant::now();
        let tensor = model.preprocessor.run(&image).map_err(failed)?;
        let preprocessed = Instant::now();
        let mut timing = Timing::default();
        timing[Stage::decode] = decoded - started;
        timing[Stage::preprocess] = preprocessed - decoded;
        let (width, height) = image.dimensions();
        let pixels = (keep == Keep::Pixels).then_some(Pixels {
            image,
            _room: self.pixels,
        });
        Ok(Queued {
            reply: model.batcher.submit(self.room, tensor, self.deadline)?,
            timing,
            size: ImageSize { width, height },
            pixels,
        })
    }

    /// A decoder that panics has met a file that is not what its format allows.
    fn decode(&self) -> Result<RgbImage, ImageError> {
        let decoded = catch_unwind(AssertUnwindSafe(|| decode(&self.bytes, &self.options)));
        decoded.unwrap_or_else(|_| {
            tracing::error!(format = %self.format, "a picture made its decoder panic");
            let reason = "the decoder gave up".to_owned();
            Err(ImageError::Damaged {
                format: self.format,
                reason,
            })
        })
    }
}
