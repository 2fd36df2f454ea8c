//! The stages of a request without a server, on one thread.

use std::time::Instant;

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};
use sightline::engine::{Engine, OnnxRuntime};
use sightline::image::{DecodeOptions, ImageSize, Orientation, Preprocessor, decode};
use sightline::manifest::Task;
use sightline::networks::Networks;
use sightline::postprocess::detect::{DetectOptions, Detector};
use sightline::postprocess::segment::{VOC_PALETTE, mask_png, segment};
use sightline::store::ModelSource;

use super::load::median;

/// Milliseconds of CPU per picture, and of the clock on the wall for all stages together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stages {
    pub(super) decode: f64,
    pub(super) preprocess: f64,
    pub(super) inference: f64,
    /// From the network's output to boxes or to the bytes of a mask; nothing worth measuring for labels.
    pub(super) answer: f64,
    pub(super) wall: f64,
}

impl Stages {
    /// The median of each figure.
    pub(super) fn median(runs: &[Self]) -> Self {
        let over = |figure: fn(&Self) -> f64| median(runs.iter().map(figure).collect());
        Self {
            decode: over(|run| run.decode),
            preprocess: over(|run| run.preprocess),
            inference: over(|run| run.inference),
            answer: over(|run| run.answer),
            wall: over(|run| run.wall),
        }
    }

    /// CPU time of all stages.
    pub(super) fn cpu(&self) -> f64 {
        self.decode + self.preprocess + self.inference + self.answer
    }
}

/// A session of its own, and the preprocessing before it.
pub(super) struct Alone {
    task: Task,
    preprocessor: Preprocessor,
    engine: Box<dyn Engine>,
    detector: Option<Detector>,
}

impl Alone {
    pub(super) fn new(runtime: &OnnxRuntime, source: &ModelSource) -> Result<Self> {
        let detector = Detector::of(&source.manifest)?;
        let engine = Networks::prepare(source, detector.as_ref(), runtime)?.engine(1)?;
        let preprocessor = Preprocessor::new(&source.manifest.preprocess);
        Ok(Self {
            task: source.manifest.task,
            preprocessor,
            engine,
            detector,
        })
    }

    /// Takes `picture` through the stages once.
    pub(super) fn once(&mut self, picture: &[u8]) -> Result<Stages> {
        let options = DecodeOptions {
            max_pixels: u64::MAX,
            orientation: Orientation::Apply,
        };
        let (started, start) = (Instant::now(), thread_cpu());
        let pixels = decode(picture, &options)?;
        let decoded = thread_cpu();
        let tensor = self.preprocessor.run(&pixels)?;
        let preprocessed = thread_cpu();
        let outputs = self.engine.run(vec![tensor])?.pop().context("no output")?;
        let inferred = thread_cpu();
        let (width, height) = pixels.dimensions();
        let size = ImageSize { width, height };
        if let Some(detector) = &self.detector {
            let options = DetectOptions {
                score_threshold: 0.5,
                ..DetectOptions::default()
            };
            detector.detect(&outputs, size, &options)?;
        } else if self.task == Task::Segmentation {
            let scores = outputs.first().context("no output")?;
            let mask = segment(scores, Some(size), 1)?;
            mask_png(&mask, &VOC_PALETTE)?;
        }
        let answered = thread_cpu();
        Ok(Stages {
            decode: decoded - start,
            preprocess: preprocessed - decoded,
            inference: inferred - preprocessed,
            answer: answered - inferred,
            wall: started.elapsed().as_secs_f64() * 1e3,
        })
    }
}

/// Milliseconds that this thread has run: time taken by neighbours does not count.
fn thread_cpu() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}
