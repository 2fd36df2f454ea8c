//! The metrics of TLS.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;

use super::reloads::Reloads;

/// The metrics of TLS. They exist only if the server has a certificate.
#[derive(Debug, Clone, Default)]
pub struct TlsMetrics {
    /// End of the certificate's validity in seconds since 1970, or 0 without a certificate.
    expiry: Arc<AtomicI64>,
    pub(super) reloads: Reloads,
}

impl TlsMetrics {
    /// Records that the certificate in use is valid until `not_after`, in seconds since 1970.
    pub fn expires(&self, not_after: i64) {
        self.expiry.store(not_after, Ordering::Relaxed);
        self.reloads.expect();
    }

    /// Counts a reload of changed files.
    pub fn reloaded(&self, succeeded: bool) {
        self.reloads.count(succeeded);
    }
}

/// Exposes `sightline_tls_certificate_expiry_timestamp_seconds` if the server has a certificate.
#[derive(Debug)]
pub(super) struct ExpiryCollector(pub(super) TlsMetrics);

impl Collector for ExpiryCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let not_after = self.0.expiry.load(Ordering::Relaxed);
        if not_after == 0 {
            return Ok(());
        }
        let name = "sightline_tls_certificate_expiry_timestamp_seconds";
        let help = "End of the validity of the TLS certificate in use, in seconds since 1970";
        let gauge = ConstGauge::new(not_after);
        gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
    }
}
