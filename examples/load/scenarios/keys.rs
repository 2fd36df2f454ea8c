//! The scenario `keys`: whether the time of a rejection tells how much of an API key is right, and whether the rotation
//! of keys fails requests.
//!
//! Both wrong keys of a pair are sent one after the other over one connection, in random order, so that slow moments of
//! the machine affect both. The rate stays below the one above which the server delays rejections.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::keys_statistics::Comparison;
use crate::Plan;
use crate::http::{Connection, Request};
use crate::load::{on_threads, spawn};
use crate::photos::coffee;
use crate::report::Report;
use crate::server::Server;
use crate::tally::Tally;

/// Number of keys in the file.
const KEYS: usize = 100;
/// Number of connections that send wrong keys in parallel.
const PARALLEL: usize = 200;
/// Wrong keys per second. The server delays the responses to more than 1,000 per second.
const PER_SECOND: f64 = 800.0;
/// Largest deviation from no difference, in standard deviations. By chance, one run in 16,000 exceeds it.
const MOST_DEVIATIONS: f64 = 4.0;
/// Number of connections while keys rotate.
const CLIENTS: usize = 8;
/// Longest time until the server applies a changed file.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    report.section("keys");
    let folder = tempfile::tempdir()?;
    let keys = Keys::new(plan, folder.path().join("keys"))?;
    let path = keys.path.to_str();
    let path = path.context("the path of the temporary folder is not UTF-8")?;
    let server = Server::start(plan, &["--api-keys", path])?;
    let pair = wrong_keys(&keys.last)?;
    for connections in [1, PARALLEL] {
        let pairs = compare(&server, &pair, connections, plan.load)?;
        let comparison = Comparison::new(&pairs);
        let figure = format!("wrong first or last byte, connections: {connections}");
        report.info(&figure, comparison.to_string());
        let figure = format!("standard deviations from no difference, connections: {connections}");
        report.below(&figure, comparison.deviations().abs(), MOST_DEVIATIONS);
    }
    let (tally, rotations) = rotate(plan, &server, keys)?;
    report.info("rotations of a key", rotations.to_string());
    report.statuses("statuses while keys rotate", &tally, &[200]);
    Ok(())
}

/// The key file of the server, and the last key in it.
struct Keys<'a> {
    plan: &'a Plan,
    path: PathBuf,
    /// Lines of keys that stay.
    others: String,
    last: String,
    last_line: String,
}

impl<'a> Keys<'a> {
    fn new(plan: &'a Plan, path: PathBuf) -> Result<Self> {
        let mut others = String::new();
        for number in 1..KEYS {
            let (_, line) = new_key(plan, &format!("other-{number}"))?;
            writeln!(others, "{line}")?;
        }
        let (last, last_line) = new_key(plan, "last-0")?;
        let keys = Self {
            plan,
            path,
            others,
            last,
            last_line,
        };
        write(&keys.path, &format!("{}{}\n", keys.others, keys.last_line))?;
        Ok(keys)
    }
}

/// Returns a new key and its line.
fn new_key(plan: &Plan, name: &str) -> Result<(String, String)> {
    let output = Command::new(&plan.server)
        .args(["key", "new", name, "--json"])
        .output()?;
    let made: Value = serde_json::from_slice(&output.stdout).context("`key new` failed")?;
    let text = |field: &str| made[field].as_str().map(str::to_owned);
    let key = text("key").zip(text("line"));
    key.context("`key new` printed no key")
}

/// Replaces the key file in one step. Other users may not read it.
fn write(path: &Path, text: &str) -> Result<()> {
    let next = path.with_extension("next");
    fs::write(&next, text)?;
    fs::set_permissions(&next, fs::Permissions::from_mode(0o600))?;
    Ok(fs::rename(next, path)?)
}

fn with_key(request: &Request, key: &str) -> Request {
    request.with_header("authorization", &format!("Bearer {key}"))
}

