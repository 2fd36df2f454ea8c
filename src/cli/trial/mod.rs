//! Loads models from files, first in a child process with a time limit and a memory limit.
//!
//! ONNX Runtime executes parts of a network while it optimizes the network. A hostile file can therefore make loading
//! endless, or make it take any amount of memory, and neither can be stopped within a process. The child optimizes the
//! network, runs it once, and returns the optimized graph. The parent creates its sessions from that graph, without
//! optimizing again. A graph that was returned under the same conditions before comes from the start-up cache.

mod child;
mod message;

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use onnx_export::Stages;
use rustix::process::Signal;
use sightline::cache::{Cache, Key, Stored, TrialConditions};
use sightline::config::LoadLimits;
use sightline::engine::{OnnxRuntime, OptimizedGraph};
use sightline::memory::memory_limit;
use sightline::metrics::Metrics;
use sightline::postprocess::detect::Detector;
use sightline::process::ProcessUsage;
use sightline::registry::networks::Networks;
use sightline::registry::{LoadError, LoadReason, LoadedModel, ModelPlan};
use sightline::store::{ModelSource, Origin};

use super::log;
use super::relaunch::NO_TELEMETRY;
pub(super) use child::{TrialArgs, run};
use message::{Order, Outcome, read_head, write};

/// Constant part of the default memory limit of the child process, in bytes.
const BASE_MEMORY: u64 = 2 << 30;
/// Part of the default memory limit that grows with the model, in bytes per byte of its files.
const MEMORY_PER_BYTE: u64 = 8;
/// Smallest memory in bytes that loading any model takes.
const LEAST_MEMORY: u64 = 64 << 20;
/// What to do if the memory that the server leaves for loading is too small.
const LACK_ADVICE: &str =
    "raise the memory limit of the container, lower --memory-budget, or load the model at start";
/// Maximum number of characters of the child's error that the parent reports.
const MAX_ERROR: usize = 2000;
/// Maximum size in bytes of the child's log that the parent writes to stderr; the rest is dropped.
const MAX_LOG: u64 = 64 << 10;
/// Environment variables of the child: glibc's allocator has one pool, and large blocks outside of it.
const VARIABLES: [(&str, &str); 3] = [
    NO_TELEMETRY,
    ("MALLOC_ARENA_MAX", "1"),
    ("MALLOC_MMAP_THRESHOLD_", "131072"),
];
/// Parts of the error messages of ONNX Runtime, C++ and Rust if memory could not be allocated.
const ALLOCATION_ERRORS: [&str; 4] = [
    "Failed to allocate memory",
    "bad_alloc",
    "bad allocation",
    "memory allocation of",
];

/// Too little memory is left beside the server to load a model.
#[derive(Debug, thiserror::Error)]
#[error(
    "loading needs at least {needed} bytes of memory, but {free} are left beside the server and its memory budget: \
     {LACK_ADVICE}"
)]
pub(super) struct TooLittleMemory {
    needed: u64,
    free: u64,
}

/// How models are loaded.
pub(super) struct Loading<'a> {
    pub(super) runtime: &'a OnnxRuntime,
    /// Limits of the child process.
    pub(super) limits: LoadLimits,
    /// Memory in bytes that loading may take beside a server that has responded to requests already. `None` if only
    /// `limits` apply.
    pub(super) free: Option<u64>,
    pub(super) metrics: &'a Metrics,
    pub(super) cache: &'a Cache,
    /// Whether new entries of the cache are written on a thread of their own. The process must then live on.
    pub(super) caches_later: bool,
}

/// The optimized networks of a model, and what loading has learned about it.
struct Trial {
    stages: Stages<OptimizedGraph>,
    /// Memory in bytes of one worker without the weights that workers share. 0 if it is not known.
    worker_bytes: u64,
    /// The key of the cache entry to write. `None` if the networks come from the cache, or if there is none.
    key: Option<Key>,
}

impl From<Stored> for Trial {
    fn from(stored: Stored) -> Self {
        Self {
            stages: stored.stages,
            worker_bytes: stored.worker_bytes,
            key: None,
        }
    }
}

