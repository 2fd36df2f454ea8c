//! The formats of the `/metrics` page.

use std::fmt;

use prometheus_client::encoding::prometheus_protobuf::{self, prometheus_data_model};
use prometheus_client::encoding::text as open_metrics;
use prometheus_client::registry::Registry;
use prost::Message;

use super::{text, triton};

/// A format of the `/metrics` page. All formats have the same series with the same values; native histograms are
/// only in [`Exposition::Protobuf`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposition {
    /// Prometheus' text format 0.0.4.
    Text,
    /// The text format of OpenMetrics 1.0.0.
    OpenMetrics,
    /// Prometheus' protobuf messages `MetricFamily`, each after its length.
    Protobuf,
}

impl Exposition {
    /// Every format with its media type. The first one is the default.
    pub const OFFERS: [(&'static str, Self); 3] = [
        ("text/plain; version=0.0.4; charset=utf-8", Self::Text),
        (
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::OpenMetrics,
        ),
        (
            "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
            Self::Protobuf,
        ),
    ];

    /// Returns the media type of the format.
    pub fn media_type(self) -> &'static str {
        Self::OFFERS[self as usize].0
    }

    /// Encodes the metrics in `registry`.
    pub(super) fn encode(self, registry: &Registry) -> Result<Vec<u8>, fmt::Error> {
        if self == Self::OpenMetrics {
            let mut page = String::new();
            open_metrics::encode(&mut page, registry)?;
            return Ok(page.into_bytes());
        }
        let mut families = prometheus_protobuf::encode(registry)?;
        triton::make_counters(&mut families);
        families.retain(|family| !family.metric.is_empty());
        if self == Self::Text {
            return Ok(text::encode(&families)?.into_bytes());
        }
        delimited(&families)
    }
}

fn delimited(families: &[prometheus_data_model::MetricFamily]) -> Result<Vec<u8>, fmt::Error> {
    let mut page = Vec::new();
    for family in families {
        let encoded = family.encode_length_delimited(&mut page);
        encoded.map_err(|_| fmt::Error)?;
    }
    Ok(page)
}
