//! Float against int8: answers, sizes and times.

use std::time::Instant;

use anyhow::{Context, Result};
use bytes::Bytes;
use sightline::engine::{Arithmetic, Engine};
use sightline::postprocess::detect::Detector;
use sightline::quantize::{Agreement, Answers, NetworkReport, Progress, Report, Timing};
use sightline::store::{Graphs, ModelSource};

use super::Work;
use crate::cli::target::own_target;

/// Runs of each precision whose times count.
const MIN_RUNS: usize = 30;

/// Runs both precisions over all pictures, turn by turn, so that a slow moment of the machine meets
/// both.
pub(super) fn report(
    work: &Work<'_>,
    source: &ModelSource,
    detector: Option<&Detector>,
    (float, int8): (&Graphs<Bytes>, &Graphs<Bytes>),
    networks: Vec<NetworkReport>,
) -> Result<Report> {
    let engine = |graphs| work.engine(source, detector, graphs, Arithmetic::Kernels);
    let mut sides = [Side::new(engine(float)?), Side::new(engine(int8)?)];
    let tensors = work.pictures.tensors();
    let rounds = MIN_RUNS.div_ceil(tensors.len());
    work.bars.start("comparing", rounds * tensors.len());
    for round in 0..rounds {
        for (picture, original) in tensors.iter().zip(work.pictures.originals()) {
            for side in &mut sides {
                let began = Instant::now();
                let outputs = side.engine.run(vec![picture.clone()])?;
                side.times.push(began.elapsed().as_secs_f64() * 1e3);
                if round == 0 {
                    let outputs = outputs.first().context("the network gave no output")?;
                    let task = source.manifest.task;
                    side.answers
                        .push(Answers::new(task, detector, outputs, *original)?);
                }
            }
            work.bars.step();
        }
    }
    let [float_side, mut int8_side] = sides;
    let simulated = work.target != own_target();
    if simulated {
        // The kernels of this processor do not give what those of the target will.
        int8_side.answers.clear();
        let mut engine = work.engine(source, detector, int8, Arithmetic::Simulated)?;
        for (picture, original) in tensors.iter().zip(work.pictures.originals()) {
            let outputs = engine.run(vec![picture.clone()])?;
            let outputs = outputs.first().context("the network gave no output")?;
            let task = source.manifest.task;
            int8_side
                .answers
                .push(Answers::new(task, detector, outputs, *original)?);
        }
    }
    work.bars.finish();
    Ok(Report {
        model: source.manifest.name.clone(),
        target: work.target,
        simulated,
        agreement: Agreement::of(&float_side.answers, &int8_side.answers),
        fp32: float_side.timing(float),
        int8: int8_side.timing(int8),
        networks,
    })
}

/// One precision.
struct Side {
    engine: Box<dyn Engine>,
    times: Vec<f64>,
    answers: Vec<Answers>,
}

impl Side {
    fn new(engine: Box<dyn Engine>) -> Self {
        Self {
            engine,
            times: Vec::new(),
            answers: Vec::new(),
        }
    }

    fn timing(mut self, graphs: &Graphs<Bytes>) -> Timing {
        self.times.sort_by(f64::total_cmp);
        let box_head = graphs.box_head.as_ref().map_or(0, Bytes::len);
        Timing {
            bytes: graphs.network.len() + box_head,
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
