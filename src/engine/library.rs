//! Finds the ONNX Runtime library.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Environment variable with the path of the library, as in the `ort` crate.
const VARIABLE: &str = "ORT_DYLIB_PATH";
/// Length of the header of an ELF file of 64 bits in bytes.
const HEADER: u64 = 64;
/// Folder, relative to a checkout, into which `scripts/fetch-onnxruntime.sh` installs the library.
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

/// What to do if the library is in none of the searched folders, for each way to run the binary.
const REMEDIES: &str = "\
in a checkout: run `make onnxruntime`
after `cargo install`: run `make onnxruntime` in the checkout, and copy .cache/onnxruntime/libonnxruntime.so to \
lib/sightline/ next to the folder of the binary (~/.cargo/lib/sightline/)
with a binary outside of a checkout: run `make install PREFIX=DIR` in the checkout, which installs \
the library, too
with a library of your own: set --onnxruntime, SIGHTLINE_ONNXRUNTIME or ORT_DYLIB_PATH to its path
in a container: copy the library into the binary's folder; `make image` does this";

/// The ONNX Runtime library cannot be found or used.
#[derive(Debug, Error)]
pub enum LibraryError {
    /// The library is in none of the searched folders.
    #[error(
        "cannot find ONNX Runtime's library, version 1.{} or later for {}; searched:\n{}\n{}",
        ort::MINOR_VERSION, std::env::consts::ARCH, indented(.looked), listed(REMEDIES)
    )]
    NotFound {
        /// The searched paths, in order.
        looked: Vec<PathBuf>,
    },
    /// The flag `--onnxruntime` or the variable `ORT_DYLIB_PATH` names a path that is no file.
    #[error("{origin} names {}, which {reason}; name the file libonnxruntime.so", .path.display())]
    NoSuchFile {
        /// The flag or environment variable that names the file.
        origin: &'static str,
        /// The path.
        path: PathBuf,
        /// Why the path cannot be used, as the end of a sentence.
        reason: String,
    },
    /// The file is not a shared library, or one for another operating system or CPU.
    #[error(
        "cannot use the ONNX Runtime library {}: expected a library for Linux on {}, got {got}; \
         `make onnxruntime` in a checkout on this machine fetches one",
        .path.display(), std::env::consts::ARCH
    )]
    WrongKind {
        /// The library's file.
        path: PathBuf,
        /// What the file is.
        got: String,
    },
    /// The file is a library, but cannot be used.
    #[error(
        "cannot use the ONNX Runtime library {}: {reason}; Sightline needs version 1.{} or later, \
         which `make onnxruntime` in a checkout fetches",
        .path.display(), ort::MINOR_VERSION
    )]
    Unusable {
        /// The library's file.
        path: PathBuf,
        /// Why the library cannot be used, from the dynamic loader or from `ort`'s version check.
        reason: String,
    },
}

/// Returns one line for each path, indented.
fn indented(paths: &[PathBuf]) -> String {
    let lines = paths.iter().map(|path| format!("  {}", path.display()));
    lines.collect::<Vec<_>>().join("\n")
}

/// Returns the lines of `text` as the items of an indented list.
fn listed(text: &str) -> String {
    let lines = text.lines().map(|line| format!("  - {line}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Returns the path of the ONNX Runtime library: `flag` if it is set, else the value of the
/// environment variable `ORT_DYLIB_PATH`, else the first `libonnxruntime.so` in the folders of
/// `folders`.
///
/// # Errors
/// [`LibraryError::NoSuchFile`] if `flag` or the variable names a path that is no file.
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
            return named_file(origin, path);
        }
    }
    // Links are resolved, so that a link to the binary in a folder of `PATH` works.
    let binary = std::env::current_exe().and_then(|path| path.canonicalize());
    let mut looked: Vec<PathBuf> = Vec::new();
    for folder in folders(binary.ok().as_deref()) {
        let path = absolute(folder.join(FILE));
        if !looked.contains(&path) {
            looked.push(path);
        }
    }
    match looked.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(LibraryError::NotFound { looked }),
    }
}

