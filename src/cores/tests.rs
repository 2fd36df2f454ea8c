//! Tests of the leases, with the threads of real workers and of the clock.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

fn demand(lane: &Lane, jobs: usize, after: Duration) {
    lane.demand(Some(Demand {
        jobs,
        from: lane.time(Instant::now() + after),
        work: Duration::from_secs(3600),
        images: 1,
    }));
    lane.dispatch();
}

fn model(cores: &Cores) -> Lane {
    cores.model(Scaling::single(Duration::ZERO), Budget::new("queue", 1, 8))
}

const SOON: Duration = Duration::from_secs(5);

#[test]
fn a_worker_gets_a_lease_and_returns_its_core() {
    let cores = Cores::new(1, Performance::Auto);
    let lane = model(&cores);
    let (first, second) = (lane.offer(&[1]), lane.offer(&[1]));
    demand(&lane, 2, Duration::ZERO);
    // The last idle worker is the first to run.
    let mut lease = second.recv_timeout(SOON).unwrap();
    assert_eq!((lease.width(), cores.used()), (1, 1));
    lease.claim(Some(Demand {
        jobs: 1,
        from: Duration::ZERO,
        work: Duration::from_secs(3600),
        images: 1,
    }));
    lane.dispatch();
    assert!(first.try_recv().is_err(), "the only core is in use");
    drop(lease);
    assert_eq!(first.recv_timeout(SOON).unwrap().width(), 1);
    assert_eq!(cores.used(), 0);
}

#[test]
fn a_delayed_demand_starts_without_another_event() {
    let cores = Cores::new(1, Performance::Auto);
    let lane = model(&cores);
    for _ in 0..3 {
        let turn = lane.offer(&[1]);
        let begin = Instant::now();
        demand(&lane, 1, Duration::from_millis(20));
        assert!(turn.try_recv().is_err());
        let mut lease = turn.recv_timeout(SOON).unwrap();
        assert!(begin.elapsed() >= Duration::from_millis(20));
        lease.claim(None);
    }
}

#[test]
fn idle_workers_are_recalled_and_a_dropped_lane_frees_its_cores() {
    let cores = Cores::new(1, Performance::Auto);
    let lane = model(&cores);
    let turn = lane.offer(&[1]);
    lane.recall();
    assert!(turn.recv_timeout(SOON).is_err());
    let turn = lane.offer(&[1]);
    demand(&lane, 1, Duration::ZERO);
    let lease = turn.recv_timeout(SOON).unwrap();
    drop(lane);
    assert_eq!(cores.used(), 1);
    drop(lease);
    assert_eq!(cores.used(), 0);
}

#[test]
fn a_lease_that_nobody_receives_is_returned() {
    let cores = Cores::new(1, Performance::Auto);
    let lane = model(&cores);
    drop(lane.offer(&[1]));
    let turn = lane.offer(&[1]);
    demand(&lane, 1, Duration::ZERO);
    drop(turn.recv_timeout(SOON).unwrap());
    // The demand is still there; the next worker is the one that has left.
    assert_eq!(cores.used(), 0);
    let turn = lane.offer(&[1]);
    lane.dispatch();
    assert!(turn.recv_timeout(SOON).is_ok());
}

/// Runs every job at once, and counts them.
struct Count(AtomicUsize);

impl StartJob for Count {
    fn start(&self, mut lease: Lease) {
        let left = 9 - self.0.fetch_add(1, Ordering::SeqCst);
        lease.claim((left > 0).then_some(Demand {
            jobs: 1,
            from: Duration::ZERO,
            work: Duration::ZERO,
            images: 0,
        }));
    }
}

#[test]
fn jobs_without_workers_start_one_after_the_other() {
    let cores = Cores::new(2, Performance::Auto);
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let lane = cores.jobs(Arc::clone(&count) as Arc<dyn StartJob>);
    demand(&lane, 1, Duration::ZERO);
    assert_eq!(count.0.load(Ordering::SeqCst), 10);
    assert_eq!(cores.used(), 0);
    let helpers = [lane.help(), lane.help()];
    assert!(helpers.iter().all(Option::is_some) && lane.help().is_none());
}
