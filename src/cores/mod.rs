//! The cores of the process, and how many of them a run of a network takes.
//!
//! Each worker runs its batches on the threads of its own session, usually one, so that under load every core runs a
//! batch of its own. A run that begins while other cores are idle can take them ("widen"): with one client, a request
//! uses the whole machine. [`Cores`] counts what is in use, [`Scaling`] learns what more threads gain.
//!
//! Runs never wait for cores. The operating system shares them among the workers of several models; a run that waited
//! for its turn would wait for the whole run of a slow network (docs/BENCHMARKS.md has the measurements).

mod admitted;
mod scaling;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};

pub use admitted::{AdmittedRequest, AdmittedRequests};
pub use scaling::{MeasuredWidth, Scaling};

/// Which runs may take more cores than the threads of their worker's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Performance {
    /// A run takes all cores while nothing else runs, and half of the idle cores while something does.
    #[default]
    Auto,
    /// A run takes all cores on which no other run is, even if images are being decoded there.
    Latency,
    /// No run takes more cores, so that the work per image is least.
    Throughput,
}

/// Counts the threads of the runs in progress.
pub struct Cores {
    total: usize,
    performance: Performance,
    /// Threads of the runs in progress.
    running: AtomicUsize,
    /// Returns the number of threads that decode, draw or encode images now, or will do so soon.
    images: Box<dyn Fn() -> usize + Send + Sync>,
}

impl fmt::Debug for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cores")
            .field("total", &self.total)
            .field("performance", &self.performance)
            .field("running", &self.running)
            .finish_non_exhaustive()
    }
}

impl Cores {
    /// Creates the count of `total` cores. `images` returns the number of threads that work on images, or
    /// will do so soon for other requests.
    pub fn new(
        total: usize,
        performance: Performance,
        images: impl Fn() -> usize + Send + Sync + 'static,
    ) -> Self {
        Self {
            total: total.max(1),
            performance,
            running: AtomicUsize::new(0),
            images: Box::new(images),
        }
    }

    /// Returns the thread counts above `threads` that runs may have, in ascending order: all cores, a half and a
    /// quarter of them. Empty if runs never take more cores.
    pub fn widths(&self, threads: usize) -> Vec<usize> {
        if self.performance == Performance::Throughput {
            return Vec::new();
        }
        let widths = [self.total / 4, self.total / 2, self.total];
        widths
            .into_iter()
            .filter(|width| *width > threads.max(1))
            .collect()
    }

    /// Begins a run on `threads` threads.
    pub fn begin(self: &Arc<Self>, threads: usize) -> Lease {
        let running = self.running.fetch_add(threads, Ordering::AcqRel);
        let others = Others {
            running,
            images: (self.images)(),
        };
        Lease {
            most: most(self.performance, self.total, others).max(threads),
            alone: others.are_idle(),
            cores: Arc::clone(self),
            threads,
        }
    }
}

/// Threads that are busy beside those of one run.
#[derive(Debug, Clone, Copy)]
struct Others {
    /// Threads of other runs.
    running: usize,
    /// Threads that work on images.
    images: usize,
}

impl Others {
    fn are_idle(self) -> bool {
        self.running + self.images == 0
    }
}

/// Returns the number of cores of `total` that a new run may take.
fn most(performance: Performance, total: usize, others: Others) -> usize {
    let idle = total.saturating_sub(others.running + others.images);
    match performance {
        Performance::Throughput => 1,
        Performance::Latency => total.saturating_sub(others.running),
        Performance::Auto if others.are_idle() => total,
        // The rest is for the images that arrive meanwhile: a run that has cores does not give them back.
        Performance::Auto => idle / 2,
    }
}

/// The cores of a run in progress. Dropping the lease returns them.
pub struct Lease {
    cores: Arc<Cores>,
    threads: usize,
    most: usize,
    alone: bool,
}

impl Lease {
    /// Returns the number of threads that the run may have.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Returns the number of threads that the run has.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Gives the run `threads` threads, at least as many as it has.
    pub fn widen(&mut self, threads: usize) {
        let more = threads.saturating_sub(self.threads);
        self.cores.running.fetch_add(more, Ordering::AcqRel);
        self.threads += more;
    }

    /// Returns whether nothing else ran when the run began and nothing else runs now, so that its time tells something
    /// about its thread count.
    pub fn is_undisturbed(&self) -> bool {
        let running = self.cores.running.load(Ordering::Acquire);
        self.alone && running == self.threads && (self.cores.images)() == 0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.cores.running.fetch_sub(self.threads, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
