//! Finds the ONNX Runtime library.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// Environment variable with the path of the library, as in the `ort` crate.
const VARIABLE: &str = "ORT_DYLIB_PATH";
/// Folder, relative to the working directory, into which `scripts/fetch-onnxruntime.sh` installs the library.
const CACHE: &str = ".cache/onnxruntime";
/// File name of the library in each searched folder.
const FILE: &str = "libonnxruntime.so";

/// System library folders, which are searched last.
const SYSTEM: [&str; 5] = [
    "/usr/local/lib",
    "/usr/lib",
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
];

/// The ONNX Runtime library cannot be found or used.
#[derive(Debug, Error)]
pub enum LibraryError {
    /// The library is in none of the searched folders.
    #[error(
        "cannot find ONNX Runtime's library; searched:\n{}\nrun scripts/fetch-onnxruntime.sh in the checkout, or \
         set --onnxruntime or {VARIABLE} to the path of libonnxruntime.so",
        .looked.iter().map(|path| format!("  {}", path.display())).collect::<Vec<_>>().join("\n")
    )]
    NotFound {
        /// The searched paths, in order.
        looked: Vec<PathBuf>,
    },
    /// The flag `--onnxruntime` or the variable `ORT_DYLIB_PATH` names a file that does not exist.
    #[error("{origin} names {}, which does not exist", .path.display())]
    NoSuchFile {
        /// The flag or environment variable that names the file.
        origin: &'static str,
        /// The missing path.
        path: PathBuf,
    },
    /// The file exists, but is not a usable library.
    #[error("cannot use the ONNX Runtime library {}: {reason}", .path.display())]
    Unusable {
        /// The library's file.
        path: PathBuf,
        /// Why the library cannot be used, from the dynamic loader or from `ort`'s version check.
        reason: String,
    },
}

/// Returns the path of the ONNX Runtime library: `flag` if it is set, else the value of the
/// environment variable `ORT_DYLIB_PATH`, else the first `libonnxruntime.so` in the folder of the
/// running binary, in `.cache/onnxruntime/`, or in the system's library folders.
///
/// # Errors
/// [`LibraryError::NoSuchFile`] if `flag` or the variable names a file that does not exist.
/// [`LibraryError::NotFound`], with the searched paths, if no folder contains the library.
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

/// Resolves a relative path against the working directory, as users expect; `ort` resolves it against the binary's
/// folder.
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
