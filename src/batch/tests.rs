use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::spare::Stock;
use super::*;
use crate::engine::{Engine, EngineError, Output, StopRuns, Tensor, Unstoppable};
use crate::metrics::Metrics;

const SIZE: ImageSize = ImageSize {
    width: 1,
    height: 1,
};

/// An engine whose output is the first value of each image. It reports the size of each batch and
/// waits for a permission before it returns the outputs. It returns no output for an image with NaN.
struct Gated {
    permission: mpsc::Receiver<()>,
    batches: mpsc::Sender<usize>,
}

impl Engine for Gated {
    fn run(&mut self, batch: Vec<PreparedImage>) -> Result<Vec<Outputs>, EngineError> {
        let _ = self.batches.send(batch.len());
        let _ = self.permission.recv();
        let output = |image: PreparedImage| {
            let tensor = Tensor {
                shape: vec![1],
                data: image.data.to_vec(),
            };
            Outputs::from_iter([Output::f32("value", tensor)])
        };
        let kept = batch.into_iter().filter(|image| !image.data[0].is_nan());
        Ok(kept.map(output).collect())
    }

    fn stop_handle(&self) -> Arc<dyn StopRuns> {
        Arc::new(Unstoppable)
    }
}

struct Setup {
    batcher: Batcher,
    permit: mpsc::Sender<()>,
    batches: mpsc::Receiver<usize>,
}

