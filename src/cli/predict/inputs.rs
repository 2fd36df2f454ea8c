//! The images of `predict`: files, folders, and lists of files.

use std::collections::{BTreeSet, HashSet};
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use sightline::store::read_bounded;

use super::PredictArgs;
use crate::cli::staging;

/// Extensions of the files of folders that are images. Files that are named themselves can have any name.
const EXTENSIONS: [&str; 6] = ["jpg", "jpeg", "png", "webp", "gif", "bmp"];
/// Most images of one command.
const MAX_IMAGES: usize = 10_000_000;
/// Maximum size of a list of files in bytes.
const MAX_LIST: u64 = 2 << 30;

/// An image file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) path: PathBuf,
    /// Path of its drawing or mask below the folder of these, without the extension `png`.
    drawn: PathBuf,
}

impl Image {
    /// Returns an image whose drawing is called as the file.
    fn file(path: PathBuf) -> Self {
        let drawn = path.file_stem().unwrap_or(path.as_os_str()).into();
        Self { path, drawn }
    }

    /// Returns an image whose drawing has the path `relative` below the folder of drawings.
    fn below(path: PathBuf, relative: &Path) -> Self {
        let stem = relative.file_stem().unwrap_or(relative.as_os_str());
        let drawn = relative.with_file_name(stem);
        Self { path, drawn }
    }

    /// Returns the path of the image's drawing or mask in `folder`.
    pub(super) fn drawn_in(&self, folder: &Path) -> PathBuf {
        folder.join(&self.drawn).with_added_extension("png")
    }
}

/// Returns the images that `args` name, those of folders sorted by path. An image that folders or lists name twice is
/// there once.
///
/// # Errors
/// If a folder or a list cannot be read, if there are no images or too many, or if drawings would replace images or each
/// other.
pub(super) fn images(args: &PredictArgs) -> Result<Vec<Image>> {
    let outputs = [&args.annotate, &args.masks];
    let outputs: Vec<PathBuf> = outputs
        .into_iter()
        .flatten()
        .filter_map(|folder| folder.canonicalize().ok())
        .collect();
    let mut images = Vec::new();
    for path in &args.images {
        if path.is_dir() {
            let before = images.len();
            walk(path, &outputs, &mut images)?;
            if images.len() == before {
                bail!(
                    "{} has no images: expected files with the extensions {}",
                    path.display(),
                    EXTENSIONS.join(", ")
                );
            }
        } else {
            images.push(Image::file(path.clone()));
        }
    }
    if let Some(list) = &args.files_from {
        let text = read_list(list)?;
        images.extend(listed(&text));
        check_count(images.len())?;
        if images.is_empty() {
            bail!("the list {} names no images", list.display());
        }
    }
    if args.output.is_some() || args.files_from.is_some() {
        let mut seen = HashSet::new();
        let is_new: Vec<bool> = images
            .iter()
            .map(|image| seen.insert(image.path.clone()))
            .collect();
        let mut is_new = is_new.into_iter();
        images.retain(|_| is_new.next().unwrap_or(true));
    }
    if let Some(folder) = args.annotate.as_deref().or(args.masks.as_deref()) {
        reject_overwriting(folder, &images)?;
    }
    Ok(images)
}

/// Adds the images in `root` and its subfolders, sorted by path. Leaves out the folders `outputs`, links to folders and
/// names that begin with a dot.
fn walk(root: &Path, outputs: &[PathBuf], images: &mut Vec<Image>) -> Result<()> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let cannot = || format!("cannot read the folder {}", folder.display());
        for entry in std::fs::read_dir(&folder).with_context(cannot)? {
            let entry = entry.with_context(cannot)?;
            let path = entry.path();
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let kind = entry.file_type().with_context(cannot)?;
            if kind.is_dir() {
                let is_output = path
                    .canonicalize()
                    .is_ok_and(|path| outputs.contains(&path));
                if !is_output {
                    folders.push(path);
                }
            } else if is_image(&path) && (kind.is_file() || path.is_file()) {
                found.push(path);
            }
        }
        check_count(images.len() + found.len())?;
    }
    found.sort();
    images.extend(found.into_iter().map(|path| {
        let relative = path.strip_prefix(root).unwrap_or(&path).to_path_buf();
        Image::below(path, &relative)
    }));
    Ok(())
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    EXTENSIONS
        .iter()
        .any(|known| extension.eq_ignore_ascii_case(known))
}

fn check_count(count: usize) -> Result<()> {
    if count > MAX_IMAGES {
        bail!("expected at most {MAX_IMAGES} images");
    }
    Ok(())
}

