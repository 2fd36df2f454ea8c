//! Admission of a request, for any protocol: the request reserves queue places and body memory
//! before the server works on it.
//!
//! A front end (HTTP, gRPC) starts a [`Deadline`] when a request arrives and creates an [`Admission`]
//! before it reads the request's body: if the model's queue has no free place, or cannot meet the
//! deadline, the request is rejected. The admission then reserves memory for the body as the body
//! arrives and, once it has arrived, one queue place per image, and is passed to
//! [`crate::pipeline::run`]. Dropping the admission releases its places and memory. Rejections are
//! paced when there are many: see [`pace`]. A [`Watch`] counts the outcome of the request in metrics.
//!
//! What is *not* here: types of a protocol, and status codes.

mod admit;
mod watch;

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::timeout_at;

pub use admit::admit;
pub use watch::Watch;

use crate::app::App;
use crate::batch::{BatchError, Forecast};
use crate::budget::{Exhausted, Permit};
use crate::cores::AdmittedRequest;
use crate::error::ServeError;
use crate::keys::KeyError;
use crate::metrics::{Metrics, Rejection, RequestProgress};
use crate::pipeline::Timing;
use crate::pool::{ImagePool, JobCost, LongJob, LongJobs};
use crate::registry::{Entry, LoadedModel};
use crate::telemetry::Trace;

/// The time by which the response to a request must be ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    /// Starts a deadline that passes after `limit`.
    pub fn after(limit: Duration) -> Self {
        Self {
            at: Instant::now() + limit,
            limit,
        }
    }

    /// Returns the deadline that passes after `limit`, counted from the start of this one, or this one if it passes
    /// earlier.
    #[must_use]
    pub fn within(self, limit: Duration) -> Self {
        let spared = self.limit.saturating_sub(limit);
        Self {
            at: self.at.checked_sub(spared).unwrap_or(self.at),
            limit: self.limit.min(limit),
        }
    }

    /// Returns the moment at which the deadline passes.
    pub fn at(self) -> Instant {
        self.at
    }

    /// Returns the time that is left until the deadline passes.
    pub fn left(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// Returns the time from the start of the deadline until it passes.
    pub fn limit(self) -> Duration {
        self.limit
    }

    /// Returns the error of a request that was not finished before the deadline.
    pub fn passed(self) -> ServeError {
        ServeError::DeadlinePassed { limit: self.limit }
    }

    /// Returns an error if the deadline has passed; called before expensive steps.
    ///
    /// # Errors
    /// [`ServeError::DeadlinePassed`] once the deadline has passed.
    pub fn check(self) -> Result<(), ServeError> {
        if Instant::now() < self.at {
            return Ok(());
        }
        Err(self.passed())
    }

    /// Runs `work` and returns its result. Drops `work` if it is not finished at the deadline.
    ///
    /// # Errors
    /// [`ServeError::DeadlinePassed`] if the deadline passes before `work` is finished; the error
    /// of `work` if it fails earlier.
    pub async fn bound<T>(
        self,
        work: impl Future<Output = Result<T, ServeError>>,
    ) -> Result<T, ServeError> {
        let result = timeout_at(self.at.into(), work).await;
        result.unwrap_or_else(|_| Err(self.passed()))
    }
}

/// An admitted request: its model, its deadline, and its reserved queue places and body memory.
pub struct Admission {
    /// The model that processes the request.
    pub model: Arc<LoadedModel>,
    /// The time by which the response must be ready.
    pub deadline: Deadline,
    /// The trace in which the stages of the request record their spans.
    pub trace: Trace,
    /// Times of the stages that the images of the request share.
    pub(crate) timing: Timing,
    /// The stages that the request and its images are in.
    pub(crate) progress: RequestProgress,
    places: Permit,
    body: Permit,
    /// The predicted time of the request. `None` until its first place in the queue is reserved.
    forecast: Option<Forecast>,
    /// Whether the client has shortened the deadline.
    shortened: bool,
    /// Counts the request until its results are ready.
    _admitted: AdmittedRequest,
}

impl Admission {
    /// Admits a request to `model` if one more image could be queued now and would run before `deadline`.
    /// No place is held while the body arrives, so that slow clients cannot fill the queue.
    ///
    /// # Errors
    /// [`BatchError::NoWorker`] if no worker of the model is left, [`BatchError::QueueFull`] if no place is free,
    /// [`BatchError::DeadlineUnreachable`] if the images in the queue are predicted to take too long.
    pub fn new(app: &App, model: Arc<LoadedModel>, deadline: Deadline) -> Result<Self, ServeError> {
        model.batcher.check(deadline.at())?;
        app.rejections.earn(REJECTIONS_PER_REQUEST);
        Ok(Self {
            places: model.batcher.no_places(),
            body: app.bodies.empty(),
            model,
            deadline,
            trace: Trace::default(),
            timing: Timing::default(),
            progress: RequestProgress::default(),
            forecast: None,
            shortened: false,
            _admitted: app.admitted.add(),
        })
    }

