//! Counters of files that are read again while the server runs.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::labels::{ReloadLabels, ReloadResult};

/// Counts how often files were read again, by result. Clones share the same values.
#[derive(Debug, Clone, Default)]
pub struct Reloads(pub(super) Family<ReloadLabels, Counter>);

impl Reloads {
    /// Makes the counters exist with the value 0, so that rates of Prometheus include the first reload.
    pub fn expect(&self) {
        for result in ReloadResult::ALL {
            let _ = self.0.get_or_create(&ReloadLabels { result });
        }
    }

    /// Counts a reload. `succeeded` says whether the contents of the files could be used.
    pub fn count(&self, succeeded: bool) {
        let result = if succeeded {
            ReloadResult::success
        } else {
            ReloadResult::failure
        };
        self.0.get_or_create(&ReloadLabels { result }).inc();
    }
}
