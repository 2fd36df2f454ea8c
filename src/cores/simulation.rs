//! A simulation of servers with more cores than the machines that run the tests.
//!
//! It runs [`Machine`] with the clock of the simulation. Clients send an image after the response to their last one.
//! Each image is decoded on one core, waits in the queue of its model, and runs in a batch. The run times are recorded
//! ones: one core and two cores were measured (EPYC with AVX-512, see docs/BENCHMARKS.md), and the times on more cores
//! follow from these two by Amdahl's law, in the form that [`Network::scaling`] has. While guests share the cores, all
//! jobs are slower in proportion.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;

use super::machine::{Demand, LaneId, Machine};
use super::scaling::{Performance, Scaling};
use crate::threads::ThreadPlan;

/// Recorded times of a network, in microseconds.
#[derive(Clone, Copy)]
struct Network {
    /// Run time of one image on one core.
    one: u64,
    /// Run time of one image on two cores.
    two: u64,
    /// Time to decode and preprocess an image on one core.
    decode: u64,
}

const MOBILENET: Network = Network {
    one: 5_300,
    two: 3_100,
    decode: 2_300,
};
const RESNET: Network = Network {
    one: 45_000,
    two: 24_000,
    decode: 2_300,
};
const DETECTOR: Network = Network {
    one: 400_000,
    two: 215_000,
    decode: 2_300,
};
/// Maximum number of images in a batch.
const BATCH: usize = 2;

impl Network {
    /// Returns the times by thread count: a serial part, which two cores do not make faster, and a parallel one.
    fn scaling(self, plan: ThreadPlan) -> Scaling {
        let serial = 2 * self.two - self.one;
        let parallel = self.one - serial;
        let mut scaling = Scaling::single(micros(self.one));
        for threads in plan.wider() {
            if !scaling.add(threads, micros(serial + parallel / threads as u64)) {
                break;
            }
        }
        scaling
    }
}

