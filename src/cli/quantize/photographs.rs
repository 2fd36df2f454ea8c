//! Reads and preprocesses the photographs, and holds some of them out from calibration.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sightline::image::{
    DecodeOptions, ImageError, ImageSize, Orientation, PreparedImage, Preprocessor, decode,
};
use sightline::manifest::Preprocess;
use sightline::quantize::ImageCounts;
use sightline::store::read_regular;

use crate::cli::progress::Steps;
use crate::cli::say::complain;

/// Maximum number of photographs that are used without `--images`.
const DEFAULT_COUNT: usize = 100;
/// Minimum number of photographs for reliable activation ranges. With fewer, a warning is printed.
const FEW: usize = 16;
/// Maximum number of files in the calibration folder, including its subfolders.
const MAX_ENTRIES: usize = 1_000_000;
/// Maximum size of a photograph's file in bytes.
const MAX_BYTES: u64 = 64 << 20;
/// Maximum number of pixels of a photograph.
const MAX_PIXELS: u64 = 100_000_000;
/// Total number of pixels of preprocessed photographs after which no more photographs are read if
/// `--images` is not set. Their tensors take 600 MB.
const MAX_TENSOR_PIXELS: u64 = 50_000_000;
/// Total number of pixels of preprocessed photographs after which the search uses no more
/// photographs: 16 photographs of 224x224 pixels.
const SEARCH_PIXELS: u64 = 16 * 224 * 224;

/// Of this many photographs, in the order of their paths, the last is held out.
const HELD_OUT: usize = 5;

/// Photographs that are preprocessed for a model: some for calibration and search, the others for the comparison of
/// fp32 and int8.
pub(super) struct Photographs {
    calibration: Vec<PreparedImage>,
    /// Held-out photographs. The calibration photograph if there is only one photograph.
    compared: Vec<PreparedImage>,
    /// Sizes of `compared` before preprocessing.
    originals: Vec<ImageSize>,
    /// Whether `compared` holds other photographs than `calibration`.
    are_held_out: bool,
}

/// A preprocessed photograph.
struct Photograph<'a> {
    file: &'a Path,
    /// Size before preprocessing, in pixels.
    original: ImageSize,
    tensor: PreparedImage,
}

impl Photographs {
    /// Reads `count` photographs from `folder` and its subfolders, spread evenly over the sorted
    /// paths. A `count` of `None` means up to 100 photographs, or fewer if the model's input is
    /// large. Every fifth of them is held out.
    ///
    /// # Errors
    /// If `folder` cannot be read, if it holds no photographs or fewer than `count`, or if a
    /// photograph is damaged.
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
        let mut photographs = Vec::new();
        let (wanted, mut skipped, mut pixels) = (count.unwrap_or(DEFAULT_COUNT), 0, 0);
        let steps = Steps::new("reading the photographs", wanted.min(files.len()), 0);
        for file in spread(&files, wanted) {
            if count.is_none() && pixels > MAX_TENSOR_PIXELS {
                break;
            }
            match load(file, &preprocessor)? {
                Some((original, tensor)) if photographs.len() < wanted => {
                    pixels += tensor.size.pixels();
                    steps.step();
                    photographs.push(Photograph {
                        file,
                        original,
                        tensor,
                    });
                }
                Some(_) => break,
                None => skipped += 1,
            }
        }
        drop(steps);
        let found = photographs.len();
        if found == 0 {
            bail!(
                "the calibration folder {} holds no photographs ({skipped} other files)",
                folder.display()
            );
        }
        if let Some(wanted) = count.filter(|wanted| found < *wanted) {
            bail!(
                "the calibration folder {} holds {found} photographs, but `--images` is {wanted}",
                folder.display()
            );
        }
        if found < FEW {
            complain!(
                "warning: {found} photographs are too few for reliable activation ranges and agreement; use at least {FEW}"
            );
        }
        Ok(Self::split(photographs))
    }

    /// Divides the photographs in the order of their paths. There must be at least one photograph.
    fn split(mut photographs: Vec<Photograph<'_>>) -> Self {
        photographs.sort_by_key(|photograph| photograph.file);
        let count = photographs.len();
        let (mut calibration, mut compared, mut originals) = (Vec::new(), Vec::new(), Vec::new());
        for (index, photograph) in photographs.into_iter().enumerate() {
            let Photograph {
                original, tensor, ..
            } = photograph;
            if count == 1 {
                calibration.push(tensor.clone());
            }
            if count == 1 || is_held_out(index, count) {
                compared.push(tensor);
                originals.push(original);
            } else {
                calibration.push(tensor);
            }
        }
        Self {
            calibration,
            compared,
            originals,
            are_held_out: count > 1,
        }
    }

    /// Returns the photographs for calibration and search.
    pub(super) fn calibration(&self) -> &[PreparedImage] {
        &self.calibration
    }

    /// Returns the photographs on which fp32 and int8 are compared: the held-out ones, or the calibration photograph
    /// if there is only one photograph.
    pub(super) fn compared(&self) -> &[PreparedImage] {
        &self.compared
    }

    /// Returns the sizes before preprocessing, in pixels, of [`Photographs::compared`].
    pub(super) fn originals(&self) -> &[ImageSize] {
        &self.originals
    }

    /// Returns a photograph for the check that outputs depend on the image, which needs two. `None` if several
    /// photographs are held out.
    pub(super) fn other(&self) -> Option<&PreparedImage> {
        let calibration = self.calibration.first();
        calibration.filter(|_| self.compared.len() == 1)
    }

    /// Returns the number of photographs by their use.
    pub(super) fn counts(&self) -> ImageCounts {
        let held_out = self.compared.len();
        ImageCounts {
            calibration: self.calibration.len(),
            held_out: if self.are_held_out { held_out } else { 0 },
        }
    }

    /// Returns the photographs on which the search runs each candidate network: the first
    /// photographs, until [`SEARCH_PIXELS`] pixels are reached, but at least two (if there are
    /// two).
    pub(super) fn few(&self) -> &[PreparedImage] {
        let mut pixels = 0;
        let few = self.calibration.iter().take_while(|tensor| {
            let room = pixels < SEARCH_PIXELS;
            pixels += tensor.size.pixels();
            room
        });
        let all = self.calibration.len();
        &self.calibration[..few.count().clamp(2.min(all), all)]
    }
}

