//! `predict --output`: the results of many images in one file, and the continuation of interrupted runs.
//!
//! Results are written into `FILE.partial` in the order in which they are ready. When all images are done, FILE is
//! written in the order of the images and the partial file is deleted.

use std::collections::HashMap;
use std::fs::{File, FileType, OpenOptions};
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Instant, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use futures_util::stream::{self, StreamExt as _};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sightline::cpu::vector_features;
use sightline::engine::OnnxRuntime;
use sightline::manifest::{Task, sha256};
use sightline::store::ModelSource;

use super::format::{Format, Writer};
use super::inputs::Image;
use super::result::line;
use super::{PredictArgs, Predictor, runtime, same_file, why};
use crate::cli::eval::weights_sha256;
use crate::cli::journal::{Journal, Place, Run};
use crate::cli::progress::Steps;
use crate::cli::say::{complain, say};

/// How messages about files of results describe a run.
const RUN: Run = Run {
    what: "command",
    advice: "choose another file with --output",
};

/// What the results depend on. An interrupted run is continued only if it is equal.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    version: String,
    model: String,
    weights_sha256: Vec<String>,
    /// SHA-256 of the manifest's settings and of the flags, which results depend on, too.
    settings_sha256: String,
    /// Version, size and arithmetic of ONNX Runtime's library.
    runtime: String,
    /// Instruction sets for vectors that the CPU has, by which kernels are chosen. Empty if they are unknown.
    cpu: String,
}

/// The result of one image in the partial file.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// Size and time of change of the image's file. `None` if the file could not be examined.
    stamp: Option<Stamp>,
    result: Value,
}

/// Size in bytes and time of change of a file, in nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    bytes: u64,
    changed: u64,
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        let changed = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(Self {
            bytes: metadata.len(),
            changed: u64::try_from(changed.as_nanos()).ok()?,
        })
    }
}

/// The file of `--output`.
pub(super) struct Output {
    path: PathBuf,
    format: Format,
}

impl Output {
    /// Returns the file at `path` for a model of `task`. Without `format`, its extension decides.
    ///
    /// # Errors
    /// If the format is not known or does not apply to the task.
    pub(super) fn new(path: &Path, format: Option<Format>, task: Task) -> Result<Self> {
        let Some(format) = format.or_else(|| Format::of(path)) else {
            bail!(
                "`--output {}`: expected the extension .jsonl, .csv or .json, or --format",
                path.display()
            )
        };
        if format == Format::Coco && task != Task::Detection {
            bail!(
                "`--format coco`: COCO's results are those of detectors, but the task of the model is {}",
                task.as_str()
            );
        }
        Ok(Self {
            path: path.to_path_buf(),
            format,
        })
    }

    /// Checks that the file is none of `images` and can be written.
    pub(super) fn check(&self, images: &[Image]) -> Result<()> {
        let path = self.path.display();
        // The file is replaced when it is complete.
        for file in [&self.path, &self.unfinished()] {
            if let Ok(metadata) = file.symlink_metadata()
                && let Some(kind) = special(metadata.file_type())
            {
                let file = file.display();
                bail!(
                    "`--output {path}`: expected {file} to be a regular file or not to exist, got {kind}"
                );
            }
        }
        let folder = self.folder();
        if !folder.is_dir() {
            bail!(
                "`--output {path}`: the folder {} does not exist",
                folder.display()
            );
        }
        let exists = self.path.exists();
        if exists
            && images
                .iter()
                .any(|image| same_file(&image.path, &self.path))
        {
            bail!("`--output {path}`: one of the images would be replaced");
        }
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether the file has the errors of images.
    pub(super) fn has_errors(&self) -> bool {
        self.format != Format::Coco
    }

    /// Returns the path of the file while it is written.
    fn unfinished(&self) -> PathBuf {
        self.path.with_added_extension("unfinished")
    }

    fn folder(&self) -> &Path {
        let parent = self.path.parent();
        parent
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."))
    }

    /// Opens the partial file of a run with the model `source`, and finds the results of an interrupted run.
    ///
    /// # Errors
    /// If the partial file cannot be used or belongs to another run.
    pub(super) fn open(
        self,
        (source, runtime): (&ModelSource, &OnnxRuntime),
        args: &PredictArgs,
        images: &[Image],
    ) -> Result<Opened> {
        let identity = identity((source, runtime), args)?;
        let index = images.iter().enumerate();
        let index: HashMap<String, usize> = index
            .map(|(number, image)| (image.path.display().to_string(), number))
            .collect();
        let mut places = vec![None; images.len()];
        let partial = self.path.with_added_extension("partial");
        let journal = Journal::open(partial, &identity, RUN, |record: Record, place| {
            let name = record.result["image"].as_str();
            let Some(number) = name.and_then(|name| index.get(name)) else {
                return;
            };
            let is_same =
                record.stamp.is_some() && record.stamp == Stamp::of(&images[*number].path);
            // An error may have a cause that is gone.
            places[*number] = (is_same && record.result["error"].is_null()).then_some(place);
        })?;
        Ok(Opened {
            output: self,
            journal,
            places,
        })
    }
}

/// Returns what a file is, if it is not a regular one.
fn special(kind: FileType) -> Option<&'static str> {
    if kind.is_file() {
        None
    } else if kind.is_dir() {
        Some("a folder")
    } else if kind.is_symlink() {
        Some("a symbolic link")
    } else {
        Some("a device, pipe or socket")
    }
}

