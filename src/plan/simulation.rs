//! A simulation of the queue of a replica, event by event, which the formulas are compared with.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::{Costs, Latency};
use crate::random::SplitMix64;

/// Returns the latencies of `requests` requests that arrive at random, `rate` per second, and are served in the order of
/// their arrival by `cores` cores. The service times are drawn from `costs`. The first tenth does not count.
pub(super) fn simulate(costs: &Costs, cores: u32, rate: f64, requests: usize) -> Latency {
    let mut random = SplitMix64::new(1);
    // When each core is free, in nanoseconds.
    let mut free: BinaryHeap<Reverse<u64>> = (0..cores).map(|_| Reverse(0)).collect();
    let (mut now, mut latencies) = (0.0, Vec::with_capacity(requests));
    for _ in 0..requests {
        now += random.exponential() / rate;
        let samples = costs.samples();
        let service = samples[random.below(samples.len())];
        let Reverse(core) = free.pop().unwrap();
        let end = now.max(core as f64 / 1e9) + service;
        free.push(Reverse((end * 1e9) as u64));
        latencies.push(end - now);
    }
    latencies.drain(..requests / 10);
    latencies.sort_by(f64::total_cmp);
    let at = |part: f64| latencies[(latencies.len() as f64 * part) as usize];
    Latency {
        p50: at(0.5),
        p99: at(0.99),
    }
}
