//! Limits of a model's queue and workers.

use serde::{Deserialize, Serialize};

use super::{InvalidField, require};

/// Limits of a model's queue and workers, named as in Triton Inference Server. A field that is
/// `None` gets a default when the model is loaded.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Batching {
    /// Maximum number of images in one run of the network, 1 to 256.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch_size: Option<usize>,
    /// Maximum time that an image waits for a fuller batch, in microseconds, at most 1000000. With `None` or 0 a
    /// batch starts as soon as a worker is free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_queue_delay_us: Option<u64>,
    /// Maximum number of images that wait in the queue, 1 to 65536. Further images are rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_queue_size: Option<usize>,
    /// Number of workers, 1 to 256, each with its own session of ONNX Runtime.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instances: Option<usize>,
}

impl Batching {
    pub(super) fn check(&self) -> Result<(), InvalidField> {
        check_count(
            self.max_batch_size,
            256,
            "batching.max_batch_size",
            "1..=256",
        )?;
        check_count(
            self.max_queue_size,
            65_536,
            "batching.max_queue_size",
            "1..=65536",
        )?;
        check_count(self.instances, 256, "batching.instances", "1..=256")?;
        let delay = self.max_queue_delay_us.unwrap_or_default();
        require(
            delay <= 1_000_000,
            "batching.max_queue_delay_us",
            "0..=1000000",
            &delay,
        )
    }
}

/// Returns an error about `field` if `count` is set and not in 1 to `most`.
fn check_count(
    count: Option<usize>,
    most: usize,
    field: &'static str,
    expected: &'static str,
) -> Result<(), InvalidField> {
    let Some(count) = count else {
        return Ok(());
    };
    require((1..=most).contains(&count), field, expected, &count)
}
