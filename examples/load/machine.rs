//! Describes the machine on which the figures are measured.

use std::fs::read_to_string;

/// CPU features that decide which kernels run, as `/proc/cpuinfo` names them.
const FEATURES: [&str; 6] = [
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "amx_int8",
    "asimddp",
];

/// Returns a line with the number of cores, the CPU's name and features, and the current load
/// averages of the machine.
pub(crate) fn describe() -> String {
    let info = read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':'))
            .map(|(_, value)| value.trim())
    };
    let flags = field("flags").or(field("Features")).unwrap_or_default();
    let flags: Vec<&str> = flags.split(' ').collect();
    let found: Vec<&str> = FEATURES
        .into_iter()
        .filter(|feature| flags.contains(feature))
        .collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let model = field("model name").unwrap_or("unknown CPU");
    format!(
        "{cores} cores of {model} ({}); at the end: {}",
        found.join(", "),
        load()
    )
}

/// Returns the load averages of the machine over 1, 5 and 15 minutes.
pub(crate) fn load() -> String {
    let averages = read_to_string("/proc/loadavg").unwrap_or_default();
    let averages: Vec<&str> = averages.split(' ').take(3).collect();
    format!("load average {}", averages.join(" "))
}
