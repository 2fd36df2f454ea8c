//! The scenario `soak`: a long mix of valid and hostile requests, and of clients that close a
//! connection before the response (vanish), keep one open without reading (stall), or send a
//! request slowly (trickle).

use std::collections::VecDeque;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::CpuMeter;
use crate::Plan;
use crate::http::{Connection, Request, connect, read_response};
use crate::images;
use crate::load::{on_threads, spawn};
use crate::photos::{Valid, photo, valid};
use crate::report::Report;
use crate::server::Server;
use crate::tally::{Tally, quantile};

/// Number of clients, which send requests at the same time.
const CLIENTS: usize = 16;
/// Maximum number of stalled connections that are kept open at the same time.
const STALLED: usize = 200;
/// Size in bytes of the parts in which a client that trickles sends a request, and the pause after
/// each part.
const TRICKLE: (usize, Duration) = (8 << 10, Duration::from_millis(40));
/// Time between two samples of the server's resident memory.
const SAMPLE: Duration = Duration::from_millis(250);
/// Limit on the growth of the resident memory, in percent: by how much the largest of the medians
/// of the last three quarters of the run may exceed the smallest.
const GROWTH: f64 = 3.0;
/// Status codes that hostile requests may get.
const STATUSES: [u16; 10] = [200, 400, 404, 405, 408, 413, 415, 422, 429, 504];

pub(super) fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    report.section("soak");
    let mut server = Server::start(plan, &[])?;
    let mix = Mix::new(&server)?;
    let before = server.descriptors()?;
    let (start, meter) = (Instant::now(), CpuMeter::start(&server)?);
    let outcome = Outcome::default();
    let resident = drive(plan.requests, &server, &mix, &outcome)?;
    let seconds = start.elapsed().as_secs_f64();
    meter.report(&server, report)?;
    server.check_alive()?;
    let after = settled(&server, before)?;

    report.info(
        "requests, seconds",
        format!("{}, {seconds:.0}", plan.requests),
    );
    let Outcome { valid, hostile, .. } = outcome;
    let valid = valid.into_inner().unwrap_or_default();
    report.statuses("valid requests", &valid, &[200]);
    let hostile = hostile.into_inner().unwrap_or_default();
    report.statuses("hostile requests with a response", &hostile, &STATUSES);
    let gone = outcome.gone.into_inner();
    report.info("clients that vanished or stalled", gone.to_string());
    report.exactly("descriptors after, as before", after as u64, before as u64);
    let in_flight = server.metric("sightline_in_flight", "")?;
    report.exactly(
        "requests in flight after, the probe itself",
        in_flight as u64,
        1,
    );
    memory(report, resident);
    Ok(())
}

/// The outcomes of the requests of a soak.
#[derive(Debug, Default)]
struct Outcome {
    valid: Mutex<Tally>,
    hostile: Mutex<Tally>,
    gone: AtomicU64,
}

/// Sends `requests` requests and adds their outcomes to `outcome`. Returns samples of the server's
/// resident memory during the run, in MiB.
fn drive(requests: u64, server: &Server, mix: &Mix, outcome: &Outcome) -> Result<Vec<f64>> {
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let stalled = Mutex::new(VecDeque::new());
    let samples = scope(|scope| -> Result<_> {
        let sampling = spawn(scope, || server.resident_until(&stop, SAMPLE))?;
        let sent = on_threads(CLIENTS, |_, valid| {
            let mut client = Client {
                server,
                mix,
                stalled: &stalled,
                connection: Connection::new(server.address),
                hostile: Tally::default(),
                gone: 0,
            };
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= requests {
                    break;
                }
                client.step(index, valid);
            }
            if let Ok(mut hostile) = outcome.hostile.lock() {
                hostile.add(client.hostile);
            }
            outcome.gone.fetch_add(client.gone, Ordering::Relaxed);
        });
        stop.store(true, Ordering::Relaxed);
        let samples = sampling.join();
        if let Ok(mut valid) = outcome.valid.lock() {
            valid.add(sent?);
        }
        samples.map_err(|_| anyhow::anyhow!("a client thread panicked"))
    })?;
    Ok(samples)
}

/// Adds to the report the median of the resident memory in each quarter of the run, and the growth
/// over the last three quarters. `resident` has samples in MiB.
fn memory(report: &mut Report, mut resident: Vec<f64>) {
    let quarter = resident.len().div_ceil(4).max(1);
    let medians: Vec<f64> = resident
        .chunks_mut(quarter)
        .map(|samples| quantile(samples, 0.5))
        .collect();
    let text: Vec<String> = medians.iter().map(|mib| format!("{mib:.0}")).collect();
    report.info("median memory of each quarter, MiB", text.join(", "));
    let last = medians.get(1..).unwrap_or_default();
    let least = last.iter().copied().fold(f64::INFINITY, f64::min);
    let most = last.iter().copied().fold(0.0, f64::max);
    let growth = (most / least - 1.0) * 100.0;
    report.below("range over the last three quarters, %", growth, GROWTH);
}

/// Waits until the server has at most `expected` open file descriptors, because it has closed the
/// connections of the run, but at most 15 s. Returns the number of the server's open descriptors.
fn settled(server: &Server, expected: usize) -> Result<usize> {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let now = server.descriptors()?;
        if now <= expected || Instant::now() > deadline {
            return Ok(now);
        }
        sleep(Duration::from_millis(50));
    }
}

