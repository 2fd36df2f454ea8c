//! The limit on open files, which every connection counts against.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Open files that the server needs apart from the connections of clients: the connections of the admin listener,
/// both listeners, the runtime, and files of models.
const OTHER_FILES: u64 = 128;

/// Raises the soft limit on open files to the hard limit, and logs a warning if it is too low for
/// `max_connections`.
pub(super) fn raise_limit(max_connections: usize) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // A failure leaves the soft limit, which is checked below.
    let _ = setrlimit(Resource::Nofile, raised);
    let needed = max_connections as u64 + OTHER_FILES;
    // `None` stands for no limit.
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