impl Loading<'_> {
    /// Loads the model `source`. A model from files that is not in the cache is first loaded in a child process.
    ///
    /// # Errors
    /// If the model cannot be loaded, or not within the limits; the error names the model. [`TooLittleMemory`] is in its
    /// chain if the free memory is certainly too small.
    pub(super) fn load(&self, source: ModelSource, plan: ModelPlan) -> Result<LoadedModel> {
        let plan = ModelPlan {
            warm_up_limit: self.limits.timeout,
            ..plan
        };
        if matches!(source.origin, Origin::Files { .. }) {
            return self.load_files(source, plan);
        }
        let before = ProcessUsage::now().resident_bytes;
        let mut model = self.load_here(source, plan)?;
        let after = ProcessUsage::now().resident_bytes;
        model.memory_bytes = Some(after.saturating_sub(before));
        Ok(model)
    }

    /// Loads a model whose graphs come from this binary, from the cache or in this process.
    fn load_here(&self, source: ModelSource, plan: ModelPlan) -> Result<LoadedModel, LoadError> {
        let started = Instant::now();
        let key = self.key(|| Key::built_in(&source, self.runtime));
        let model = source.id();
        if let Some(stored) = key.and_then(|key| self.cache.get(&key, &model)) {
            match self.start(source.clone(), stored.stages, plan, started) {
                Ok((model, _)) => return Ok(model),
                Err(error) => warn_unusable(&error),
            }
        }
        let runtime = self.runtime.with_threads(plan.intra_op_threads);
        let prepare = || {
            let detector = Detector::of(&source.manifest)?;
            Networks::prepare(&source, detector.as_ref(), &runtime)
        };
        let named = |reason| LoadError {
            model: model.clone(),
            reason,
        };
        let networks = prepare().map_err(named)?;
        let loaded = LoadedModel::with_networks(source, &networks, plan, self.metrics, started)?;
        if let Some(key) = key {
            self.put(key, &networks, 0, &model);
        }
        Ok(loaded)
    }

    /// Loads a model from files, from the cache or first in a child process.
    fn load_files(&self, source: ModelSource, plan: ModelPlan) -> Result<LoadedModel> {
        let started = Instant::now();
        let id = source.id();
        let trial = self.optimize(&source, plan);
        let trial = trial.with_context(|| format!("cannot load model `{id}`"))?;
        tracing::debug!(
            trial_ms = started.elapsed().as_millis() as u64,
            "model optimized by a child process or found in the start-up cache"
        );
        let weights: u64 = trial.stages.iter().map(|stage| stage.content.bytes()).sum();
        let (model, networks) = match self.start(source.clone(), trial.stages, plan, started) {
            Err(error) if trial.key.is_none() && !self.cache.is_off() => {
                warn_unusable(&error);
                let off = Cache::off();
                let uncached = Loading {
                    cache: &off,
                    ..*self
                };
                return uncached.load_files(source, plan);
            }
            loaded => loaded?,
        };
        if let Some(key) = trial.key {
            self.put(key, &networks, trial.worker_bytes, &id);
        }
        let workers = trial.worker_bytes.saturating_mul(plan.instances as u64);
        Ok(LoadedModel {
            memory_bytes: Some(workers.saturating_add(weights)),
            ..model
        })
    }

    /// Starts the workers of a model whose optimized networks are `stages`.
    fn start(
        &self,
        source: ModelSource,
        stages: Stages<OptimizedGraph>,
        plan: ModelPlan,
        started: Instant,
    ) -> Result<(LoadedModel, Networks), LoadError> {
        let runtime = self.runtime.with_threads(plan.intra_op_threads);
        let join = || {
            let detector = Detector::of(&source.manifest)?;
            Networks::prepare_optimized(stages, detector.as_ref(), &runtime)
        };
        let networks = join().map_err(|reason| LoadError {
            model: source.id(),
            reason,
        })?;
        let model = LoadedModel::with_networks(source, &networks, plan, self.metrics, started)?;
        Ok((model, networks))
    }

    fn put(&self, key: Key, networks: &Networks, worker_bytes: u64, model: &str) {
        if self.caches_later {
            self.cache.put_later(key, networks, worker_bytes, model);
        } else {
            self.cache.put(&key, networks, worker_bytes, model);
        }
    }

    /// Returns the key that `make` returns, if models are cached.
    fn key(&self, make: impl FnOnce() -> Option<Key>) -> Option<Key> {
        if self.cache.is_off() { None } else { make() }
    }

    /// Returns the optimized networks of the model `source` from the cache, or from a child process that loads the
    /// model.
    fn optimize(&self, source: &ModelSource, plan: ModelPlan) -> Result<Trial> {
        let size = source.file_bytes().unwrap_or_default();
        let left = self.free.map(|free| left_for_child(free, size));
        let left = left.transpose()?.unwrap_or(u64::MAX);
        let graphs = source.graphs().map_err(LoadReason::from)?;
        let conditions = TrialConditions {
            timeout: self.limits.timeout,
            memory: self.limits.memory,
            max_batch_size: plan.max_batch_size,
            intra_op_threads: plan.intra_op_threads,
        };
        let key = self.key(|| Key::from_files(source, &graphs, conditions, self.runtime));
        if let Some(stored) = key.and_then(|key| self.cache.get(&key, &source.id())) {
            return Ok(stored.into());
        }
        let size: usize = graphs.iter().map(|graph| graph.content.len()).sum();
        let limit = self
            .limits
            .memory
            .unwrap_or_else(|| default_memory(size as u64));
        let (memory_bytes, advice) = if left < limit {
            (left, LACK_ADVICE)
        } else {
            (limit, "--load-memory-bytes raises this limit")
        };
        let order = order(source, &graphs, plan, memory_bytes)?;
        let mut input = memory_file("model")?;
        write(&mut input, &order, graphs.iter().map(|g| &g.content[..]))?;
        drop(graphs);
        input.rewind()?;
        let mut output = memory_file("optimized")?;
        let mut child = start(self.runtime.library(), input, output.try_clone()?)?;
        let (status, log) = finish(&mut child, self.limits.timeout)?;
        crate::cli::log::forward(&log);
        output.rewind()?;
        let result = outcome(output, status);
        let stored = result.map_err(|error| explain_memory(error, &log, memory_bytes, advice))?;
        Ok(Trial {
            key,
            ..stored.into()
        })
    }
}

