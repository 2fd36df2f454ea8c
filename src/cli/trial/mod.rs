//! Loads models from files, first in a child process with a time limit and a memory limit.
//!
//! ONNX Runtime executes parts of a network while it optimizes the network. A hostile file can therefore make loading
//! endless, or make it take any amount of memory, and neither can be stopped within a process. The child optimizes the
//! network, runs it once, and returns the optimized graph. The parent creates its sessions from that graph, without
//! optimizing again. A graph that was returned under the same conditions before comes from the start-up cache.

mod child;
mod loading;
mod message;

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use onnx_export::Stages;
use rustix::process::Signal;
use sightline::cache::Stored;
use sightline::memory::memory_limit;
use sightline::registry::ModelPlan;
use sightline::store::ModelSource;

use super::log;
use super::relaunch::NO_TELEMETRY;
pub(super) use child::{TrialArgs, run};
pub(super) use loading::Loading;
use message::{Order, Outcome, read_head, write};

/// Constant part of the default memory limit of the child process, in bytes.
const BASE_MEMORY: u64 = 2 << 30;
/// Part of the default memory limit that grows with the model, in bytes per byte of its files.
const MEMORY_PER_BYTE: u64 = 8;
/// Smallest memory in bytes that loading any model takes.
const LEAST_MEMORY: u64 = 64 << 20;
/// What to do if the memory that the server leaves for loading is too small.
const LACK_ADVICE: &str =
    "raise the memory limit of the container, lower --memory-budget, or load the model at start";
/// Maximum number of characters of the child's error that the parent reports.
const MAX_ERROR: usize = 2000;
/// Maximum size in bytes of the child's log that the parent writes to stderr; the rest is dropped.
const MAX_LOG: u64 = 64 << 10;
/// Environment variables of the child: glibc's allocator has one pool, and large blocks outside of it.
const VARIABLES: [(&str, &str); 3] = [
    NO_TELEMETRY,
    ("MALLOC_ARENA_MAX", "1"),
    ("MALLOC_MMAP_THRESHOLD_", "131072"),
];
/// Parts of the error messages of ONNX Runtime, C++ and Rust if memory could not be allocated.
const ALLOCATION_ERRORS: [&str; 4] = [
    "Failed to allocate memory",
    "bad_alloc",
    "bad allocation",
    "memory allocation of",
];

/// Too little memory is left beside the server to load a model.
#[derive(Debug, thiserror::Error)]
#[error(
    "loading needs at least {needed} bytes of memory, but {free} are left beside the server and its memory budget: \
     {LACK_ADVICE}"
)]
pub(super) struct TooLittleMemory {
    needed: u64,
    free: u64,
}

/// Maximum memory of a child process.
#[derive(Clone, Copy)]
struct MemoryLimit {
    bytes: u64,
    /// How to raise the limit.
    advice: &'static str,
}

/// Loads the model `source`, whose stages are `graphs`, in a child process with the ONNX Runtime library at `library`.
/// Returns its optimized networks.
///
/// # Errors
/// If the model cannot be loaded, or not within `limit` and `timeout`.
fn in_child(
    source: &ModelSource,
    graphs: Stages<Bytes>,
    plan: ModelPlan,
    library: &Path,
    limit: MemoryLimit,
    timeout: Duration,
) -> Result<Stored> {
    let order = order(source, &graphs, plan, limit.bytes)?;
    let mut input = memory_file("model")?;
    write(&mut input, &order, graphs.iter().map(|g| &g.content[..]))?;
    drop(graphs);
    input.rewind()?;
    let mut output = memory_file("optimized")?;
    let mut child = start(library, input, output.try_clone()?)?;
    let (status, log) = finish(&mut child, timeout)?;
    crate::cli::log::forward(&log);
    output.rewind()?;
    let stored = outcome(output, status);
    stored.map_err(|error| explain_memory(error, &log, limit.bytes, limit.advice))
}

/// Returns what the child process is to load: the model `source`, whose stages are `graphs`, within `memory_bytes` bytes
/// of memory.
fn order(
    source: &ModelSource,
    graphs: &Stages<Bytes>,
    plan: ModelPlan,
    memory_bytes: u64,
) -> Result<Order> {
    let parent = rustix::process::getpid();
    Ok(Order {
        parent: parent.as_raw_nonzero().get(),
        memory_bytes,
        manifest: source.manifest.to_toml()?,
        variant: source.variant.clone(),
        precision: source.precision,
        labels: source.labels.clone(),
        max_batch_size: plan.max_batch_size,
        intra_op_threads: plan.intra_op_threads,
        graphs: graphs.iter().map(|g| (g.role, g.content.len())).collect(),
    })
}

/// Returns the default memory limit in bytes for loading a model whose files have `size` bytes.
fn default_memory(size: u64) -> u64 {
    let needed = BASE_MEMORY.saturating_add(size.saturating_mul(MEMORY_PER_BYTE));
    let limit = memory_limit(Path::new("/"));
    limit.map_or(needed, |(limit, _)| needed.min(limit / 4 * 3))
}

/// Returns the part in bytes of the memory `free` that the child may take to load a model whose files have `size`
/// bytes. The rest is for the files that the processes exchange.
fn left_for_child(free: u64, size: u64) -> Result<u64, TooLittleMemory> {
    let exchanged = size.saturating_mul(2);
    let least = size.max(LEAST_MEMORY);
    let left = free.saturating_sub(exchanged);
    if left < least {
        let needed = exchanged.saturating_add(least);
        return Err(TooLittleMemory { needed, free });
    }
    Ok(left)
}