    /// Shortens the time for the request to `limit`, counted from its arrival, because the client has asked for that.
    ///
    /// # Errors
    /// [`BatchError::DeadlineUnreachable`] if the images in the queue are predicted to take too long for that.
    pub fn shorten(&mut self, limit: Duration) -> Result<(), ServeError> {
        self.deadline = self.deadline.within(limit);
        self.shortened = true;
        self.deadline.check()?;
        Ok(self.model.batcher.check(self.deadline.at())?)
    }

    /// Returns the admission with the trace of the request.
    #[must_use]
    pub fn traced(self, trace: Trace) -> Self {
        Self { trace, ..self }
    }

    /// Takes over `body`, memory that was reserved for the request's body before the request was admitted.
    pub(crate) fn hold_body(&mut self, body: Permit) {
        self.body = body;
    }

    /// Grows the memory that is reserved for the request's body to a total of `bytes` bytes.
    ///
    /// # Errors
    /// [`Exhausted`] if the memory for bodies that other requests leave free is too small.
    pub fn reserve_body(&mut self, bytes: usize) -> Result<(), Exhausted> {
        self.body.grow_to(bytes as u64)
    }

    /// Reserves places in the model's queue until the request holds `images` places, one per image.
    ///
    /// # Errors
    /// [`ServeError::TooManyImages`] if `images` is above the queue's capacity,
    /// [`BatchError::QueueFull`] if too few places are free now. At the first call,
    /// [`BatchError::DeadlineUnreachable`] if the images in the queue are predicted to take too long now.
    pub fn reserve_images(&mut self, images: usize) -> Result<(), ServeError> {
        let batcher = &self.model.batcher;
        if images > batcher.capacity() {
            // Not `QueueFull`, which asks the client to retry: a retry can never succeed.
            let limit = batcher.capacity();
            return Err(ServeError::TooManyImages { limit });
        }
        let held = self.places.amount() as usize;
        if let Some(forecast) = &mut self.forecast {
            batcher.reserve_more(&mut self.places, images)?;
            forecast.add_images(images.saturating_sub(held));
            return Ok(());
        }
        let deadline = self.deadline.at();
        let mut forecast = batcher.reserve_before(&mut self.places, images, deadline)?;
        forecast.add_images(images.saturating_sub(1));
        if self.shortened {
            forecast.discard();
        }
        self.forecast = Some(forecast);
        Ok(())
    }

    /// Moves the predicted time out of the request, to be compared with the time that it takes. `None` if no place is
    /// reserved.
    pub(crate) fn take_forecast(&mut self) -> Option<Forecast> {
        self.forecast.take()
    }

    /// Reserves places in the queue and thread time of `pool` for those images of the request that take long to
    /// decode. `costs` are the decode costs of all images of the request.
    ///
    /// # Errors
    /// [`BatchError::LongQueueFull`] if too few places are free, [`BatchError::DeadlineUnreachable`] if the
    /// images are predicted to be decoded too late for the deadline.
    pub(crate) fn reserve_long(
        &self,
        pool: &ImagePool,
        costs: impl Iterator<Item = JobCost> + Clone,
    ) -> Result<LongImages, ServeError> {
        let images = costs.clone().filter(|cost| cost.long).count();
        let places = self.model.batcher.reserve_long(images, pool.long_wait())?;
        let left = self.deadline.left();
        let jobs = pool.admit(costs, left);
        let jobs = jobs.map_err(|late| BatchError::DeadlineUnreachable {
            // A third of the time is kept, because predictions of decode times are rough.
            predicted: late.end * 3 / 2,
            left,
            wait: late.wait,
        })?;
        Ok(LongImages { places, jobs })
    }

    /// Splits off the permit of one reserved queue place, for one image. The request keeps its
    /// other places.
    ///
    /// # Errors
    /// [`ServeError::Internal`] if the request holds no place, which [`Admission::reserve_images`]
    /// rules out.
    pub(crate) fn take_place(&mut self) -> Result<Permit, ServeError> {
        let place = self.places.split(1);
        place.ok_or(ServeError::Internal(
            "the request has more images than places that it reserved in the queue",
        ))
    }

    /// Moves the permit of the body's memory out of the request. The caller holds it as long as the
    /// encoded images, which are part of the body.
    pub(crate) fn take_body(&mut self, app: &App) -> Permit {
        std::mem::replace(&mut self.body, app.bodies.empty())
    }
}

/// What a request has reserved for its images that take long to decode.
pub(crate) struct LongImages {
    places: Permit,
    jobs: LongJobs,
}