/// The requests among which the clients of the soak choose.
struct Mix {
    valid: Vec<Valid>,
    /// Requests whose result is not checked, only their status: most are invalid or have hostile
    /// images.
    hostile: Vec<Request>,
}

impl Mix {
    fn new(server: &Server) -> Result<Self> {
        let valid = valid(server)?;
        let jpeg = photo("coffee_500x375.jpg")?;
        let raw = "application/octet-stream";
        let path = "/v1/classify";
        let mut files: Vec<Vec<u8>> = images::tiny().into_iter().map(|(_, file)| file).collect();
        files.extend(images::lying()?.into_iter().map(|(_, file)| file));
        files.push(b"no image".to_vec());
        files.push(Vec::new());
        for request in &valid {
            let body = &request.request.bytes()[request.request.head()..];
            files.push(body[..body.len() / 2].to_vec());
        }
        let mut hostile: Vec<Request> = files.iter().map(|file| Request::classify(file)).collect();
        hostile.extend([
            Request::post(path, "text/plain", &jpeg),
            Request::post("/v1/classify?top_k=0", raw, &jpeg),
            Request::post("/v1/classify?model=none", raw, &jpeg),
            Request::post("/v1/segment", raw, &jpeg),
            Request::post(path, "application/json", b"{\"images\":[{\"data\":7}]}"),
            Request::post(path, "multipart/form-data", &jpeg),
            Request::post("/v1/nothing", raw, &jpeg),
            Request::get(path),
            Request::get("/metrics"),
            Request::get("/openapi.yaml"),
        ]);
        Ok(Self { valid, hostile })
    }
}

/// One client of the soak, with the outcomes of its requests.
struct Client<'a> {
    server: &'a Server,
    mix: &'a Mix,
    /// Stalled connections of all clients, the oldest first: the request is incomplete, or its
    /// response is never read.
    stalled: &'a Mutex<VecDeque<TcpStream>>,
    connection: Connection,
    hostile: Tally,
    gone: u64,
}

impl Client<'_> {
    /// Sends request `index` of the run. Of each 100 requests, 40 are valid (one of these is sent
    /// slowly), 50 are hostile, and for 10 the client vanishes or stalls.
    fn step(&mut self, index: u64, valid: &mut Tally) {
        // A fixed permutation of 0..100, so that the kinds of requests are mixed.
        let kind = index * 37 % 100;
        let pick = (index / 100 + kind) as usize;
        let known = &self.mix.valid[pick % self.mix.valid.len()];
        match kind {
            0..40 => self.valid(known, kind == 0, valid),
            40..90 => self.hostile(&self.mix.hostile[pick % self.mix.hostile.len()]),
            _ => {
                self.gone += 1;
                // An error only means that the server has closed the connection before the client
                // did.
                let _ = self.leave(kind - 90, &known.request);
            }
        }
    }

    /// Sends a valid request, slowly and in parts if `trickled` is set, and records in `tally`
    /// whether the result is the expected one.
    fn valid(&mut self, known: &Valid, trickled: bool, tally: &mut Tally) {
        let start = Instant::now();
        let response = if trickled {
            self.trickled(&known.request)
        } else {
            self.connection.send(&known.request)
        };
        match response {
            Ok(response) => {
                let right = response.has_label(&known.label, known.images);
                tally.response(&response, start.elapsed(), right, true);
            }
            Err(_) => tally.lost += 1,
        }
    }

    /// Sends a hostile request and records the status of its response.
    fn hostile(&mut self, request: &Request) {
        let start = Instant::now();
        match self.connection.send(request) {
            Ok(response) => self
                .hostile
                .response(&response, start.elapsed(), true, true),
            Err(_) => self.hostile.lost += 1,
        }
    }

    /// Sends a request over a new connection in parts, with a pause after each part, and returns
    /// the response.
    fn trickled(&self, request: &Request) -> std::io::Result<crate::http::Response> {
        let mut stream = connect(self.server.address)?;
        for part in request.bytes().chunks(TRICKLE.0) {
            stream.write_all(part)?;
            sleep(TRICKLE.1);
        }
        let response = read_response(&mut stream)?;
        response.ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
    }

    /// Sends a part of a request, or all of it, over a new connection, and closes the connection
    /// (vanishes) or keeps it open without reading (stalls). `how` in 0..10 selects the case.
    fn leave(&self, how: u64, request: &Request) -> std::io::Result<()> {
        let mut stream = connect(self.server.address)?;
        let (head, all) = (request.head(), request.bytes().len());
        let length = match how {
            0 | 1 => head / 2,
            2..=5 => usize::midpoint(head, all),
            _ => all,
        };
        stream.write_all(&request.bytes()[..length])?;
        match how {
            // The connection is closed on return: within the head (0), within the body (2, 3), or
            // before the response is read (6).
            0 | 2 | 3 | 6 => {}
            1 | 4 | 5 | 7 => self.stall(stream),
            // The connection is closed after a pause, in which the server may have queued the
            // image.
            8 => sleep(Duration::from_millis(3)),
            _ => stream.shutdown(Shutdown::Write)?,
        }
        Ok(())
    }

    /// Keeps a connection open without reading from it. If more than `STALLED` connections are
    /// kept, closes the oldest.
    fn stall(&self, stream: TcpStream) {
        if let Ok(mut stalled) = self.stalled.lock() {
            stalled.push_back(stream);
            if stalled.len() > STALLED {
                stalled.pop_front();
            }
        }
    }
}
