//! Every limit of the readers, and the budget that enforces those on memory.
//!
//! Numbers in a file are only promises, so each is compared with what the file can hold before
//! anything is allocated for it.

use super::{Format, WeightsError};

/// Largest file, in bytes: four times the largest checkpoint of the catalogue's families, and the
/// size up to which every offset of a zip without 64-bit fields is exact.
pub(super) const MAX_FILE: u64 = 2 << 30;

/// Largest sum of what a file unfolds into, in bytes.
pub(super) const MAX_UNFOLDED: u64 = 4 << 30;

/// A file may unfold into this many times its size. Weights hardly compress (2 is rare), tied
/// weights double, and 16 leaves room; what deflate could do is 1032.
pub(super) const MAX_EXPANSION: u64 = 16;

/// Unfolded bytes that any file may have, for tiny files with expanded (stride 0) tensors.
pub(super) const UNFOLDED_SLACK: u64 = 16 << 20;

/// A single zip entry may inflate to this many times its size: a vector of zeros is a plain thing
/// to store, so this is looser than the limit of the whole file.
pub(super) const MAX_ENTRY_RATIO: u64 = 200;

/// Inflated bytes that any zip entry may have.
pub(super) const ENTRY_SLACK: u64 = 64 << 10;

/// Largest pickle, in bytes. Ten thousand tensors take about 2 MB.
pub(super) const MAX_PICKLE: u64 = 64 << 20;

/// Most operations of one pickle. A tensor takes about 30, so a million is a checkpoint of 30,000
/// tensors; an operation leaves at most about 200 bytes behind, so the values stay within 200 MB.
pub(super) const MAX_OPS: u64 = 1 << 20;

/// Most values on the stack of the pickle machine: picklers write lists in batches of 1000.
pub(super) const MAX_STACK: u64 = 1 << 16;

/// Most open marks of the pickle machine, which is the nesting of what it builds.
pub(super) const MAX_MARKS: u64 = 1 << 10;

/// Most remembered values of a pickle.
pub(super) const MAX_MEMO: u64 = 1 << 18;

/// Longest text in a pickle, in bytes: a name, or a setting of a training run.
pub(super) const MAX_TEXT: u64 = 1 << 20;

/// Most dimensions of a tensor; torchvision's have four.
pub(super) const MAX_RANK: u64 = 16;

/// Largest header of a safetensors file, in bytes; a tensor takes about 100.
pub(super) const MAX_HEADER: u64 = 16 << 20;

/// Most members of a tar: the format has four.
pub(super) const MAX_MEMBERS: u64 = 64;

/// Fails if `got` is above `limit`.
pub(super) fn at_most(
    format: Format,
    what: &'static str,
    limit: u64,
    got: u64,
) -> Result<(), WeightsError> {
    if got <= limit {
        return Ok(());
    }
    Err(WeightsError::Limit {
        format,
        what,
        limit,
        got,
    })
}

/// Bytes that a file may still unfold into.
#[derive(Debug)]
pub(super) struct Budget {
    format: Format,
    what: &'static str,
    limit: u64,
    spent: u64,
}

impl Budget {
    /// The budget of a file of `len` bytes.
    pub(super) fn for_file(format: Format, what: &'static str, len: usize) -> Self {
        let limit = (len as u64)
            .saturating_mul(MAX_EXPANSION)
            .saturating_add(UNFOLDED_SLACK)
            .min(MAX_UNFOLDED);
        Self {
            format,
            what,
            limit,
            spent: 0,
        }
    }

    /// Takes `bytes` out of the budget, for what is allocated elsewhere.
    ///
    /// # Errors
    /// [`WeightsError::Limit`] if the budget is spent.
    pub(super) fn spend(&mut self, bytes: usize) -> Result<(), WeightsError> {
        let spent = self.spent.saturating_add(bytes as u64);
        at_most(self.format, self.what, self.limit, spent)?;
        self.spent = spent;
        Ok(())
    }

    /// Takes `bytes` out of the budget and gives back an empty vector with room for them.
    ///
    /// # Errors
    /// [`WeightsError::Limit`] if the budget is spent, [`WeightsError::OutOfMemory`].
    pub(super) fn allocate(&mut self, bytes: usize) -> Result<Vec<u8>, WeightsError> {
        self.spend(bytes)?;
        let mut out = Vec::new();
        out.try_reserve_exact(bytes)
            .map_err(|_| WeightsError::OutOfMemory { bytes })?;
        Ok(out)
    }
}
