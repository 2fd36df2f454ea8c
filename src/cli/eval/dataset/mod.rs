//! Data sets: their images with annotations, checked before any image is decoded.

mod coco;
mod imagenet;
mod voc;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use onnx_export::text::shown;
use serde::Serialize;
use sightline::evaluate::detection::Annotation;
use sightline::manifest::{ModelManifest, Task, sha256};

use super::args::DatasetRef;
pub(super) use voc::read_mask;

/// Maximum number of images of a data set.
const MAX_IMAGES: usize = 10_000_000;

/// The images of a data set, in a fixed order.
pub(super) struct Dataset {
    /// `imagenet`, `coco` or `voc`.
    pub(super) kind: &'static str,
    pub(super) samples: Vec<Sample>,
    /// Classes whose detections count: the categories of a COCO data set. Empty for other data sets.
    pub(super) classes: BTreeSet<usize>,
}

/// An image with its annotation.
pub(super) struct Sample {
    /// Path of the image relative to the folder of the data set, for reports.
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) truth: Truth,
}

/// The annotation of an image.
pub(super) enum Truth {
    Class(usize),
    Boxes(Vec<Annotation>),
    /// Path of a PNG whose pixel values are the classes.
    Mask(PathBuf),
}

impl Dataset {
    /// Reads the data set for the model `manifest` with the class names `labels`. With `count`, keeps
    /// only so many images, spread evenly.
    ///
    /// # Errors
    /// If the data set does not fit the model's task or classes, if it has no images, if one of its
    /// images is missing, or if a file of annotations cannot be read or contradicts itself.
    pub(super) fn read(
        reference: &DatasetRef,
        (manifest, labels): (&ModelManifest, &[String]),
        count: Option<usize>,
    ) -> Result<Self> {
        let (kind, task) = match reference {
            DatasetRef::Imagenet { .. } => ("imagenet", Task::Classification),
            DatasetRef::Coco { .. } => ("coco", Task::Detection),
            DatasetRef::Voc { .. } => ("voc", Task::Segmentation),
        };
        if manifest.task != task {
            bail!(
                "`--dataset`: a data set of the kind {kind} is for {} models, but {} is a {} model",
                task.as_str(),
                manifest.name,
                manifest.task.as_str()
            );
        }
        let (mut samples, classes) = match reference {
            DatasetRef::Imagenet { folder } => (imagenet::read(folder, labels)?, BTreeSet::new()),
            DatasetRef::Coco { images, json } => coco::read(images, json, labels)?,
            DatasetRef::Voc { images, masks } => (voc::read(images, masks)?, BTreeSet::new()),
        };
        check_files(&samples)?;
        if let Some(count) = count {
            let all = samples.len();
            if count > all {
                bail!(
                    "`--images`: expected at most {all}, the images of the data set, got {count}"
                );
            }
            let mut index = 0;
            samples.retain(|_| {
                index += 1;
                index * count / all > (index - 1) * count / all
            });
        }
        Ok(Self {
            kind,
            samples,
            classes,
        })
    }

    /// Returns the SHA-256 of the names and annotations, but not of the images.
    pub(super) fn annotations_sha256(&self) -> String {
        let lines = self.samples.iter().map(Sample::line);
        sha256(lines.collect::<Vec<_>>().join("\n").as_bytes())
    }
}

impl Sample {
    /// Returns the name and annotation as text. A mask is only named.
    fn line(&self) -> String {
        let truth = match &self.truth {
            Truth::Class(class) => class.to_string(),
            Truth::Boxes(boxes) => boxes_text(boxes),
            Truth::Mask(path) => path.file_name().unwrap_or_default().display().to_string(),
        };
        format!("{:?} {truth}", self.name)
    }

    /// Returns the SHA-256 of the image's name, bytes and annotation. `mask` are the bytes of the
    /// annotated mask, empty if there is none.
    pub(super) fn digest(&self, image: &[u8], mask: &[u8]) -> String {
        let parts = [self.line(), sha256(image), sha256(mask)];
        sha256(parts.join("\n").as_bytes())
    }
}

/// Returns annotations as text that two data sets share only if their annotations are equal.
fn boxes_text(boxes: &[Annotation]) -> String {
    #[derive(Serialize)]
    struct Line(usize, [f64; 4], f64, bool);
    let lines = boxes.iter().map(|a| {
        let b = a.bounding_box;
        Line(
            a.class_id,
            [b.x, b.y, b.width, b.height],
            a.area,
            a.is_crowd,
        )
    });
    serde_json::to_string(&lines.collect::<Vec<_>>()).unwrap_or_default()
}

/// Checks that there are images, and that all of them exist.
fn check_files(samples: &[Sample]) -> Result<()> {
    if samples.is_empty() {
        bail!("the data set has no images");
    }
    let missing = samples.iter().filter(|sample| !sample.path.is_file());
    let missing: Vec<&Sample> = missing.collect();
    if let Some(first) = missing.first() {
        bail!(
            "{} of {} images of the data set are missing, the first is {}",
            missing.len(),
            samples.len(),
            first.path.display()
        );
    }
    Ok(())
}

/// Returns the paths of the files in `folder` that satisfy `is_wanted`, sorted. Files in subfolders are not
/// included.
fn files(folder: &Path, is_wanted: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>> {
    use anyhow::Context as _;
    let read = || format!("cannot read the folder {}", folder.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(read)? {
        let path = entry.with_context(read)?.path();
        if path.is_file() && is_wanted(&path) {
            if files.len() >= MAX_IMAGES {
                bail!("{} has more than {MAX_IMAGES} files", folder.display());
            }
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Returns whether a file's name has an extension of images.
fn is_image(path: &Path) -> bool {
    const EXTENSIONS: [&str; 6] = ["jpg", "jpeg", "png", "webp", "bmp", "gif"];
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| {
        EXTENSIONS
            .iter()
            .any(|known| known.eq_ignore_ascii_case(extension))
    })
}

/// Returns `path` relative to `folder`, for reports.
fn relative(path: &Path, folder: &Path) -> String {
    path.strip_prefix(folder)
        .unwrap_or(path)
        .display()
        .to_string()
}

/// Returns the path of the file `name` in `folder`.
///
/// # Errors
/// If `name`, which comes from a file of annotations, leads out of the folder.
fn inside(folder: &Path, name: &str) -> Result<PathBuf> {
    use std::path::Component;
    let path = Path::new(name);
    let is_plain = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    if name.is_empty() || !path.components().all(is_plain) {
        bail!(
            "expected the name of a file in the folder of the images, got `{}`",
            shown(name)
        );
    }
    Ok(folder.join(path))
}
