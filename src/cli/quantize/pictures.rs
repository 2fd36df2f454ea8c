//! The photographs of a calibration.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sightline::image::{
    DecodeOptions, ImageError, ImageSize, Orientation, PreparedImage, Preprocessor, decode,
};
use sightline::manifest::Preprocess;
use sightline::store::read_bounded;

use crate::cli::say::complain;

/// Photographs that are used unless a number is asked for.
const DEFAULT_COUNT: usize = 100;
/// Fewer than this give ranges by chance.
const FEW: usize = 16;
/// Most entries of a folder that are looked at.
const MAX_ENTRIES: usize = 1_000_000;
/// Largest file.
const MAX_BYTES: u64 = 64 << 20;
/// Most pixels of a photograph.
const MAX_PIXELS: u64 = 100_000_000;
/// Most pixels of preprocessed pictures that are planned without being asked for: 600 MB of numbers.
const MAX_TENSOR_PIXELS: u64 = 50_000_000;
/// Pixels that a search runs the network over each time: 16 pictures of 224x224.
const SEARCH_PIXELS: u64 = 16 * 224 * 224;

/// Photographs as a network takes them.
pub(super) struct Pictures {
    tensors: Vec<PreparedImage>,
    originals: Vec<ImageSize>,
}

impl Pictures {
    /// Reads `count` photographs of `folder` and of the folders in it, spread evenly over their names.
    pub(super) fn read(
        folder: &Path,
        count: Option<usize>,
        preprocess: &Preprocess,
    ) -> Result<Self> {
        if count == Some(0) {
            bail!("`--images`: expected at least 1, got 0");
        }
        let mut files = Vec::new();
        collect(folder, &mut files)?;
        files.sort();
        let preprocessor = Preprocessor::new(preprocess);
        let mut pictures = Self {
            tensors: Vec::new(),
            originals: Vec::new(),
        };
        let (wanted, mut skipped, mut pixels) = (count.unwrap_or(DEFAULT_COUNT), 0, 0);
        for file in spread(&files, wanted) {
            if count.is_none() && pixels > MAX_TENSOR_PIXELS {
                break;
            }
            match load(file, &preprocessor)? {
                Some((original, tensor)) if pictures.tensors.len() < wanted => {
                    pixels += tensor.size.pixels();
                    pictures.originals.push(original);
                    pictures.tensors.push(tensor);
                }
                Some(_) => break,
                None => skipped += 1,
            }
        }
        let found = pictures.tensors.len();
        if found == 0 {
            bail!(
                "{} holds no photographs ({skipped} other files)",
                folder.display()
            );
        }
        if let Some(wanted) = count.filter(|wanted| found < *wanted) {
            bail!(
                "{} holds {found} photographs, `--images` asks for {wanted}",
                folder.display()
            );
        }
        if found < FEW {
            complain!(
                "warning: {found} photographs are few: ranges, and agreement with the float model, are by chance"
            );
        }
        Ok(pictures)
    }

    /// All of them.
    pub(super) fn tensors(&self) -> &[PreparedImage] {
        &self.tensors
    }

    /// Their sizes before preprocessing.
    pub(super) fn originals(&self) -> &[ImageSize] {
        &self.originals
    }

    /// Those that a search looks at again and again.
    pub(super) fn few(&self) -> &[PreparedImage] {
        let mut pixels = 0;
        let few = self.tensors.iter().take_while(|tensor| {
            let room = pixels < SEARCH_PIXELS;
            pixels += tensor.size.pixels();
            room
        });
        &self.tensors[..few
            .count()
            .clamp(2.min(self.tensors.len()), self.tensors.len())]
    }
}

/// Every file below `folder`.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let read = || format!("cannot read the calibration folder {}", folder.display());
    for entry in std::fs::read_dir(folder).with_context(read)? {
        let entry = entry.with_context(read)?;
        if files.len() >= MAX_ENTRIES {
            bail!("{} holds more than {MAX_ENTRIES} files", folder.display());
        }
        // A link is not followed: it may lead back.
        let kind = entry.file_type().with_context(read)?;
        if kind.is_dir() {
            collect(&entry.path(), files)?;
        } else if entry.path().is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// The files in an order whose first `count` are spread evenly over all.
fn spread(files: &[PathBuf], count: usize) -> impl Iterator<Item = &PathBuf> {
    let step = (files.len() / count.max(1)).max(1);
    (0..step).flat_map(move |first| files.iter().skip(first).step_by(step))
}

/// One photograph; nothing for a file that is no picture. A damaged one is an error: whoever calibrates
/// on it should know.
fn load(file: &Path, preprocessor: &Preprocessor) -> Result<Option<(ImageSize, PreparedImage)>> {
    let options = DecodeOptions {
        max_pixels: MAX_PIXELS,
        orientation: Orientation::Apply,
    };
    let bytes = read_bounded(file, MAX_BYTES)?;
    let pixels = match decode(&bytes, &options) {
        Err(ImageError::UnknownFormat | ImageError::Empty) => return Ok(None),
        decoded => decoded.with_context(|| file.display().to_string())?,
    };
    let (width, height) = pixels.dimensions();
    let tensor = preprocessor.run(&pixels);
    let tensor = tensor.with_context(|| file.display().to_string())?;
    Ok(Some((ImageSize { width, height }, tensor)))
}
