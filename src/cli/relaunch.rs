//! Environment variables that libraries read before the first line of this program, or when they are loaded.
//!
//! A process cannot safely change its own environment, so the program starts itself again with the variables.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Keeps ONNX Runtime from starting its telemetry, which has threads, a database in the user's cache and uploads.
pub(super) const NO_TELEMETRY: (&str, &str) = ("ORT_DISABLE_TELEMETRY", "1");
/// The variables that this program sets unless they are set.
const VARIABLES: [(&str, &str); 2] = [
    NO_TELEMETRY,
    // glibc returns buffers of at least 1 MiB to the operating system when they are freed. By default it learns to
    // keep them (docs/operations.md, "Memory after a burst").
    ("MALLOC_MMAP_THRESHOLD_", "1048576"),
];

/// Starts this program again, as the same process, if one of the variables is not set. Must be called before threads are
/// started. Returns if all variables are set, or if the program cannot be started again.
pub(super) fn with_variables() {
    let missing = missing(|name| std::env::var_os(name).is_some());
    if missing.is_empty() {
        return;
    }
    // The path and not `/proc/self/exe`, so that the process keeps its name.
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    let mut arguments = std::env::args_os();
    let name = arguments.next();
    let mut command = Command::new(&program);
    command.arg0(name.as_deref().unwrap_or(OsStr::new("sightline")));
    // Returns only if it fails: the commands work without the variables, too.
    let _ = command.args(arguments).envs(missing).exec();
}

/// Returns the variables for which `is_set` returns `false`.
fn missing(is_set: impl Fn(&str) -> bool) -> Vec<(&'static str, &'static str)> {
    let variables = VARIABLES.into_iter();
    variables.filter(|(name, _)| !is_set(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_are_set_keep_their_values() {
        assert_eq!(missing(|_| false), VARIABLES);
        assert_eq!(missing(|name| name.starts_with("MALLOC")), [NO_TELEMETRY]);
        assert_eq!(missing(|_| true), []);
    }
}
