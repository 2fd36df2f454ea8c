//! The process's limit on open files, which has to suffice for the maximum number of connections.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sightline::config::DEFAULT_MAX_CONNECTIONS;

/// Number of open files that the server needs in addition to the connections of clients:
/// connections to the admin listener, the sockets of the two listeners, the async runtime, and
/// model files.
const OTHER_FILES: u64 = 128;

/// Returns the number of open files that the server needs with the default of `--max-connections`.
pub(super) fn needed_files() -> u64 {
    DEFAULT_MAX_CONNECTIONS as u64 + OTHER_FILES
}

/// Raises the soft limit on open files to the hard limit, and logs a warning if the resulting limit
/// is too low for `max_connections` connections and `OTHER_FILES` other files.
pub(super) fn raise_limit(max_connections: usize) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // If the limit cannot be raised, the previous soft limit stays in force and is checked below.
    let _ = setrlimit(Resource::Nofile, raised);
    let needed = max_connections as u64 + OTHER_FILES;
    // `getrlimit` reports `None` if the number of open files is not limited.
    if let Some(open_files) = getrlimit(Resource::Nofile).current
        && open_files < needed
    {
        tracing::warn!(
            max_connections,
            open_files,
            needed,
            "too few open files are allowed for max_connections: raise the limit (`ulimit -Hn`, `LimitNOFILE`)"
        );
    }
}
