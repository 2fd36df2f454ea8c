//! Polls the key file.

use std::sync::Arc;
use std::time::Duration;

use super::KeyFile;
use super::file::Snapshot;
use crate::app::App;

/// Time between two polls.
const INTERVAL: Duration = Duration::from_secs(2);
/// Time for which a changed file must stay the same before it is applied, because an editor may still be writing it.
const SETTLED: Duration = Duration::from_millis(100);
/// Maximum number of times that a changing file is read before it is applied as it is.
const MOST_READS: usize = 20;

impl KeyFile {
    /// Applies the changes of the key file of `app`, forever. Returns immediately if `app` has no keys.
    ///
    /// The content is read and compared each time: the modification time can stay the same if a symbolic link is
    /// swapped, or on a network file system.
    pub async fn watch(app: Arc<App>) {
        let Some(file) = app.keys.clone() else {
            return;
        };
        app.metrics.key_reloads.expect();
        loop {
            tokio::time::sleep(INTERVAL).await;
            // Neither reading nor logging panics; if a read does, the next poll reads again.
            if let Some(snapshot) = file.settled().await {
                let _ = file.apply(snapshot, &app.metrics);
            }
        }
    }

    /// Reads the file until it stays the same for [`SETTLED`]. Returns `None` if it did not change since it was last
    /// applied.
    async fn settled(self: &Arc<Self>) -> Option<Snapshot> {
        let mut last = self.read_elsewhere().await?;
        if !self.is_news(&last) {
            return None;
        }
        for _ in 1..MOST_READS {
            tokio::time::sleep(SETTLED).await;
            let next = self.read_elsewhere().await?;
            if next.equals(&last) {
                break;
            }
            last = next;
        }
        self.is_news(&last).then_some(last)
    }

    /// Reads the file on a thread that may block. Returns `None` if reading panics.
    async fn read_elsewhere(self: &Arc<Self>) -> Option<Snapshot> {
        let file = Arc::clone(self);
        tokio::task::spawn_blocking(move || file.read()).await.ok()
    }
}