fn warn_unusable(error: &LoadError) {
    tracing::warn!(
        error = error as &dyn std::error::Error,
        "start-up cache entry cannot be loaded: the model is optimized again"
    );
}

/// Returns what the child process is to load: the model `source`, whose stages are `graphs`, within `memory_bytes` bytes
/// of memory.
fn order(
    source: &ModelSource,
    graphs: &Stages<Bytes>,
    plan: ModelPlan,
    memory_bytes: u64,
) -> Result<Order> {
    let parent = rustix::process::getpid();
    Ok(Order {
        parent: parent.as_raw_nonzero().get(),
        memory_bytes,
        manifest: source.manifest.to_toml()?,
        variant: source.variant.clone(),
        precision: source.precision,
        labels: source.labels.clone(),
        max_batch_size: plan.max_batch_size,
        intra_op_threads: plan.intra_op_threads,
        graphs: graphs.iter().map(|g| (g.role, g.content.len())).collect(),
    })
}

/// Returns the default memory limit in bytes for loading a model whose files have `size` bytes.
fn default_memory(size: u64) -> u64 {
    let needed = BASE_MEMORY.saturating_add(size.saturating_mul(MEMORY_PER_BYTE));
    let limit = memory_limit(Path::new("/"));
    limit.map_or(needed, |(limit, _)| needed.min(limit / 4 * 3))
}

/// Returns the part in bytes of the memory `free` that the child may take to load a model whose files have `size`
/// bytes. The rest is for the files that the processes exchange.
fn left_for_child(free: u64, size: u64) -> Result<u64, TooLittleMemory> {
    let exchanged = size.saturating_mul(2);
    let least = size.max(LEAST_MEMORY);
    let left = free.saturating_sub(exchanged);
    if left < least {
        let needed = exchanged.saturating_add(least);
        return Err(TooLittleMemory { needed, free });
    }
    Ok(left)
}

fn memory_file(name: &str) -> Result<File> {
    let file = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC);
    Ok(file.context("cannot create an in-memory file")?.into())
}

/// Starts the child process, which reads `input` and writes `output`.
fn start(library: &Path, input: File, output: File) -> Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command
        .args(log::arguments())
        .arg("load-trial")
        .arg("--onnxruntime")
        .arg(library)
        // The allocator returns freed memory to the system, so that the child measures what the model keeps.
        .envs(VARIABLES)
        // A process group of its own: Ctrl-C at a terminal reaches only the parent, whose end stops the child.
        .process_group(0)
        .stdin(input)
        .stdout(output)
        .stderr(Stdio::piped());
    command
        .spawn()
        .context("cannot start a process that loads the model")
}