fn micros(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

/// A job that runs.
struct Running {
    /// Number of the run.
    run: u64,
    /// Seconds that the job takes from now on if it shares its cores with no other.
    left: f64,
    model: usize,
    job: Job,
}

enum Job {
    /// The decoding of an image that arrived at this time.
    Decode(Duration),
    /// A batch on this worker, of images that arrived at these times.
    Batch(usize, Vec<Duration>),
}

struct Model {
    lane: LaneId,
    scaling: Scaling,
    network: Network,
    /// Widths of each worker.
    workers: Vec<Vec<usize>>,
    /// Arrival times of the decoded images that wait.
    queue: VecDeque<Duration>,
    /// Latencies of the images that were processed after the warm-up.
    latencies: Vec<Duration>,
    /// One-core time of these images.
    work: Duration,
}

struct Simulation {
    machine: Machine<usize>,
    total: usize,
    images: LaneId,
    /// Models and arrival times of the images that wait to be decoded.
    encoded: VecDeque<(usize, Duration)>,
    models: Vec<Model>,
    /// Images that were admitted and that no batch has taken.
    coming: usize,
    running: Vec<Running>,
    /// When clients send images, and to which model.
    arrivals: BinaryHeap<Reverse<(Duration, usize)>>,
    now: Duration,
    /// Core time in use after the warm-up, at most that of all cores.
    busy: Duration,
    warm_up: Duration,
}

impl Simulation {
    /// Creates a machine of `cores` cores with a model and a number of clients for each element of `load`.
    fn new(cores: usize, load: &[(Network, usize)]) -> Self {
        let mut machine = Machine::new(cores, Performance::Auto);
        let images = machine.add_lane(Scaling::single(Duration::ZERO), false);
        let plan = ThreadPlan::new(cores, None, None, Performance::Auto);
        let mut models = Vec::new();
        for (network, _) in load {
            let scaling = network.scaling(plan);
            let lane = machine.add_lane(scaling.clone(), true);
            let widths = |worker: usize| {
                let steps = scaling.steps().iter().map(|step| step.threads);
                let has = |threads: &usize| worker < plan.sessions(*threads, cores);
                steps.filter(has).collect::<Vec<_>>()
            };
            let workers: Vec<_> = (0..plan.instances).map(widths).collect();
            for (worker, widths) in workers.iter().enumerate() {
                machine.offer(lane, widths, worker);
            }
            models.push(Model {
                lane,
                scaling,
                network: *network,
                workers,
                queue: VecDeque::new(),
                latencies: Vec::new(),
                work: Duration::ZERO,
            });
        }
        let mut simulation = Self {
            machine,
            total: cores,
            images,
            encoded: VecDeque::new(),
            models,
            coming: 0,
            running: Vec::new(),
            arrivals: BinaryHeap::new(),
            now: Duration::ZERO,
            busy: Duration::ZERO,
            warm_up: Duration::from_secs(2),
        };
        for (model, (_, clients)) in load.iter().enumerate() {
            for client in 0..*clients {
                let first = micros(37 * client as u64);
                simulation.arrivals.push(Reverse((first, model)));
            }
        }
        simulation
    }

    /// Returns how fast jobs run, compared with jobs that have their cores for themselves.
    fn rate(&self) -> f64 {
        let used = self.machine.used(self.now).max(self.total);
        self.total as f64 / used as f64
    }

    /// Runs until `end`, and returns the part of the core time that was in use after the warm-up.
    fn run(&mut self, end: Duration) -> f64 {
        while self.now < end {
            let rate = self.rate();
            let ends = self.running.iter().map(|running| running.left);
            let ends = ends.min_by(f64::total_cmp);
            let ends = ends.map(|left| self.now + Duration::from_secs_f64(left / rate));
            let arrives = self.arrivals.peek().map(|Reverse((time, _))| *time);
            let next = ends.into_iter().chain(arrives).min().unwrap();
            let passed = next.saturating_sub(self.now);
            if self.now >= self.warm_up {
                let used = self.machine.used(self.now).min(self.total);
                self.busy += passed * used as u32;
            }
            for running in &mut self.running {
                running.left -= passed.as_secs_f64() * rate;
            }
            self.now = next;
            self.happen();
            self.start();
        }
        let measured = self.now - self.warm_up;
        self.busy.as_secs_f64() / (measured.as_secs_f64() * self.total as f64)
    }

    /// Ends the jobs that are finished, and lets the clients send whose time it is.
    fn happen(&mut self) {
        while let Some(done) = self.running.iter().position(|running| running.left < 1e-9) {
            let Running {
                run, model, job, ..
            } = self.running.swap_remove(done);
            match job {
                Job::Decode(arrived) => self.models[model].queue.push_back(arrived),
                Job::Batch(worker, arrivals) => self.respond(model, worker, &arrivals),
            }
            self.machine.finish(run, self.now);
            self.demand(model);
        }
        while let Some(Reverse((time, model))) = self.arrivals.peek().copied() {
            if time > self.now {
                break;
            }
            self.arrivals.pop();
            self.coming += 1;
            self.encoded.push_back((model, self.now));
        }
        self.demand_decoding();
    }

    /// Responds to the clients of a batch, which then send their next images.
    fn respond(&mut self, index: usize, worker: usize, arrivals: &[Duration]) {
        let model = &mut self.models[index];
        let widths = model.workers[worker].clone();
        self.machine.offer(model.lane, &widths, worker);
        for arrived in arrivals {
            if self.now >= self.warm_up {
                model.latencies.push(self.now - *arrived);
                model.work += micros(model.network.one + model.network.decode);
            }
            self.arrivals.push(Reverse((self.now + micros(100), index)));
        }
    }

    /// States the demand of the image pool.
    fn demand_decoding(&mut self) {
        let demand = self.encoded.front().map(|(model, _)| Demand {
            jobs: self.encoded.len(),
            from: Duration::ZERO,
            work: micros(self.models[*model].network.decode),
            images: 0,
        });
        self.machine.demand(self.images, demand);
    }

    /// States the demand of a model.
    fn demand(&mut self, index: usize) {
        let model = &self.models[index];
        let images = model.queue.len().min(BATCH);
        let demand = (images > 0).then(|| Demand {
            jobs: model.queue.len(),
            from: Duration::ZERO,
            work: micros(model.network.one) * images as u32,
            images,
        });
        self.machine.demand(model.lane, demand);
    }

    /// Starts every job that may run now.
    fn start(&mut self) {
        while let Some(grant) = self.machine.next(self.now, self.coming) {
            self.machine.claim(grant.lane);
            let Some(worker) = grant.worker else {
                let (model, arrived) = self.encoded.pop_front().unwrap();
                self.running.push(Running {
                    run: grant.run,
                    left: micros(self.models[model].network.decode).as_secs_f64(),
                    model,
                    job: Job::Decode(arrived),
                });
                self.demand_decoding();
                continue;
            };
            let index = self.models.iter().position(|m| m.lane == grant.lane);
            let index = index.unwrap();
            let model = &mut self.models[index];
            let images = model.queue.len().min(BATCH);
            let arrivals: Vec<_> = model.queue.drain(..images).collect();
            self.coming -= images;
            let time = micros(model.network.one) * images as u32;
            self.running.push(Running {
                run: grant.run,
                left: time.as_secs_f64() / model.scaling.speedup(grant.width),
                model: index,
                job: Job::Batch(worker, arrivals),
            });
            self.demand(index);
        }
    }

    /// Returns the median and the maximum latency of a model.
    fn latencies(&self, model: usize) -> (Duration, Duration) {
        let mut sorted = self.models[model].latencies.clone();
        sorted.sort_unstable();
        let last = sorted.last().copied().unwrap_or(Duration::MAX);
        (sorted.get(sorted.len() / 2).copied().unwrap_or(last), last)
    }
}

const END: Duration = Duration::from_secs(12);

#[test]
fn one_client_has_the_latency_of_the_widest_useful_session() {
    for cores in [2, 16, 64] {
        for network in [MOBILENET, RESNET, DETECTOR] {
            let mut simulation = Simulation::new(cores, &[(network, 1), (RESNET, 0)]);
            simulation.run(END);
            let plan = ThreadPlan::new(cores, None, None, Performance::Auto);
            let scaling = network.scaling(plan);
            let widest = scaling.steps().last().unwrap();
            let expected = micros(network.decode) + widest.time;
            let (median, longest) = simulation.latencies(0);
            println!(
                "{cores} cores, one client: {} threads, {median:?}",
                widest.threads
            );
            assert!(
                median.abs_diff(expected) < micros(2),
                "{median:?} {expected:?}"
            );
            assert_eq!(median, longest);
        }
    }
}

#[test]
fn all_cores_are_used_under_load() {
    for cores in [2, 16, 64] {
        let cases: [&[(Network, usize)]; 4] = [
            &[(MOBILENET, 4 * cores)],
            &[(RESNET, 4 * cores)],
            &[(MOBILENET, 2 * cores), (RESNET, 2 * cores)],
            &[
                (MOBILENET, cores),
                (RESNET, cores),
                (DETECTOR, cores),
                (MOBILENET, cores),
            ],
        ];
        for load in cases {
            let mut simulation = Simulation::new(cores, load);
            let used = simulation.run(END);
            let work: Duration = simulation.models.iter().map(|model| model.work).sum();
            let measured = (simulation.now - simulation.warm_up).as_secs_f64();
            let efficiency = work.as_secs_f64() / (measured * cores as f64 * used);
            println!(
                "{cores} cores, {} models: utilization {used:.3}, efficiency {efficiency:.3}",
                load.len()
            );
            assert!(used >= 0.95, "{cores} cores, {} models: {used}", load.len());
        }
    }
}

#[test]
fn no_model_starves_and_equal_loads_get_equal_shares() {
    for cores in [2, 16, 64] {
        let load = [MOBILENET, MOBILENET, RESNET, DETECTOR].map(|network| (network, 2 * cores));
        let mut simulation = Simulation::new(cores, &load);
        simulation.run(END);
        let work: BTreeMap<usize, f64> = (0..load.len())
            .map(|model| (model, simulation.models[model].work.as_secs_f64()))
            .collect();
        let fair = work.values().sum::<f64>() / load.len() as f64;
        println!("{cores} cores, seconds of work by model: {work:.2?}");
        for (model, work) in work {
            assert!(
                work > fair / 2.0,
                "{cores} cores, model {model}: {work} {fair}"
            );
        }
    }
}

#[test]
fn one_client_of_a_fast_model_is_served_beside_a_flood_of_a_slow_one() {
    for cores in [2, 16, 64] {
        let load = [(MOBILENET, 1), (DETECTOR, 8 * cores)];
        let mut simulation = Simulation::new(cores, &load);
        let used = simulation.run(END);
        let (median, longest) = simulation.latencies(0);
        println!(
            "{cores} cores, beside a flood: median {median:?}, longest {longest:?}, {used:.3}"
        );
        // Far below the time of one batch of the slow model.
        assert!(median < micros(30_000), "{cores}: {median:?}");
        assert!(longest < micros(DETECTOR.one), "{cores}: {longest:?}");
        assert!(used >= 0.95, "{cores}: {used}");
    }
}
