//! Loads models: from the start-up cache, in this process, or first in a child process.

use std::time::Instant;

use anyhow::{Context, Result};
use onnx_export::Stages;
use sightline::cache::{Cache, Key, Stored, TrialConditions};
use sightline::config::LoadLimits;
use sightline::engine::{OnnxRuntime, OptimizedGraph};
use sightline::metrics::Metrics;
use sightline::postprocess::detect::Detector;
use sightline::process::ProcessUsage;
use sightline::registry::networks::Networks;
use sightline::registry::{LoadError, LoadReason, LoadedModel, ModelPlan};
use sightline::store::{ModelSource, Origin};

use super::{LACK_ADVICE, MemoryLimit, default_memory, in_child, left_for_child};

/// How models are loaded.
pub(in crate::cli) struct Loading<'a> {
    pub(in crate::cli) runtime: &'a OnnxRuntime,
    /// Limits of the child process.
    pub(in crate::cli) limits: LoadLimits,
    /// Memory in bytes that loading may take beside a server that has responded to requests already. `None` if only
    /// `limits` apply.
    pub(in crate::cli) free: Option<u64>,
    pub(in crate::cli) metrics: &'a Metrics,
    pub(in crate::cli) cache: &'a Cache,
    /// Whether new entries of the cache are written on a thread of their own. The process must then live on.
    pub(in crate::cli) caches_later: bool,
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
    pub(in crate::cli) fn load(&self, source: ModelSource, plan: ModelPlan) -> Result<LoadedModel> {
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
        let size: usize = graphs.iter().map(|graph| graph.content.len()).sum();
        let limit = self.limits.memory;
        let limit = limit.unwrap_or_else(|| default_memory(size as u64));
        let conditions = TrialConditions {
            timeout: self.limits.timeout,
            memory: self.limits.memory,
            max_batch_size: plan.max_batch_size,
            intra_op_threads: plan.intra_op_threads,
        };
        let key = self.key(|| Key::from_files(source, &graphs, conditions, self.runtime));
        let found = key.and_then(|key| self.cache.get(&key, &source.id()));
        // Without a limit in the settings, it depends on the memory of the machine.
        if let Some(stored) = found.filter(|stored| stored.memory() <= limit.min(left)) {
            return Ok(stored.into());
        }
        let limit = if left < limit {
            MemoryLimit {
                bytes: left,
                advice: LACK_ADVICE,
            }
        } else {
            MemoryLimit {
                bytes: limit,
                advice: "--load-memory-bytes raises this limit",
            }
        };
        let started = Instant::now();
        let library = self.runtime.library();
        let stored = in_child(source, graphs, plan, library, limit, self.limits.timeout)?;
        tracing::debug!(
            trial_ms = started.elapsed().as_millis() as u64,
            "model optimized by a child process"
        );
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
