//! Signs of life on stderr for work that may take longer than a person waits: an animation or a bar on a terminal, a plain
//! line now and then elsewhere. Quick work prints nothing.

use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use super::log;
use super::say::complain;

/// Time between two frames of the animation.
const TICK: Duration = Duration::from_millis(120);
/// Time between two updates of a bar during a long step.
const BAR_TICK: Duration = Duration::from_secs(1);
/// Time between two plain lines.
const INTERVAL: Duration = Duration::from_secs(10);
const BAR: &str = "{prefix} {wide_bar} {pos}/{len} {per_sec} {eta} left {msg}";

/// The animation or bar that is shown now.
static SHOWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Runs `write`, which writes to stderr. The animation or bar, if there is one, continues below the text.
pub(super) fn above<T>(write: impl FnOnce() -> T) -> T {
    if let Ok(shown) = SHOWN.lock()
        && let Some(bar) = &*shown
    {
        return bar.suspend(write);
    }
    write()
}

/// An animation on stderr that says what is being done, until it is dropped. Nothing is shown if the command is `serve`,
/// whose log says it.
pub(super) struct Spinner(Shown);

impl Spinner {
    /// Shows `doing`, such as `reading resnet50.pth`.
    pub(super) fn new(doing: impl Into<String>) -> Self {
        if log::is_queued() {
            return Self(Shown::nothing());
        }
        let bar = ProgressBar::new_spinner();
        set_style(&bar, "{spinner} {wide_msg} {elapsed}");
        bar.set_message(doing.into());
        Self(Shown::new(bar, TICK, spinner_line))
    }

    /// Replaces the text: the next step begins.
    pub(super) fn next(&self, doing: impl Into<String>) {
        self.0.bar.set_message(doing.into());
    }
}

/// A bar on stderr that says how many of a number of steps are done, until it is dropped.
pub(super) struct Steps(Shown);

impl Steps {
    /// Shows `name`, of which `done` of `count` steps are done.
    pub(super) fn new(name: impl Into<String>, count: usize, done: usize) -> Self {
        let bar = ProgressBar::new(count as u64).with_position(done as u64);
        set_style(&bar, BAR);
        bar.set_prefix(name.into());
        // The rate is that of this run.
        bar.reset_eta();
        Self(Shown::new(bar, BAR_TICK, steps_line))
    }

    /// Counts one step as done.
    pub(super) fn step(&self) {
        self.0.bar.inc(1);
    }

    /// Shows `text` behind the number of steps.
    pub(super) fn note(&self, text: impl Into<String>) {
        self.0.bar.set_message(text.into());
    }
}

/// A bar or an animation on a terminal, or the lines in its place.
struct Shown {
    bar: ProgressBar,
    _lines: Option<Lines>,
}

impl Shown {
    /// Shows `bar` with a new frame every `tick`, or the text of `line` if stderr is not a terminal.
    fn new(bar: ProgressBar, tick: Duration, line: fn(&ProgressBar) -> String) -> Self {
        let hidden = bar.is_hidden().then(|| bar.clone());
        if hidden.is_none() {
            bar.enable_steady_tick(tick);
            if let Ok(mut shown) = SHOWN.lock() {
                *shown = Some(bar.clone());
            }
        }
        let lines = hidden.map(|bar| Lines::start(move || complain!("{}", line(&bar))));
        Self { bar, _lines: lines }
    }

    fn nothing() -> Self {
        Self {
            bar: ProgressBar::hidden(),
            _lines: None,
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if !self.bar.is_hidden()
            && let Ok(mut shown) = SHOWN.lock()
        {
            *shown = None;
        }
        self.bar.finish_and_clear();
    }
}

/// A thread that reports progress every [`INTERVAL`] until it is dropped.
pub(super) struct Lines {
    /// Its end stops the thread.
    _running: Sender<()>,
}

impl Lines {
    /// Starts to call `report`.
    pub(super) fn start(report: impl Fn() + Send + 'static) -> Self {
        Self::every(INTERVAL, report)
    }

    fn every(interval: Duration, report: impl Fn() + Send + 'static) -> Self {
        let (running, stopped) = mpsc::channel::<()>();
        let run = move || {
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                report();
            }
        };
        // Without a thread there are no lines, and the work goes on.
        let _ = thread::Builder::new()
            .name("progress".to_owned())
            .spawn(run);
        Self { _running: running }
    }
}

fn set_style(bar: &ProgressBar, template: &str) {
    let style = ProgressStyle::with_template(template);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
}

/// Returns what is being done, and for how long.
fn spinner_line(bar: &ProgressBar) -> String {
    format!("{} ({} s)", bar.message(), bar.elapsed().as_secs())
}

/// Returns the number of steps that are done, and the time that is left once it is known.
fn steps_line(bar: &ProgressBar) -> String {
    let (done, count) = (bar.position(), bar.length().unwrap_or_default());
    let mut line = format!("{}: {done} of {count}", bar.prefix());
    if !bar.eta().is_zero() {
        // Writing to a String cannot fail.
        let _ = write!(line, ", {} left", HumanDuration(bar.eta()));
    }
    let note = bar.message();
    if !note.is_empty() {
        line += "; ";
        line += &note;
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_reported_until_the_end() {
        let (report, reported) = mpsc::channel();
        let lines = Lines::every(Duration::from_millis(1), move || {
            // The receiver is dropped at the end of the test.
            let _ = report.send(());
        });
        let wait = Duration::from_mins(1);
        assert!(reported.recv_timeout(wait).is_ok() && reported.recv_timeout(wait).is_ok());
        drop(lines);
        // The thread drops the sender when it ends.
        while let Ok(()) = reported.recv_timeout(wait) {}
        assert_eq!(reported.try_recv(), Err(mpsc::TryRecvError::Disconnected));
    }

    #[test]
    fn a_line_has_the_number_of_steps_and_the_note() {
        let bar = ProgressBar::hidden();
        bar.set_length(5);
        bar.set_prefix("ranges");
        assert_eq!(steps_line(&bar), "ranges: 0 of 5");
        bar.set_position(2);
        bar.set_message("acc1 71.0 %");
        let line = steps_line(&bar);
        assert!(line.starts_with("ranges: 2 of 5"), "{line}");
        assert!(line.ends_with("; acc1 71.0 %"), "{line}");
        bar.set_message("reading");
        assert_eq!(spinner_line(&bar), "reading (0 s)");
    }
}