/// Returns whether the photograph at `index` of `count` sorted photographs is held out: every fifth, or the last of 2
/// to 4.
fn is_held_out(index: usize, count: usize) -> bool {
    if count < HELD_OUT {
        count > 1 && index + 1 == count
    } else {
        index % HELD_OUT == HELD_OUT - 1
    }
}

/// Adds the paths of all files in `folder` and its subfolders to `files`.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let read = || format!("cannot read the calibration folder {}", folder.display());
    for entry in std::fs::read_dir(folder).with_context(read)? {
        let entry = entry.with_context(read)?;
        if files.len() >= MAX_ENTRIES {
            bail!(
                "cannot read {}: the calibration folder holds more than {MAX_ENTRIES} files",
                folder.display()
            );
        }
        // Links to folders are not followed: they may form a cycle.
        let kind = entry.file_type().with_context(read)?;
        if kind.is_dir() {
            collect(&entry.path(), files)?;
        } else if entry.path().is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// Returns all `files` in another order: the first `count` of the returned files are spread evenly
/// over `files`.
fn spread(files: &[PathBuf], count: usize) -> impl Iterator<Item = &PathBuf> {
    let step = (files.len() / count.max(1)).max(1);
    (0..step).flat_map(move |first| files.iter().skip(first).step_by(step))
}

/// Reads one photograph; returns its size in pixels and its preprocessed tensor. `None` if the file is not an image.
///
/// # Errors
/// If the file cannot be read, or is a damaged image.
fn load(file: &Path, preprocessor: &Preprocessor) -> Result<Option<(ImageSize, PreparedImage)>> {
    let options = DecodeOptions {
        max_pixels: MAX_PIXELS,
        orientation: Orientation::Apply,
    };
    let in_file = || format!("cannot use the photograph {}", file.display());
    let bytes = read_regular(file, MAX_BYTES)?;
    let pixels = match decode(&bytes, &options) {
        Err(ImageError::UnknownFormat { .. } | ImageError::Empty) => return Ok(None),
        decoded => decoded.with_context(in_file)?,
    };
    let (width, height) = pixels.dimensions();
    let tensor = preprocessor.run(&pixels);
    let tensor = tensor.with_context(in_file)?;
    Ok(Some((ImageSize { width, height }, tensor)))
}

#[cfg(test)]
mod tests {
    use super::is_held_out;

    #[test]
    fn every_fifth_photograph_is_held_out() {
        let cases: [(usize, &[usize]); 8] = [
            (1, &[]),
            (2, &[1]),
            (3, &[2]),
            (4, &[3]),
            (5, &[4]),
            (9, &[4]),
            (10, &[4, 9]),
            (16, &[4, 9, 14]),
        ];
        for (count, expected) in cases {
            let held_out = (0..count).filter(|index| is_held_out(*index, count));
            assert_eq!(held_out.collect::<Vec<_>>(), expected, "{count}");
        }
    }
}
