//! Measures the stages of a request (decoding, preprocessing, inference, postprocessing) on one
//! thread, without a server.

use std::time::Instant;

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use sightline::cancel::Cancel;
use sightline::engine::{Engine, OnnxRuntime};
use sightline::image::{DecodeOptions, ImageSize, Orientation, Preprocessor, decode};
use sightline::manifest::Task;
use sightline::postprocess::detect::{DetectOptions, Detector};
use sightline::postprocess::primary_output;
use sightline::postprocess::segment::{MaskJob, VOC_PALETTE, mask_png, segment};
use sightline::registry::check_activation;
use sightline::registry::networks::Networks;
use sightline::store::ModelSource;

use super::load::median;

/// CPU time of each stage of a request for one image, and elapsed time of all stages together, in
/// milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Stages {
    pub(super) decode: f64,
    pub(super) preprocess: f64,
    pub(super) inference: f64,
    /// CPU time of postprocessing to boxes or to a mask as PNG, in milliseconds. Postprocessing to
    /// labels is negligible and not run.
    pub(super) postprocess: f64,
    /// Elapsed time of all stages together, in milliseconds.
    pub(super) wall: f64,
}

impl Stages {
    /// Returns the median of each field over `runs`.
    pub(super) fn median(runs: &[Self]) -> Self {
        let over = |figure: fn(&Self) -> f64| median(runs.iter().map(figure).collect());
        Self {
            decode: over(|run| run.decode),
            preprocess: over(|run| run.preprocess),
            inference: over(|run| run.inference),
            postprocess: over(|run| run.postprocess),
            wall: over(|run| run.wall),
        }
    }

    /// Returns the CPU time of all stages for one image, in milliseconds.
    pub(super) fn cpu(&self) -> f64 {
        self.decode + self.preprocess + self.inference + self.postprocess
    }
}

/// A model whose stages (decoding, preprocessing, inference, postprocessing) are called directly,
/// without a server.
pub(super) struct Alone {
    task: Task,
    preprocessor: Preprocessor,
    engine: Box<dyn Engine>,
    detector: Option<Detector>,
}

impl Alone {
    pub(super) fn new(runtime: &OnnxRuntime, source: &ModelSource) -> Result<Self> {
        let detector = Detector::of(&source.manifest)?;
        let mut engine = Networks::prepare(source, detector.as_ref(), runtime)?.engine()?;
        check_activation(&source.manifest, &mut *engine)?;
        let preprocessor = Preprocessor::new(&source.manifest.preprocess);
        Ok(Self {
            task: source.manifest.task,
            preprocessor,
            engine,
            detector,
        })
    }

    /// Runs all stages on `image`, the bytes of an image file, and returns the time of each stage.
    pub(super) fn once(&mut self, image: &[u8]) -> Result<Stages> {
        let options = DecodeOptions {
            max_pixels: u64::MAX,
            orientation: Orientation::Apply,
        };
        let (started, start) = (Instant::now(), thread_cpu());
        let pixels = decode(image, &options)?;
        let decoded = thread_cpu();
        let tensor = self.preprocessor.run(&pixels)?;
        let preprocessed = thread_cpu();
        let outputs = self
            .engine
            .run(vec![tensor])?
            .pop()
            .context("the engine returned no outputs for the image")?;
        let inferred = thread_cpu();
        let (width, height) = pixels.dimensions();
        let size = ImageSize { width, height };
        if let Some(detector) = &self.detector {
            let options = DetectOptions {
                score_threshold: 0.5,
                ..DetectOptions::default()
            };
            detector.detect(&outputs, size, &options, &Cancel::never())?;
        } else if self.task == Task::Segmentation {
            let scores = primary_output(self.task, &outputs)?;
            let mask = segment(scores, Some(size), MaskJob::alone(&Cancel::never()))?;
            mask_png(&mask, &VOC_PALETTE, &Cancel::never())?;
        }
        let postprocessed = thread_cpu();
        Ok(Stages {
            decode: decoded - start,
            preprocess: preprocessed - decoded,
            inference: inferred - preprocessed,
            postprocess: postprocessed - inferred,
            wall: started.elapsed().as_secs_f64() * 1e3,
        })
    }
}

/// Returns the CPU time that this thread has used so far, in milliseconds. Time in which other
/// processes run instead of this thread is not included.
fn thread_cpu() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}