fn memory_file(name: &str) -> Result<File> {
    let file = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC);
    Ok(file.context("cannot create an in-memory file")?.into())
}

/// Starts the child process, which reads `input` and writes `output`.
fn start(library: &Path, input: File, output: File) -> Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command
        .args(log::arguments())
        .arg("load-trial")
        .arg("--onnxruntime")
        .arg(library)
        // The allocator returns freed memory to the system, so that the child measures what the model keeps.
        .envs(VARIABLES)
        // The parent prints what the child writes, and escapes it.
        .env("NO_COLOR", "1")
        // A process group of its own: Ctrl-C at a terminal reaches only the parent, whose end stops the child.
        .process_group(0)
        .stdin(input)
        .stdout(output)
        .stderr(Stdio::piped());
    command
        .spawn()
        .context("cannot start a process that loads the model")
}

/// Waits until the child ends, and returns its status and its log. Kills the child after `timeout`.
fn finish(child: &mut Child, timeout: Duration) -> Result<(ExitStatus, Vec<u8>)> {
    let (sender, ended) = mpsc::channel();
    let stderr = child.stderr.take();
    std::thread::Builder::new()
        .name("load-trial".to_owned())
        .spawn(move || {
            let mut log = Vec::new();
            if let Some(mut stderr) = stderr {
                let _ = stderr.by_ref().take(MAX_LOG).read_to_end(&mut log);
                let _ = std::io::copy(&mut stderr, &mut std::io::sink());
            }
            let _ = sender.send(log);
        })?;
    // The thread sends the log when stderr is closed, that is, when the child ends.
    let log = ended.recv_timeout(timeout);
    if log.is_err() {
        child.kill()?;
    }
    let status = child.wait()?;
    match log {
        Ok(log) => Ok((status, log)),
        Err(_) => bail!(
            "loading did not finish within {} ms: --load-timeout-ms raises this limit",
            timeout.as_millis()
        ),
    }
}

/// Reads the child's result, which is the error if the child failed.
fn outcome(output: File, status: ExitStatus) -> Result<Stored> {
    if !status.success() {
        let end = match status.signal() {
            Some(signal) => format!("signal {signal}"),
            None => status.to_string(),
        };
        bail!("the process that loads the model ended with {end}");
    }
    let size = output.metadata()?.len();
    let mut output = BufReader::new(output);
    match read_head(&mut output)? {
        Outcome::Loaded => {
            let stored = sightline::cache::read(&mut output, size);
            stored.context("the process that loads the model returned no networks")
        }
        Outcome::Failed(error) => Err(anyhow!(printable(&error))),
    }
}

/// Adds the memory limit and `advice` to the error of a child that could not allocate memory, or that was killed by the system for
/// lack of memory.
fn explain_memory(
    error: anyhow::Error,
    log: &[u8],
    memory_bytes: u64,
    advice: &str,
) -> anyhow::Error {
    let text = error.to_string();
    let log = String::from_utf8_lossy(log);
    let failed = |word: &&str| text.contains(*word) || log.contains(*word);
    let killed = text.ends_with(&format!("signal {}", Signal::KILL.as_raw()));
    if !killed && !ALLOCATION_ERRORS.iter().any(failed) {
        return error;
    }
    anyhow!("loading needs more than the limit of {memory_bytes} bytes of memory: {advice}: {text}")
}

/// Returns `text` as one line without control characters, cut to [`MAX_ERROR`] characters. Names in a model file can
/// contain any character.
fn printable(text: &str) -> String {
    let mut line = String::new();
    for c in text.trim_end().chars().take(MAX_ERROR) {
        match c {
            '\n' => line.push(' '),
            c if c.is_control() => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_child_are_printable_and_cut() {
        let cases = [
            ("cannot load\n", "cannot load"),
            ("a\nb\x1b[2Jc\u{9b}", "a b\\u{1b}[2Jc\\u{9b}"),
            ("größer", "größer"),
        ];
        for (text, expected) in cases {
            assert_eq!(printable(text), expected);
        }
        assert_eq!(printable(&"x".repeat(5000)).len(), MAX_ERROR);
    }

    #[test]
    fn the_child_gets_what_the_files_leave_of_the_free_memory() {
        const MIB: u64 = 1 << 20;
        let cases = [
            (1000, 100, Some(800)),
            (300, 100, Some(100)),
            (299, 100, None),
            (66, 1, Some(64)),
            (65, 1, None),
            (0, 0, None),
        ];
        for (free, size, expected) in cases {
            let left = left_for_child(free * MIB, size * MIB).ok();
            assert_eq!(left, expected.map(|left| left * MIB), "{free} {size}");
        }
    }

    #[test]
    fn errors_for_want_of_memory_name_the_limit() {
        let cases = [
            ("std::bad_alloc", "", true),
            (
                "ended with signal 6",
                "memory allocation of 7 bytes failed",
                true,
            ),
            ("ended with signal 9", "", true),
            ("ended with signal 11", "", false),
            ("unknown operator", "", false),
        ];
        for (text, log, expected) in cases {
            let error = explain_memory(anyhow!(text), log.as_bytes(), 77, "raise it");
            let error = error.to_string();
            assert_eq!(error.contains("limit of 77 bytes"), expected, "{error}");
            assert!(error.ends_with(text), "{error}");
        }
    }
}