/// Returns the absolute path of a file that the flag or environment variable `origin` names.
fn named_file(origin: &'static str, path: PathBuf) -> Result<PathBuf, LibraryError> {
    let reason = match path.metadata() {
        Ok(metadata) if metadata.is_file() => return Ok(absolute(path)),
        Ok(metadata) if metadata.is_dir() => "is a folder".to_owned(),
        Ok(_) => "is not a regular file".to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => "does not exist".to_owned(),
        Err(error) => format!("cannot be read ({error})"),
    };
    Err(LibraryError::NoSuchFile {
        origin,
        path,
        reason,
    })
}

/// Returns the folders to search for the library, in order: relative to `binary`, the path of the
/// running binary without symbolic links, then the system's folders. The working directory is not
/// among them, because others may have written what is in it.
fn folders(binary: Option<&Path>) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if let Some(folder) = binary.and_then(Path::parent) {
        folders.push(folder.to_path_buf());
        // A build or a test in `target/` of a checkout.
        let target = folder.ancestors().find(|path| path.ends_with("target"));
        if let Some(checkout) = target.and_then(Path::parent) {
            folders.push(checkout.join(CACHE));
        }
        // `bin/` of an installation.
        if let Some(prefix) = folder.parent() {
            folders.push(prefix.join("lib/sightline"));
            folders.push(prefix.join("lib"));
        }
    }
    folders.extend(SYSTEM.map(PathBuf::from));
    folders
}

/// Resolves a relative path against the working directory, as users expect; `ort` resolves it against the binary's
/// folder.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// Checks that the file at `path` is a shared library for this operating system and CPU, because
/// the dynamic loader's messages for other files do not say what to do.
///
/// # Errors
/// [`LibraryError::WrongKind`] if it is another file, [`LibraryError::Unusable`] if it cannot be
/// read.
pub(super) fn check(path: &Path) -> Result<(), LibraryError> {
    let mut head = Vec::new();
    let mut read = || {
        let mut file = File::open(path)?;
        file.by_ref().take(HEADER).read_to_end(&mut head)?;
        Ok(file.metadata()?.len())
    };
    let length = read().map_err(|error: io::Error| LibraryError::Unusable {
        path: path.to_path_buf(),
        reason: error.to_string(),
    })?;
    let cut = || is_cut(&head, length).then(|| "an incomplete file".to_owned());
    match wrong_kind(&head).or_else(cut) {
        None => Ok(()),
        Some(got) => Err(LibraryError::WrongKind {
            path: path.to_path_buf(),
            got,
        }),
    }
}

/// Returns whether a library with the header `head` ends before its section headers, which come last, so that a part of it
/// is missing. The dynamic loader maps such a file, and the process would be killed when it reads the missing part.
///
/// Source: System V ABI, ELF header, `e_shoff`, `e_shentsize` and `e_shnum` of 64 bits.
fn is_cut(head: &[u8], length: u64) -> bool {
    let start = head.get(40..48).and_then(|bytes| bytes.first_chunk());
    let sizes = head.get(58..62).and_then(|bytes| bytes.first_chunk::<4>());
    let (Some(start), Some(&[size_low, size_high, count_low, count_high])) = (start, sizes) else {
        return true;
    };
    let size = u64::from(u16::from_le_bytes([size_low, size_high]));
    let count = u64::from(u16::from_le_bytes([count_low, count_high]));
    length < u64::from_le_bytes(*start).saturating_add(size * count)
}

/// Returns what a file is whose first bytes are `head`. `None` if it can be a library for this
/// operating system and CPU.
fn wrong_kind(head: &[u8]) -> Option<String> {
    let kind = match head {
        [0x7f, b'E', b'L', b'F', rest @ ..] => return other_machine(rest),
        [b'M', b'Z', ..] => "a library for Windows",
        [0xcf, 0xfa, 0xed, 0xfe, ..] | [0xca, 0xfe, 0xba, 0xbe, ..] => "a library for macOS",
        [] => "an empty file",
        _ => "a file that is not a library",
    };
    Some(kind.to_owned())
}

