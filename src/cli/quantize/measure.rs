//! Comparison of the fp32 and the int8 model: results, sizes and latencies.

use std::time::Instant;

use anyhow::{Context, Result};
use bytes::Bytes;
use onnx_export::Stages;
use sightline::cpu::int8_target;
use sightline::engine::{Arithmetic, Engine, Outputs};
use sightline::image::{ImageSize, PreparedImage};
use sightline::postprocess::OutputError;
use sightline::postprocess::detect::Detector;
use sightline::quantize::{Agreement, Answers, NetworkReport, Progress, Report, Timing};
use sightline::store::ModelSource;

use super::{Precisions, Work};

/// Minimum number of timed runs of each precision.
const MIN_RUNS: usize = 30;

/// Runs both precisions on all photographs and returns the report. The precisions alternate, so that a slow moment of the
/// machine affects both.
///
/// # Errors
/// If a model cannot be run, or its outputs do not fit the task.
pub(super) fn report(
    work: &Work<'_>,
    source: &ModelSource,
    detector: Option<&Detector>,
    graphs: Precisions<'_>,
    networks: Vec<NetworkReport>,
) -> Result<Report> {
    let Precisions { float, int8 } = graphs;
    let side = |graphs, arithmetic| -> Result<Side<'_>> {
        Ok(Side {
            engine: work.engine(source, detector, graphs, arithmetic)?,
            answer: Box::new(|outputs, original| {
                Answers::new(source.manifest.task, detector, outputs, original)
            }),
            times: Vec::new(),
            answers: Vec::new(),
        })
    };
    let mut float_side = side(float, Arithmetic::Kernels)?;
    let mut int8_side = side(int8, Arithmetic::Kernels)?;
    // If this CPU is not of the target family, its int8 kernels would give other results than the target's.
    let simulated = work.goal.target != int8_target();
    let mut simulation = simulated
        .then(|| side(int8, Arithmetic::Simulated))
        .transpose()?;
    let tensors = work.photographs.tensors();
    let rounds = MIN_RUNS.div_ceil(tensors.len());
    work.bars.start("comparing", rounds * tensors.len());
    let images = || tensors.iter().zip(work.photographs.originals());
    for round in 0..rounds {
        for (image, original) in images() {
            for side in [&mut float_side, &mut int8_side] {
                side.run(image, *original, round == 0)?;
            }
            work.bars.step();
        }
    }
    // The simulation runs after the timed runs, so as not to disturb them.
    if let Some(simulation) = &mut simulation {
        for (image, original) in images() {
            simulation.run(image, *original, true)?;
        }
    }
    let int8_answers = &simulation.as_ref().unwrap_or(&int8_side).answers;
    work.bars.finish();
    Ok(Report {
        model: source.manifest.name.clone(),
        target: work.goal.target,
        simulated,
        agreement: Agreement::of(&float_side.answers, int8_answers),
        fp32: float_side.timing(float),
        int8: int8_side.timing(int8),
        networks,
    })
}

/// A function that computes the result from a model's outputs and the size of the original image.
type Answer<'a> = dyn Fn(&Outputs, ImageSize) -> Result<Answers, OutputError> + 'a;

/// One precision of the model, with the results and latencies of its runs so far.
struct Side<'a> {
    engine: Box<dyn Engine>,
    answer: Box<Answer<'a>>,
    /// Latency of each run, in milliseconds.
    times: Vec<f64>,
    /// Results by image.
    answers: Vec<Answers>,
}

impl Side<'_> {
    /// Runs one preprocessed image, whose size was `original`; keeps its result if `is_new`.
    fn run(&mut self, image: &PreparedImage, original: ImageSize, is_new: bool) -> Result<()> {
        let began = Instant::now();
        let outputs = self.engine.run(vec![image.clone()])?;
        self.times.push(began.elapsed().as_secs_f64() * 1e3);
        if is_new {
            let outputs = outputs.first().context("the network returned no output")?;
            self.answers.push((self.answer)(outputs, original)?);
        }
        Ok(())
    }

    /// Returns the size of the ONNX files in bytes and the median latency in milliseconds.
    fn timing(mut self, graphs: &Stages<Bytes>) -> Timing {
        self.times.sort_by(f64::total_cmp);
        Timing {
            bytes: graphs.iter().map(|stage| stage.content.len()).sum(),
            milliseconds: self
                .times
                .get(self.times.len() / 2)
                .copied()
                .unwrap_or_default(),
        }
    }
}

/// Returns why the model should not be used, and what to do about it. `None` if its agreement is at least
/// `min_agreement` and it is faster than the fp32 model.
pub(super) fn objection(report: &Report, min_agreement: f64) -> Option<String> {
    let agreement = report.agreement.agreement;
    if agreement < min_agreement {
        return Some(format!(
            "int8 agrees with fp32 in {:.1} % of the results, `--min-agreement` requires {:.1} %. \
             Calibrate on more photographs like those that the model will be used on; keep more layers in fp32 \
             (--max-float 0.4); require closer outputs (--min-cosine 0.9995); or accept the model with --force",
            agreement * 100.0,
            min_agreement * 100.0
        ));
    }
    // If this CPU is not of the target family, its speed says nothing about the target's.
    (!report.simulated && report.speedup() <= 1.0).then(|| {
        format!(
            "int8 is not faster on this CPU: {:.2} ms, fp32 {:.2} ms. {} Keep fewer layers in fp32 \
             (--max-float 0.1), serve the fp32 model, or write the model with --force",
            report.int8.milliseconds,
            report.fp32.milliseconds,
            "CPUs with VNNI (servers of 2019 and later) gain most."
        )
    })
}
