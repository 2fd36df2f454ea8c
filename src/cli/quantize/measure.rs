//! Comparison of the fp32 and the int8 model: results, sizes and latencies.

use std::time::Instant;

use anyhow::{Context, Result};
use bytes::Bytes;
use onnx_export::Stages;
use sightline::cpu::int8_target;
use sightline::engine::{Arithmetic, EMBEDDING, Engine, Outputs};
use sightline::image::{ImageSize, PreparedImage};
use sightline::postprocess::OutputError;
use sightline::postprocess::detect::Detector;
use sightline::quantize::{Agreement, Answers, NetworkReport, Progress, Report, Timing, cosine};
use sightline::store::ModelSource;

use super::{Precisions, Work};

/// Minimum number of timed runs of the fp32 model and of the int8 model.
const MIN_RUNS: usize = 30;

/// Runs the fp32 and the int8 model on the held-out photographs, and returns a report of their agreement,
/// sizes and latencies. The models alternate, so that a slow moment of the machine affects the
/// latencies of both.
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
                Answers::new(&source.manifest, detector, outputs, original)
            }),
            times: Vec::new(),
            answers: Vec::new(),
            embeddings: Vec::new(),
        })
    };
    let mut float_side = side(float, Arithmetic::Kernels)?;
    let mut int8_side = side(int8, Arithmetic::Kernels)?;
    // If this CPU is not of the target family, its int8 kernels would compute other results than
    // the target's kernels, which are therefore simulated.
    let simulated = work.goal.target != int8_target();
    let mut simulation = simulated
        .then(|| side(int8, Arithmetic::Simulated))
        .transpose()?;
    let tensors = work.photographs.compared();
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
    // The simulation runs after the timed runs, so that it does not affect their latencies.
    if let Some(simulation) = &mut simulation {
        for (image, original) in images() {
            simulation.run(image, *original, true)?;
        }
    }
    let judged = simulation.as_ref().unwrap_or(&int8_side);
    work.bars.finish();
    Ok(Report {
        model: source.manifest.name.clone(),
        target: work.goal.target,
        simulated,
        images: work.photographs.counts(),
        agreement: Agreement::of(&float_side.answers, &judged.answers),
        embedding_cosine: mean_cosine(&float_side.embeddings, &judged.embeddings),
        fp32: float_side.timing(float),
        int8: int8_side.timing(int8),
        networks,
    })
}

/// A function that postprocesses a model's outputs for an image. The size is that of the image
/// before preprocessing, in pixels.
type Answer<'a> = dyn Fn(&Outputs, ImageSize) -> Result<Answers, OutputError> + 'a;

/// The fp32 or the int8 model, with the results and latencies of its runs so far.
struct Side<'a> {
    engine: Box<dyn Engine>,
    answer: Box<Answer<'a>>,
    /// Latency of each run, in milliseconds.
    times: Vec<f64>,
    /// Postprocessed result for each photograph, in the order of the photographs.
    answers: Vec<Answers>,
    /// Pooled features of each photograph. Empty if the network has none.
    embeddings: Vec<Vec<f32>>,
}

impl Side<'_> {
    /// Runs the model on a preprocessed image and records the latency. If `is_new`, also records
    /// the result for the image, whose size before preprocessing was `original`.
    fn run(&mut self, image: &PreparedImage, original: ImageSize, is_new: bool) -> Result<()> {
        let began = Instant::now();
        let outputs = self.engine.embed(vec![image.clone()], &[is_new])?;
        self.times.push(began.elapsed().as_secs_f64() * 1e3);
        if is_new {
            let outputs = outputs.first().context("the model returned no outputs")?;
            self.answers.push((self.answer)(outputs, original)?);
            let features = outputs.f32(EMBEDDING).ok();
            self.embeddings
                .extend(features.map(|features| features.data.clone()));
        }
        Ok(())
    }

    /// Returns the size of the ONNX files `graphs` in bytes and the lower quartile of the latencies in milliseconds:
    /// other programs on the machine only add time, so the faster runs tell more about the model than the median.
    fn timing(mut self, graphs: &Stages<Bytes>) -> Timing {
        self.times.sort_by(f64::total_cmp);
        Timing {
            bytes: graphs.iter().map(|stage| stage.content.len()).sum(),
            milliseconds: self
                .times
                .get(self.times.len() / 4)
                .copied()
                .unwrap_or_default(),
        }
    }
}

/// Returns the mean cosine similarity of the embeddings of each photograph. `None` if the network has none.
fn mean_cosine(float: &[Vec<f32>], int8: &[Vec<f32>]) -> Option<f64> {
    let pairs = float.iter().zip(int8);
    let sum: f64 = pairs.map(|(float, int8)| cosine(float, int8)).sum();
    (!float.is_empty()).then(|| sum / float.len() as f64)
}
