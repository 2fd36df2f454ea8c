//! Packs a checkpoint into a safetensors file with matrices in half precision.
//!
//! `pack_weights IN.pth OUT.safetensors`. Batch-norm's `num_batches_tracked` is left out: only
//! training counts with it. The header keeps the SHA-256 of the checkpoint as `source_sha256`.

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
