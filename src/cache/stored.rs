//! The optimized networks of a model as bytes: in cache entries, and between the processes that load a model.
//!
//! A length of 4 bytes, little-endian; a head of that length in JSON; and for each stage its graph, followed by the
//! elements of its large weights, as f32, little-endian.

use std::io::{self, Read, Write};

use onnx_export::{DetachedFile, Role, Stage, Stages, WeightTensor};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::engine::{EngineError, OptimizedGraph};
use crate::registry::networks::Networks;

/// Maximum size of the head in bytes. A network of a thousand weights takes 100 kB.
const MAX_HEAD: u64 = 16 << 20;
/// Elements of a weight that are converted together.
const CHUNK: usize = 16 << 10;

/// The optimized networks of a model.
#[derive(Debug, PartialEq)]
pub struct Stored {
    /// The stages of the model.
    pub stages: Stages<OptimizedGraph>,
    /// Memory in bytes of one worker without the weights that workers share, as a child process measured it. 0 if none
    /// did.
    pub worker_bytes: u64,
}

impl Stored {
    /// Returns the memory in bytes of the graphs, the weights and one worker.
    pub fn memory(&self) -> u64 {
        let graphs = self.stages.iter();
        let graphs: u64 = graphs.map(|stage| stage.content.bytes()).sum();
        graphs.saturating_add(self.worker_bytes)
    }
}

/// Why stored networks cannot be read or written.
#[derive(Debug, Error)]
pub enum StoredError {
    /// The bytes cannot be read or written, or end too early.
    #[error("cannot read or write the optimized networks")]
    Io(#[from] io::Error),
    /// The head is not the JSON that [`write()`] writes.
    #[error("the head of the optimized networks cannot be parsed")]
    Head(#[from] serde_json::Error),
    /// The head states more bytes than there are, or no stage.
    #[error("the head of the optimized networks states impossible sizes")]
    Size,
    /// The weights cannot be read from ONNX Runtime.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

#[derive(Serialize, Deserialize)]
struct Head {
    stages: Vec<StageHead>,
    worker_bytes: u64,
}

/// The fields of an [`OptimizedGraph`], with sizes in place of the graph and the elements.
#[derive(Serialize, Deserialize)]
struct StageHead {
    role: Role,
    graph_bytes: usize,
    /// Names and shapes.
    weights: Vec<(String, Vec<i64>)>,
    fixed_batch: Option<usize>,
    own_operators: usize,
    has_embedding: bool,
}

/// Writes `networks` and the memory of one worker in bytes.
///
/// # Errors
/// [`StoredError`] if the bytes cannot be written, or if the weights cannot be read from ONNX Runtime.
pub fn write(
    to: &mut impl Write,
    networks: &Networks,
    worker_bytes: u64,
) -> Result<(), StoredError> {
    let stages = networks.stages().as_ref();
    let stages = stages.try_map(|_, stage| Ok::<_, EngineError>((stage, stage.weights()?)))?;
    let heads = stages.iter().map(|Stage { role, content }| StageHead {
        role,
        graph_bytes: content.0.graph().len(),
        weights: (content.1.iter())
            .map(|weight| (weight.name.to_owned(), weight.shape.to_vec()))
            .collect(),
        fixed_batch: content.0.fixed_batch,
        own_operators: content.0.own_operators,
        has_embedding: content.0.has_embedding,
    });
    let head = serde_json::to_vec(&Head {
        stages: heads.collect(),
        worker_bytes,
    })?;
    let length = u32::try_from(head.len()).map_err(|_| StoredError::Size)?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(&head)?;
    for Stage { content, .. } in stages.iter() {
        to.write_all(content.0.graph())?;
        for weight in &content.1 {
            write_elements(to, weight.data)?;
        }
    }
    Ok(())
}

/// Reads what [`write()`] has written. `limit` is the number of bytes that `from` has at most; no more memory is
/// allocated than it has bytes, whatever the head states.
///
/// # Errors
/// [`StoredError`] if the bytes were not written by [`write()`] or are cut off.
pub fn read(from: &mut impl Read, limit: u64) -> Result<Stored, StoredError> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u64::from(u32::from_le_bytes(length));
    if length > limit.min(MAX_HEAD) {
        return Err(StoredError::Size);
    }
    let head = read_bytes(from, length as usize)?;
    let Head {
        stages,
        worker_bytes,
    } = serde_json::from_slice(&head)?;
    let total = stages
        .iter()
        .try_fold(length, |total, stage| total.checked_add(stage.bytes()?));
    if total.is_none_or(|total| total > limit) {
        return Err(StoredError::Size);
    }
    let stages: Result<Vec<_>, StoredError> =
        stages.into_iter().map(|head| head.read(from)).collect();
    let stages = Stages::from_list(stages?).ok_or(StoredError::Size)?;
    Ok(Stored {
        stages,
        worker_bytes,
    })
}

impl StageHead {
    /// Returns the number of bytes of the graph and the weights. `None` if it is beyond 64 bits.
    fn bytes(&self) -> Option<u64> {
        let graph = u64::try_from(self.graph_bytes).ok();
        self.weights.iter().try_fold(graph?, |total, (_, shape)| {
            let bytes = u64::try_from(elements(shape)?).ok()?.checked_mul(4)?;
            total.checked_add(bytes)
        })
    }

    /// Reads the graph and the weights. Their sizes must be checked.
    fn read(self, from: &mut impl Read) -> Result<Stage<OptimizedGraph>, StoredError> {
        let graph = read_bytes(from, self.graph_bytes)?;
        let mut weights = Vec::with_capacity(self.weights.len());
        for (name, shape) in self.weights {
            let count = elements(&shape).ok_or(StoredError::Size)?;
            let data = read_elements(from, count)?;
            weights.push(WeightTensor { name, shape, data });
        }
        let content = OptimizedGraph {
            file: DetachedFile { graph, weights },
            fixed_batch: self.fixed_batch,
            own_operators: self.own_operators,
            has_embedding: self.has_embedding,
        };
        Ok(Stage {
            role: self.role,
            content,
        })
    }
}

/// Returns the number of elements of a tensor. `None` if a size is negative or the product is too large.
fn elements(shape: &[i64]) -> Option<usize> {
    let sizes = shape.iter().map(|size| usize::try_from(*size).ok());
    sizes
        .into_iter()
        .try_fold(1_usize, |product, size| product.checked_mul(size?))
}

fn read_bytes(from: &mut impl Read, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(count)?;
    bytes.resize(count, 0);
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn read_elements(from: &mut impl Read, count: usize) -> io::Result<Vec<f32>> {
    let mut elements = Vec::new();
    elements.try_reserve_exact(count)?;
    let mut chunk = vec![0; 4 * count.min(CHUNK)];
    while elements.len() < count {
        let bytes = 4 * (count - elements.len()).min(CHUNK);
        from.read_exact(&mut chunk[..bytes])?;
        let (values, _) = chunk[..bytes].as_chunks();
        elements.extend(values.iter().map(|value| f32::from_le_bytes(*value)));
    }
    Ok(elements)
}

fn write_elements(to: &mut impl Write, elements: &[f32]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(4 * elements.len().min(CHUNK));
    for chunk in elements.chunks(CHUNK) {
        bytes.clear();
        bytes.extend(chunk.iter().flat_map(|element| element.to_le_bytes()));
        to.write_all(&bytes)?;
    }
    Ok(())
}
