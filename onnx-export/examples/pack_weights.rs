//! Converts a checkpoint to a safetensors file in which tensors of rank 2 and more are stored in
//! half precision.
//!
//! Usage: `pack_weights IN.pth OUT.safetensors`. Batch norm's `num_batches_tracked` is left out, because only
//! training reads it. The header stores the SHA-256 of the checkpoint as `source_sha256`.

use std::{env, fs, path::PathBuf};

use anyhow::{Context, bail};
use onnx_export::weights::StateDict;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    let [checkpoint, packed] = arguments.as_slice() else {
        bail!("usage: pack_weights IN.pth OUT.safetensors");
    };
    let state = StateDict::read(checkpoint)?;
    let bytes = state
        .to_half()
        .without_suffix("num_batches_tracked")
        .to_safetensors()?;
    fs::write(packed, bytes).with_context(|| format!("cannot write {}", packed.display()))
}
