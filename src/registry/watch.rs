//! Watches the files of the models, and changes the served models when the files change.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::models::Registry;
use crate::store::FileList;

/// Shortest and longest time between an attempt that failed and the next one without a change of the
/// files. The time doubles with each failure.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_mins(10));

/// What the watch knows from its previous looks at the files.
#[derive(Debug, Default)]
struct Seen {
    /// The files at the previous look.
    last: Option<FileList>,
    /// The files with which the models were compared last.
    applied: Option<FileList>,
    /// When the models are compared again although the files are the same. `None` after a success.
    retry: Option<Instant>,
    /// Number of failed attempts since the last success or change of the files.
    failures: u32,
}

impl Registry {
    /// Looks at the files of the models every `period`, and calls [`Registry::sync`] when they have
    /// changed and two looks in succession have found the same: a model that is being written is not
    /// loaded yet. Returns when the server stops.
    pub async fn watch(&self, period: Duration) {
        let mut seen = Seen::default();
        while self.pause(period).await {
            let Some(files) = self.files().await else {
                continue;
            };
            if seen.is_due(files, Instant::now()) {
                let changes = self.sync(true).await;
                seen.applied(changes.failed == 0, Instant::now());
            }
        }
    }

    /// Waits for `period`. Returns whether the server still runs.
    async fn pause(&self, period: Duration) -> bool {
        let stopping = self.0.loads.stopping.cancelled();
        tokio::time::timeout(period, stopping).await.is_err()
    }

    /// Returns the files of the models. `None` if the set of models never changes.
    async fn files(&self) -> Option<FileList> {
        let find = Arc::clone(self.0.loads.find.as_ref()?);
        let files = tokio::task::spawn_blocking(move || find.files()).await;
        files.ok()
    }
}

impl Seen {
    /// Returns whether the models have to be compared with `files`, which were found at `now`.
    fn is_due(&mut self, files: FileList, now: Instant) -> bool {
        let settled = self.last.as_ref() == Some(&files);
        let changed = self.applied.as_ref() != Some(&files);
        self.last = Some(files);
        settled && (changed || self.retry.is_some_and(|retry| retry <= now))
    }

    /// Records that the models were compared with the last files.
    fn applied(&mut self, succeeded: bool, now: Instant) {
        if succeeded || self.applied != self.last {
            self.failures = 0;
        }
        self.applied.clone_from(&self.last);
        self.retry = None;
        if !succeeded {
            let pause = RETRY.0.saturating_mul(1 << self.failures.min(16));
            self.retry = Some(now + pause.min(RETRY.1));
            self.failures = self.failures.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_applied_when_they_have_settled_and_failures_are_retried_ever_later() {
        let directory = tempfile::tempdir().unwrap();
        let list = |size: usize| {
            std::fs::write(directory.path().join("a"), vec![0; size]).unwrap();
            FileList::of([directory.path()])
        };
        // Without the modification times of this file, the sizes decide.
        let lists: Vec<FileList> = (0..6).map(list).collect();
        let list = |size: usize| lists[size].clone();
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut seen = Seen::default();
        assert!(!seen.is_due(list(1), at(0)));
        assert!(seen.is_due(list(1), at(2)));
        seen.applied(true, at(2));
        assert!(!seen.is_due(list(1), at(4)));
        // A file grows while it is written.
        assert!(!seen.is_due(list(2), at(6)));
        assert!(!seen.is_due(list(3), at(8)));
        assert!(seen.is_due(list(3), at(10)));
        for (failed, retried) in [(10, 12), (12, 16), (16, 24)] {
            seen.applied(false, at(failed));
            assert!(!seen.is_due(list(3), at(retried - 1)));
            assert!(seen.is_due(list(3), at(retried)));
        }
        // A change starts over.
        assert!(!seen.is_due(list(4), at(25)));
        assert!(seen.is_due(list(4), at(27)));
        seen.applied(false, at(27));
        assert!(seen.is_due(list(4), at(29)));
        seen.failures = u32::MAX;
        seen.applied(false, at(29));
        assert_eq!(seen.retry, Some(at(29) + RETRY.1));
    }
}
