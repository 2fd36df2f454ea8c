//! Tests of the rules with a clock of their own.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Flag(AtomicBool);

impl Flag {
    fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl StopRuns for Flag {
    fn stop(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn allow(&self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// Returns the list of `workers` sound workers, and the time at which it was created.
fn seats(workers: usize) -> (Seats, Instant) {
    let now = Instant::now();
    let mut seats = Seats::new(now);
    seats.replaces = true;
    for _ in 0..workers {
        seats.add(Standing::Sound, [1].into());
    }
    (seats, now)
}

/// Begins a run of `worker` that is stopped after one second.
fn begin(seats: &mut Seats, worker: usize, now: Instant) -> Arc<Flag> {
    let flag = Arc::new(Flag::default());
    let handle = Arc::clone(&flag) as Arc<dyn StopRuns>;
    seats.begin(worker, now + SECOND, handle);
    flag
}

#[test]
fn a_run_is_stopped_at_its_limit_and_a_test_run_restores_readiness() {
    let (mut seats, now) = seats(2);
    assert_eq!((seats.unready(), seats.due()), (None, None));
    let flag = begin(&mut seats, 0, now);
    assert_eq!(seats.due(), Some(now + SECOND));
    assert_eq!((seats.act(now, 0), seats.unready()), (vec![], None));
    assert_eq!(seats.act(now + SECOND, 0), [(0, Event::Stopped)]);
    assert_eq!(seats.due(), Some(now + SECOND + STUCK_AFTER));
    assert_eq!(seats.unready(), Some(Unready::Stopped));
    assert!(flag.is_set() && !seats.is_down());
    assert_eq!(seats.end(0), (true, false));
    assert!(!flag.is_set());
    // The success of the other worker proves nothing about this one.
    begin(&mut seats, 1, now);
    assert_eq!(seats.end(1), (false, false));
    assert_eq!(seats.unready(), Some(Unready::Stopped));
    // A failed test run is not a success either.
    seats.fail(0, false);
    assert_eq!(seats.standing(0), Standing::Withdrawn);
    seats.prove(0);
    assert_eq!((seats.unready(), seats.due()), (None, None));
}

#[test]
fn a_stuck_worker_is_abandoned_and_replaced() {
    let (mut seats, now) = seats(1);
    let flag = begin(&mut seats, 0, now);
    seats.act(now + SECOND, 0);
    let stuck = now + SECOND + STUCK_AFTER;
    assert_eq!(seats.hire(stuck), None);
    assert_eq!(
        seats.act(stuck, 0),
        [(0, Event::Stuck), (0, Event::Abandoned)]
    );
    assert_eq!(seats.unready(), Some(Unready::Stopped));
    assert!(seats.at_work() && !seats.is_down(), "a replacement follows");
    assert!(seats.due() <= Some(stuck));
    assert_eq!(seats.hire(stuck), Some(1));
    seats.hired(true, [1].into());
    assert_eq!(
        (seats.standing(1), seats.hire(stuck)),
        (Standing::Withdrawn, None)
    );
    seats.prove(1);
    assert_eq!((seats.unready(), seats.stuck()), (None, 1));
    assert_eq!(seats.end(0), (true, true));
    assert!(!flag.is_set());
    assert_eq!((seats.standing(0), seats.stuck()), (Standing::Abandoned, 0));
    seats.remove(0, false);
    assert_eq!((seats.act(stuck, 0), seats.hire(stuck)), (vec![], None));
}

#[test]
fn the_number_of_abandoned_threads_is_bounded() {
    let (mut seats, mut now) = seats(1);
    for worker in 0..=MAX_ABANDONED {
        begin(&mut seats, worker, now);
        seats.act(now + SECOND, 0);
        now += SECOND + STUCK_AFTER;
        let events = seats.act(now, 0);
        let replaced = events.contains(&(worker, Event::Abandoned));
        assert_eq!(replaced, worker < MAX_ABANDONED);
        let hired = seats.hire(now);
        assert_eq!(hired, replaced.then_some(worker + 1));
        if replaced {
            seats.hired(true, [1].into());
            seats.prove(worker + 1);
            assert_eq!(seats.unready(), None);
        }
    }
    let threads = MAX_ABANDONED + 1;
    assert_eq!(seats.unready(), Some(Unready::Stuck { threads }));
    assert!(seats.is_down() && !seats.at_work());
    // A thread that returns makes room for a replacement.
    seats.end(1);
    seats.remove(1, false);
    assert_eq!(seats.act(now, 0), [(MAX_ABANDONED, Event::Abandoned)]);
    let hired = seats.hire(now + HIRE_INTERVAL).unwrap();
    seats.hired(true, [1].into());
    seats.prove(hired);
    assert_eq!((seats.unready(), seats.is_down()), (None, false));
}

#[test]
fn the_last_stuck_worker_continues_if_it_returns() {
    let (mut seats, now) = seats(1);
    seats.replaces = false;
    begin(&mut seats, 0, now);
    seats.act(now + SECOND, 0);
    assert_eq!(
        seats.act(now + SECOND + STUCK_AFTER, 0),
        [(0, Event::Stuck)]
    );
    assert!(seats.is_down());
    assert_eq!(seats.end(0), (true, true));
    assert_eq!(seats.standing(0), Standing::Withdrawn);
    assert!(!seats.is_down());
    seats.prove(0);
    assert_eq!(seats.unready(), None);
}

#[test]
fn a_thread_that_cannot_be_started_is_tried_again() {
    let (mut seats, now) = seats(1);
    seats.remove(0, true);
    assert_eq!(seats.hire(now), Some(1));
    // The place of the worker that could not be started leaves without being lost a second time.
    seats.remove(1, false);
    seats.hired(false, [1].into());
    assert!(seats.is_down() && !seats.at_work());
    assert_eq!(seats.unready(), Some(Unready::Failed));
    assert_eq!(seats.hire(now), None);
    assert_eq!(seats.due(), Some(now + HIRE_INTERVAL));
    assert_eq!(seats.hire(now + HIRE_INTERVAL), Some(2));
    seats.hired(true, [1].into());
    assert!(!seats.is_down());
    seats.prove(2);
    assert_eq!(seats.unready(), None);
}

#[test]
fn a_model_is_ready_while_one_of_its_workers_works() {
    let (mut seats, _) = seats(2);
    seats.fail(0, false);
    assert_eq!(
        (seats.standing(0), seats.unready()),
        (Standing::Broken, None)
    );
    seats.fail(0, true);
    assert_eq!(seats.unready(), None);
    seats.fail(1, false);
    assert_eq!(seats.unready(), Some(Unready::Rebuilding));
    assert!(!seats.is_down());
    seats.fail(1, true);
    assert_eq!(seats.unready(), Some(Unready::Failed));
    assert!(seats.is_down());
    seats.prove(1);
    assert_eq!((seats.unready(), seats.is_down()), (None, false));
}

#[test]
fn stuck_workers_of_other_instances_count_until_they_return() {
    let (mut seats, now) = seats(1);
    begin(&mut seats, 0, now);
    seats.act(now + SECOND, MAX_ABANDONED);
    let stuck = now + SECOND + STUCK_AFTER;
    assert_eq!(seats.act(stuck, MAX_ABANDONED), [(0, Event::Stuck)]);
    assert_eq!(seats.unready(), Some(Unready::Stuck { threads: 1 }));
    assert!(seats.is_down());
    assert_eq!(seats.due(), Some(stuck + LOOK_AGAIN));
    let later = stuck + LOOK_AGAIN;
    assert_eq!(seats.act(later, 2), [(0, Event::Abandoned)]);
    assert_eq!(seats.hire(later), Some(1));
    seats.act(later, 2);
    assert_eq!(seats.due(), None);
}
