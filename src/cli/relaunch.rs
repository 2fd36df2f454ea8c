//! Environment variables that libraries read before the first line of this program, or when they are loaded.
//!
//! A process cannot safely change its own environment, so the program starts itself again with the variables.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use sightline::threads::usable_cores;

/// Keeps ONNX Runtime from starting its telemetry, which has threads, a database in the user's cache and uploads.
pub(super) const NO_TELEMETRY: (&str, &str) = ("ORT_DISABLE_TELEMETRY", "1");
/// Number of glibc's arenas per core. By default there are 8 per core, that is one for nearly every thread: each keeps
/// what its thread has freed, while another thread grows its own arena (docs/limits.md).
const ARENAS_PER_CORE: usize = 2;
/// The variables that this program sets unless they are set, and `MALLOC_ARENA_MAX`.
const VARIABLES: [(&str, &str); 3] = [
    NO_TELEMETRY,
    // glibc returns buffers of at least 4 MiB to the operating system when they are freed, and smaller ones when a heap
    // ends with 8 MiB of them. By default it learns to keep buffers of up to 32 MiB. The buffers of a usual request are
    // below both limits: to return them, and to get them again with the next request, would cost hundreds of page
    // faults. A fixed first limit makes the second one 128 KiB unless it is set, too (docs/limits.md).
    ("MALLOC_MMAP_THRESHOLD_", "4194304"),
    ("MALLOC_TRIM_THRESHOLD_", "8388608"),
];

/// Starts this program again, as the same process, if one of the variables is not set. Must be called before threads are
/// started. Returns if all variables are set, or if the program cannot be started again.
pub(super) fn with_variables() {
    let auxv = std::fs::read("/proc/self/auxv").unwrap_or_default();
    let is_privileged = is_privileged(&auxv);
    // glibc removes its own variables from a privileged program, which would start itself again for ever.
    let is_removed = |name: &str| is_privileged && name.starts_with("MALLOC_");
    let is_set = |name: &str| std::env::var_os(name).is_some() || is_removed(name);
    let missing = missing(usable_cores(), is_set);
    if missing.is_empty() {
        return;
    }
    let program = match std::env::current_exe() {
        // This program was an argument of the loader, which cannot be started in its place.
        Ok(program) if is_loader(&program) => return,
        // Another user may replace the path of a privileged program, but not this one.
        Ok(_) if is_privileged => PathBuf::from("/proc/self/exe"),
        // Not `/proc/self/exe`, so that the process keeps its name.
        Ok(program) => program,
        Err(_) => return,
    };
    let mut arguments = std::env::args_os();
    let name = arguments.next();
    let mut command = Command::new(&program);
    command.arg0(name.as_deref().unwrap_or(OsStr::new("sightline")));
    // Returns only if it fails: the commands work without the variables, too.
    let _ = command.args(arguments).envs(missing).exec();
}

/// Returns whether the program has more privileges than its caller, by setuid or by capabilities of its file. `auxv` is the
/// auxiliary vector, pairs of words, which such a program may be unable to read.
fn is_privileged(auxv: &[u8]) -> bool {
    /// Key of the word that is not 0 in a privileged program.
    const AT_SECURE: usize = 23;
    const WORD: usize = size_of::<usize>();
    let (words, _) = auxv.as_chunks::<WORD>();
    let words: Vec<usize> = words.iter().copied().map(usize::from_ne_bytes).collect();
    let (pairs, _) = words.as_chunks::<2>();
    let found = pairs.iter().find(|[key, _]| *key == AT_SECURE);
    found.is_none_or(|[_, value]| *value != 0)
}

/// Returns whether `program` is a dynamic loader, such as `ld-linux-x86-64.so.2`.
fn is_loader(program: &Path) -> bool {
    let name = program.file_name().unwrap_or_default().as_encoded_bytes();
    name.starts_with(b"ld-") || name.starts_with(b"ld.so")
}

/// Returns the variables for which `is_set` returns `false`, with their values on a machine with `cores` cores.
fn missing(cores: usize, is_set: impl Fn(&str) -> bool) -> Vec<(&'static str, String)> {
    let arenas = cores.saturating_mul(ARENAS_PER_CORE).to_string();
    let variables = VARIABLES.map(|(name, value)| (name, value.to_owned()));
    let variables = variables.into_iter().chain([("MALLOC_ARENA_MAX", arenas)]);
    variables.filter(|(name, _)| !is_set(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_are_set_keep_their_values() {
        let all = missing(4, |_| false);
        let all: Vec<(&str, &str)> = all.iter().map(|(name, value)| (*name, &**value)).collect();
        assert_eq!(all[..3], VARIABLES);
        assert_eq!(all[3..], [("MALLOC_ARENA_MAX", "8")]);
        let (name, value) = NO_TELEMETRY;
        let other = missing(4, |name| name.starts_with("MALLOC"));
        assert_eq!(other, [(name, value.to_owned())]);
        assert_eq!(missing(4, |_| true), []);
    }

    #[test]
    fn privileged_programs_and_loaders_are_recognized() {
        let auxv = |words: &[usize]| -> Vec<u8> {
            words.iter().flat_map(|word| word.to_ne_bytes()).collect()
        };
        assert!(!is_privileged(&auxv(&[6, 4096, 23, 0, 0, 0])));
        assert!(is_privileged(&auxv(&[6, 23, 23, 1, 0, 0])));
        assert!(is_privileged(b""));
        assert!(is_loader("/lib64/ld-linux-x86-64.so.2".as_ref()));
        assert!(is_loader("/lib/ld-2.31.so".as_ref()));
        assert!(!is_loader("/usr/bin/sightline".as_ref()));
    }
}
