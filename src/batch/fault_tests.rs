//! Tests with engines that panic, fail or do not return.

use std::sync::mpsc;

use super::spare::Stock;
use super::*;
use crate::engine::{Engine, EngineError, Output, StopRuns, Tensor, Unstoppable};
use crate::metrics::{ImageProgress, Metrics};
use crate::telemetry::Trace;

const SIZE: ImageSize = ImageSize {
    width: 1,
    height: 1,
};
/// Values of images for which a run panics, fails, or does not return before the test ends it.
const PANIC: f32 = -1.0;
const ERROR: f32 = -2.0;
const HANG: f32 = -3.0;
/// Value of images for which a run panics when the test ends it.
const HANG_AND_PANIC: f32 = -4.0;

/// An engine whose output is its number. `broken` engines fail with every image.
struct Numbered {
    number: f32,
    broken: bool,
    hangs: Arc<Hangs>,
}

/// Ends runs that hang: each receives one message.
struct Hangs {
    end: Mutex<mpsc::Receiver<()>>,
}

impl Engine for Numbered {
    fn run(&mut self, batch: Vec<PreparedImage>) -> Result<Vec<Outputs>, EngineError> {
        let value = batch[0].data[0];
        assert!(value != PANIC, "the batch has an image that panics");
        if value == HANG || value == HANG_AND_PANIC {
            let _ = self.hangs.end.lock().unwrap().recv();
            assert!(value == HANG, "the run was stopped and then panics");
        }
        if value == ERROR || self.broken {
            return Err(EngineError::Propose("as the test wants".to_owned()));
        }
        let output = |_| {
            let tensor = Tensor {
                shape: vec![1],
                data: vec![self.number],
            };
            Outputs::from_iter([Output::f32("number", tensor)])
        };
        Ok(batch.into_iter().map(output).collect())
    }

    fn stop_handle(&self) -> Arc<dyn StopRuns> {
        Arc::new(Unstoppable)
    }
}

struct Setup {
    batcher: Batcher,
    metrics: BatchMetrics,
    page: Metrics,
    end: mpsc::Sender<()>,
}

impl Setup {
    /// Returns a queue with `workers` workers, whose engines have the numbers 0, 1 and so on. Their replacements have
    /// the next numbers; those whose numbers are in `broken` fail with every image.
    fn new(workers: usize, spares: usize, broken: &[usize]) -> Self {
        let (end, receiver) = mpsc::channel();
        let hangs = Arc::new(Hangs {
            end: Mutex::new(receiver),
        });
        let engine = |number: usize| -> Box<dyn Engine> {
            Box::new(Numbered {
                number: number as f32,
                broken: broken.contains(&number),
                hangs: Arc::clone(&hangs),
            })
        };
        let stock = (workers..workers + spares).rev().map(engine).collect();
        let page = Metrics::new();
        let metrics = page.batch("m", "fp32");
        let name = "m@fp32".to_owned();
        let watchdog = Watchdog::start(name, Box::new(Stock::of(stock)), metrics.clone()).unwrap();
        let engines = (0..workers).map(|number| watchdog.watch(engine(number)));
        let engines = engines.collect();
        let policy = Policy {
            max_batch_size: 1,
            max_queue_delay: Duration::ZERO,
        };
        let cost = TensorCost::measured(&Outputs::default(), SIZE, 1 << 20, None);
        let batch_metrics = metrics.clone();
        let batcher =
            Batcher::start("test", watchdog, engines, policy, 16, cost, batch_metrics).unwrap();
        Self {
            batcher,
            metrics,
            page,
            end,
        }
    }

