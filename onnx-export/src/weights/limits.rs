//! The limits of the readers, and the budget that enforces the memory limits.
//!
//! No length in a file is trusted: each is compared with its limit before memory is allocated.

use super::{Format, WeightsError};

/// Largest file in bytes: four times the largest released checkpoint of the supported networks, and
/// less than the 4 GiB above which a zip needs 64-bit offsets.
pub(super) const MAX_FILE: u64 = 2 << 30;

/// Largest total size of the tensors of a file, in bytes.
pub(super) const MAX_UNFOLDED: u64 = 4 << 30;

/// Largest ratio of the total size of the tensors to the size of the file. Real weights stay far
/// below it, since they hardly compress and tied weights at most double the ratio; deflate alone
/// could reach a ratio of 1032.
pub(super) const MAX_EXPANSION: u64 = 16;

/// Total size in bytes of the tensors that any file may have in addition to [`MAX_EXPANSION`] times
/// its size. Tiny files whose tensors repeat elements (stride 0) need it.
pub(super) const UNFOLDED_SLACK: u64 = 16 << 20;

/// Largest ratio of the inflated to the compressed size of a zip entry. It is higher than
/// [`MAX_EXPANSION`], since single tensors of zeros are common and compress well.
pub(super) const MAX_ENTRY_RATIO: u64 = 200;

/// Inflated size in bytes that any zip entry may have in addition to [`MAX_ENTRY_RATIO`] times its compressed size.
pub(super) const ENTRY_SLACK: u64 = 64 << 10;

/// Largest pickle in bytes. 10,000 tensors take about 2 MB.
pub(super) const MAX_PICKLE: u64 = 64 << 20;

/// Maximum number of operations of a pickle. A tensor takes about 30, so this is enough for 30,000
/// tensors; an operation allocates at most about 200 bytes, so the values take at most 200 MB.
pub(super) const MAX_OPS: u64 = 1 << 20;

/// Maximum number of values on the stack of the pickle machine. Picklers write lists in batches of 1000, so weights
/// need far fewer.
pub(super) const MAX_STACK: u64 = 1 << 16;

/// Maximum nesting depth of collections in a pickle: the number of marks (opcode `(`) that are open at a time.
pub(super) const MAX_MARKS: u64 = 1 << 10;

/// Maximum number of values in the memo of a pickle, the table of values that the pickle refers to again.
pub(super) const MAX_MEMO: u64 = 1 << 18;

/// Longest text in a pickle, in bytes. The texts of a checkpoint are names and settings of a
/// training run.
pub(super) const MAX_TEXT: u64 = 1 << 20;

/// Maximum rank of a tensor. torchvision's tensors have at most four axes.
pub(super) const MAX_RANK: u64 = 16;

/// Largest header of a safetensors file in bytes. Each tensor adds about 100 bytes to the header.
pub(super) const MAX_HEADER: u64 = 16 << 20;

/// Maximum number of members of a tar file. The tar checkpoints of torch have four.
pub(super) const MAX_MEMBERS: u64 = 64;

/// Checks that `got`, the value of the quantity `what` in the file, is at most `limit`.
///
/// # Errors
/// Returns [`WeightsError::Limit`] if `got` exceeds the limit.
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

/// Bounds the total number of bytes that are allocated for one file.
#[derive(Debug)]
pub(super) struct Budget {
    format: Format,
    what: &'static str,
    limit: u64,
    spent: u64,
}

impl Budget {
    /// Creates the budget for a file of `len` bytes: [`MAX_EXPANSION`] times `len` plus
    /// [`UNFOLDED_SLACK`], at most [`MAX_UNFOLDED`]. `what` names the budgeted bytes in errors,
    /// such as `bytes of all tensors`.
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

    /// Subtracts `bytes`, which the caller allocates itself, from the budget.
    ///
    /// # Errors
    /// Returns [`WeightsError::Limit`] if the budget is exceeded.
    pub(super) fn spend(&mut self, bytes: usize) -> Result<(), WeightsError> {
        let spent = self.spent.saturating_add(bytes as u64);
        at_most(self.format, self.what, self.limit, spent)?;
        self.spent = spent;
        Ok(())
    }

    /// Subtracts `bytes` from the budget and returns an empty vector with this capacity.
    ///
    /// # Errors
    /// Returns [`WeightsError::Limit`] if the budget is exceeded, or [`WeightsError::OutOfMemory`]
    /// if the allocation fails.
    pub(super) fn allocate(&mut self, bytes: usize) -> Result<Vec<u8>, WeightsError> {
        self.spend(bytes)?;
        let mut out = Vec::new();
        out.try_reserve_exact(bytes)
            .map_err(|_| WeightsError::OutOfMemory { bytes })?;
        Ok(out)
    }
}
