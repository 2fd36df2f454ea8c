//! Tests of the rules with a clock of their own.

use super::*;

const MS: Duration = Duration::from_millis(1);

/// Returns the scaling of a network that takes 100 ms on one core and is twice as fast on each doubling but the last.
fn scaling() -> Scaling {
    let mut scaling = Scaling::single(100 * MS);
    for (threads, time) in [(2, 50), (4, 25), (8, 20)] {
        scaling.add(threads, time * MS);
    }
    scaling
}

struct Setup {
    machine: Machine<usize>,
}

impl Setup {
    fn new(total: usize, performance: Performance) -> Self {
        Self {
            machine: Machine::new(total, performance),
        }
    }

    /// Adds a model with `workers` workers, whose numbers count from 0. Worker 0 has all widths.
    fn model(&mut self, workers: usize) -> LaneId {
        let lane = self.machine.add_lane(scaling(), true);
        for worker in 0..workers {
            let widths: &[usize] = if worker == 0 { &[1, 2, 4, 8] } else { &[1, 2] };
            self.machine.offer(lane, widths, worker);
        }
        lane
    }

    fn demand(&mut self, lane: LaneId, jobs: usize, work: Duration) {
        let demand = Demand {
            jobs,
            from: Duration::ZERO,
            work,
            images: 1,
        };
        self.machine.demand(lane, Some(demand));
    }

    /// Starts all jobs that can start at `now`, and returns their lanes and widths. Each claims its job.
    fn start(&mut self, now: Duration, coming: usize) -> Vec<(LaneId, usize, u64)> {
        let mut started = Vec::new();
        while let Some(grant) = self.machine.next(now, coming) {
            started.push((grant.lane, grant.width, grant.run));
        }
        started
    }
}

fn widths(started: &[(LaneId, usize, u64)]) -> Vec<usize> {
    started.iter().map(|(_, width, _)| *width).collect()
}

#[test]
fn a_job_alone_gets_all_useful_cores() {
    // Columns: cores, images that are coming besides, performance, expected width.
    use Performance::{Auto, Latency, Throughput};
    let cases = [
        (8, 0, Auto, 8),
        (16, 0, Auto, 8),
        (3, 0, Auto, 2),
        // Eight threads are not efficient enough beside another job.
        (16, 1, Auto, 4),
        (8, 3, Auto, 2),
        (8, 7, Auto, 2),
        (8, 0, Throughput, 1),
        (8, 7, Latency, 8),
    ];
    for (cores, coming, performance, expected) in cases {
        let mut setup = Setup::new(cores, performance);
        let lane = setup.model(4);
        setup.demand(lane, 1, 100 * MS);
        let started = setup.start(MS, coming + 1);
        assert_eq!(
            widths(&started),
            [expected],
            "{cores} {coming} {performance:?}"
        );
    }
}

#[test]
fn under_load_each_core_has_a_job_of_its_own() {
    let mut setup = Setup::new(4, Performance::Auto);
    let lane = setup.model(4);
    setup.demand(lane, 9, 100 * MS);
    assert_eq!(widths(&setup.start(MS, 9)), [1, 1, 1, 1]);
    // With one worker only, the cores are not left idle.
    let mut setup = Setup::new(4, Performance::Auto);
    let lane = setup.model(1);
    setup.demand(lane, 9, 100 * MS);
    assert_eq!(widths(&setup.start(MS, 9)), [4]);
}

#[test]
fn lanes_take_turns_by_the_core_time_that_they_took() {
    let mut setup = Setup::new(1, Performance::Auto);
    let (slow, fast) = (setup.model(1), setup.model(1));
    let mut now = Duration::ZERO;
    let mut taken = BTreeMap::new();
    for _ in 0..210 {
        setup.demand(slow, 1, 100 * MS);
        setup.demand(fast, 1, 10 * MS);
        // Only one job at a time: guests are not what this is about.
        let grant = setup.machine.next(now, 2).unwrap();
        let (lane, run) = (grant.lane, grant.run);
        let time = if lane == slow { 100 * MS } else { 10 * MS };
        now += time;
        *taken.entry(lane).or_insert(Duration::ZERO) += time;
        setup.machine.claim(lane);
        setup.machine.finish(run, now);
        setup.machine.offer(lane, &[1], 0);
    }
    let share = taken[&fast].as_secs_f64() / taken[&slow].as_secs_f64();
    assert!((0.9..1.1).contains(&share), "{taken:?}");
}

