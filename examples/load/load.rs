//! Sends one request many times: each client after the response to its last request (closed loop),
//! or at fixed arrival times (open loop).

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{Builder, Scope, ScopedJoinHandle, scope};
use std::time::{Duration, Instant};

use crate::http::{Connection, Request};
use crate::tally::Tally;

/// Stack size of a client thread, in bytes. It is small because a load may have a thousand threads.
const STACK: usize = 256 << 10;
/// Maximum delay between the arrival time of a request and its sending; after a longer delay, the
/// request counts as late.
const LATE: Duration = Duration::from_millis(100);

/// A request to send to a server, with its expected result.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    /// Address of the server.
    pub(crate) address: SocketAddr,
    /// The request.
    pub(crate) request: &'a Request,
    /// The expected best label of the request's image; `None` if the result is not checked.
    pub(crate) label: Option<&'a str>,
}

impl Target<'_> {
    /// Sends the request over `connection` and records the response, or its lack, in `tally`. The
    /// latency is measured from `arrival`; a response outside of `counted` is not in time.
    fn send(
        &self,
        connection: &mut Connection,
        arrival: Instant,
        counted: &Range<Instant>,
        tally: &mut Tally,
    ) {
        match connection.send(self.request) {
            Ok(response) => {
                let now = Instant::now();
                let right = self.label.is_none_or(|label| response.has_label(label, 1));
                tally.response(&response, now - arrival, right, counted.contains(&now));
            }
            Err(_) => tally.lost += 1,
        }
    }
}

/// How long a load lasts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Period {
    /// The first part of the load, in which the server's queue fills. Responses that arrive in it
    /// do not count for the goodput.
    pub(crate) warm_up: Duration,
    /// The rest of the load. Responses that arrive in it count for the goodput.
    pub(crate) counted: Duration,
}

impl Period {
    /// Returns when responses count, if the load starts at `start`.
    fn counted_from(self, start: Instant) -> Range<Instant> {
        let start = start + self.warm_up;
        start..start + self.counted
    }
}

/// Sends the request again and again over each of `connections` connections for `period`. The next
/// request on a connection follows immediately after a response, whatever the response's status.
///
/// # Errors
/// If a thread cannot be started or panics.
pub(crate) fn closed(target: &Target<'_>, connections: usize, period: Period) -> io::Result<Tally> {
    let counted = period.counted_from(Instant::now());
    on_threads(connections, |_, tally| {
        let mut connection = Connection::new(target.address);
        while Instant::now() < counted.end {
            target.send(&mut connection, Instant::now(), &counted, tally);
        }
    })
}

/// Sends the request `rate` times per second for `period`. Arrivals do not wait for responses, as
/// long as one of the `connections` connections is free. Latencies are measured from the arrival
/// times, and from sending as well.
///
/// Each thread takes the next arrival time, sleeps until then, and sends the request, so that no
/// thread has to wake another thread.
///
/// # Errors
/// If a thread cannot be started or panics.
pub(crate) fn open(
    target: &Target<'_>,
    rate: f64,
    connections: usize,
    period: Period,
) -> io::Result<Tally> {
    let next = AtomicU64::new(0);
    let start = Instant::now() + Duration::from_millis(50);
    let counted = period.counted_from(start);
    on_threads(connections, |_, tally| {
        let mut connection = Connection::new(target.address);
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed) as f64;
            let arrival = start + Duration::from_secs_f64(index / rate);
            if arrival >= counted.end {
                return;
            }
            std::thread::sleep(arrival.saturating_duration_since(Instant::now()));
            let sent = Instant::now();
            tally.late += u64::from(sent - arrival > LATE);
            let results = tally.latencies.len();
            target.send(&mut connection, arrival, &counted, tally);
            if tally.latencies.len() > results {
                tally
                    .from_sending
                    .push(sent.elapsed().as_secs_f64() * 1000.0);
            }
        }
    })
}

/// Runs `client` on `threads` threads at the same time and returns the sum of the threads' tallies.
/// The arguments of `client` are the index of its thread and the thread's tally.
///
/// # Errors
/// If a thread cannot be started or panics.
pub(crate) fn on_threads(
    threads: usize,
    client: impl Fn(usize, &mut Tally) + Sync,
) -> io::Result<Tally> {
    let client = &client;
    scope(|scope| {
        let run = |index| {
            let mut tally = Tally::default();
            client(index, &mut tally);
            tally
        };
        let started: io::Result<Vec<_>> = (0..threads)
            .map(|index| spawn(scope, move || run(index)))
            .collect();
        let mut total = Tally::default();
        for thread in started? {
            let tally = thread.join();
            total.add(tally.map_err(|_| io::Error::other("a client thread panicked"))?);
        }
        Ok(total)
    })
}

/// Starts a thread with a small stack.
///
/// # Errors
/// If the operating system cannot start the thread.
pub(crate) fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    Builder::new().stack_size(STACK).spawn_scoped(scope, work)
}
