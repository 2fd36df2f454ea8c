//! Load tests of a running server: with requests at fixed times (open loop), or with a folder of images.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use sightline::config::redacted;

use super::images::Image;
use super::load::{Client, Target};
use super::record::{Outcome, Record, Report, Settings};
use super::schedule::{Arrivals, Schedule};

/// Time between the start of the clients and the first request.
const LEAD: Duration = Duration::from_millis(50);
/// Stack size of a client thread, in bytes. It is small because there may be hundreds of them.
const STACK: usize = 512 << 10;

/// A load test.
pub(super) struct Load<'a> {
    pub(super) target: Target<'a>,
    /// Images, at least one. The requests send one after the other, again and again.
    pub(super) images: &'a [Image],
    pub(super) arrivals: Arrivals,
    pub(super) connections: usize,
    pub(super) length: Duration,
    /// Maximum number of requests.
    pub(super) count: u64,
}

/// What was recorded in a load test.
pub(super) struct Measured {
    pub(super) record: Record,
    /// Time from the start until the last response.
    pub(super) elapsed: Duration,
    /// Number of requests that were due but not sent.
    unsent: u64,
}

impl Load<'_> {
    /// Sends the requests. Each connection has a thread of its own, so that no request waits for the response to another
    /// one as long as a connection is free.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub(super) fn run(&self) -> Result<Report> {
        let measured = self.measure()?;
        let settings = Settings {
            url: redacted(self.target.url).into_owned(),
            rate: self.arrivals.rate(),
            poisson: matches!(self.arrivals, Arrivals::Poisson(_)),
            connections: self.connections,
            images: self.images.len(),
        };
        let Measured {
            record,
            elapsed,
            unsent,
        } = measured;
        Ok(record.report(elapsed, settings, unsent))
    }

    /// Sends the requests as [`Load::run`] does, and returns all that was recorded.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub(super) fn measure(&self) -> Result<Measured> {
        let start = Instant::now() + LEAD;
        let schedule = Schedule::new(start, self.arrivals, self.length, self.count);
        let records = std::thread::scope(|scope| {
            let clients = (0..self.connections).map(|_| {
                let thread = std::thread::Builder::new().stack_size(STACK);
                thread.spawn_scoped(scope, || self.client(&schedule))
            });
            let clients = clients.collect::<std::io::Result<Vec<_>>>()?;
            let joined = clients.into_iter().map(|client| {
                let record = client.join();
                record.map_err(|_| anyhow!("a client of the load test panicked"))?
            });
            joined.collect::<Result<Vec<_>>>()
        })?;
        let elapsed = start.elapsed();
        let mut total = Record::new()?;
        for record in records {
            total.merge(record)?;
        }
        let unsent = schedule.unsent(total.sent());
        Ok(Measured {
            record: total,
            elapsed,
            unsent,
        })
    }

    /// Sends requests over one connection until there are none any more.
    fn client(&self, schedule: &Schedule) -> Result<Record> {
        let (client, mut record) = (Client::new(self.target), Record::new()?);
        while let Some(due) = schedule.next() {
            let image = &self.images[(due.index % self.images.len() as u64) as usize];
            let delay = due.at.elapsed();
            let outcome = match client.post(&image.content, image.json_bytes) {
                Ok(status) => Outcome::Status(status),
                Err(error) => Outcome::Failed(reason(&error)),
            };
            record.add(&outcome, delay, due.at.elapsed(), &image.name);
        }
        Ok(record)
    }
}

/// Returns why a request has no response.
fn reason(error: &ureq::Error) -> &'static str {
    match error {
        ureq::Error::Timeout(_) => "timeout",
        ureq::Error::ConnectionFailed | ureq::Error::HostNotFound => "no connection",
        ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            "no connection"
        }
        ureq::Error::Io(_) => "broken connection",
        ureq::Error::BadUri(_) => "invalid URL",
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) => "TLS",
        _ => "invalid response",
    }
}