/// Returns what the results depend on.
fn identity(
    (source, runtime): (&ModelSource, &OnnxRuntime),
    args: &PredictArgs,
) -> Result<Identity> {
    let manifest = &source.manifest;
    let settings = format!(
        "{:?} {:?} {:?} {} {} {:?} {:?} {:?}",
        manifest.preprocess,
        manifest.detection,
        manifest.activation,
        args.top_k,
        args.score_threshold,
        args.decode,
        args.annotate,
        args.masks
    );
    Ok(Identity {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        model: source.id(),
        weights_sha256: weights_sha256(source)?,
        settings_sha256: sha256(settings.as_bytes()),
        runtime: runtime.identity(),
        cpu: vector_features().unwrap_or_default(),
    })
}

/// A run whose results are being written.
pub(super) struct Opened {
    output: Output,
    journal: Journal,
    /// Place of each image's result. `None` for images that are not done.
    places: Vec<Option<Place>>,
}

impl Opened {
    /// Runs the model on the images that are not done, and writes the file. Returns the number of images that failed.
    ///
    /// # Errors
    /// If a file of results or a drawing's folder cannot be written.
    pub(super) fn run(mut self, predictor: &Predictor<'_>, images: &[Image]) -> Result<usize> {
        let missing: Vec<usize> = (0..images.len())
            .filter(|index| self.places[*index].is_none())
            .collect();
        let (done, count) = (images.len() - missing.len(), images.len());
        if done > 0 {
            complain!("continuing: {done} of {count} images are done");
        }
        let steps = Steps::new(predictor.model.id(), count, done);
        let started = Instant::now();
        let failed = runtime()?.block_on(self.predict(predictor, images, &missing, &steps));
        drop(steps);
        let failed = failed?;
        let seconds = started.elapsed().as_secs_f64();
        let path = self.output.path.clone();
        self.finish()?;
        say!(
            "{}: {count} images, {failed} failed; {} in {seconds:.1} s, {:.1} per second",
            path.display(),
            missing.len(),
            missing.len() as f64 / seconds
        )?;
        Ok(failed)
    }

    /// Runs the model on the images `missing`, and returns the number of those that failed.
    async fn predict(
        &mut self,
        predictor: &Predictor<'_>,
        images: &[Image],
        missing: &[usize],
        steps: &Steps,
    ) -> Result<usize> {
        let results = stream::iter(missing).map(|index| async move {
            let image = &images[*index];
            // Before the file is read, so that a later change is noticed.
            let stamp = Stamp::of(&image.path);
            (*index, stamp, predictor.predict(image).await)
        });
        let mut results = std::pin::pin!(results.buffer_unordered(predictor.at_a_time()));
        let mut failed = 0;
        while let Some((index, stamp, result)) = results.next().await {
            let path = &images[index].path;
            let result = match result {
                Ok(result) => json!(result),
                Err(error) => {
                    failed += 1;
                    let why = why(&error);
                    if !self.output.has_errors() {
                        complain!("error: {}: {why}", path.display());
                    }
                    steps.note(format!("{failed} failed"));
                    json!({ "error": why })
                }
            };
            let result = line(result, &predictor.model, path);
            self.places[index] = Some(self.journal.add(&Record { stamp, result })?);
            steps.step();
        }
        Ok(failed)
    }

    /// Writes the file in the order of the images, and deletes the partial one.
    fn finish(self) -> Result<()> {
        let path = &self.output.path;
        let unfinished = self.output.unfinished();
        let written = self.write(&unfinished);
        let written = written.and_then(|()| Ok(std::fs::rename(&unfinished, path)?));
        if written.is_err() {
            let _ = std::fs::remove_file(&unfinished);
        }
        written.with_context(|| {
            format!(
                "cannot write {}; the same command writes it again from the results in {}",
                path.display(),
                path.with_added_extension("partial").display()
            )
        })?;
        self.journal.delete();
        Ok(())
    }

    fn write(&self, path: &Path) -> Result<()> {
        let file: File = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            // A pipe that was made meanwhile is an error, instead of waiting for its reader.
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
            .open(path)?;
        let mut writer = Writer::new(BufWriter::new(file), self.output.format)?;
        for place in self.places.iter().flatten() {
            let record: Record = self.journal.read(*place)?;
            writer.add(&record.result)?;
        }
        let mut file = writer.finish()?;
        file.flush()?;
        file.get_ref().sync_all()?;
        Ok(())
    }
}
