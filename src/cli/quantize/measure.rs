//! Float against int8: answers, sizes and times.

use std::time::Instant;

use anyhow::{Context, Result};
use bytes::Bytes;
use onnx_export::Stages;
use sightline::cpu::int8_target;
use sightline::engine::{Arithmetic, Engine, Tensor};
use sightline::image::{ImageSize, PreparedImage};
use sightline::postprocess::detect::{DetectError, Detector};
use sightline::quantize::{Agreement, Answers, NetworkReport, Progress, Report, Timing};
use sightline::store::ModelSource;

use super::Work;

/// Runs of each precision whose times count.
const MIN_RUNS: usize = 30;

/// Runs both precisions over all pictures, turn by turn, so that a slow moment of the machine meets
/// both.
pub(super) fn report(
    work: &Work<'_>,
    source: &ModelSource,
    detector: Option<&Detector>,
    (float, int8): (&Stages<Bytes>, &Stages<Bytes>),
    networks: Vec<NetworkReport>,
) -> Result<Report> {
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
    // The kernels of this processor do not give what those of another target will.
    let simulated = work.target != int8_target();
    let mut simulation = simulated
        .then(|| side(int8, Arithmetic::Simulated))
        .transpose()?;
    let tensors = work.pictures.tensors();
    let rounds = MIN_RUNS.div_ceil(tensors.len());
    work.bars.start("comparing", rounds * tensors.len());
    let pictures = || tensors.iter().zip(work.pictures.originals());
    for round in 0..rounds {
        for (picture, original) in pictures() {
            for side in [&mut float_side, &mut int8_side] {
                side.run(picture, *original, round == 0)?;
            }
            work.bars.step();
        }
    }
    // Apart, so that it does not come between the runs whose times count.
    if let Some(simulation) = &mut simulation {
        for (picture, original) in pictures() {
            simulation.run(picture, *original, true)?;
        }
    }
    let int8_answers = &simulation.as_ref().unwrap_or(&int8_side).answers;
    work.bars.finish();
    Ok(Report {
        model: source.manifest.name.clone(),
        target: work.target,
        simulated,
        agreement: Agreement::of(&float_side.answers, int8_answers),
        fp32: float_side.timing(float),
        int8: int8_side.timing(int8),
        networks,
    })
}

/// From a network's outputs for a picture of this size to what they say.
type Answer<'a> = dyn Fn(&[Tensor], ImageSize) -> Result<Answers, DetectError> + 'a;

/// One precision.
struct Side<'a> {
    engine: Box<dyn Engine>,
    answer: Box<Answer<'a>>,
    times: Vec<f64>,
    answers: Vec<Answers>,
}

impl Side<'_> {
    /// Runs one picture of size `original`, and keeps what is said of it where that is new.
    fn run(&mut self, picture: &PreparedImage, original: ImageSize, is_new: bool) -> Result<()> {
        let began = Instant::now();
        let outputs = self.engine.run(vec![picture.clone()])?;
        self.times.push(began.elapsed().as_secs_f64() * 1e3);
        if is_new {
            let outputs = outputs.first().context("the network gave no output")?;
            self.answers.push((self.answer)(outputs, original)?);
        }
        Ok(())
    }

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

/// Why the model should not be used, and what to do about it.
pub(super) fn objection(report: &Report, min_agreement: f64) -> Option<String> {
    let agreement = report.agreement.agreement;
    if agreement < min_agreement {
        return Some(format!(
            "int8 agrees with float on {:.1} % of the answers, `--min-agreement` asks for {:.1} %. \
             Calibrate on more photographs, such as the model will see; allow more layers in float \
             (--max-float 0.4); ask for outputs that are nearer (--min-cosine 0.9995); or accept it with --force",
            agreement * 100.0,
            min_agreement * 100.0
        ));
    }
    // Of another processor's speed this one's says nothing.
    (!report.simulated && report.speedup() <= 1.0).then(|| {
        format!(
            "int8 is not faster here: {:.2} ms, float {:.2} ms. {} Allow fewer layers in float \
             (--max-float 0.1), serve float, or write it with --force",
            report.int8.milliseconds,
            report.fp32.milliseconds,
            "Processors with VNNI (2019 and later servers) gain most."
        )
    })
}
