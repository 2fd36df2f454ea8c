//! What the parent process and the child process send each other: a line of JSON, then the bytes of graphs.

use std::fs::File;
use std::io::{BufRead, Read, Write};

use anyhow::{Result, bail};
use onnx_export::Role;
use serde::{Deserialize, Serialize};
use sightline::manifest::Precision;

/// The model that the child loads, and how. The bytes of the graphs follow on the child's stdin.
#[derive(Serialize, Deserialize)]
pub(super) struct Order {
    /// Id of the parent process.
    pub(super) parent: i32,
    /// Maximum memory of the child, in bytes.
    pub(super) memory_bytes: u64,
    /// Manifest of the model, in TOML.
    pub(super) manifest: String,
    pub(super) variant: String,
    pub(super) precision: Precision,
    pub(super) labels: Vec<String>,
    pub(super) max_batch_size: usize,
    /// Role and size in bytes of each graph.
    pub(super) graphs: Vec<(Role, usize)>,
}

/// The result of the child. If the model was loaded, the bytes of its optimized graphs follow on the child's
/// stdout.
#[derive(Serialize, Deserialize)]
pub(super) enum Outcome {
    Loaded {
        graphs: Vec<GraphHead>,
        /// Memory in bytes by which the child grew when it created one session and ran it.
        session_bytes: u64,
    },
    Failed(String),
}

/// The fields of an `OptimizedGraph`, with the size of its graph instead of the graph.
#[derive(Serialize, Deserialize)]
pub(super) struct GraphHead {
    pub(super) role: Role,
    pub(super) bytes: usize,
    pub(super) fixed_batch: Option<usize>,
    pub(super) own_operators: usize,
}

/// Writes `head` as a line of JSON, then `parts`.
pub(super) fn write<'a>(
    file: &mut File,
    head: &impl Serialize,
    parts: impl Iterator<Item = &'a [u8]>,
) -> Result<()> {
    let mut line = serde_json::to_vec(head)?;
    line.push(b'\n');
    file.write_all(&line)?;
    for part in parts {
        file.write_all(part)?;
    }
    Ok(())
}

/// Reads a line of JSON that [`write()`] has written.
pub(super) fn read_head<T: serde::de::DeserializeOwned>(from: &mut impl BufRead) -> Result<T> {
    let mut line = Vec::new();
    from.read_until(b'\n', &mut line)?;
    Ok(serde_json::from_slice(&line)?)
}

/// Reads the next `bytes` bytes, which are one graph.
///
/// # Errors
/// If `from` ends earlier or cannot be read.
pub(super) fn read_part(from: &mut impl Read, bytes: usize) -> Result<Vec<u8>> {
    let mut part = Vec::new();
    from.by_ref().take(bytes as u64).read_to_end(&mut part)?;
    if part.len() != bytes {
        bail!("a graph has {} bytes, expected {bytes}", part.len());
    }
    Ok(part)
}
