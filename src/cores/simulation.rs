//! A simulation of machines with more cores than tests have: clients in a closed loop, whose images are decoded on one
//! core and then run with the thread count that [`Cores`] and [`Scaling`] choose. All threads progress at the same
//! speed, which falls when there are more threads than cores.
//!
//! The costs are those of `mobilenet_v3_large` in fp32 on two cores, 4.46 ms on one thread and 2.58 ms on two. More
//! threads follow Amdahl's law with the serial part of these two figures.

use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use super::*;

/// Milliseconds of a step.
const STEP: f64 = 0.02;
const DECODE: f64 = 2.0;
const ONE_THREAD: f64 = 4.46;
const SERIAL: f64 = 0.157;

/// Milliseconds of a run on `threads` idle cores.
fn run_time(threads: usize) -> f64 {
    ONE_THREAD * (SERIAL + (1.0 - SERIAL) / threads as f64)
}

fn learned(cores: &Cores) -> Scaling {
    let widths = cores.widths(1);
    let mut scaling = Scaling::new(1, &widths);
    for threads in std::iter::once(1).chain(widths) {
        for _ in 0..8 {
            let time = Duration::from_secs_f64(run_time(threads) / 1e3);
            scaling.record(threads, 1, time);
        }
    }
    scaling
}

/// The work of a client that holds a core.
enum Work {
    Decoding {
        client: usize,
        left: f64,
    },
    Running {
        client: usize,
        left: f64,
        _lease: Lease,
    },
}

struct Result {
    /// Part of the cores that had a thread to run.
    utilization: f64,
    /// Throughput as a part of what the cores could do if every run had one thread.
    efficiency: f64,
    /// Mean milliseconds of a request.
    latency: f64,
    /// Requests of the client with the fewest, as a part of the mean.
    least: f64,
}

/// Simulates `clients` clients on `total` cores, with as many image threads and workers, for `seconds` seconds.
fn simulate(total: usize, clients: usize, seconds: f64) -> Result {
    let images = Arc::new(AtomicUsize::new(0));
    let decoding = Arc::clone(&images);
    let cores = Arc::new(Cores::new(total, Performance::Auto, move || {
        decoding.load(Ordering::Relaxed)
    }));
    let mut scaling = learned(&cores);
    let mut undecoded: VecDeque<usize> = (0..clients).collect();
    let (mut queue, mut work) = (VecDeque::new(), Vec::new());
    let (mut finished, mut busy) = (vec![0_u32; clients], 0.0);
    let steps = (seconds * 1e3 / STEP) as usize;
    for _ in 0..steps {
        let decoders = decoding_threads(&work);
        let workers = work.len() - decoders;
        for client in undecoded.drain(..undecoded.len().min(total - decoders)) {
            work.push(Work::Decoding {
                client,
                left: DECODE,
            });
        }
        images.store(decoding_threads(&work), Ordering::Relaxed);
        for client in queue.drain(..queue.len().min(total - workers)) {
            let mut lease = cores.begin(1);
            lease.widen(scaling.choose(lease.most()));
            let left = run_time(lease.threads());
            work.push(Work::Running {
                client,
                left,
                _lease: lease,
            });
        }
        let threads = decoding_threads(&work) + cores.running.load(Ordering::Relaxed);
        busy += threads.min(total) as f64;
        let speed = (total as f64 / threads.max(1) as f64).min(1.0);
        work.retain_mut(|work| match work {
            Work::Decoding { client, left } => {
                *left -= STEP * speed;
                if *left <= 0.0 {
                    queue.push_back(*client);
                }
                *left > 0.0
            }
            Work::Running { client, left, .. } => {
                *left -= STEP * speed;
                if *left <= 0.0 {
                    finished[*client] += 1;
                    undecoded.push_back(*client);
                }
                *left > 0.0
            }
        });
    }
    let all = f64::from(finished.iter().sum::<u32>());
    let least = f64::from(finished.iter().copied().min().unwrap_or_default());
    Result {
        utilization: busy / (steps * total) as f64,
        efficiency: all * (DECODE + ONE_THREAD) / (seconds * 1e3 * total as f64),
        latency: seconds * 1e3 * clients as f64 / all,
        least: least / (all / clients as f64),
    }
}

/// Returns the number of threads that decode.
fn decoding_threads(work: &[Work]) -> usize {
    work.iter()
        .filter(|work| matches!(work, Work::Decoding { .. }))
        .count()
}

#[test]
fn under_load_every_core_works_and_no_client_starves() {
    for total in [2, 16, 64] {
        let result = simulate(total, 4 * total, 1.0);
        let Result {
            utilization,
            efficiency,
            least,
            ..
        } = result;
        println!(
            "{total} cores: utilization {utilization:.3}, efficiency {efficiency:.3}, least {least:.2}"
        );
        assert!(utilization >= 0.95, "{total}: {utilization}");
        assert!(efficiency >= 0.95, "{total}: {efficiency}");
        assert!(least >= 0.8, "{total}: {least}");
    }
}

#[test]
fn a_single_client_has_the_latency_of_the_widest_useful_session() {
    for (total, widest) in [(2, 2), (16, 16), (64, 64)] {
        let latency = simulate(total, 1, 1.0).latency;
        let best = DECODE + run_time(widest);
        println!("{total} cores: {latency:.2} ms, at best {best:.2} ms");
        // One of 64 decisions probes another thread count, and less than 10 % is not worth twice the threads.
        assert!(latency <= best * 1.1, "{total}: {latency}");
    }
}

#[test]
fn with_some_clients_no_more_is_lost_than_threads_that_scale_badly_cost() {
    for (total, clients) in [(16, 4), (16, 8), (64, 16), (64, 32)] {
        let wide = simulate(total, clients, 1.0).latency;
        let narrow = DECODE + ONE_THREAD;
        println!(
            "{total} cores, {clients} clients: {wide:.2} ms, on one thread each {narrow:.2} ms"
        );
        assert!(wide <= narrow, "{total}, {clients}: {wide}");
    }
}
