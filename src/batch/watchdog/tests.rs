//! Tests of the watchdog's thread with engines that run until they are stopped.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use super::*;
use crate::batch::spare::Stock;
use crate::engine::Outputs;
use crate::metrics::Metrics;

/// An engine that runs until it is stopped if the batch is empty, and fails if a run begins while the flag is set.
struct Endless {
    stopped: Arc<Flag>,
    left: mpsc::Receiver<()>,
}

#[derive(Default)]
struct Flag {
    set: AtomicBool,
    signal: Mutex<Option<mpsc::Sender<()>>>,
}

impl StopRuns for Flag {
    fn stop(&self) {
        self.set.store(true, Ordering::SeqCst);
        if let Some(signal) = &*self.signal.lock().unwrap() {
            let _ = signal.send(());
        }
    }

    fn allow(&self) {
        self.set.store(false, Ordering::SeqCst);
    }
}

impl Engine for Endless {
    fn run(&mut self, batch: Vec<PreparedImage>) -> Result<Vec<Outputs>, EngineError> {
        if batch.is_empty() {
            self.left.recv().unwrap();
        }
        if self.stopped.set.load(Ordering::SeqCst) {
            return Err(EngineError::Missing {
                name: "stopped".to_owned(),
            });
        }
        Ok(Vec::new())
    }

    fn stop_handle(&self) -> Arc<dyn StopRuns> {
        Arc::clone(&self.stopped) as Arc<dyn StopRuns>
    }
}

fn endless() -> (Watchdog, WatchedEngines) {
    let (sender, left) = mpsc::channel();
    let flag = Arc::new(Flag::default());
    *flag.signal.lock().unwrap() = Some(sender);
    let metrics = Metrics::new().batch("m", "fp32");
    let stock = Box::new(Stock::of(Vec::new()));
    let watchdog = Watchdog::start("m@fp32".to_owned(), stock, metrics).unwrap();
    let engine = watchdog.watch(Box::new(Endless {
        stopped: Arc::clone(&flag),
        left,
    }));
    (watchdog, engine)
}

fn image() -> PreparedImage {
    let size = crate::image::ImageSize {
        width: 1,
        height: 1,
    };
    PreparedImage::whole(size, vec![0.0; 3])
}

#[test]
fn a_run_is_stopped_at_its_limit_and_the_next_one_runs() {
    let (watchdog, mut engine) = endless();
    for _ in 0..3 {
        // The thread sleeps until the limit of the first run when the second begins.
        let later = Instant::now() + Duration::from_mins(1);
        assert!(engine.run(1, vec![image()], later).is_ok());
        let limit = Instant::now() + Duration::from_millis(5);
        let result = engine.run(1, Vec::new(), limit);
        assert!(matches!(result, Err(EngineError::Stopped)), "{result:?}");
        assert!(Instant::now() >= limit);
        assert_eq!(engine.seat().standing(), Standing::Withdrawn);
        assert_eq!(watchdog.unready(), Some(Unready::Stopped));
        engine.prove();
        assert_eq!(watchdog.unready(), None);
    }
    assert_eq!(watchdog.shared.metrics.stopped_runs.get(), 3);
    assert_eq!(watchdog.shared.metrics.stuck_workers.get(), 0);
}

#[test]
fn a_run_that_ends_as_it_is_stopped_does_not_stop_the_next() {
    let (watchdog, mut engine) = endless();
    for round in 0..2000 {
        // The limit passes before, during or after the run, which may be stopped or not.
        let limit = Instant::now() + Duration::from_micros(round % 20);
        let _ = engine.run(1, vec![image()], limit);
        let later = Instant::now() + Duration::from_mins(1);
        assert!(engine.run(1, vec![image()], later).is_ok(), "{round}");
    }
    drop(watchdog);
}

#[test]
fn only_a_model_that_serves_sets_and_withdraws_its_readiness() {
    let (watchdog, mut engine) = endless();
    let ready = watchdog.shared.metrics.ready.clone();
    engine.prove();
    assert_eq!(ready.get(), 0, "the model is still being loaded");
    watchdog.replace_workers(|_| Ok(()));
    assert_eq!(ready.get(), 1);
    watchdog.retire();
    let limit = Instant::now() + Duration::from_millis(5);
    let result = engine.run(1, Vec::new(), limit);
    assert!(matches!(result, Err(EngineError::Stopped)), "{result:?}");
    assert_eq!(watchdog.unready(), Some(Unready::Stopped));
    assert_eq!(ready.get(), 1, "another instance of the model may serve");
}
