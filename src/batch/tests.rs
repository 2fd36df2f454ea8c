use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::*;
use crate::metrics::Metrics;

const SIZE: ImageSize = ImageSize {
    width: 1,
    height: 1,
};

/// Answers each picture with its own first number, one batch per permission.
struct Gated {
    permission: mpsc::Receiver<()>,
    batches: mpsc::Sender<usize>,
}

impl Engine for Gated {
    fn run(&mut self, batch: Vec<PreparedImage>) -> Result<Vec<Vec<Tensor>>, EngineError> {
        let _ = self.batches.send(batch.len());
        let _ = self.permission.recv();
        assert!(
            batch.iter().all(|picture| picture.data[0] >= 0.0),
            "a picture that panics"
        );
        let answer = |picture: PreparedImage| {
            vec![Tensor {
                shape: vec![1],
                data: picture.data,
            }]
        };
        Ok(batch.into_iter().map(answer).collect())
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
    let batcher = Batcher::start("test", vec![engine], policy, capacity, metrics).unwrap();
    Setup {
        batcher,
        permit,
        batches,
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

type Receiver = oneshot::Receiver<Result<Inference, BatchError>>;

fn submit(setup: &Setup, value: f32, deadline: Instant) -> Receiver {
    let room = setup.batcher.reserve(1).unwrap();
    let picture = PreparedImage::whole(SIZE, vec![value]);
    setup.batcher.submit(room, picture, deadline).unwrap()
}

fn first(receiver: Receiver) -> f32 {
    receiver.blocking_recv().unwrap().unwrap().outputs[0].data[0]
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
fn a_full_queue_refuses_and_has_room_again() {
    let setup = setup(1, 2);
    let running = submit(&setup, 1.0, soon());
    assert_eq!(setup.batches.recv().unwrap(), 1);
    let _waiting = [submit(&setup, 2.0, soon()), submit(&setup, 3.0, soon())];
    let refused = setup.batcher.reserve(1).unwrap_err();
    assert!(
        matches!(refused, BatchError::QueueFull { capacity: 2, .. }),
        "{refused:?}"
    );
    setup.permit.send(()).unwrap();
    assert_eq!(first(running), 1.0);
    assert_eq!(setup.batches.recv().unwrap(), 1);
    assert!(setup.batcher.reserve(1).is_ok());
    setup.permit.send(()).unwrap();
    setup.permit.send(()).unwrap();
}

#[test]
fn the_dead_are_not_run() {
    let setup = setup(8, 16);
    let running = submit(&setup, 1.0, soon());
    assert_eq!(setup.batches.recv().unwrap(), 1);
    let late = submit(&setup, 2.0, Instant::now());
    drop(submit(&setup, 3.0, soon()));
    let live = submit(&setup, 4.0, soon());
    setup.permit.send(()).unwrap();
    assert_eq!(setup.batches.recv().unwrap(), 1, "only the live one is run");
    setup.permit.send(()).unwrap();
    assert_eq!(first(running), 1.0);
    assert!(matches!(
        late.blocking_recv().unwrap(),
        Err(BatchError::DeadlinePassed)
    ));
    assert_eq!(first(live), 4.0);
}

#[test]
fn a_panic_is_answered_and_the_worker_goes_on() {
    let setup = setup(1, 16);
    let bad = submit(&setup, -1.0, soon());
    setup.permit.send(()).unwrap();
    assert!(matches!(
        bad.blocking_recv().unwrap(),
        Err(BatchError::Panicked)
    ));
    let good = submit(&setup, 1.0, soon());
    setup.permit.send(()).unwrap();
    assert_eq!(first(good), 1.0);
}

#[test]
fn closing_finishes_what_waits_and_refuses_the_rest() {
    let mut setup = setup(1, 16);
    let waiting = [submit(&setup, 1.0, soon()), submit(&setup, 2.0, soon())];
    setup.permit.send(()).unwrap();
    setup.permit.send(()).unwrap();
    setup.batcher.close();
    assert_eq!(waiting.map(first), [1.0, 2.0]);
    let room = setup.batcher.reserve(1).unwrap();
    let picture = PreparedImage::whole(SIZE, vec![0.0]);
    let refused = setup.batcher.submit(room, picture, soon());
    assert!(matches!(refused, Err(BatchError::Closed)));
}
