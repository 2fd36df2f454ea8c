//! The images that a load test sends.

use std::path::Path;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use sightline::app::Limits;
use sightline::store::read_regular;

use super::BenchArgs;

/// Maximum number of files of a folder.
const MAX_FILES: usize = 100_000;
/// Maximum size of all files of a folder together, in bytes: all are in memory during the test.
const MAX_BYTES: usize = 2 << 30;

/// An image file.
#[derive(Debug, Clone)]
pub(super) struct Image {
    /// Name of the file.
    pub(super) name: String,
    /// Its content, or a request with it.
    pub(super) content: Bytes,
    /// Size of the JSON in front of the tensors in bytes, if `content` is a request of the Open Inference Protocol.
    pub(super) json_bytes: Option<usize>,
}

impl Image {
    /// Returns an image file.
    pub(super) fn new(name: &str, content: Bytes) -> Self {
        Self {
            name: name.to_owned(),
            content,
            json_bytes: None,
        }
    }
}

/// Returns the images of `--images`, or else `image`.
///
/// # Errors
/// As [`folder`].
pub(super) fn chosen(args: &BenchArgs, image: Bytes) -> Result<Vec<Image>> {
    match &args.images {
        Some(path) => folder(path),
        None => Ok(vec![Image::new("image", image)]),
    }
}

/// Reads all regular files of the folder at `path`, sorted by name, as the images of a load test.
///
/// # Errors
/// If the folder cannot be read, has no files, or too many or too large ones.
fn folder(path: &Path) -> Result<Vec<Image>> {
    let shown = path.display();
    let entries = std::fs::read_dir(path).with_context(|| format!("cannot read {shown}"))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("cannot read {shown}"))?
            .path();
        if path.is_file() {
            paths.push(path);
        }
        if paths.len() > MAX_FILES {
            bail!("{shown} has more than {MAX_FILES} files");
        }
    }
    paths.sort();
    let (mut images, mut total) = (Vec::with_capacity(paths.len()), 0);
    for path in paths {
        let content = read_regular(&path, Limits::default().max_body_bytes as u64)?;
        total += content.len();
        if total > MAX_BYTES {
            bail!("the files of {shown} have more than {MAX_BYTES} bytes together");
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        images.push(Image::new(&onnx_export::text::shown(&name), content.into()));
    }
    if images.is_empty() {
        bail!("{shown} has no files");
    }
    Ok(images)
}
