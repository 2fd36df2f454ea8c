//! An ordinary client, whose latency shows what the other clients do to it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{ScopedJoinHandle, scope};
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::load::{Target, open, spawn};
use crate::tally::Tally;

/// Requests per second of the ordinary client.
const RATE: f64 = 20.0;
/// Its connections.
const CONNECTIONS: usize = 40;

/// Sends ordinary requests for `duration`.
pub(super) fn ordinary(target: &Target<'_>, duration: Duration) -> Result<Tally> {
    Ok(open(target, RATE, CONNECTIONS, duration)?)
}

/// Sends ordinary requests for `duration` while `others` runs on another thread, and returns both
/// results. `others` ends soon after its flag is set.
pub(super) fn while_running<T: Send>(
    target: &Target<'_>,
    duration: Duration,
    others: impl FnOnce(&AtomicBool) -> T + Send,
) -> Result<(Tally, T)> {
    let stop = AtomicBool::new(false);
    let (tally, others) = scope(|scope| {
        let others: ScopedJoinHandle<'_, T> = spawn(scope, || others(&stop))?;
        let tally = ordinary(target, duration);
        stop.store(true, Ordering::Relaxed);
        let others = others.join();
        tally.map(|tally| (tally, others))
    })?;
    let others = others.map_err(|_| anyhow!("a client thread panicked"))?;
    Ok((tally, others))
}
