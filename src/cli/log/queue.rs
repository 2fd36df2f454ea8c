//! The lines that `serve` prints: a bounded queue, and a thread that writes it.
//!
//! A process that reads the lines may stall. The server must not wait for it, so lines for which the queue has no room
//! are dropped and counted, and a line in their place says how many.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;

/// Maximum size of the lines in the queue, in bytes.
const MAX_BYTES: usize = 4 << 20;
/// Memory of a line in addition to its text, in bytes.
const OVERHEAD: usize = 64;
/// Time for which the thread sleeps when it has written all lines, before it waits to be woken: to wake it takes several
/// microseconds of a request, and lines of the next requests come meanwhile.
const PAUSE: Duration = Duration::from_millis(5);
/// Maximum size in bytes of lines that are written together.
const TOGETHER: usize = 16 << 10;

/// Where a line is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    /// Writes `text` with one call, if the system allows that.
    pub(in crate::cli) fn write(self, text: &str) -> io::Result<()> {
        match self {
            Self::Stdout => io::stdout().write_all(text.as_bytes()),
            Self::Stderr => io::stderr().write_all(text.as_bytes()),
        }
    }
}

/// A queue of lines that a thread writes.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Signalled when a line is added.
    added: Condvar,
    /// Signalled when all lines are written.
    written: Condvar,
    /// Returns the line that says how many lines were dropped.
    notice: fn(u64) -> String,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<(Stream, String)>,
    /// Whether the thread waits to be woken.
    waits: bool,
    /// Size of the lines that are not written yet, including the line that is being written.
    bytes: usize,
    /// Number of dropped lines that no line in the queue mentions yet.
    dropped: u64,
    /// Counts the dropped lines. `None` before the metrics exist.
    counter: Option<Counter>,
    /// Number of dropped lines before the metrics existed.
    uncounted: u64,
}

/// Lines that are written together.
struct Lines {
    stream: Stream,
    text: String,
    /// What they add to [`State::bytes`].
    bytes: usize,
}

impl Queue {
    /// Starts the thread that writes the lines with `write`. `notice` returns the line that says how many lines were
    /// dropped.
    ///
    /// # Errors
    /// The operating system's error if the thread cannot be started.
    pub(super) fn start(
        write: impl Fn(Stream, &str) + Send + 'static,
        notice: fn(u64) -> String,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            added: Condvar::new(),
            written: Condvar::new(),
            notice,
        });
        let writer = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("log".to_owned());
        thread.spawn(move || writer.write(write))?;
        Ok(Self { shared })
    }

    /// Adds a line, or drops it if the queue has no room. Never blocks for longer than another thread needs to add a
    /// line.
    pub(super) fn push(&self, stream: Stream, line: String) {
        let mut state = self.shared.lock();
        if state.bytes + line.len() + OVERHEAD > MAX_BYTES {
            state.drop_line();
            return;
        }
        if state.dropped > 0 {
            let dropped = std::mem::take(&mut state.dropped);
            state.add(Stream::Stderr, (self.shared.notice)(dropped));
        }
        state.add(stream, line);
        let waits = std::mem::take(&mut state.waits);
        drop(state);
        if waits {
            self.shared.added.notify_one();
        }
    }

    /// Waits until all lines are written, but not longer than `limit`. Returns whether they are.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut state = self.shared.lock();
        while state.bytes > 0 {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.shared.written.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Counts dropped lines in `counter`, including those that were dropped before.
    pub(super) fn count_in(&self, counter: Counter) {
        let mut state = self.shared.lock();
        counter.inc_by(std::mem::take(&mut state.uncounted));
        state.counter = Some(counter);
    }
}

impl State {
    fn add(&mut self, stream: Stream, line: String) {
        self.bytes += line.len() + OVERHEAD;
        self.lines.push_back((stream, line));
    }

    /// Takes the next line, and those that are written together with it. `None` if there is none.
    fn take(&mut self) -> Option<Lines> {
        let (stream, mut text) = self.lines.pop_front()?;
        let mut bytes = text.len() + OVERHEAD;
        while let Some((_, line)) = self
            .lines
            .pop_front_if(|(of, line)| *of == stream && text.len() + line.len() <= TOGETHER)
        {
            bytes += line.len() + OVERHEAD;
            text.push_str(&line);
        }
        Some(Lines {
            stream,
            text,
            bytes,
        })
    }

