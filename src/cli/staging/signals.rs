//! Signals that end the process while files are being written.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::{Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::{flag, low_level};

/// The process's signal handlers, which stay registered once they are.
struct Handlers {
    /// Whether a signal has its default action: true unless files are being written.
    default: Arc<AtomicBool>,
    /// The last signal that arrived while files were being written, 0 if none did.
    deferred: Arc<AtomicUsize>,
    /// Number of threads that are writing files.
    writers: Mutex<usize>,
}

static HANDLERS: OnceLock<Handlers> = OnceLock::new();

/// Defers SIGINT, SIGTERM and SIGHUP until the last one is dropped. A deferred signal then ends the process as
/// it would have done without a handler. A signal that the process ignores stays ignored.
pub(super) struct Deferred(&'static Handlers);

impl Deferred {
    /// Begins to defer signals.
    pub(super) fn begin() -> Self {
        let handlers = HANDLERS.get_or_init(Handlers::register);
        let mut writers = handlers.writers();
        *writers += 1;
        handlers.default.store(false, Ordering::SeqCst);
        drop(writers);
        Self(handlers)
    }

    /// Returns an error if a signal was deferred, so that the caller removes what it has written.
    pub(super) fn check(&self) -> Result<()> {
        match self.0.deferred.load(Ordering::SeqCst) {
            0 => Ok(()),
            signal => bail!("interrupted by signal {signal}"),
        }
    }
}

impl Drop for Deferred {
    fn drop(&mut self) {
        // Held until the end, so that no other writer begins while the process ends.
        let mut writers = self.0.writers();
        *writers = writers.saturating_sub(1);
        if *writers > 0 {
            return;
        }
        self.0.default.store(true, Ordering::SeqCst);
        let signal = self.0.deferred.load(Ordering::SeqCst);
        if signal != 0 {
            // The call returns only if the signal cannot end the process. The command then ends with
            // the error of `check`.
            let _ = low_level::emulate_default_handler(signal as i32);
        }
    }
}

impl Handlers {
    /// Locks the number of threads that are writing. It is correct also if one of them has panicked.
    fn writers(&self) -> std::sync::MutexGuard<'_, usize> {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register() -> Self {
        let handlers = Self {
            default: Arc::new(AtomicBool::new(true)),
            deferred: Arc::new(AtomicUsize::new(0)),
            writers: Mutex::new(0),
        };
        let ignored = ignored_signals();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // `nohup` and shells start processes that ignore some signals.
            if (ignored >> (signal - 1)) & 1 == 1 {
                continue;
            }
            let default = Arc::clone(&handlers.default);
            let deferred = Arc::clone(&handlers.deferred);
            // Registration fails for invalid signal numbers only.
            let _ = flag::register_conditional_default(signal, default);
            let _ = flag::register_usize(signal, deferred, signal as usize);
        }
        // With a handler, a write beyond the limit on file sizes (`ulimit -f`) returns an error.
        let _ = flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
        handlers
    }
}

/// Returns the signals that the process ignores: bit `n - 1` is set for signal `n`. No bit is set if
/// `/proc` is not available.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_deferred_until_the_last_writer_ends() {
        let (one, other) = (Deferred::begin(), Deferred::begin());
        drop(one);
        assert!(!other.0.default.load(Ordering::SeqCst));
        assert!(other.check().is_ok());
    }
}
