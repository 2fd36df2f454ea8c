//! Embeds the catalogue in the binary. Writes `catalogue.rs` with constants that contain every
//! `models/<name>/model.toml`, the `weights.safetensors` and calibration files (`*.json`) in the
//! folder of each model, and `models/labels/*.txt`. A model of a known architecture can therefore
//! be added without code.
//!
//! Embeds the web pages, too (`build/web.rs`).
//!
//! Also hashes the source files that decide about optimized graphs, so that a binary does not use the
//! start-up cache of a binary with other code.

#![allow(
    clippy::print_stdout,
    reason = "cargo reads instructions from a build script's stdout"
)]

#[path = "build/web.rs"]
mod web;

use std::error::Error;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// Files and folders whose content decides about optimized graphs.
const GRAPH_CODE: [&str; 7] = [
    "Cargo.lock",
    "models",
    "onnx-export/src",
    "ort-int8/src",
    "src/cache",
    "src/engine",
    "src/store",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let models = root.join("models");
    println!("cargo::rerun-if-changed={}", models.display());
    let mut files = Vec::new();
    for folder in sorted(&models)?.iter().filter(|path| path.is_dir()) {
        files.extend(sorted(folder)?);
    }
    let named = |name: &str| select(&files, |path| path.ends_with(name));
    let manifests = named("model.toml");
    let weights = named("weights.safetensors");
    let ranges = select(&files, |path| path.extension().is_some_and(|e| e == "json"));
    let labels = sorted(&models.join("labels"))?;
    let mut code = String::new();
    list(
        &mut code,
        "MANIFESTS",
        "&str",
        "include_str!",
        &manifests,
        folder_name,
    );
    list(
        &mut code,
        "LABELS",
        "&str",
        "include_str!",
        &labels,
        file_name,
    );
    list(
        &mut code,
        "WEIGHTS",
        "&[u8]",
        "include_bytes!",
        &weights,
        folder_name,
    );
    list(
        &mut code,
        "RANGES",
        "&str",
        "include_str!",
        &ranges,
        |path| format!("{}/{}", folder_name(path), file_name(path)),
    );
    fs::write(out.join("catalogue.rs"), code)?;
    web::embed(&root, &out)?;
    let mut hash = DefaultHasher::new();
    for path in GRAPH_CODE {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
        hash_files(&root, &root.join(path), &mut hash)?;
    }
    println!(
        "cargo::rustc-env=SIGHTLINE_GRAPH_CODE={:016x}",
        hash.finish()
    );
    Ok(())
}

/// Adds the file at `path`, or all files in the folder at `path`, to `hash`, with their paths below `root`.
fn hash_files(root: &Path, path: &Path, hash: &mut DefaultHasher) -> io::Result<()> {
    if path.is_dir() {
        let entries = sorted(path)?;
        return entries
            .iter()
            .try_for_each(|entry| hash_files(root, entry, hash));
    }
    path.strip_prefix(root).unwrap_or(path).hash(hash);
    fs::read(path)?.hash(hash);
    Ok(())
}

/// Appends to `code` a constant called `name` that lists a key and the embedded content of every
/// file in `paths`: `const NAME: &[(&str, KIND)] = &[("key", include!("path")), ...];`. Here
/// `include` is the macro that embeds a file as `kind`, and `key` derives the key from the path.
fn list(
    code: &mut String,
    name: &str,
    kind: &str,
    include: &str,
    paths: &[PathBuf],
    key: fn(&Path) -> String,
) {
    let _ = writeln!(code, "const {name}: &[(&str, {kind})] = &[");
    for path in paths {
        println!("cargo::rerun-if-changed={}", path.display());
        let _ = writeln!(
            code,
            "    ({:?}, {include}({:?})),",
            key(path),
            path.display()
        );
    }
    code.push_str("];\n");
}

fn select(files: &[PathBuf], wanted: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    files.iter().filter(|path| wanted(path)).cloned().collect()
}

fn sorted(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn folder_name(path: &Path) -> String {
    path.parent().map(file_name).unwrap_or_default()
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}
