//! The names of cache entries.

use std::time::Duration;

use bytes::Bytes;
use onnx_export::Stages;
use sha2::{Digest as _, Sha256};

use crate::cpu;
use crate::engine::OnnxRuntime;
use crate::manifest::{Batching, ModelManifest};
use crate::store::{ModelSource, Origin};

/// Hash of the source files that decide about optimized graphs: the exporter, the int8 operators, the engine, and the
/// built-in models.
const CODE: &str = env!("SIGHTLINE_GRAPH_CODE");

/// A hash of everything that optimized networks depend on: the code of this binary, the version of ONNX Runtime, the
/// features of the CPU, the arithmetic, and the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key([u8; 32]);

/// The conditions under which a child process has loaded a model from files. A model that has passed under others is
/// tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrialConditions {
    /// Time limit.
    pub timeout: Duration,
    /// Memory limit in bytes. `None` for the default.
    pub memory: Option<u64>,
    /// Maximum number of images in one run.
    pub max_batch_size: usize,
    /// Thread count of a session.
    pub intra_op_threads: usize,
}

impl Key {
    /// Returns the key of the built-in model `source`, whose graphs follow from the code of this binary. `None` if
    /// `source` is another model, or if the features of the CPU are not known.
    pub fn built_in(source: &ModelSource, runtime: &OnnxRuntime) -> Option<Self> {
        let mut parts = Parts::common(runtime)?;
        if source.origin != Origin::Embedded {
            return None;
        }
        parts.add(b"built-in");
        parts.add(source.id().as_bytes());
        Some(parts.key())
    }

    /// Returns the key of the model `source`, whose stages are the ONNX files `graphs`, after a trial under `conditions`.
    /// `None` if the features of the CPU are not known.
    pub fn from_files(
        source: &ModelSource,
        graphs: &Stages<Bytes>,
        conditions: TrialConditions,
        runtime: &OnnxRuntime,
    ) -> Option<Self> {
        let mut parts = Parts::common(runtime)?;
        parts.add(b"files");
        parts.add(format!("{conditions:?}").as_bytes());
        // The manifest decides about the size of the image that the trial has run. `conditions` have the batch size.
        let manifest = ModelManifest {
            batching: Batching::default(),
            ..source.manifest.clone()
        };
        parts.add(manifest.to_toml().ok()?.as_bytes());
        parts.add(source.id().as_bytes());
        // The outputs of the trial had one score for each label.
        parts.add(&source.labels.len().to_le_bytes());
        for stage in graphs.iter() {
            parts.add(stage.role.as_str().as_bytes());
            parts.add(&Sha256::digest(stage.content));
        }
        Some(parts.key())
    }

    /// Returns the 32 bytes of the hash.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    #[cfg(test)]
    pub(super) fn of(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

/// The parts of a key, each with its length, so that no two lists of parts have the same bytes.
struct Parts(Sha256);

impl Parts {
    fn common(runtime: &OnnxRuntime) -> Option<Self> {
        let mut parts = Self(Sha256::new());
        parts.add(CODE.as_bytes());
        parts.add(runtime.identity().as_bytes());
        parts.add(cpu::vector_features()?.as_bytes());
        Some(parts)
    }

    fn add(&mut self, part: &[u8]) {
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
    }

    fn key(self) -> Key {
        Key(self.0.finalize().into())
    }
}
