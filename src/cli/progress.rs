//! Signs of life on stderr for work that may take longer than a person waits: an animation or a bar on a terminal, a plain
//! line now and then elsewhere. Quick work prints nothing.

use std::sync::Mutex;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressState, ProgressStyle};

use super::log;
use super::say::complain;

/// Time between two frames of the animation.
const TICK: Duration = Duration::from_millis(120);
/// Time between two updates of a bar during a long step.
const BAR_TICK: Duration = Duration::from_secs(1);
/// Time between two plain lines.
const INTERVAL: Duration = Duration::from_secs(10);
const BAR: &str = "{prefix} {wide_bar} {pos}/{len} {left}{msg}";
const SPINNER: &str = "{spinner} {wide_msg} {elapsed}";

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
        bar.set_style(style(SPINNER));
        bar.set_message(doing.into());
        let line = bar.clone();
        Self(Shown::new(bar, TICK, move || spinner_line(&line)))
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
        let first = done as u64;
        let write_left = move |state: &ProgressState, to: &mut dyn std::fmt::Write| {
            let count = state.len().unwrap_or_default();
            // The error of a terminal cannot be reported.
            let _ = to.write_str(&left(first, state.pos(), count, state.elapsed()));
        };
        bar.set_style(style(BAR).with_key("left", write_left));
        bar.set_prefix(name.into());
        let line = bar.clone();
        Self(Shown::new(bar, BAR_TICK, move || steps_line(&line, first)))
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
    fn new(bar: ProgressBar, tick: Duration, line: impl Fn() -> String + Send + 'static) -> Self {
        if bar.is_hidden() {
            let lines = Lines::start(move || complain!("{}", line()));
            return Self {
                bar,
                _lines: Some(lines),
            };
        }
        bar.enable_steady_tick(tick);
        if let Ok(mut shown) = SHOWN.lock() {
            *shown = Some(bar.clone());
        }
        Self { bar, _lines: None }
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

/// Time of the last plain line of any step, at first of the begin of the first step. Several short steps have a line
/// together.
static LAST: Mutex<Option<Instant>> = Mutex::new(None);

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
            while stopped.recv_timeout(until_next(interval)) == Err(RecvTimeoutError::Timeout) {
                report();
                if let Ok(mut last) = LAST.lock() {
                    *last = Some(Instant::now());
                }
            }
        };
        // Without a thread there are no lines, and the work goes on.
        let _ = thread::Builder::new()
            .name("progress".to_owned())
            .spawn(run);
        Self { _running: running }
    }
}

/// Returns the time until the next plain line is due.
fn until_next(interval: Duration) -> Duration {
    let Ok(mut last) = LAST.lock() else {
        return interval;
    };
    let last = *last.get_or_insert_with(Instant::now);
    interval.saturating_sub(last.elapsed())
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template);
    style.unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Returns the rate and the time that is left, each with what separates it from the next text, if `done` of `count`
/// steps are done, of which all but `first` took the time `elapsed`. Empty before the first step. The mean over the whole
/// time does not jump during a long step, as the mean of the last seconds does.
fn left(first: u64, done: u64, count: u64, elapsed: Duration) -> String {
    let steps = done.saturating_sub(first) as f64;
    let seconds = elapsed.as_secs_f64();
    if steps <= 0.0 || seconds <= 0.0 {
        return String::new();
    }
    let seconds_left = count.saturating_sub(done) as f64 * seconds / steps;
    let left = Duration::try_from_secs_f64(seconds_left).unwrap_or(Duration::MAX);
    let rate = steps / seconds;
    let decimals = if rate < 10.0 { 2 } else { 0 };
    format!("{rate:.decimals$}/s, {} left ", HumanDuration(left))
}

/// Returns what is being done, and for how long.
fn spinner_line(bar: &ProgressBar) -> String {
    format!("{} ({} s)", bar.message(), bar.elapsed().as_secs())
}

/// Returns the number of steps that are done, and the rate and the time that is left once they are known. `first` is the
/// number of steps that were done before.
fn steps_line(bar: &ProgressBar, first: u64) -> String {
    let (done, count) = (bar.position(), bar.length().unwrap_or_default());
    let left = left(first, done, count, bar.elapsed());
    let parts = [
        format!("{done} of {count}"),
        left.trim_end().to_owned(),
        bar.message(),
    ];
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    format!("{}: {}", bar.prefix(), parts.join(", "))
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
        assert_eq!(steps_line(&bar, 0), "ranges: 0 of 5");
        bar.set_position(2);
        bar.set_message("acc1 71.0 %");
        assert_eq!(steps_line(&bar, 2), "ranges: 2 of 5, acc1 71.0 %");
        let line = steps_line(&bar, 0);
        assert!(
            line.starts_with("ranges: 2 of 5, ") && line.ends_with(" left, acc1 71.0 %"),
            "{line}"
        );
        bar.set_message("reading");
        assert_eq!(spinner_line(&bar), "reading (0 s)");
    }

    #[test]
    fn the_time_left_is_that_of_the_mean_step() {
        let elapsed = Duration::from_secs(20);
        assert_eq!(left(10, 20, 50, elapsed), "0.50/s, 60 seconds left ");
        assert_eq!(left(0, 2000, 2000, elapsed), "100/s, 0 seconds left ");
        assert_eq!(left(10, 10, 50, elapsed), "");
        assert_eq!(left(10, 9, 5, elapsed), "");
        assert_eq!(left(0, 1, 9, Duration::ZERO), "");
    }
}
