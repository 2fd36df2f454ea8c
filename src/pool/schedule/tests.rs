use super::*;

const MIB: u64 = 1 << 20;

/// A job: its arrival and its predicted time, both in milliseconds, and the number of pixels of its
/// image.
struct Job(u64, u64, u64);

const SMALL: u64 = 100_000;
const LARGE: u64 = LARGE_PIXELS + 1;

fn schedule(threads: usize) -> Schedule<usize> {
    let memory = || Budget::new("test", MIB, 100 * MIB);
    Schedule::new(threads, memory(), memory())
}

fn cost(millis: u64, mib: u64, pixels: u64) -> JobCost {
    JobCost {
        nanos: millis * 1_000_000,
        bytes: mib * MIB,
        pixels,
        long: is_long(pixels, millis * 1_000_000),
    }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Runs jobs on one thread, each for its predicted time, and returns their indices in the order in
/// which they start.
fn order(jobs: &[Job]) -> Vec<usize> {
    let mut schedule = schedule(1);
    let (mut started, mut running, mut busy_until) = (Vec::new(), None, 0);
    for now in 0.. {
        for (index, Job(arrival, millis, pixels)) in jobs.iter().enumerate() {
            if *arrival == now {
                schedule.push(ms(now), cost(*millis, 1, *pixels), index);
            }
        }
        if now >= busy_until {
            if let Some(grant) = running.take() {
                schedule.finish(grant);
            }
            if let Some((grant, index)) = schedule.next() {
                started.push(index);
                (running, busy_until) = (Some(grant), now + jobs[index].1);
            }
        }
        if started.len() == jobs.len() {
            break;
        }
    }
    started
}

#[test]
fn short_jobs_overtake_long_ones_for_a_bounded_time() {
    // One job of 100 ms waits while jobs of 10 ms arrive every 10 ms.
    let mut steady: Vec<Job> = (0..200).map(|i| Job(i * 10, 10, SMALL)).collect();
    steady.insert(1, Job(0, 100, SMALL));
    let position = order(&steady).iter().position(|index| *index == 1);
    // The long job is due at 0 + 8 * 100 = 800 ms. Short job 72 is also due at 800 ms (it arrives
    // at 720 ms and is due 8 * 10 ms later), but the long job arrived first. So the long job starts
    // after the 72 short jobs 0 to 71.
    assert_eq!(position, Some(72));

    let cases: [(&str, &[Job], &[usize]); 4] = [
        (
            "arrival",
            &[Job(0, 5, SMALL), Job(1, 5, SMALL), Job(2, 5, SMALL)],
            &[0, 1, 2],
        ),
        (
            "shortest",
            &[Job(0, 9, SMALL), Job(1, 90, SMALL), Job(2, 9, SMALL)],
            &[0, 2, 1],
        ),
        (
            "too late",
            &[Job(0, 200, SMALL), Job(1, 20, SMALL), Job(170, 1, SMALL)],
            &[0, 1, 2],
        ),
        (
            "large",
            &[Job(0, 9, SMALL), Job(1, 400, LARGE), Job(2, 9, SMALL)],
            &[0, 2, 1],
        ),
    ];
    for (name, jobs, expected) in cases {
        assert_eq!(order(jobs), expected, "{name}");
    }
}

#[test]
fn short_jobs_do_not_wait_for_the_end_of_long_ones() {
    let mut schedule = schedule(4);
    let start = |schedule: &mut Schedule<usize>| {
        let mut grants = Vec::new();
        while let Some((grant, _)) = schedule.next() {
            grants.push(grant);
        }
        grants
    };
    for index in 0..6 {
        schedule.push(ms(0), cost(100, 1, LARGE), index);
    }
    // Long jobs use all four threads.
    let mut long = start(&mut schedule);
    assert_eq!(long.len(), 4);
    for index in 6..10 {
        schedule.push(ms(10), cost(1, 1, SMALL), index);
    }
    // Short jobs start while these run, on two additional threads.
    let mut short = start(&mut schedule);
    assert!(short.iter().all(|grant| !grant.long));
    assert_eq!(short.len(), 2);
    // Once a long job ends, the running short jobs count against the four threads.
    schedule.finish(long.remove(0));
    assert_eq!(start(&mut schedule).len(), 0);
    schedule.finish(short.remove(0));
    let mut next = start(&mut schedule);
    assert_eq!((next.len(), next.remove(0).long), (1, false));
}

#[test]
fn slow_formats_are_long_jobs_with_the_memory_of_small_images() {
    let slow = cost(61, 1, SMALL);
    assert!(slow.long && !cost(59, 1, SMALL).long);
    let mut schedule = schedule(1);
    schedule.push(ms(0), cost(1000, 100, LARGE), 0);
    schedule.push(ms(0), cost(61, 100, SMALL), 1);
    assert_eq!(schedule.next().unwrap().1, 1);
    assert!(schedule.next().is_none());
    schedule.push(ms(0), cost(1, 0, SMALL), 2);
    assert_eq!(schedule.next().unwrap().1, 2);
}

#[test]
fn a_slow_small_image_does_not_wait_for_the_memory_of_large_ones() {
    let mut schedule = schedule(4);
    schedule.push(ms(0), cost(100, 100, LARGE), 0);
    let held = schedule.next().unwrap();
    schedule.push(ms(0), cost(100, 100, LARGE), 1);
    schedule.push(ms(1), cost(100, 100, SMALL), 2);
    assert_eq!(schedule.next().unwrap().1, 2);
    assert!(schedule.next().is_none());
    schedule.finish(held.0);
    assert_eq!(schedule.next().unwrap().1, 1);
}

#[test]
fn memory_of_large_images_is_not_that_of_small_ones() {
    let mut schedule = schedule(4);
    schedule.push(ms(0), cost(100, 500, LARGE), 0);
    schedule.push(ms(0), cost(200, 10, LARGE), 1);
    schedule.push(ms(0), cost(9, 60, SMALL), 2);
    schedule.push(ms(0), cost(9, 60, SMALL), 3);
    // Job 0 needs 500 MiB, more than the whole budget of large images (100 MiB), so it runs with
    // all of this budget.
    let (small, index) = schedule.next().unwrap();
    assert_eq!((small.long, index), (false, 2));
    let (large, index) = schedule.next().unwrap();
    assert_eq!((large.long, index), (true, 0));
    assert!(
        schedule.next().is_none(),
        "no job may start: the memory of small and of large images is in use"
    );
    schedule.finish(small);
    assert_eq!(schedule.next().unwrap().1, 3);
    assert!(schedule.next().is_none());
    schedule.finish(large);
    assert_eq!(schedule.next().unwrap().1, 1);
}

#[test]
fn removed_jobs_do_not_run_and_helpers_take_idle_threads_only() {
    let mut schedule = schedule(2);
    let place = schedule.push(ms(0), cost(1, 1, SMALL), 0);
    schedule.remove(place);
    assert!(schedule.next().is_none());
    assert!(schedule.try_helper());
    schedule.push(ms(0), JobCost::time(1), 1);
    schedule.push(ms(0), JobCost::time(1), 2);
    let (grant, index) = schedule.next().unwrap();
    assert_eq!(index, 1);
    assert!(!schedule.try_helper());
    assert!(schedule.next().is_none());
    schedule.finish_helper();
    assert_eq!(schedule.next().unwrap().1, 2);
    schedule.finish(grant);
}