/// Waits until the child ends, and returns its status and its log. Kills the child after `timeout`.
fn finish(child: &mut Child, timeout: Duration) -> Result<(ExitStatus, Vec<u8>)> {
    let (sender, ended) = mpsc::channel();
    let stderr = child.stderr.take();
    std::thread::Builder::new()
        .name("load-trial".to_owned())
        .spawn(move || {
            let mut log = Vec::new();
            if let Some(mut stderr) = stderr {
                let _ = stderr.by_ref().take(MAX_LOG).read_to_end(&mut log);
                let _ = std::io::copy(&mut stderr, &mut std::io::sink());
            }
            let _ = sender.send(log);
        })?;
    // The thread sends the log when stderr is closed, that is, when the child ends.
    let log = ended.recv_timeout(timeout);
    if log.is_err() {
        child.kill()?;
    }
    let status = child.wait()?;
    match log {
        Ok(log) => Ok((status, log)),
        Err(_) => bail!(
            "loading did not finish within {} ms: --load-timeout-ms raises this limit",
            timeout.as_millis()
        ),
    }
}

/// Reads the child's result, which is the error if the child failed.
fn outcome(output: File, status: ExitStatus) -> Result<Stored> {
    if !status.success() {
        let end = match status.signal() {
            Some(signal) => format!("signal {signal}"),
            None => status.to_string(),
        };
        bail!("the process that loads the model ended with {end}");
    }
    let size = output.metadata()?.len();
    let mut output = BufReader::new(output);
    match read_head(&mut output)? {
        Outcome::Loaded => {
            let stored = sightline::cache::read(&mut output, size);
            stored.context("the process that loads the model returned no networks")
        }
        Outcome::Failed(error) => Err(anyhow!(printable(&error))),
    }
}

/// Adds the memory limit and `advice` to the error of a child that could not allocate memory, or that was killed by the system for
/// lack of memory.
fn explain_memory(
    error: anyhow::Error,
    log: &[u8],
    memory_bytes: u64,
    advice: &str,
) -> anyhow::Error {
    let text = error.to_string();
    let log = String::from_utf8_lossy(log);
    let failed = |word: &&str| text.contains(*word) || log.contains(*word);
    let killed = text.ends_with(&format!("signal {}", Signal::KILL.as_raw()));
    if !killed && !ALLOCATION_ERRORS.iter().any(failed) {
        return error;
    }
    anyhow!("loading needs more than the limit of {memory_bytes} bytes of memory: {advice}: {text}")
}

/// Returns `text` as one line without control characters, cut to [`MAX_ERROR`] characters. Names in a model file can
/// contain any character.
fn printable(text: &str) -> String {
    let mut line = String::new();
    for c in text.trim_end().chars().take(MAX_ERROR) {
        match c {
            '\n' => line.push(' '),
            c if c.is_control() => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_child_are_printable_and_cut() {
        let cases = [
            ("cannot load\n", "cannot load"),
            ("a\nb\x1b[2Jc\u{9b}", "a b\\u{1b}[2Jc\\u{9b}"),
            ("größer", "größer"),
        ];
        for (text, expected) in cases {
            assert_eq!(printable(text), expected);
        }
        assert_eq!(printable(&"x".repeat(5000)).len(), MAX_ERROR);
    }

    #[test]
    fn the_child_gets_what_the_files_leave_of_the_free_memory() {
        const MIB: u64 = 1 << 20;
        let cases = [
            (1000, 100, Some(800)),
            (300, 100, Some(100)),
            (299, 100, None),
            (66, 1, Some(64)),
            (65, 1, None),
            (0, 0, None),
        ];
        for (free, size, expected) in cases {
            let left = left_for_child(free * MIB, size * MIB).ok();
            assert_eq!(left, expected.map(|left| left * MIB), "{free} {size}");
        }
    }

    #[test]
    fn errors_for_want_of_memory_name_the_limit() {
        let cases = [
            ("std::bad_alloc", "", true),
            (
                "ended with signal 6",
                "memory allocation of 7 bytes failed",
                true,
            ),
            ("ended with signal 9", "", true),
            ("ended with signal 11", "", false),
            ("unknown operator", "", false),
        ];
        for (text, log, expected) in cases {
            let error = explain_memory(anyhow!(text), log.as_bytes(), 77, "raise it");
            let error = error.to_string();
            assert_eq!(error.contains("limit of 77 bytes"), expected, "{error}");
            assert!(error.ends_with(text), "{error}");
        }
    }
}