impl LongImages {
    /// Splits off the reservation of an image whose decoding costs `cost`. The caller holds the reservation until
    /// the image is decoded. Returns `None` if the image does not take long to decode.
    pub(crate) fn take(&mut self, cost: JobCost) -> Option<LongImage> {
        cost.long.then(|| LongImage {
            _place: self.places.split(1),
            time: self.jobs.take(cost),
        })
    }
}

/// The reservation of one image that takes long to decode: a place in the queue and thread time.
pub(crate) struct LongImage {
    _place: Option<Permit>,
    time: Option<LongJob>,
}

impl LongImage {
    /// Releases the reservation of an image that has been decoded. Dropping the reservation releases it, too, but
    /// counts the image as given up.
    pub(crate) fn decoded(self) {
        if let Some(time) = self.time {
            time.finish();
        }
    }
}

/// Delays the response with `error` if the server sends error responses at a high rate.
///
/// Clients that retry immediately, or that flood the server with useless requests, would otherwise take the CPU
/// time of accepted requests: an error response costs as much as handling a request, apart from its image.
pub async fn pace(app: &App, error: &ServeError) {
    let pacer = match (reason(error), error) {
        (
            Some(
                Rejection::queue_full
                | Rejection::deadline_unreachable
                | Rejection::body_memory
                | Rejection::response_memory
                | Rejection::model_stuck
                | Rejection::model_loading
                | Rejection::model_load_failed
                | Rejection::model_memory
                | Rejection::key_rate
                | Rejection::key_concurrency,
            ),
            _,
        ) => &app.rejections,
        // The client has waited already, or the server stops.
        (Some(_), _) | (None, ServeError::BodyInterrupted) => return,
        (None, _) => &app.faults,
    };
    // Even a sleep of no time waits for the next tick of the timer, and another thread is woken for it.
    if let Some(due) = pacer.due(Instant::now()) {
        tokio::time::sleep_until(due.into()).await;
    }
}

/// Delayed events happen at multiples of this time. A thread that wakes up for one of them handles the others of the same
/// moment, too, which costs less than to wake up for each.
const TICK: Duration = Duration::from_millis(20);

/// Number of rejections without delay for each accepted request, in addition to those of [`Pacer::of_rejections`]. They cost
/// little beside it, and clients that send requests at a fixed rate, of which the server can accept a third, wait for none.
const REJECTIONS_PER_REQUEST: u32 = 2;

/// Limits the rate of an event: events over the rate are delayed, but only for a bounded time.
#[derive(Debug)]
pub struct Pacer {
    created: Instant,
    interval: Duration,
    burst: Duration,
    longest: Duration,
    /// When the next event is due if events come one [`Pacer::interval`] after the other.
    next: Mutex<Instant>,
}

impl Pacer {
    /// Creates the pacer of rejections for lack of capacity by a server with `cores` cores: 250 per second and core
    /// without delay, which take about a twentieth of each core, and those that accepted requests [earn](Self::earn);
    /// at most 2 s of delay.
    ///
    /// Only clients that wait for the response before they retry become slower by the delay. If many clients send
    /// requests independently of each other, a delay saves nothing, and holds their connections.
    pub fn of_rejections(cores: usize) -> Self {
        let cores = u32::try_from(cores.max(1)).unwrap_or(u32::MAX);
        Self::new(Duration::from_millis(4) / cores)
    }

    /// Creates the pacer of responses to faulty requests: 1,000 per second without delay, and at most 2 s of delay.
    pub fn of_faults() -> Self {
        Self::new(Duration::from_millis(1))
    }

    fn new(interval: Duration) -> Self {
        let created = Instant::now();
        Self {
            created,
            interval,
            burst: Duration::from_millis(200),
            longest: Duration::from_secs(2),
            next: Mutex::new(created),
        }
    }

    /// Returns when the event that happens at `now` may continue: a multiple of [`TICK`] after the creation of the pacer.
    /// `None` if the event need not wait.
    fn due(&self, now: Instant) -> Option<Instant> {
        let delay = self.delay(now);
        if delay.is_zero() {
            return None;
        }
        let passed = (now + delay).saturating_duration_since(self.created);
        let ticks = passed.as_nanos().div_ceil(TICK.as_nanos());
        Some(self.created + TICK * u32::try_from(ticks).ok()?)
    }

    /// Lets `events` more of the next events happen without delay, if some would have to wait.
    pub fn earn(&self, events: u32) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next = next.checked_sub(self.interval * events).unwrap_or(*next);
    }

    /// Returns how long the event that happens at `now` must wait.
    pub fn delay(&self, now: Instant) -> Duration {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let due = (*next).max(now) + self.interval;
        *next = due.min(now + self.burst + self.longest);
        next.saturating_duration_since(now + self.burst)
    }
}

