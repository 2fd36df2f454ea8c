//! Memory and CPU time of this process, read from `/proc` when metrics are scraped.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Resource usage of this process, from `/proc/self`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ProcessUsage {
    /// User and system CPU time since the process started, in seconds.
    pub cpu_seconds: f64,
    /// Resident memory, in bytes.
    pub resident_bytes: u64,
    /// Peak resident memory, in bytes.
    pub peak_resident_bytes: u64,
    /// Number of threads of the process.
    pub threads: u64,
}

impl ProcessUsage {
    /// Reads the current usage of this process; all values are 0 on a system without `/proc`.
    pub fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        Self {
            cpu_seconds: cpu_seconds(&stat).unwrap_or_default(),
            resident_bytes: field(&status, "VmRSS:").unwrap_or_default() * 1024,
            peak_resident_bytes: field(&status, "VmHWM:").unwrap_or_default() * 1024,
            threads: field(&status, "Threads:").unwrap_or_default(),
        }
    }
}

/// Returns the value of the line in `status` that starts with `name`, in the unit of
/// `/proc/self/status` (kB for memory). `None` if there is no line with this name, or if the line
/// has no integer.
fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Returns the CPU time in seconds: the sum of fields 14 (user) and 15 (system) of `stat`, the text
/// of `/proc/self/stat`. Fields are counted from the end of the command name, which is field 2, is
/// in parentheses and may contain spaces. `None` if the text has another format.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    Some((user + system) as f64 / ticks as f64)
}

/// Exposes [`ProcessUsage`] as the Prometheus metrics `process_cpu_seconds_total`,
/// `process_resident_memory_bytes`, `process_peak_memory_bytes` and `process_threads`.
#[derive(Debug)]
pub(crate) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let usage = ProcessUsage::now();
        let cpu = ConstCounter::new(usage.cpu_seconds);
        let help = "User and system CPU time of the process";
        let descriptor =
            encoder.encode_descriptor("process_cpu_seconds", help, None, cpu.metric_type())?;
        cpu.encode(descriptor)?;
        let gauges = [
            (
                "process_resident_memory_bytes",
                "Resident memory of the process",
                usage.resident_bytes,
            ),
            (
                "process_peak_memory_bytes",
                "Peak resident memory of the process",
                usage.peak_resident_bytes,
            ),
            ("process_threads", "Threads of the process", usage.threads),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value as f64);
            let descriptor = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(descriptor)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_after_a_command_name_with_parentheses() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0";
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(cpu_seconds(stat), Some(300.0 / ticks));
        assert_eq!(field("VmRSS:\t  123 kB\n", "VmRSS:"), Some(123));
        assert_eq!(cpu_seconds("nonsense"), None);
    }
}
