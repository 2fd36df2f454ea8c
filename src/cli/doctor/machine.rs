//! Checks of the machine: CPU, cores, memory, open files, clock.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, getrlimit};
use sightline::cpu::has_int8_dot;
use sightline::memory::{BudgetOrigin, memory_limit};
use sightline::threads::usable_cores;

use super::Check;
use super::quota::cpu_quota;
use crate::cli::descriptors::needed_files;

/// Memory in bytes below which the default model has little room for requests.
const LITTLE_MEMORY: u64 = 1 << 30;
/// Memory in bytes below which the default model is not certain to load.
const TOO_LITTLE_MEMORY: u64 = 256 << 20;
/// Seconds from 1970 to 2026-01-01, before this program was written.
const EARLIEST: u64 = 1_767_225_600;
/// Difference, in the quota of CPUs, that counts as none.
const ALMOST: f64 = 0.01;

/// Checks the instructions of the CPU.
pub(super) fn cpu() -> Check {
    let features = features();
    let found = if features.is_empty() {
        std::env::consts::ARCH.to_owned()
    } else {
        format!("{} with {}", std::env::consts::ARCH, features.join(", "))
    };
    if has_int8_dot() {
        return Check::ok(
            "cpu",
            format!("{found}: int8 models run two to three times as fast as fp32"),
        );
    }
    Check::warning(
        "cpu",
        format!("{found}: no int8 dot product, so that int8 models are hardly faster than fp32"),
        "use fp32 models, or a CPU with AVX-512 VNNI, AVX-VNNI or Arm dot product",
    )
}

/// Returns the names of the instruction sets that matter to inference and that this CPU has.
fn features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let all = [
        ("AVX2", is_x86_feature_detected!("avx2")),
        ("AVX-512", is_x86_feature_detected!("avx512f")),
        ("AVX-512 VNNI", is_x86_feature_detected!("avx512vnni")),
        ("AVX-VNNI", is_x86_feature_detected!("avxvnni")),
    ];
    #[cfg(target_arch = "aarch64")]
    let all = [
        ("NEON", true),
        (
            "dot product",
            std::arch::is_aarch64_feature_detected!("dotprod"),
        ),
        ("i8mm", std::arch::is_aarch64_feature_detected!("i8mm")),
    ];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let all: [(&str, bool); 0] = [];
    all.into_iter()
        .filter(|(_, has)| *has)
        .map(|(name, _)| name)
        .collect()
}

/// Checks the number of cores and the quota of the cgroup.
pub(super) fn cores() -> Check {
    let cores = usable_cores();
    let Some(quota) = cpu_quota(Path::new("/")) else {
        return Check::ok("cores", format!("{cores}, without a quota"));
    };
    let found = format!("{cores}, with a quota of {quota:.2} CPUs");
    let fraction = quota - quota.floor();
    if quota < 1.0 || (ALMOST..1.0 - ALMOST).contains(&fraction) {
        return Check::warning(
            "cores",
            format!(
                "{found}: threads are stopped when the quota of a period is used up, which lengthens single requests"
            ),
            "set the CPU limit of the container to a whole number, or set --threads to the quota rounded down",
        );
    }
    Check::ok("cores", found)
}

/// Checks the memory that this process may use.
pub(super) fn memory() -> Check {
    let Some((bytes, origin)) = memory_limit(Path::new("/")) else {
        return Check::warning(
            "memory",
            "no limit can be read from /proc and /sys",
            "set --memory-budget, because its default is a share of the limit",
        );
    };
    let of = match origin {
        BudgetOrigin::Cgroup => "limit of the cgroup",
        _ => "physical memory",
    };
    let found = format!("{} MiB, the {of}", bytes >> 20);
    if bytes < TOO_LITTLE_MEMORY {
        return Check::failure("memory", found, "allow at least 512 MiB");
    }
    if bytes < LITTLE_MEMORY {
        let fix = "allow 1 GiB or more, or serve one small model with few workers (--instances 1)";
        return Check::warning("memory", found, fix);
    }
    Check::ok("memory", found)
}

/// Checks the limit on open files.
pub(super) fn open_files() -> Check {
    let needed = needed_files();
    let Some(limit) = getrlimit(Resource::Nofile).maximum else {
        return Check::ok("open files", "not limited");
    };
    let found = format!("{limit} allowed, {needed} needed for the default --max-connections");
    if limit < needed {
        let fix = "raise the hard limit (`ulimit -Hn`, `LimitNOFILE`), or lower --max-connections";
        return Check::warning("open files", found, fix);
    }
    Check::ok("open files", found)
}

/// Checks that the clock can be right: certificates and logs depend on it.
pub(super) fn clock() -> Check {
    let now = SystemTime::now();
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let built = std::env::current_exe().and_then(|path| path.metadata()?.modified());
    let is_older = built.is_ok_and(|built| built > now + Duration::from_mins(1));
    judge_clock(seconds, is_older)
}

/// Judges a clock that shows `seconds` since 1970; `is_older` states whether this is before the program was written to
/// the disk.
fn judge_clock(seconds: u64, is_older: bool) -> Check {
    let fix =
        "set the clock, for example with NTP: TLS certificates and times in the log depend on it";
    if seconds < EARLIEST {
        return Check::failure("clock", "it shows a time before 2026", fix);
    }
    if is_older {
        return Check::warning(
            "clock",
            "it shows a time before this program was installed",
            fix,
        );
    }
    Check::ok("clock", "it shows a plausible time")
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_clock_in_the_past_is_found() {
        let verdict = |seconds, older| judge_clock(seconds, older).verdict;
        assert_eq!(verdict(0, true), Verdict::Failure);
        assert_eq!(verdict(EARLIEST, true), Verdict::Warning);
        assert_eq!(verdict(EARLIEST, false), Verdict::Ok);
    }
}
