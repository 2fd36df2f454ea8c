//! Compares the speed of an fp32 model, its int8 model in ONNX Runtime alone, and its int8 model with
//! this crate's operators: `speedup FP32.onnx INT8.onnx [SIZE [PROFILE]]`.
//!
//! The three sessions have one thread and take turns of several runs on an image of SIZE x SIZE pixels
//! (224), as a server runs one network for some time; the first runs of a turn, which find the data of
//! another session in the caches, are not counted. The output has median CPU times in milliseconds and
//! speedups over fp32. With PROFILE, ONNX Runtime writes the
//! time of each node of the two int8 sessions to JSON files whose names begin with PROFILE.
//!
//! The library of ONNX Runtime is the one named by `ORT_DYLIB_PATH`.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::Path;

use ort::environment::Environment;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{Session, SessionInputValue};
use ort::value::Tensor;
use rustix::time::{ClockId, clock_gettime};

/// Number of turns of each session.
const TURNS: usize = 12;
/// Number of the first turns whose runs are not counted.
const TURNS_BEFORE: usize = 2;
/// Number of runs in a turn.
const RUNS: usize = 20;
/// Number of the first runs in a turn that are not counted.
const RUNS_BEFORE: usize = 2;
const MAX_INPUT: usize = 3 * 1_500_000;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [fp32, int8, options @ ..] = arguments.as_slice() else {
        return Err("usage: speedup FP32.onnx INT8.onnx [SIZE [PROFILE]]".into());
    };
    let size = options.first().map_or(Ok(224), |size| size.parse())?;
    let library = std::env::var("ORT_DYLIB_PATH")?;
    let environment = ort::init_from(library)?.with_telemetry(false).build()?;
    let builder = || Ok(Session::builder(&environment)?.with_intra_threads(1)?);
    let optimized = optimize(&environment, int8.as_ref())?;
    let accelerated = ort_int8::accelerate(&optimized, MAX_INPUT, builder)?;
    let accelerated = accelerated.ok_or("no node of the int8 model can be replaced")?;
    let as_it_is = |model: &[u8], profile: Option<&String>| -> ort::Result<Session> {
        let builder = builder()?;
        let builder = builder.with_optimization_level(GraphOptimizationLevel::Disable)?;
        let mut builder = builder.with_operators(ort_int8::operators(1)?)?;
        if let Some(profile) = profile {
            builder = builder.with_profiling(profile)?;
        }
        builder.commit_from_memory(model)
    };
    let alone = options.get(1).map(|profile| format!("{profile}-alone"));
    let sessions = [
        builder()?.commit_from_file(fp32)?,
        as_it_is(&optimized, alone.as_ref())?,
        as_it_is(&accelerated.model, options.get(1))?,
    ];
    let [fp32, alone, ours] = medians(sessions, size)?;
    println!(
        "fp32 {fp32:.3} ms; int8 in ONNX Runtime alone {alone:.3} ms ({:.2}); with {} operators \
         {ours:.3} ms ({:.2})",
        fp32 / alone,
        accelerated.operator_count,
        fp32 / ours
    );
    Ok(())
}

/// Returns the ONNX file that ONNX Runtime makes of `model` for this CPU.
fn optimize(environment: &Environment, model: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    let path = std::env::temp_dir().join(format!("speedup-{}.onnx", std::process::id()));
    let builder = Session::builder(environment)?.with_intra_threads(1)?;
    let mut builder: SessionBuilder = builder.with_optimized_model_path(&path)?;
    builder.commit_from_file(model)?;
    let optimized = std::fs::read(&path)?;
    std::fs::remove_file(path)?;
    Ok(optimized)
}

/// Returns the median CPU time of a run of each session in milliseconds.
fn medians<const N: usize>(
    mut sessions: [Session; N],
    size: usize,
) -> Result<[f64; N], Box<dyn Error>> {
    let pixels = (0..3 * size * size).map(|index| (index * 7919 % 1000) as f32 / 250.0 - 2.0);
    let pixels: Vec<f32> = pixels.collect();
    let image = Tensor::from_array(([1, 3, size, size], pixels))?;
    let mut times = [const { Vec::new() }; N];
    for turn in 0..TURNS {
        for (session, times) in sessions.iter_mut().zip(&mut times) {
            for run in 0..RUNS {
                let start = cpu_time();
                session.run([SessionInputValue::from(&image)])?;
                if turn >= TURNS_BEFORE && run >= RUNS_BEFORE {
                    times.push(cpu_time() - start);
                }
            }
        }
    }
    Ok(times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }))
}

/// Returns the CPU time of this thread in milliseconds. Unlike elapsed time, it does not include time
/// in which other processes had the core.
fn cpu_time() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}
