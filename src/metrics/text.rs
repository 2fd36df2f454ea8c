//! Prometheus' text format 0.0.4.
//!
//! Unlike in OpenMetrics, `# TYPE` has the name of a counter's series, which ends in `_total`, and there is no type
//! for information and no line `# EOF`.
//!
//! Source: <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>

use std::fmt::{self, Display, Write};

use prometheus_client::encoding::prometheus_protobuf::prometheus_data_model::{
    Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

/// Encodes metric families.
pub(super) fn encode(families: &[MetricFamily]) -> Result<String, fmt::Error> {
    let mut page = Page(String::new());
    for family in families {
        page.family(family)?;
    }
    Ok(page.0)
}

struct Page(String);

impl Page {
    fn family(&mut self, family: &MetricFamily) -> fmt::Result {
        let kind = match family.r#type() {
            MetricType::Counter => "counter",
            MetricType::Gauge => "gauge",
            MetricType::Summary => "summary",
            MetricType::Histogram | MetricType::GaugeHistogram => "histogram",
            MetricType::Untyped => "untyped",
        };
        let name = &family.name;
        write!(self.0, "# HELP {name} ")?;
        self.escaped(&family.help, false)?;
        writeln!(self.0, "\n# TYPE {name} {kind}")?;
        for metric in &family.metric {
            self.metric(name, metric)?;
        }
        Ok(())
    }

    fn metric(&mut self, name: &str, metric: &Metric) -> fmt::Result {
        let labels = &metric.label;
        if let Some(counter) = &metric.counter {
            self.sample(name, labels, None, counter.value)?;
        }
        if let Some(gauge) = &metric.gauge {
            self.sample(name, labels, None, gauge.value)?;
        }
        match &metric.histogram {
            Some(histogram) => self.histogram(name, labels, histogram),
            None => Ok(()),
        }
    }

    fn histogram(
        &mut self,
        name: &str,
        labels: &[LabelPair],
        histogram: &Histogram,
    ) -> fmt::Result {
        let buckets = format!("{name}_bucket");
        for bucket in &histogram.bucket {
            let count = bucket.cumulative_count;
            self.sample(&buckets, labels, Some(bucket.upper_bound), count)?;
        }
        self.sample(&format!("{name}_sum"), labels, None, histogram.sample_sum)?;
        let count = histogram.sample_count;
        self.sample(&format!("{name}_count"), labels, None, count)
    }

    /// Writes the line of one sample. `bound` is the upper bound of a bucket, its label `le`.
    fn sample(
        &mut self,
        name: &str,
        labels: &[LabelPair],
        bound: Option<f64>,
        value: impl Display,
    ) -> fmt::Result {
        self.0.push_str(name);
        let mut separator = '{';
        if let Some(bound) = bound {
            // As in OpenMetrics, so that the series are the same: `1.0`, not `1`.
            match bound {
                f64::INFINITY => self.0.push_str("{le=\"+Inf\""),
                bound => write!(self.0, "{{le=\"{bound:?}\"")?,
            }
            separator = ',';
        }
        for label in labels {
            write!(self.0, "{separator}{}=\"", label.name)?;
            self.escaped(&label.value, true)?;
            self.0.push('"');
            separator = ',';
        }
        if separator == ',' {
            self.0.push('}');
        }
        writeln!(self.0, " {value}")
    }

    /// Writes a text with its backslashes and line feeds escaped, and its quotes if it is `quoted`.
    fn escaped(&mut self, text: &str, quoted: bool) -> fmt::Result {
        for character in text.chars() {
            match character {
                '\\' => self.0.write_str("\\\\")?,
                '\n' => self.0.write_str("\\n")?,
                '"' if quoted => self.0.write_str("\\\"")?,
                other => self.0.write_char(other)?,
            }
        }
        Ok(())
    }
}
