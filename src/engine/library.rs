//! Where the ONNX Runtime library is.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// The environment variable that names the library's file, as in the `ort` crate.
const VARIABLE: &str = "ORT_DYLIB_PATH";
/// Where `scripts/fetch-onnxruntime.sh` puts it, below the working directory.
const CACHE: &str = ".cache/onnxruntime";

const FILE: &str = "libonnxruntime.so";

/// The folders of the system's own libraries.
const SYSTEM: [&str; 5] = [
    "/usr/local/lib",
    "/usr/lib",
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
];

/// No usable ONNX Runtime library.
#[derive(Debug, Error)]
pub enum LibraryError {
    /// It is nowhere it was looked for.
    #[error(
        "ONNX Runtime's library was not found. Looked at:\n{}\nRun scripts/fetch-onnxruntime.sh, \
         or name the file with --onnxruntime or {VARIABLE}",
        .looked.iter().map(|path| format!("  {}", path.display())).collect::<Vec<_>>().join("\n")
    )]
    NotFound {
        /// The places, in order.
        looked: Vec<PathBuf>,
    },
    /// The file that the user named is not there.
    #[error("{origin} names {}, which does not exist", .path.display())]
    NoSuchFile {
        /// The flag or variable.
        origin: &'static str,
        /// What it names.
        path: PathBuf,
    },
    /// The file is not a library that can be used.
    #[error("cannot use {}: {reason}", .path.display())]
    Unusable {
        /// The library's file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

/// Finds the library: `flag`, `ORT_DYLIB_PATH`, beside the binary, `.cache/onnxruntime/`, the
/// system's folders.
///
/// # Errors
/// [`LibraryError::NoSuchFile`] for a named file that is missing, [`LibraryError::NotFound`] with
/// every place that was tried.
pub fn find_library(flag: Option<&Path>) -> Result<PathBuf, LibraryError> {
    let variable = std::env::var_os(VARIABLE)
        .filter(|v| !v.is_empty())
        .map(PathBuf::from);
    let named = [
        ("--onnxruntime", flag.map(Path::to_path_buf)),
        (VARIABLE, variable),
    ];
    for (origin, path) in named {
        if let Some(path) = path {
            return if path.is_file() {
                Ok(absolute(path))
            } else {
                Err(LibraryError::NoSuchFile { origin, path })
            };
        }
    }
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| exe.parent().map(Path::to_path_buf));
    let folders = beside
        .into_iter()
        .chain([PathBuf::from(CACHE)])
        .chain(SYSTEM.map(PathBuf::from));
    let looked: Vec<PathBuf> = folders.map(|folder| absolute(folder.join(FILE))).collect();
    match looked.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(LibraryError::NotFound { looked }),
    }
}

/// `ort` takes a relative path as relative to the binary; people mean the working directory.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_file_that_is_missing_is_not_searched_for_elsewhere() {
        let error = find_library(Some(Path::new("/nowhere/libonnxruntime.so"))).unwrap_err();
        let message = error.to_string();
        assert_eq!(
            message,
            "--onnxruntime names /nowhere/libonnxruntime.so, which does not exist"
        );
    }

    #[test]
    fn not_found_lists_every_place() {
        let looked = vec![PathBuf::from("/a/lib.so"), PathBuf::from("/b/lib.so")];
        let message = LibraryError::NotFound { looked }.to_string();
        assert!(message.contains("  /a/lib.so\n  /b/lib.so\n"), "{message}");
        assert!(
            message.contains("scripts/fetch-onnxruntime.sh"),
            "{message}"
        );
    }
}