#[test]
fn a_lane_that_was_idle_has_saved_up_no_turns() {
    let mut setup = Setup::new(1, Performance::Auto);
    let (busy, idle) = (setup.model(1), setup.model(1));
    let mut order = Vec::new();
    for turn in 0..20 {
        setup.demand(busy, 1, 100 * MS);
        if turn >= 10 {
            setup.demand(idle, 1, 100 * MS);
        }
        let now = turn * 100 * MS;
        for (lane, _, run) in setup.start(now, 2) {
            order.push(lane);
            setup.machine.claim(lane);
            setup.machine.finish(run, now + 100 * MS);
            setup.machine.offer(lane, &[1], 0);
        }
    }
    let late = order[10..].iter().filter(|lane| **lane == idle).count();
    assert!((4..=6).contains(&late), "{order:?}");
}

#[test]
fn a_short_job_does_not_wait_for_a_long_one() {
    let mut setup = Setup::new(1, Performance::Auto);
    let (long, short) = (setup.model(1), setup.machine.add_lane(scaling(), false));
    setup.demand(long, 1, 100 * MS);
    assert_eq!(setup.start(MS, 1).len(), 1);
    // The core is free in 100 ms.
    setup.demand(short, 1, 100 * MS);
    assert!(setup.start(MS, 1).is_empty(), "not shorter");
    setup.demand(short, 2, 10 * MS);
    let guests = setup.start(MS, 1);
    assert_eq!(guests.len(), 1, "one core has at most one guest");
    setup.machine.finish(guests[0].2, 2 * MS);
    // Ten milliseconds are left.
    assert!(setup.start(91 * MS, 1).is_empty());
}

#[test]
fn an_overdue_job_does_not_keep_its_cores() {
    let mut setup = Setup::new(1, Performance::Auto);
    let lane = setup.model(2);
    setup.demand(lane, 2, 100 * MS);
    let first = setup.start(Duration::ZERO, 2);
    assert_eq!(first.len(), 1);
    let overdue = OVERDUE.max(100 * MS * OVERDUE_FACTOR);
    assert_eq!(setup.machine.due(MS), Some(overdue));
    assert_eq!(setup.start(overdue, 2).len(), 1);
    assert_eq!(setup.machine.used(overdue), 1);
    setup.machine.finish(first[0].2, overdue + MS);
    assert_eq!(setup.machine.used(overdue + MS), 1);
}

#[test]
fn a_delayed_job_starts_at_its_time_and_helpers_give_way() {
    let mut setup = Setup::new(2, Performance::Auto);
    let lane = setup.model(2);
    let demand = Demand {
        jobs: 1,
        from: 10 * MS,
        work: MS,
        images: 1,
    };
    setup.machine.demand(lane, Some(demand));
    assert!(setup.start(9 * MS, 1).is_empty());
    assert_eq!(setup.machine.due(9 * MS), Some(10 * MS));
    assert!(setup.machine.help(lane, 9 * MS).is_some());
    assert!(setup.machine.help(lane, 10 * MS).is_none(), "a job waits");
    assert_eq!(setup.start(10 * MS, 1).len(), 1);
    assert!(
        setup.machine.help(lane, 10 * MS).is_none(),
        "no core is free"
    );
    assert_eq!(setup.machine.due(10 * MS), None);
}

#[test]
fn runs_that_are_late_because_of_other_processes_get_one_core_for_a_while() {
    let mut setup = Setup::new(2, Performance::Auto);
    let lane = setup.model(1);
    let mut now = Duration::ZERO;
    let mut run = |time: Duration| {
        setup.demand(lane, 1, 100 * MS);
        let started = setup.start(now, 1);
        now += time;
        setup.machine.claim(lane);
        setup.machine.finish(started[0].2, now);
        setup.machine.offer(lane, &[1, 2], 0);
        started[0].1
    };
    // A run on two cores is predicted to take 50 ms.
    assert!((0..20).all(|_| run(60 * MS) == 2));
    let late: Vec<usize> = (0..40).map(|_| run(180 * MS)).collect();
    assert_eq!(late[0], 2);
    let wide = late.iter().filter(|width| **width == 2).count();
    assert!((4..20).contains(&wide), "{late:?}");
    let again: Vec<usize> = (0..20).map(|_| run(50 * MS)).collect();
    assert_eq!(again[10..], [2; 10]);
}

#[test]
fn a_worker_with_few_widths_is_taken_first() {
    let mut setup = Setup::new(4, Performance::Throughput);
    let lane = setup.model(3);
    setup.demand(lane, 3, MS);
    let mut workers = Vec::new();
    while let Some(grant) = setup.machine.next(MS, 3) {
        workers.extend(grant.worker);
    }
    assert_eq!(workers, [2, 1, 0]);
    assert!(setup.machine.recall(lane).is_empty());
}
