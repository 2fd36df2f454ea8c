//! An ordinary client, whose latency shows how much other clients slow the server down for it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{ScopedJoinHandle, scope};
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::load::{Period, Target, open, spawn};
use crate::tally::Tally;

/// Requests per second of the ordinary client.
const RATE: f64 = 20.0;
/// Maximum number of connections of the ordinary client.
const CONNECTIONS: usize = 40;

/// Sends the request of `target` for `duration`, at the rate of the ordinary client.
pub(super) fn ordinary(target: &Target<'_>, duration: Duration) -> Result<Tally> {
    let period = Period {
        warm_up: Duration::ZERO,
        counted: duration,
    };
    Ok(open(target, RATE, CONNECTIONS, period)?)
}

/// Sends ordinary requests for `duration` while `others` runs on another thread. Returns the tally
/// of the ordinary requests and the result of `others`, which must end soon after its flag is set.
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