    fn submit(&self, value: f32, time: Duration) -> oneshot::Receiver<Result<Reply, BatchError>> {
        let mut place = self.batcher.no_places();
        self.batcher.reserve_more(&mut place, 1).unwrap();
        let memory = self.batcher.tensors.try_acquire(12).unwrap();
        let image = PreparedImage::whole(SIZE, vec![value]);
        let deadline = Instant::now() + time;
        let slot = Slot {
            place,
            turn: Turn::uncounted(),
            memory,
            trace: Trace::default(),
            progress: ImageProgress::default(),
            embed: false,
        };
        self.batcher.submit(image, slot, deadline).unwrap()
    }

    /// Sends an image, and returns the number of the engine that has run it.
    fn ask(&self, value: f32) -> Result<f32, BatchError> {
        let reply = self.submit(value, Duration::from_secs(30));
        let reply = reply.blocking_recv().unwrap()?;
        Ok(reply.outputs.f32("number").unwrap().data[0])
    }

    fn failures(&self, kind: &str) -> f64 {
        let page = self.page.page();
        let name = format!("sightline_worker_failures_total{{kind=\"{kind}\"");
        let line = page.lines().find(|line| line.starts_with(&name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

/// Waits until `condition` is true. Panics after ten seconds.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "{what}: not within ten seconds");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_panic_fails_its_batch_and_the_next_image_gets_a_new_engine() {
    let setup = Setup::new(1, 2, &[]);
    assert_eq!(setup.metrics.ready.get(), 1);
    for engine in [0.0, 1.0] {
        assert_eq!(setup.ask(1.0).unwrap(), engine);
        assert!(matches!(setup.ask(PANIC), Err(BatchError::Panicked)));
        let failed = Instant::now();
        assert_eq!(setup.ask(1.0).unwrap(), engine + 1.0);
        assert!(failed.elapsed() < Duration::from_secs(1));
    }
    assert_eq!(
        (setup.failures("panic"), setup.metrics.restarts.get()),
        (2.0, 2)
    );
    assert_eq!(setup.batcher.unready(), None);
    assert_eq!(setup.metrics.ready.get(), 1);
}

#[test]
fn an_error_fails_its_batch_and_the_engine_continues_after_a_test_run() {
    let setup = Setup::new(1, 0, &[]);
    for errors in 1..=3 {
        assert!(matches!(setup.ask(ERROR), Err(BatchError::Engine(_))));
        assert_eq!(setup.ask(1.0).unwrap(), 0.0);
        assert_eq!(setup.failures("error"), f64::from(errors));
    }
    assert_eq!(setup.metrics.restarts.get(), 0);
}

#[test]
fn an_engine_that_fails_its_test_run_is_replaced() {
    let setup = Setup::new(1, 1, &[0]);
    assert!(matches!(setup.ask(1.0), Err(BatchError::Engine(_))));
    assert_eq!(setup.ask(1.0).unwrap(), 1.0);
    assert_eq!(setup.metrics.restarts.get(), 1);
}

#[test]
fn rebuilding_is_repeated_and_requests_are_rejected_meanwhile() {
    // The first replacement fails its test run.
    let setup = Setup::new(1, 2, &[1]);
    assert!(matches!(setup.ask(PANIC), Err(BatchError::Panicked)));
    let check = || {
        setup
            .batcher
            .check(Instant::now() + Duration::from_secs(30))
    };
    let mut reason = None;
    eventually("the first attempt fails", || {
        if let Err(BatchError::NoWorker { reason: got }) = check() {
            reason = Some(got);
        }
        reason.is_some()
    });
    assert_eq!(reason, Some(Unready::Failed));
    assert_eq!(setup.metrics.ready.get(), 0);
    eventually("the second attempt succeeds", || check().is_ok());
    assert_eq!(setup.ask(1.0).unwrap(), 2.0);
    assert_eq!(setup.metrics.ready.get(), 1);
}

#[test]
fn other_workers_continue_while_one_cannot_be_rebuilt() {
    let setup = Setup::new(2, 0, &[]);
    assert!(matches!(setup.ask(PANIC), Err(BatchError::Panicked)));
    for _ in 0..100 {
        setup.ask(1.0).unwrap();
    }
    assert_eq!(setup.batcher.unready(), None);
    assert!(matches!(setup.ask(PANIC), Err(BatchError::Panicked)));
    eventually("no worker is left", || {
        setup.batcher.unready() == Some(Unready::Failed)
    });
    // An image that was queued before fails when the queue closes, and the pause does not delay it.
    let waiting = setup.submit(1.0, Duration::from_secs(30));
    drop(setup);
    assert!(matches!(
        waiting.blocking_recv().unwrap(),
        Err(BatchError::Closed)
    ));
}

#[test]
fn a_stuck_worker_is_replaced_and_its_thread_ends_when_it_returns() {
    let setup = Setup::new(1, 1, &[]);
    let hanging = setup.submit(HANG, Duration::from_millis(500));
    eventually("the image is taken", || {
        setup.batcher.shared.places.used() == 0
    });
    let asked = Instant::now();
    assert_eq!(setup.ask(1.0).unwrap(), 1.0);
    let answered = asked.elapsed();
    assert!(answered < Duration::from_secs(5), "{answered:?}");
    assert_eq!(setup.batcher.unready(), None);
    assert_eq!(
        (setup.failures("stuck"), setup.metrics.restarts.get()),
        (1.0, 1)
    );
    assert_eq!(setup.metrics.stuck_workers.get(), 1);
    setup.end.send(()).unwrap();
    eventually("the thread returns", || {
        setup.metrics.stuck_workers.get() == 0
    });
    assert!(
        hanging.blocking_recv().unwrap().is_ok(),
        "no client waits for it, but it has a result"
    );
    assert_eq!(setup.ask(1.0).unwrap(), 1.0);
}

#[test]
fn an_engine_that_panics_after_its_run_was_stopped_is_replaced() {
    let setup = Setup::new(1, 1, &[]);
    let stopped = setup.submit(HANG_AND_PANIC, Duration::from_millis(500));
    eventually("the run is stopped", || {
        setup.metrics.stopped_runs.get() == 1
    });
    assert_eq!(setup.metrics.ready.get(), 0);
    setup.end.send(()).unwrap();
    assert!(matches!(
        stopped.blocking_recv().unwrap(),
        Err(BatchError::Panicked)
    ));
    assert_eq!(setup.ask(1.0).unwrap(), 1.0);
    assert_eq!(setup.failures("panic"), 1.0);
    assert_eq!(setup.metrics.ready.get(), 1);
}

#[test]
fn closing_does_not_wait_for_a_stuck_worker() {
    let mut setup = Setup::new(1, 0, &[]);
    let _hanging = setup.submit(HANG, Duration::from_millis(500));
    eventually("the image is taken", || {
        setup.batcher.shared.places.used() == 0
    });
    let waiting = setup.submit(1.0, Duration::from_secs(30));
    setup.batcher.close();
    assert!(matches!(
        waiting.blocking_recv().unwrap(),
        Err(BatchError::Closed)
    ));
    assert_eq!(setup.batcher.shared.places.used(), 0);
    setup.end.send(()).unwrap();
}

#[test]
fn closing_makes_one_more_attempt_to_rebuild_for_the_images_that_wait() {
    for (broken, expected) in [(&[1][..], Some(2.0)), (&[1, 2], None)] {
        let mut setup = Setup::new(1, 2, broken);
        assert!(matches!(setup.ask(PANIC), Err(BatchError::Panicked)));
        eventually("the first attempt fails", || {
            setup.batcher.unready() == Some(Unready::Failed)
        });
        let waiting = setup.submit(1.0, Duration::from_secs(30));
        setup.batcher.close();
        let reply = waiting.blocking_recv().unwrap();
        let number = |reply: Reply| reply.outputs.f32("number").unwrap().data[0];
        assert_eq!(reply.ok().map(number), expected);
    }
}
