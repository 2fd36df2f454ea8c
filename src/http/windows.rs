//! The flow-control windows of HTTP/2 connections: what a client can send before the server reads it.

use crate::budget::{Budget, Permit};

/// The window that HTTP/2 prescribes for the beginning of a connection. It cannot be smaller.
const SMALLEST: u32 = 64 << 10;
/// Larger windows, largest first. A connection gets the first one that there is memory for. The largest one holds a tensor of
/// 224x224 pixels, which takes about 0.4 ms longer if the client has to wait for window updates.
const LARGER: [u32; 2] = [1 << 20, 256 << 10];

/// The memory for the windows of all connections of a server.
#[derive(Debug, Clone)]
pub struct Windows {
    /// What is left for windows beyond [`SMALLEST`].
    spare: Budget,
}

impl Windows {
    /// Returns the windows of a server with at most `connections` connections. Together they take at most half as much
    /// memory as `bytes`, the budget for request bodies, or 64 KiB for each connection if that is more.
    pub fn new(bytes: u64, connections: usize) -> Self {
        let least = u64::from(SMALLEST).saturating_mul(connections as u64);
        let spare = (bytes / 2).saturating_sub(least);
        Self {
            spare: Budget::new("windows", SMALLEST.into(), spare),
        }
    }

    /// Returns the window of a new connection.
    pub(super) fn take(&self) -> Window {
        for bytes in LARGER {
            if let Ok(beyond) = self.spare.try_acquire(u64::from(bytes - SMALLEST)) {
                return Window {
                    bytes,
                    _beyond: Some(beyond),
                };
            }
        }
        Window {
            bytes: SMALLEST,
            _beyond: None,
        }
    }
}

impl Default for Windows {
    /// Returns the windows of a server with the default budget and number of connections.
    fn default() -> Self {
        Self::new(512 << 20, 1024)
    }
}

/// The window of a connection, and of each of its streams. Its memory is free again when it is dropped.
#[derive(Debug)]
pub(super) struct Window {
    /// Size in bytes.
    pub(super) bytes: u32,
    /// The memory beyond [`SMALLEST`].
    _beyond: Option<Permit>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_windows_take_at_most_half_of_the_memory_for_bodies() {
        for (bytes, connections) in [(512 << 20, 1024), (256 << 20, 1000), (1 << 20, 8), (0, 3)] {
            let windows = Windows::new(bytes, connections);
            let taken: Vec<Window> = (0..connections).map(|_| windows.take()).collect();
            let sum: u64 = taken.iter().map(|window| u64::from(window.bytes)).sum();
            let most = (bytes / 2).max(u64::from(SMALLEST) * connections as u64);
            assert!(sum <= most, "{bytes} {connections}: {sum}");
        }
    }

    #[test]
    fn the_first_connections_have_the_largest_windows() {
        // 4 MiB for 4 connections: 256 KiB of it are their smallest windows.
        let windows = Windows::new(8 << 20, 4);
        let mut taken: Vec<Window> = (0..5).map(|_| windows.take()).collect();
        let sizes = |taken: &[Window]| -> Vec<u32> {
            taken.iter().map(|window| window.bytes >> 10).collect()
        };
        assert_eq!(sizes(&taken), [1024, 1024, 1024, 1024, 64]);
        taken.truncate(1);
        taken.extend((0..2).map(|_| windows.take()));
        assert_eq!(sizes(&taken), [1024, 1024, 1024]);
        let windows = Windows::new(2 << 20, 8);
        let taken: Vec<Window> = (0..4).map(|_| windows.take()).collect();
        assert_eq!(sizes(&taken), [256, 256, 64, 64]);
    }
}