/// Reads a list of files, of standard input if `path` is `-`.
fn read_list(path: &Path) -> Result<Vec<u8>> {
    if path != Path::new("-") {
        return Ok(read_bounded(path, MAX_LIST)?);
    }
    let mut text = Vec::new();
    let mut input = std::io::stdin().lock().take(MAX_LIST + 1);
    let read = input.read_to_end(&mut text);
    read.context("cannot read the list of files from standard input")?;
    if text.len() as u64 > MAX_LIST {
        bail!("the list of files on standard input has more than {MAX_LIST} bytes");
    }
    Ok(text)
}

/// Returns the images of a list with one path per line, or with a zero byte behind each path, as `find -print0` writes.
fn listed(text: &[u8]) -> impl Iterator<Item = Image> {
    let end = if text.contains(&0) { 0 } else { b'\n' };
    let lines = text.split(move |byte| *byte == end).map(move |line| {
        let is_line = end == b'\n';
        line.strip_suffix(b"\r").filter(|_| is_line).unwrap_or(line)
    });
    lines.filter(|line| !line.is_empty()).map(|line| {
        let path = path_of(line);
        let is_below = path
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if is_below {
            let relative: PathBuf = path
                .components()
                .filter(|part| matches!(part, Component::Normal(_)))
                .collect();
            Image::below(path, &relative)
        } else {
            Image::file(path)
        }
    })
}

fn path_of(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    std::ffi::OsStr::from_bytes(bytes).into()
}

/// Checks that the drawings or masks in `folder` will not overwrite an image or each other, and creates the folder.
///
/// # Errors
/// If two images would be drawn to the same file, if a drawing would replace an image, or if the folder cannot be
/// created.
fn reject_overwriting(folder: &Path, images: &[Image]) -> Result<()> {
    let mut seen = BTreeSet::new();
    for image in images {
        let drawn = image.drawn_in(folder);
        if let Some(drawn) = seen.replace(drawn) {
            bail!(
                "two images would both be drawn to {}: rename one of them",
                drawn.display()
            );
        }
    }
    let replaced: BTreeSet<PathBuf> = seen
        .iter()
        .filter_map(|path| path.canonicalize().ok())
        .collect();
    if !replaced.is_empty() {
        let mut inputs = images.iter().map(|image| &image.path);
        let is_replaced = |path: &&PathBuf| {
            path.canonicalize()
                .is_ok_and(|path| replaced.contains(&path))
        };
        if let Some(path) = inputs.find(is_replaced) {
            bail!(
                "{} would be replaced by a drawing: choose another folder",
                path.display()
            );
        }
    }
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot create the folder {}", folder.display()))?;
    staging::clean(folder);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(images: &[Image]) -> Vec<String> {
        let paths = images.iter().map(|image| image.drawn_in(Path::new("out")));
        paths.map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn lists_have_lines_or_zero_bytes() {
        let paths = |text: &[u8]| -> Vec<String> {
            let images = listed(text);
            images
                .map(|image| image.path.display().to_string())
                .collect()
        };
        assert_eq!(paths(b"a b.jpg\r\n\n./c/d.png\n"), ["a b.jpg", "./c/d.png"]);
        assert_eq!(paths(b"a\nb.jpg\0c.png"), ["a\nb.jpg", "c.png"]);
        let images: Vec<Image> = listed(b"./c/d.png\n../e/f.g.png\n/h/i.jpg\n").collect();
        assert_eq!(drawn(&images), ["out/c/d.png", "out/f.g.png", "out/i.png"]);
    }

    #[test]
    fn folders_are_searched_for_images_outside_of_the_output() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for path in [
            "b.JPG",
            "a/c.png",
            "a/notes.txt",
            ".hidden.png",
            "out/a.png",
        ] {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        std::os::unix::fs::symlink(root, root.join("a/loop")).unwrap();
        let mut images = Vec::new();
        let outputs = [root.join("out").canonicalize().unwrap()];
        walk(root, &outputs, &mut images).unwrap();
        assert_eq!(drawn(&images), ["out/a/c.png", "out/b.png"]);
        let error = reject_overwriting(root, &images).map(|()| "").unwrap_err();
        assert!(error.to_string().contains("would be replaced"), "{error}");
        assert!(reject_overwriting(&root.join("out"), &images).is_ok());
        images.push(Image::file("x/b.png".into()));
        let error = reject_overwriting(&root.join("out"), &images).unwrap_err();
        assert!(error.to_string().contains("both be drawn"), "{error}");
    }
}
