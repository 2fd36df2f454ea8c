//! The child process: optimizes a model, runs it once, and returns the optimized graphs.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Args;
use onnx_export::{Stage, Stages};
use rustix::process::Signal;
use sightline::cores::{Cores, Performance};
use sightline::engine::OptimizedGraph;
use sightline::manifest::ModelManifest;
use sightline::metrics::Metrics;
use sightline::postprocess::detect::Detector;
use sightline::process::ProcessUsage;
use sightline::registry::networks::Networks;
use sightline::registry::{LoadReason, LoadedModel, ModelPlan};
use sightline::store::{ModelSource, Origin};

use super::message::{GraphHead, Order, Outcome, read_head, read_part, write};
use crate::cli::RuntimeArgs;
use crate::cli::memory::limit_allocations;

#[derive(Debug, Args)]
pub(in crate::cli) struct TrialArgs {
    #[command(flatten)]
    runtime: RuntimeArgs,
}

/// Runs the child process: reads an [`Order`] from stdin and writes an [`Outcome`] to stdout.
pub(in crate::cli) fn run(args: &TrialArgs) -> Result<()> {
    let mut input = BufReader::new(File::from(std::io::stdin().as_fd().try_clone_to_owned()?));
    let mut output = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    let order: Order = read_head(&mut input)?;
    end_with_parent(order.parent)?;
    limit_allocations(order.memory_bytes);
    prefer_for_killing();
    match try_load(order, input, args) {
        Ok((networks, session_bytes)) => {
            let graphs = networks.optimized()?;
            let head = |graph: Stage<&OptimizedGraph<Cow<'_, [u8]>>>| GraphHead {
                role: graph.role,
                bytes: graph.content.graph.len(),
                fixed_batch: graph.content.fixed_batch,
                own_operators: graph.content.own_operators,
            };
            let outcome = Outcome::Loaded {
                graphs: graphs.iter().map(head).collect(),
                session_bytes,
            };
            write(
                &mut output,
                &outcome,
                graphs.iter().map(|g| &*g.content.graph),
            )?;
            // Destructors take time and are not needed, because the process ends now.
            std::mem::forget(networks);
            Ok(())
        }
        Err(error) => {
            let outcome = Outcome::Failed(crate::cli::explain(&error));
            write(&mut output, &outcome, std::iter::empty())
        }
    }
}

/// Makes the kernel kill this process when the parent process ends.
fn end_with_parent(parent: i32) -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let current = rustix::process::getppid();
    if current.is_none_or(|pid| pid.as_raw_nonzero().get() != parent) {
        bail!("the process that started this one has ended");
    }
    Ok(())
}

/// Makes the kernel kill this process first if the memory of the cgroup or of the machine is exhausted, so that the
/// parent process goes on serving. Without the permission, the kernel chooses.
fn prefer_for_killing() {
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
}

/// Optimizes the model of `order`, whose graphs follow in `input`, and runs it once. Returns the networks, and the
/// memory in bytes by which this process grew when it created one session and ran it.
fn try_load(order: Order, mut input: impl Read, args: &TrialArgs) -> Result<(Networks, u64)> {
    let runtime = args.runtime.load()?;
    let mut graphs = Vec::with_capacity(order.graphs.len());
    for (role, bytes) in order.graphs {
        let content = Bytes::from(read_part(&mut input, bytes)?);
        graphs.push(Stage { role, content });
    }
    let graphs = Stages::from_list(graphs).context("the model has no network")?;
    let source = ModelSource {
        manifest: ModelManifest::parse(&order.manifest)?,
        variant: order.variant,
        precision: order.precision,
        path: None,
        manifest_text: None,
        labels: order.labels,
        origin: Origin::Memory(graphs),
        requantize: None,
    };
    let plan = ModelPlan {
        max_batch_size: order.max_batch_size,
        max_queue_delay: Duration::ZERO,
        max_queue_size: 1,
        instances: 1,
        intra_op_threads: 1,
        // The parent enforces the time limit, so this limit is out of reach.
        warm_up_limit: Duration::from_hours(24),
    };
    let (metrics, cores) = (Metrics::new(), Cores::new(1, Performance::Auto));
    let detector = Detector::of(&source.manifest).map_err(LoadReason::from)?;
    let networks = Networks::prepare(&source, detector.as_ref(), &runtime)?;
    let started = Instant::now();
    let before = ProcessUsage::now().resident_bytes;
    let model = LoadedModel::with_networks(source, &networks, plan, (&metrics, &cores), started);
    // Dropping the model would join its threads. They end with the process.
    std::mem::forget(model.map_err(|error| error.reason)?);
    let after = ProcessUsage::now().resident_bytes;
    Ok((networks, after.saturating_sub(before)))
}