/// Counts `error` in the metric `sightline_rejected_total` if `error` rejects a request for lack of
/// capacity or time.
///
/// `model` is `None` if the request was rejected before its model was known.
fn count_rejection(metrics: &Metrics, error: &ServeError, model: Option<&Entry>) {
    if let Some(reason) = reason(error) {
        let label = model.map(Entry::label).unwrap_or_default();
        metrics.rejected(reason, label);
    }
}

/// Returns the label `reason` of `sightline_rejected_total` for `error`. `None` if `error` does not
/// reject a request for lack of capacity or time, for example if the request is invalid.
fn reason(error: &ServeError) -> Option<Rejection> {
    match error {
        ServeError::BodyMemory(_) => Some(Rejection::body_memory),
        ServeError::ResponseMemory(_) => Some(Rejection::response_memory),
        ServeError::Starting => Some(Rejection::starting),
        ServeError::Draining | ServeError::Batch(BatchError::Closed) => Some(Rejection::draining),
        ServeError::DeadlinePassed { .. }
        | ServeError::BodyTimeout { .. }
        | ServeError::BodyTooSlow { .. }
        | ServeError::Batch(BatchError::DeadlinePassed) => Some(Rejection::deadline),
        ServeError::Batch(BatchError::NoWorker { .. }) => Some(Rejection::model_stuck),
        ServeError::ModelLoading { .. } => Some(Rejection::model_loading),
        ServeError::ModelUnloaded { .. } => Some(Rejection::model_unloaded),
        ServeError::ModelLoadFailed { .. } | ServeError::ModelChanged { .. } => {
            Some(Rejection::model_load_failed)
        }
        ServeError::ModelMemory { .. } | ServeError::ModelTensorMemory { .. } => {
            Some(Rejection::model_memory)
        }
        ServeError::Batch(BatchError::QueueFull { .. } | BatchError::LongQueueFull { .. }) => {
            Some(Rejection::queue_full)
        }
        ServeError::Batch(BatchError::DeadlineUnreachable { .. }) => {
            Some(Rejection::deadline_unreachable)
        }
        ServeError::Key(KeyError::Rate { .. }) => Some(Rejection::key_rate),
        ServeError::Key(KeyError::Concurrency { .. }) => Some(Rejection::key_concurrency),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejections_are_paced_in_a_flood_only() {
        let pacer = Pacer::of_rejections(1);
        let start = Instant::now() + Duration::from_secs(1);
        let delays = |at: Instant, count: usize| -> Vec<u128> {
            let delay = |_| pacer.delay(at).as_millis();
            (0..count).map(delay).collect()
        };
        assert!(delays(start, 50).iter().all(|delay| *delay == 0));
        assert_eq!(delays(start, 3), [4, 8, 12]);
        assert_eq!(delays(start, 1000).last(), Some(&2000));
        // After the flood the pacer forgets it as fast as it paces.
        let later = start + Duration::from_secs(2);
        assert_eq!(delays(later, 1), [4]);
        assert_eq!(delays(later + Duration::from_secs(1), 1), [0]);
    }

    #[test]
    fn accepted_requests_earn_rejections() {
        let pacer = Pacer::of_rejections(1);
        let start = Instant::now() + Duration::from_secs(1);
        assert_eq!(
            (0..60).map(|_| pacer.delay(start).as_millis()).last(),
            Some(40)
        );
        pacer.earn(8);
        assert_eq!(pacer.delay(start).as_millis(), 12);
        // There is no credit for later.
        pacer.earn(1000);
        assert!((0..50).all(|_| pacer.delay(start).is_zero()));
        assert_eq!(pacer.delay(start).as_millis(), 4);
    }

    #[test]
    fn more_cores_reject_more_without_delay() {
        let pacer = Pacer::of_rejections(4);
        let start = Instant::now() + Duration::from_secs(1);
        let undelayed = (0..1000).take_while(|_| pacer.delay(start).is_zero());
        assert_eq!(undelayed.count(), 200);
    }

    #[test]
    fn delayed_rejections_continue_in_groups() {
        let pacer = Pacer::of_rejections(1);
        let start = Instant::now() + Duration::from_secs(1);
        assert!((0..50).all(|_| pacer.due(start).is_none()));
        let due: Vec<Instant> = (0..50).filter_map(|_| pacer.due(start)).collect();
        assert_eq!(due.len(), 50);
        for (index, due) in due.iter().enumerate() {
            let exact = Duration::from_millis(4) * (index as u32 + 1);
            let delay = due.duration_since(start);
            assert!(
                exact <= delay && delay < exact + TICK,
                "{delay:?} for {exact:?}"
            );
        }
        let moments = due.chunk_by(|a, b| a == b).count();
        assert!((10..=11).contains(&moments), "{moments}");
    }
}