/// Returns requests with `key`, one with a wrong first byte and one with a wrong last byte, after the prefix that all
/// keys have.
fn wrong_keys(key: &str) -> Result<[Request; 2]> {
    let other = |at: usize| {
        let mut wrong = key.as_bytes().to_vec();
        wrong[at] = if wrong[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(wrong)
    };
    let request = Request::get("/v1/models");
    let first = with_key(&request, &other("sl_".len())?);
    let last = with_key(&request, &other(key.len() - 1)?);
    Ok([first, last])
}

/// Sends pairs of the requests over `connections` connections for `time`. Returns the latencies of each pair in
/// microseconds, in the order of `requests`.
fn compare(
    server: &Server,
    requests: &[Request; 2],
    connections: usize,
    time: Duration,
) -> Result<Vec<[f64; 2]>> {
    let pairs = Mutex::new(Vec::new());
    let (start, interval) = (Instant::now(), 2.0 * connections as f64 / PER_SECOND);
    let tally = on_threads(connections, |index, tally| {
        let mut connection = Connection::new(server.address);
        let mut random = index as u64 + 1;
        let mut own = Vec::new();
        // The first pair opens the connection and does not count.
        for number in 0_u32.. {
            let share = index as f64 / connections as f64;
            let due = Duration::from_secs_f64((f64::from(number) + share) * interval);
            if due > time {
                break;
            }
            sleep(due.saturating_sub(start.elapsed()));
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let first = (random >> 63) as usize;
            let mut pair = [0.0; 2];
            for at in [first, 1 - first] {
                let sent = Instant::now();
                let response = connection.send(&requests[at]);
                pair[at] = sent.elapsed().as_secs_f64() * 1e6;
                match response {
                    Ok(response) if response.status == 401 => {}
                    _ => tally.lost += 1,
                }
            }
            if number > 0 {
                own.push(pair);
            }
        }
        let mut pairs = pairs.lock().unwrap_or_else(PoisonError::into_inner);
        pairs.append(&mut own);
    })?;
    ensure!(tally.lost == 0, "{} wrong keys got no 401", tally.lost);
    Ok(pairs.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Classifies images over several connections while keys rotate. Returns the responses and the number of rotations.
fn rotate(plan: &Plan, server: &Server, mut keys: Keys<'_>) -> Result<(Tally, usize)> {
    let request = coffee()?;
    let current = Mutex::new(Arc::new(with_key(&request, &keys.last)));
    let end = Instant::now() + plan.load;
    let get = || Arc::clone(&current.lock().unwrap_or_else(PoisonError::into_inner));
    let client = |_, tally: &mut Tally| {
        let mut connection = Connection::new(server.address);
        while Instant::now() < end {
            let (request, sent) = (get(), Instant::now());
            match connection.send(&request) {
                Ok(response) => tally.response(&response, sent.elapsed(), true, true),
                Err(_) => tally.lost += 1,
            }
        }
    };
    std::thread::scope(|scope| {
        let clients = spawn(scope, || on_threads(CLIENTS, client))?;
        let mut rotations = 0;
        while Instant::now() < end {
            rotations += 1;
            let (key, line) = new_key(keys.plan, &format!("last-{rotations}"))?;
            let (others, old) = (&keys.others, &keys.last_line);
            write(&keys.path, &format!("{others}{old}\n{line}\n"))?;
            wait_for(server, &key, 200)?;
            let next = Arc::new(with_key(&request, &key));
            *current.lock().unwrap_or_else(PoisonError::into_inner) = next;
            // Requests that were sent with the old key are finished.
            sleep(Duration::from_secs(1));
            write(&keys.path, &format!("{others}{line}\n"))?;
            wait_for(server, &keys.last, 401)?;
            (keys.last, keys.last_line) = (key, line);
        }
        let tally = clients.join();
        let tally = tally.map_err(|_| anyhow::anyhow!("a client thread panicked"))??;
        Ok((tally, rotations))
    })
}

/// Waits until a request with `key` gets `status`.
fn wait_for(server: &Server, key: &str, status: u16) -> Result<()> {
    let request = with_key(&Request::get("/v1/models"), key);
    let mut connection = Connection::new(server.address);
    let start = Instant::now();
    while connection.send(&request)?.status != status {
        ensure!(
            start.elapsed() < PATIENCE,
            "a changed key file is not applied"
        );
        sleep(Duration::from_millis(20));
    }
    Ok(())
}
