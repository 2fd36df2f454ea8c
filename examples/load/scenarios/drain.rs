//! SIGTERM while clients send requests, many times: no request that was sent before the stop is lost, and with a drain
//! delay every request until its end is served.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::Plan;
use crate::http::{Request, Response, connect, read_response};
use crate::load::spawn;
use crate::photos::{COFFEE_LABEL, coffee};
use crate::report::Report;
use crate::server::Server;
use crate::tally::Tally;

/// Number of clients. Those with an even index keep their connections open, the others open one per request.
const CLIENTS: usize = 8;
/// Time from the start of the clients to the signal.
const LOAD: Duration = Duration::from_millis(200);
/// Time that the requests in flight may take after the signal and the delay.
const GRACE: Duration = Duration::from_secs(10);
/// The drain delay of the second half of the rounds.
const DELAY: Duration = Duration::from_millis(500);

/// Stops servers under load, and adds the figures to the report.
pub(super) fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    for delay in [Duration::ZERO, DELAY] {
        report.section(&format!("drain, delay {} ms", delay.as_millis()));
        let mut total = Outcome::default();
        for _ in 0..plan.stops {
            total.add(round(plan, delay)?);
        }
        total.report(report, plan.stops, delay);
    }
    Ok(())
}

/// The outcome of one or several stops.
#[derive(Debug, Default)]
struct Outcome {
    /// The responses. A request that was sent before the end of the delay and has no response counts as lost.
    tally: Tally,
    /// Number of requests that were sent before the end of the delay and rejected.
    rejected: u64,
    /// Number of connections and requests after the end of the delay without a response.
    unanswered: u64,
    /// Number of servers that exited with another code than 0.
    failed_exits: u64,
    /// Longest time in milliseconds from the signal and the delay to the exit.
    longest_stop: f64,
}

impl Outcome {
    fn add(&mut self, other: Self) {
        self.tally.add(other.tally);
        self.rejected += other.rejected;
        self.unanswered += other.unanswered;
        self.failed_exits += other.failed_exits;
        self.longest_stop = self.longest_stop.max(other.longest_stop);
    }

    fn report(&self, report: &mut Report, stops: u64, delay: Duration) {
        report.info("stops", stops.to_string());
        // 429 is possible if the queue of a slow machine fills.
        report.statuses("statuses", &self.tally, &[200, 429, 503]);
        report.exactly(
            "requests without a response, sent before the end of the delay",
            self.tally.lost,
            0,
        );
        let rejected = "requests rejected, sent before the end of the delay";
        if delay.is_zero() {
            report.info(rejected, self.rejected.to_string());
        } else {
            report.exactly(rejected, self.rejected, 0);
        }
        let unanswered = self.unanswered.to_string();
        report.info("later connections refused or closed", unanswered);
        report.exactly("exit codes other than 0", self.failed_exits, 0);
        let grace = GRACE.as_secs_f64() * 1000.0;
        report.below(
            "longest time to exit, without the delay, ms",
            self.longest_stop,
            grace,
        );
    }
}

/// Starts a server and clients, and stops the server.
fn round(plan: &Plan, delay: Duration) -> Result<Outcome> {
    let (delay_text, grace) = (
        format!("{}ms", delay.as_millis()),
        GRACE.as_millis().to_string(),
    );
    let flags = ["--drain-delay", &delay_text, "--shutdown-grace-ms", &grace];
    let (server, request) = (Server::start(plan, &flags)?, coffee()?);
    let round = Round {
        address: server.address,
        request: &request,
        end: OnceLock::new(),
        exited: AtomicBool::new(false),
    };
    let mut total = Outcome::default();
    scope(|scope| -> Result<()> {
        let start = |index| {
            let round = &round;
            spawn(scope, move || round.client(index % 2 == 0))
        };
        let clients: io::Result<Vec<_>> = (0..CLIENTS).map(start).collect();
        sleep(LOAD);
        round.end.get_or_init(|| Instant::now() + delay);
        let stopped = server.stop();
        round.exited.store(true, Ordering::Release);
        for client in clients? {
            total.add(
                client
                    .join()
                    .map_err(|_| anyhow!("a client thread panicked"))?,
            );
        }
        let (time, code) = stopped.context("the server does not stop")?;
        total.failed_exits = u64::from(code != Some(0));
        total.longest_stop = time.saturating_sub(delay).as_secs_f64() * 1000.0;
        Ok(())
    })?;
    Ok(total)
}

/// What the clients of a round share.
struct Round<'a> {
    address: SocketAddr,
    request: &'a Request,
    /// The time until which the server has to serve requests. Set just before the signal.
    end: OnceLock<Instant>,
    /// Whether the server process has exited.
    exited: AtomicBool,
}

impl Round<'_> {
    /// Sends requests, each after the response to the one before, until the server has exited.
    fn client(&self, keeps: bool) -> Outcome {
        let mut outcome = Outcome::default();
        let mut connection = None;
        while !self.exited.load(Ordering::Acquire) {
            let start = Instant::now();
            // Whether the request was sent completely, or has failed, before the end of the delay. The time before
            // the attempt would not do: a thread may sleep between two calls.
            let mut in_time = false;
            let result = self.attempt(connection.take(), &mut in_time);
            match result {
                Ok((response, stream)) => {
                    let right = response.has_label(COFFEE_LABEL, 1);
                    outcome
                        .tally
                        .response(&response, start.elapsed(), right, in_time);
                    outcome.rejected += u64::from(in_time && response.status == 503);
                    connection = Some(stream).filter(|_| keeps && !response.closes);
                }
                Err(_) if in_time => outcome.tally.lost += 1,
                Err(_) => outcome.unanswered += 1,
            }
        }
        outcome
    }

    /// Sends the request over `connection`, or over a new one if it is `None`. Sets `in_time` to whether the request
    /// was sent before the end of the delay.
    fn attempt(
        &self,
        connection: Option<TcpStream>,
        in_time: &mut bool,
    ) -> io::Result<(Response, TcpStream)> {
        let sent = match connection {
            Some(stream) => Ok(stream),
            None => connect(self.address),
        };
        let sent = sent.and_then(|mut stream| {
            stream.write_all(self.request.bytes())?;
            Ok(stream)
        });
        *in_time = self.end.get().is_none_or(|end| Instant::now() < *end);
        let mut stream = sent?;
        let response = read_response(&mut stream)?;
        let response = response.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok((response, stream))
    }
}
