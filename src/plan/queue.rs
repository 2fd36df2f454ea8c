//! The queue of a replica as M/G/k: arrivals at random, measured service times, `k` cores.

use super::{Costs, gamma};

/// Steps of the bisection for a quantile: the interval shrinks to a billionth.
const STEPS: u32 = 30;

/// Quantiles of the time from the arrival of a request to its response, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latency {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
}

/// A replica with its rate of requests.
#[derive(Debug)]
pub struct Queue<'a> {
    costs: &'a Costs,
    cores: u32,
    /// Requests per second.
    rate: f64,
}

impl<'a> Queue<'a> {
    /// Describes a replica of `cores` cores (at least 1) that gets `rate` requests per second.
    pub fn new(costs: &'a Costs, cores: u32, rate: f64) -> Self {
        let cores = cores.max(1);
        Self { costs, cores, rate }
    }

    /// Returns the share of the time in which a core is busy, above 1 if the cores cannot serve the rate.
    pub fn utilization(&self) -> f64 {
        self.rate * self.costs.mean() / f64::from(self.cores)
    }

    /// Returns the probability that a request waits because all cores are busy: Erlang's formula C, which is exact for
    /// exponential service times and a good approximation for others.
    fn waiting_probability(&self) -> f64 {
        let load = self.rate * self.costs.mean();
        // Erlang's formula B, by its recursion over the number of cores, which does not overflow.
        let step = |blocked: f64, cores: u32| load * blocked / (f64::from(cores) + load * blocked);
        let blocked = (1..=self.cores).fold(1.0, step);
        let utilization = self.utilization();
        blocked / (1.0 - utilization * (1.0 - blocked))
    }

    /// Returns the mean time in seconds that a request waits for a core. It is interpolated between those of constant
    /// service times (Cosmetatos, "Some approximate equilibrium results for the multi-server queue (M/G/r)", 1976) and of
    /// exponential ones by the square of the coefficient of variation.
    fn mean_wait(&self) -> f64 {
        let (cores, utilization) = (f64::from(self.cores), self.utilization());
        let exponential =
            self.waiting_probability() * self.costs.mean() / (cores * (1.0 - utilization));
        let correction = (1.0 - utilization) * (cores - 1.0) * ((4.0 + 5.0 * cores).sqrt() - 2.0);
        let constant = exponential / 2.0 * (1.0 + correction / (16.0 * utilization * cores));
        let squared = self.costs.variation().powi(2);
        squared * exponential + (1.0 - squared) * constant.min(exponential)
    }

    /// Returns the squared coefficient of variation of the wait of the requests that wait. Such a wait is a number of
    /// residual service times, one after the other, and this number has a geometric distribution (Pollaczek and
    /// Khinchine; exact for one core).
    fn wait_variation(&self) -> f64 {
        let residual = self.costs.residual_variation();
        let utilization = self.utilization();
        (1.0 - utilization) * residual + utilization
    }

    /// Returns the quantiles of the latency. The utilization must be below 1.
    ///
    /// A request waits with the probability `Queue::waiting_probability`, and then for a time with a gamma
    /// distribution, whose mean gives `Queue::mean_wait`.
    pub fn latency(&self) -> Latency {
        let probability = self.waiting_probability();
        let (mean, variation) = (self.mean_wait() / probability, self.wait_variation());
        // The probability that wait and service together take longer than `time`.
        let exceeds = |time: f64| {
            let samples = self.costs.samples();
            let longer = samples.iter().map(|service| match time - service {
                left if left < 0.0 => 1.0,
                left if mean > 0.0 => probability * gamma::exceeds(mean, variation, left),
                _ => 0.0,
            });
            longer.sum::<f64>() / samples.len() as f64
        };
        let quantile = |part: f64| {
            let (mut low, mut high) = (0.0, self.costs.quantile(1.0));
            while exceeds(high) > 1.0 - part {
                high *= 2.0;
            }
            for _ in 0..STEPS {
                let middle = f64::midpoint(low, high);
                if exceeds(middle) > 1.0 - part {
                    low = middle;
                } else {
                    high = middle;
                }
            }
            high
        };
        Latency {
            p50: quantile(0.5),
            p99: quantile(0.99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::simulation::simulate;
    use super::*;
    use crate::random::SplitMix64;

    /// Service times with a mean of 10 ms: a constant part, and an exponential one that gives them this coefficient of
    /// variation.
    fn costs(variation: f64) -> Costs {
        let mut random = SplitMix64::new(7);
        let time = |_| 0.01 * (1.0 - variation + variation * random.exponential());
        Costs::new((0..20_000).map(time).collect()).unwrap()
    }

    #[test]
    fn exponential_service_on_one_core_has_exponential_latency() {
        let times = (0..2000).map(|index| -(1.0 - (f64::from(index) + 0.5) / 2000.0).ln() * 0.01);
        let costs = Costs::new(times.collect()).unwrap();
        let latency = Queue::new(&costs, 1, 60.0).latency();
        // M/M/1: the latency is exponential with the rate 100 - 60.
        let expected = |part: f64| -(1.0 - part).ln() / 40.0;
        assert!(
            (latency.p50 / expected(0.5) - 1.0).abs() < 0.02,
            "{latency:?}"
        );
        assert!(
            (latency.p99 / expected(0.99) - 1.0).abs() < 0.02,
            "{latency:?}"
        );
    }

    #[test]
    fn quantiles_agree_with_a_simulation() {
        for variation in [0.0, 0.5, 1.0] {
            let costs = costs(variation);
            for cores in [1, 2, 8] {
                for utilization in [0.3, 0.6, 0.8, 0.9] {
                    let rate = utilization * f64::from(cores) / costs.mean();
                    let computed = Queue::new(&costs, cores, rate).latency();
                    let simulated = simulate(&costs, cores, rate, 150_000);
                    let ratio = computed.p99 / simulated.p99;
                    assert!(
                        (0.85..1.15).contains(&ratio),
                        "variation {variation}, {cores} cores, utilization {utilization}: \
                         {computed:?} instead of {simulated:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn many_cores_do_not_overflow() {
        let costs = costs(0.2);
        let latency = Queue::new(&costs, 4096, 4096.0 * 0.9 / costs.mean()).latency();
        assert!(latency.p99.is_finite() && latency.p99 >= costs.quantile(0.99) * 0.99);
    }
}