    fn drop_line(&mut self) {
        self.dropped += 1;
        match &self.counter {
            Some(counter) => _ = counter.inc(),
            None => self.uncounted += 1,
        }
    }
}

impl Shared {
    /// No code panics while it holds this lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes lines until the process ends. This is the body of the queue's thread.
    fn write(&self, write: impl Fn(Stream, &str)) {
        loop {
            let Lines {
                stream,
                text,
                bytes,
            } = self.next();
            write(stream, &text);
            let mut state = self.lock();
            state.bytes -= bytes;
            if state.lines.is_empty() && state.dropped > 0 {
                let dropped = std::mem::take(&mut state.dropped);
                state.add(Stream::Stderr, (self.notice)(dropped));
            }
            if state.bytes == 0 {
                self.written.notify_all();
            }
        }
    }

    /// Waits for lines and returns them.
    fn next(&self) -> Lines {
        if let Some(lines) = self.lock().take() {
            return lines;
        }
        std::thread::sleep(PAUSE);
        let mut state = self.lock();
        loop {
            if let Some(lines) = state.take() {
                state.waits = false;
                return lines;
            }
            state.waits = true;
            let waited = self.added.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const PATIENCE: Duration = Duration::from_mins(1);

    fn notice(dropped: u64) -> String {
        format!("dropped {dropped}\n")
    }

    #[test]
    fn lines_are_written_in_order_to_their_streams() {
        let (sender, written) = mpsc::channel();
        let write = move |stream, line: &str| sender.send((stream, line.to_owned())).unwrap();
        let queue = Queue::start(write, notice).unwrap();
        let lines = [
            (Stream::Stderr, "a\n"),
            (Stream::Stdout, "b\n"),
            (Stream::Stdout, "c\n"),
            (Stream::Stderr, "d\n"),
        ];
        for (stream, line) in lines {
            queue.push(stream, line.to_owned());
        }
        assert!(queue.flush(PATIENCE));
        let written: Vec<(Stream, String)> = written.try_iter().collect();
        // Lines of one stream may have been written together.
        let written = written.iter().flat_map(|(stream, text)| {
            let lines = text.split_inclusive('\n');
            lines.map(move |line| (*stream, line))
        });
        assert!(written.eq(lines));
    }

    #[test]
    fn a_stalled_reader_costs_lines_and_no_time() {
        let (sender, written) = mpsc::channel();
        let (release, stalled) = mpsc::channel::<()>();
        let write = move |_, line: &str| {
            let _ = stalled.recv();
            sender.send(line.len()).unwrap();
        };
        let queue = Queue::start(write, notice).unwrap();
        let line = "x".repeat(MAX_BYTES / 4 - OVERHEAD);
        for _ in 0..7 {
            queue.push(Stream::Stderr, line.clone());
        }
        queue.push(Stream::Stderr, "x".repeat(MAX_BYTES));
        assert!(!queue.flush(Duration::ZERO));
        let counter = Counter::default();
        queue.count_in(counter.clone());
        assert_eq!(counter.get(), 4);
        for _ in 0..2 {
            release.send(()).unwrap();
            assert_eq!(written.recv().unwrap(), line.len());
        }
        // Lines have room again, and the notice is before them.
        while queue.shared.lock().bytes > MAX_BYTES / 2 {
            std::thread::yield_now();
        }
        queue.push(Stream::Stderr, "later".to_owned());
        queue.push(Stream::Stderr, line.clone());
        queue.push(Stream::Stderr, line.clone());
        drop(release);
        assert!(queue.flush(PATIENCE));
        let (after_four, after_one) = (notice(4).len(), notice(1).len());
        let rest: Vec<usize> = written.try_iter().collect();
        // The notice and the short line behind it are written together.
        assert_eq!(
            rest[..3],
            [line.len(), line.len(), after_four + "later".len()]
        );
        // The last dropped line is mentioned although no line follows.
        assert_eq!(rest.last(), Some(&after_one));
        assert_eq!(counter.get(), 5);
    }
}