fn setup(max_batch_size: usize, capacity: usize) -> Setup {
    let (permit, permission) = mpsc::channel();
    let (sender, batches) = mpsc::channel();
    let engine: Box<dyn Engine> = Box::new(Gated {
        permission,
        batches: sender,
    });
    let policy = Policy {
        max_batch_size,
        max_queue_delay: Duration::ZERO,
    };
    let metrics = Metrics::new().batch("m", "fp32");
    let cost = TensorCost::measured(&Outputs::default(), SIZE, 1 << 20, None);
    let stock = Box::new(Stock::of(Vec::new()));
    let watchdog = Watchdog::start("m@fp32".to_owned(), stock, metrics.clone()).unwrap();
    let engines = vec![watchdog.watch(engine)];
    let batcher =
        Batcher::start("test", watchdog, engines, policy, capacity, cost, metrics).unwrap();
    Setup {
        batcher,
        permit,
        batches,
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

type Receiver = oneshot::Receiver<Result<Reply, BatchError>>;

fn try_submit(setup: &Setup, value: f32, deadline: Instant) -> Result<Receiver, BatchError> {
    let slot = Slot {
        place: reserve(setup).unwrap(),
        turn: Turn::uncounted(),
        memory: setup.batcher.tensors.try_acquire(12).unwrap(),
        trace: Trace::default(),
        progress: ImageProgress::default(),
        embed: false,
    };
    let image = PreparedImage::whole(SIZE, vec![value]);
    setup.batcher.submit(image, slot, deadline)
}

fn reserve(setup: &Setup) -> Result<Permit, BatchError> {
    let mut place = setup.batcher.no_places();
    setup.batcher.reserve_more(&mut place, 1)?;
    Ok(place)
}

fn submit(setup: &Setup, value: f32, deadline: Instant) -> Receiver {
    try_submit(setup, value, deadline).unwrap()
}

fn first(receiver: Receiver) -> f32 {
    receiver
        .blocking_recv()
        .unwrap()
        .unwrap()
        .outputs
        .f32("value")
        .unwrap()
        .data[0]
}

#[test]
fn a_batch_grows_while_the_worker_is_busy_and_is_cut_when_it_is_free() {
    let setup = setup(8, 16);
    let one = submit(&setup, 1.0, soon());
    assert_eq!(setup.batches.recv().unwrap(), 1);
    let rest: Vec<Receiver> = (2..5).map(|v| submit(&setup, v as f32, soon())).collect();
    setup.permit.send(()).unwrap();
    assert_eq!(setup.batches.recv().unwrap(), 3);
    setup.permit.send(()).unwrap();
    assert_eq!(first(one), 1.0);
    assert_eq!(
        rest.into_iter().map(first).collect::<Vec<_>>(),
        [2.0, 3.0, 4.0]
    );
}

#[test]
fn a_full_queue_rejects_and_has_places_again() {
    let setup = setup(1, 2);
    let running = submit(&setup, 1.0, soon());
    assert_eq!(setup.batches.recv().unwrap(), 1);
    let _waiting = [submit(&setup, 2.0, soon()), submit(&setup, 3.0, soon())];
    for rejected in [reserve(&setup).err(), setup.batcher.check(soon()).err()] {
        assert!(
            matches!(rejected, Some(BatchError::QueueFull { capacity: 2, .. })),
            "{rejected:?}"
        );
    }
    setup.permit.send(()).unwrap();
    assert_eq!(first(running), 1.0);
    assert_eq!(setup.batches.recv().unwrap(), 1);
    assert!(setup.batcher.check(soon()).is_ok() && reserve(&setup).is_ok());
    setup.permit.send(()).unwrap();
    setup.permit.send(()).unwrap();
}

#[test]
fn expired_and_cancelled_images_are_not_run() {
    let setup = setup(8, 16);
    let running = submit(&setup, 1.0, soon());
    assert_eq!(setup.batches.recv().unwrap(), 1);
    let late = submit(&setup, 2.0, Instant::now());
    drop(submit(&setup, 3.0, soon()));
    let live = submit(&setup, 4.0, soon());
    setup.permit.send(()).unwrap();
    assert_eq!(
        setup.batches.recv().unwrap(),
        1,
        "only the live image is run"
    );
    setup.permit.send(()).unwrap();
    assert_eq!(first(running), 1.0);
    assert!(matches!(
        late.blocking_recv().unwrap(),
        Err(BatchError::DeadlinePassed)
    ));
    assert_eq!(first(live), 4.0);
    assert_eq!(
        setup.batcher.shared.places.used(),
        0,
        "every place is returned"
    );
    assert_eq!(setup.batcher.tensors.used(), 0, "all memory is returned");
}

#[test]
fn a_model_that_has_the_process_for_itself_gets_memory_for_several_images() {
    let setup = setup(8, 16);
    let tensors = &setup.batcher.tensors;
    let largest = setup.batcher.tensor_demand().floor;
    let first = tensors.try_acquire(largest).unwrap();
    assert!(tensors.try_acquire(largest).is_err());
    setup.batcher.use_all_tensor_memory();
    let second = tensors.try_acquire(largest).unwrap();
    assert_eq!(first.amount(), second.amount());
}

#[test]
fn missing_outputs_fail_the_batch_and_do_not_count_as_speed() {
    let setup = setup(8, 16);
    let running = submit(&setup, 1.0, soon());
    assert_eq!(setup.batches.recv().unwrap(), 1);
    let batch = [
        submit(&setup, 2.0, soon()),
        submit(&setup, f32::NAN, soon()),
    ];
    setup.permit.send(()).unwrap();
    assert_eq!(first(running), 1.0);
    assert_eq!(setup.batches.recv().unwrap(), 2);
    let speed = || setup.batcher.shared.drain().time(1000);
    let before = speed();
    // For the run of the batch and for the test run that follows it.
    setup.permit.send(()).unwrap();
    setup.permit.send(()).unwrap();
    for reply in batch {
        assert!(matches!(
            reply.blocking_recv().unwrap(),
            Err(BatchError::OutputCount {
                expected: 2,
                got: 1
            })
        ));
    }
    assert_eq!(speed(), before);
}

#[test]
fn a_deadline_that_the_queue_cannot_meet_is_rejected() {
    let setup = setup(1, 100);
    let (millis, now) = (Duration::from_millis, Instant::now());
    // Ten images of 20 ms of inference and 30 ms of preparation.
    let run = millis(20);
    setup.batcher.shared.drain().ran(1, run, now, 0);
    setup.batcher.record_preparation(millis(60), 2);
    let late = now;
    assert!(setup.batcher.check(late).is_ok(), "the queue is empty");
    let mut places = setup.batcher.no_places();
    setup.batcher.reserve_more(&mut places, 10).unwrap();
    let rejected = setup.batcher.check(Instant::now() + millis(500));
    let wait = match rejected {
        Err(BatchError::DeadlineUnreachable { wait, .. }) => wait,
        other => panic!("{other:?}"),
    };
    assert_eq!(wait.as_millis().div_ceil(10), 50);
    assert!(setup.batcher.check(now + millis(5000)).is_ok());
}

#[test]
fn a_request_is_checked_again_when_its_body_has_arrived() {
    let setup = setup(1, 100);
    let millis = Duration::from_millis;
    setup.batcher.record_preparation(millis(10), 1);
    let deadline = Instant::now() + millis(500);
    assert!(setup.batcher.check(deadline).is_ok());
    // 60 images of others, 600 ms, were queued meanwhile.
    let mut others = setup.batcher.no_places();
    setup.batcher.reserve_more(&mut others, 60).unwrap();
    let mut places = setup.batcher.no_places();
    let reserved = setup.batcher.reserve_before(&mut places, 1, deadline);
    assert!(matches!(
        reserved.map(drop),
        Err(BatchError::DeadlineUnreachable { .. })
    ));
    assert_eq!(places.amount(), 0);
    let later = Instant::now() + millis(5000);
    assert!(setup.batcher.reserve_before(&mut places, 1, later).is_ok());
    assert_eq!(places.amount(), 1);
}

#[test]
fn requests_that_miss_their_deadline_raise_the_margin_for_later_ones() {
    let setup = setup(1, 100);
    let millis = Duration::from_millis;
    setup.batcher.record_preparation(millis(1), 1);
    let mut others = setup.batcher.no_places();
    setup.batcher.reserve_more(&mut others, 60).unwrap();
    let accepts = || setup.batcher.check(Instant::now() + millis(100)).is_ok();
    let expire = || {
        let mut place = setup.batcher.no_places();
        let deadline = Instant::now() + millis(101);
        let forecast = setup.batcher.reserve_before(&mut place, 1, deadline);
        (forecast.unwrap(), deadline)
    };
    // Forecasts of requests that fail before their deadline do not count, nor do those that are discarded.
    drop(expire().0);
    let (mut forecast, deadline) = expire();
    forecast.discard();
    std::thread::sleep(deadline - Instant::now());
    drop(forecast);
    assert!(accepts());
    let expired = [(); 4].map(|()| expire());
    std::thread::sleep(expired[3].1 - Instant::now());
    drop(expired);
    assert!(!accepts());
}

#[test]
fn images_that_take_long_to_decode_leave_places_and_time_to_others() {
    let setup = setup(1, 8);
    let (millis, now) = (Duration::from_millis, Instant::now());
    setup.batcher.record_preparation(millis(100), 1);
    let mut places = setup.batcher.no_places();
    setup.batcher.reserve_more(&mut places, 4).unwrap();
    let long = setup.batcher.reserve_long(4, millis(9)).unwrap();
    let rejected = setup.batcher.reserve_long(1, millis(9)).unwrap_err();
    let BatchError::LongQueueFull {
        capacity,
        retry_after,
    } = rejected
    else {
        panic!("{rejected:?}");
    };
    assert_eq!((capacity, retry_after), (4, millis(9)));
    // None of the four images delays another one.
    assert!(setup.batcher.check(now + millis(100)).is_ok());
    drop(long);
    // Decoded, they run before another image.
    let rejected = setup.batcher.check(now + millis(100));
    assert!(matches!(
        rejected,
        Err(BatchError::DeadlineUnreachable { .. })
    ));
    assert!(setup.batcher.reserve_long(100, millis(0)).is_ok());
}

#[test]
fn closing_finishes_waiting_images_and_rejects_new_ones() {
    let mut setup = setup(1, 16);
    let waiting = [submit(&setup, 1.0, soon()), submit(&setup, 2.0, soon())];
    setup.permit.send(()).unwrap();
    setup.permit.send(()).unwrap();
    setup.batcher.close();
    assert_eq!(waiting.map(first), [1.0, 2.0]);
    let rejected = try_submit(&setup, 0.0, soon());
    assert!(matches!(rejected, Err(BatchError::Closed)));
}

#[test]
fn a_batcher_can_be_dropped_while_a_worker_is_stuck_and_still_finishes_its_queue() {
    let mut setup = setup(1, 4);
    setup.batcher.finish_in_background();
    let running = submit(&setup, 1.0, soon());
    setup.batches.recv().unwrap();
    let queued = submit(&setup, 2.0, soon());
    let shared = Arc::downgrade(&setup.batcher.shared);
    let Setup {
        batcher,
        permit,
        batches,
    } = setup;
    // The worker does not return, so a drop that joined it would not either.
    drop(batcher);
    assert!(shared.upgrade().is_some(), "the worker still has the queue");
    permit.send(()).unwrap();
    assert_eq!(first(running), 1.0);
    assert_eq!(batches.recv(), Ok(1));
    permit.send(()).unwrap();
    assert_eq!(first(queued), 2.0);
    // The channel closes when the worker drops its engine.
    assert!(batches.recv().is_err());
}
