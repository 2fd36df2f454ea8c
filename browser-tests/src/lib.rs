//! Drives the web pages in a headless Chromium.
//!
//! A [`Page`] is a window of its own: it logs what the console prints and which requests the page sends, and
//! [`Page::finish`] fails if there was an error or a request to another host.

mod driver;
mod page;
mod server;

pub use driver::Driver;
pub use page::{Look, Page};
pub use server::Server;

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Longest time to wait for a condition.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Returns the repository's path `path`.
pub fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(path)
}

/// Evaluates `condition` until it returns a value. Panics after [`PATIENCE`]; `what` describes the condition.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