/// Returns the CPU of an ELF file if it is not the CPU of this binary. `rest` is the ELF header
/// after its first four bytes.
///
/// Source: System V ABI, ELF header, `e_machine`.
fn other_machine(rest: &[u8]) -> Option<String> {
    let Some(&[low, high]) = rest.get(14..16) else {
        return Some("an incomplete file".to_owned());
    };
    // Both supported CPUs are little-endian, and so are their files.
    let cpu = match u16::from_le_bytes([low, high]) {
        3 => "32-bit x86",
        40 => "32-bit arm",
        62 => "x86_64",
        183 => "aarch64",
        243 => "riscv64",
        number => return Some(format!("a library for another CPU (ELF machine {number})")),
    };
    (cpu != std::env::consts::ARCH).then(|| format!("a library for {cpu}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_file_that_is_missing_is_not_searched_for_elsewhere() {
        let cases = [
            (
                "/nowhere/libonnxruntime.so",
                "--onnxruntime names /nowhere/libonnxruntime.so, which does not exist; name the \
                 file libonnxruntime.so",
            ),
            (
                "/usr",
                "--onnxruntime names /usr, which is a folder; name the file libonnxruntime.so",
            ),
        ];
        for (path, expected) in cases {
            let error = find_library(Some(Path::new(path))).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn folders_relative_to_the_binary_are_searched_first() {
        let binary = Path::new("/opt/checkout/target/release/sightline");
        let folders = folders(Some(binary));
        let expected = [
            "/opt/checkout/target/release",
            "/opt/checkout/.cache/onnxruntime",
            "/opt/checkout/target/lib/sightline",
            "/opt/checkout/target/lib",
            "/usr/local/lib",
        ];
        assert_eq!(folders[..5], expected.map(PathBuf::from));
        let test = super::folders(Some(Path::new("/opt/checkout/target/debug/deps/suite")));
        assert!(test.contains(&"/opt/checkout/.cache/onnxruntime".into()));
        let installed = super::folders(Some(Path::new("/usr/local/bin/sightline")));
        assert!(installed.contains(&"/usr/local/lib/sightline".into()));
        assert!(!installed.iter().any(|folder| folder.ends_with(CACHE)));
        assert_eq!(
            super::folders(Some(Path::new("/sightline")))[0],
            Path::new("/")
        );
        assert_eq!(super::folders(None)[0], Path::new("/usr/local/lib"));
    }

    #[test]
    fn not_found_lists_every_place_and_what_to_do_in_each_situation() {
        let looked = vec![PathBuf::from("/a/lib.so"), PathBuf::from("/b/lib.so")];
        let message = LibraryError::NotFound { looked }.to_string();
        for text in [
            "  /a/lib.so\n  /b/lib.so\n",
            "make onnxruntime",
            "make install PREFIX=",
            "--onnxruntime",
            "in a container",
        ] {
            assert!(message.contains(text), "{text}: {message}");
        }
    }

    #[test]
    fn files_that_are_no_library_for_this_machine_are_named() {
        let elf = |machine: u16| {
            let mut head = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0".to_vec();
            head.extend(machine.to_le_bytes());
            head
        };
        let other = match std::env::consts::ARCH {
            "x86_64" => (183, "a library for aarch64"),
            _ => (62, "a library for x86_64"),
        };
        let cases: [(&[u8], &str); 7] = [
            (b"", "an empty file"),
            (b"MZ\x90\0", "a library for Windows"),
            (b"\xcf\xfa\xed\xfe\x07", "a library for macOS"),
            (b"version https://git-lfs", "a file that is not a library"),
            (b"\x7fELF\x02", "an incomplete file"),
            (&elf(other.0), other.1),
            (&elf(9999), "a library for another CPU (ELF machine 9999)"),
        ];
        for (head, expected) in cases {
            assert_eq!(wrong_kind(head).as_deref(), Some(expected));
        }
        let own = match std::env::consts::ARCH {
            "x86_64" => 62,
            _ => 183,
        };
        assert_eq!(wrong_kind(&elf(own)), None);
    }

    #[test]
    fn a_part_of_a_library_is_found() {
        let mut head = [0; HEADER as usize];
        head[40..48].copy_from_slice(&1000_u64.to_le_bytes());
        head[58..62].copy_from_slice(&[64, 0, 3, 0]);
        for (length, expected) in [(1191, true), (1192, false), (5000, false)] {
            assert_eq!(is_cut(&head, length), expected, "{length}");
        }
        assert!(is_cut(&head[..60], 5000));
    }
}
