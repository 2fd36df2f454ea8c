//! The progress of a download: a bar on a terminal, lines elsewhere, events in the log of `serve`.

use std::io::{IsTerminal as _, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use sightline::download::{DownloadError, Progress};

use crate::cli::progress::Lines;
use crate::cli::say::complain;

const STYLE: &str = "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";

/// Who follows a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    /// A person or a script, on stderr.
    Console,
    /// The log of the server.
    Log,
}

/// The progress of the download of one model.
pub(super) struct Shown<'a> {
    model: &'a str,
    audience: Audience,
    bar: ProgressBar,
    /// The lines or events in place of the bar. `None` on a terminal.
    _lines: Option<Lines>,
}

impl<'a> Shown<'a> {
    pub(super) fn new(model: &'a str, audience: Audience) -> Self {
        let terminal = audience == Audience::Console && stderr().is_terminal();
        let bar = if terminal {
            ProgressBar::no_length()
        } else {
            ProgressBar::hidden()
        };
        let style = ProgressStyle::with_template(STYLE);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(model.to_owned());
        let hidden = (!terminal).then(|| bar.clone());
        let lines = hidden.map(|bar| Lines::start(move || report(&bar, audience)));
        Self {
            model,
            audience,
            bar,
            _lines: lines,
        }
    }
}

/// Writes a line or an event about the download that `bar` counts.
fn report(bar: &ProgressBar, audience: Audience) {
    let (model, done, total) = (bar.prefix(), bar.position(), bar.length());
    match audience {
        Audience::Log => {
            tracing::info!(model, bytes = done, total_bytes = total, "downloading");
        }
        Audience::Console => {
            let total = total.map(|total| format!(" of {}", megabytes(total)));
            complain!("{model}: {}{}", megabytes(done), total.unwrap_or_default());
        }
    }
}

impl Progress for Shown<'_> {
    fn begin(&self, done: u64, total: Option<u64>) {
        if let Some(total) = total {
            self.bar.set_length(total);
        }
        self.bar.set_position(done);
        // The rate is that of this attempt.
        self.bar.reset_eta();
    }

    fn advance(&self, done: u64) {
        self.bar.set_position(done);
    }

    fn retry(&self, error: &DownloadError, pause: Duration) {
        let model = self.model;
        match self.audience {
            Audience::Log => {
                let pause_ms = pause.as_millis() as u64;
                tracing::warn!(model, error = %error, pause_ms, "download interrupted, trying again");
            }
            Audience::Console => {
                let when = if pause.is_zero() {
                    "again".to_owned()
                } else {
                    format!("again in {:.1} s", pause.as_secs_f64())
                };
                self.bar
                    .suspend(|| complain!("{model}: {error}; trying {when}"));
            }
        }
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Returns a size in megabytes, as text.
pub(super) fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
