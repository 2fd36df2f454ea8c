//! The CPU quota of the process's cgroup.

use std::fs::read_to_string;
use std::path::Path;

/// Returns the lowest CPU quota of the process's cgroups, in CPUs. `root` is the folder that contains `proc` and `sys`,
/// usually `/`. `None` if there is no quota.
pub(super) fn cpu_quota(root: &Path) -> Option<f64> {
    let groups = read_to_string(root.join("proc/self/cgroup")).ok()?;
    let quotas = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let (mount, read): (_, fn(&Path) -> Option<f64>) = match controllers {
            "" => ("sys/fs/cgroup", unified),
            names if names.split(',').any(|name| name == "cpu") => ("sys/fs/cgroup/cpu", legacy),
            _ => return None,
        };
        let top = root.join(mount);
        let own = top.join(path.trim_start_matches('/'));
        // In a container, the path can be that of the host, which the mount does not have: its top is the cgroup then.
        let above = own
            .ancestors()
            .take_while(|folder| folder.starts_with(&top));
        above.filter_map(read).min_by(f64::total_cmp)
    });
    quotas.min_by(f64::total_cmp)
}

/// Reads `cpu.max` of a cgroup of version 2: quota and period in microseconds, or `max` without a quota.
fn unified(folder: &Path) -> Option<f64> {
    let text = read_to_string(folder.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    ratio(quota, period)
}

/// Reads the quota of a cgroup of version 1; it is -1 without one.
fn legacy(folder: &Path) -> Option<f64> {
    let read = |name| read_to_string(folder.join(name)).ok();
    ratio(&read("cpu.cfs_quota_us")?, &read("cpu.cfs_period_us")?)
}

fn ratio(quota: &str, period: &str) -> Option<f64> {
    let (quota, period): (f64, f64) = (quota.trim().parse().ok()?, period.trim().parse().ok()?);
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Paths and contents of files.
    type Files<'a> = &'a [(&'a str, &'a str)];

    #[test]
    fn the_lowest_quota_counts() {
        let cases: [(&str, Files<'_>, Option<f64>); 5] = [
            (
                "0::/a/b\n",
                &[
                    ("sys/fs/cgroup/a/b/cpu.max", "max 100000\n"),
                    ("sys/fs/cgroup/a/cpu.max", "150000 100000\n"),
                ],
                Some(1.5),
            ),
            (
                "0::/../x\n",
                &[("sys/fs/cgroup/cpu.max", "50000 100000")],
                Some(0.5),
            ),
            (
                "3:cpu,cpuacct:/d\n0::/\n",
                &[
                    ("sys/fs/cgroup/cpu/d/cpu.cfs_quota_us", "200000\n"),
                    ("sys/fs/cgroup/cpu/d/cpu.cfs_period_us", "100000\n"),
                ],
                Some(2.0),
            ),
            (
                "3:cpu:/\n",
                &[
                    ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
                    ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
                ],
                None,
            ),
            ("0::/\n", &[("sys/fs/cgroup/cpu.max", "x 0\n")], None),
        ];
        for (groups, files, expected) in cases {
            let root = tempfile::tempdir().unwrap();
            for (path, content) in files.iter().chain(&[("proc/self/cgroup", groups)]) {
                let path = root.path().join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, content).unwrap();
            }
            assert_eq!(cpu_quota(root.path()), expected, "{groups}");
        }
    }
}
