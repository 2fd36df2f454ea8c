//! Gauges that are read when metrics are scraped: use of the memory budgets and of the queues.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;

use super::labels::ModelLabels;
use crate::budget::BudgetList;

/// Exposes every [`BudgetList`] entry as `sightline_budget_bytes{kind,state}`.
#[derive(Debug)]
pub(super) struct BudgetCollector(pub(super) BudgetList<&'static str>);

impl Collector for BudgetCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help =
            "Memory budgets: bytes reserved by requests (used) and available in total (total)";
        let kind = ConstGauge::new(0_u64).metric_type();
        let mut family = encoder.encode_descriptor("sightline_budget_bytes", help, None, kind)?;
        for budget in self.0.usage() {
            for (state, bytes) in [("used", budget.used), ("total", budget.total)] {
                let labels = [("kind", budget.label), ("state", state)];
                let gauge = ConstGauge::new(bytes as f64);
                gauge.encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// Exposes the places in the queue of each loaded model as `sightline_queue_depth` (reserved places) and
/// `sightline_queue_capacity` (all places). A request is rejected with `queue_full` if the depth has reached the
/// capacity.
#[derive(Debug)]
pub(super) struct QueueCollector(pub(super) BudgetList<ModelLabels>);

impl Collector for QueueCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let usage = self.0.usage();
        let help = "Places in the queue that images hold, from before they are decoded until a worker takes them";
        let used = usage.iter().map(|queue| (&queue.label, queue.used));
        encode_gauges(&mut encoder, "sightline_queue_depth", help, used)?;
        let help = "Places in the queue";
        let total = usage.iter().map(|queue| (&queue.label, queue.total));
        encode_gauges(&mut encoder, "sightline_queue_capacity", help, total)
    }
}

/// Encodes a gauge with one sample for each of `samples`.
pub(super) fn encode_gauges<'a, L: prometheus_client::encoding::EncodeLabelSet + 'a>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl Iterator<Item = (&'a L, u64)>,
) -> Result<(), fmt::Error> {
    let kind = ConstGauge::new(0_u64).metric_type();
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in samples {
        ConstGauge::new(value).encode(family.encode_family(labels)?)?;
    }
    Ok(())
}
