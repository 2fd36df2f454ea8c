//! Sends one request many times: each client after the response to its last request (closed loop),
//! or at fixed arrival times (open loop).

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::thread::{Builder, Scope, ScopedJoinHandle, scope};
use std::time::{Duration, Instant};

use crate::clients::Clients;
use crate::http::Request;
use crate::tally::Tally;

/// Stack size of a client thread, in bytes. It is small because a load may have hundreds of threads.
const STACK: usize = 256 << 10;

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
/// If the process has too many open files.
pub(crate) fn closed(target: &Target<'_>, connections: usize, period: Period) -> io::Result<Tally> {
    let counted = period.counted_from(Instant::now());
    let mut clients = Clients::new(target, counted.clone(), connections)?;
    while Instant::now() < counted.end {
        clients.wait(Instant::now())?;
        clients.send(Instant::now());
    }
    clients.finish()
}

/// Sends the request `rate` times per second for `period`. Arrivals do not wait for responses, as
/// long as one of the `connections` connections is free. Latencies are measured from the arrival
/// times, and from sending as well.
///
/// # Errors
/// If the process has too many open files.
pub(crate) fn open(
    target: &Target<'_>,
    rate: f64,
    connections: usize,
    period: Period,
) -> io::Result<Tally> {
    let start = Instant::now() + Duration::from_millis(50);
    let counted = period.counted_from(start);
    let mut clients = Clients::new(target, counted.clone(), connections)?;
    let arrivals = (0_u64..).map(|index| start + Duration::from_secs_f64(index as f64 / rate));
    for arrival in arrivals.take_while(|arrival| *arrival < counted.end) {
        clients.wait(arrival)?;
        clients.send(arrival);
    }
    clients.finish()
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
