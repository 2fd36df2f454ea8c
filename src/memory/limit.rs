//! The memory that this process may use: the smaller of its cgroup's limit and the physical memory.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

use super::BudgetOrigin;

/// Returns the smaller of the cgroup's memory limit and the physical memory, in bytes, and which of
/// the two it is. `root` is the folder that contains `proc` and `sys`, usually `/`. `None` if
/// neither amount can be read.
///
/// The cgroup's limit is the lowest limit of the process's own cgroup and all cgroups above it, in
/// cgroup versions 1 and 2.
pub fn memory_limit(root: &Path) -> Option<(u64, BudgetOrigin)> {
    let physical = physical(root).map(|bytes| (bytes, BudgetOrigin::Physical));
    let cgroup = cgroup(root).map(|bytes| (bytes, BudgetOrigin::Cgroup));
    // In cgroup version 1, a cgroup without a limit states a value above any physical memory.
    [physical, cgroup]
        .into_iter()
        .flatten()
        .min_by_key(|limit| limit.0)
}

/// Returns the physical memory in bytes, from `/proc/meminfo`. `None` if the file cannot be read.
fn physical(root: &Path) -> Option<u64> {
    let text = read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

/// Returns the lowest memory limit of the process's cgroups, in bytes. `None` if no limit can be
/// read.
fn cgroup(root: &Path) -> Option<u64> {
    let own = read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mounts = read_to_string(root.join("proc/self/mountinfo")).ok()?;
    let limits = mounts.lines().filter_map(|line| {
        let mount = Mount::parse(line)?;
        let path = own.lines().find_map(|line| mount.cgroup_of(line))?;
        mount.lowest_limit(root, path)
    });
    limits.min()
}

/// A mounted hierarchy of cgroups that can limit memory.
struct Mount<'a> {
    /// Path of the cgroup that is the top of the mount, within its hierarchy; `/` if the whole
    /// hierarchy is mounted.
    mounted: &'a str,
    /// Path of the folder where the hierarchy is mounted.
    folder: &'a str,
    /// Whether the hierarchy is of cgroup version 2, in which one hierarchy has all controllers.
    unified: bool,
}

impl<'a> Mount<'a> {
    /// Parses a line of `/proc/self/mountinfo`. `None` if the line is not about a cgroup hierarchy
    /// with the memory controller.
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, kind) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (mounted, folder) = (mount.next()?, mount.next()?);
        let mut kind = kind.split(' ');
        let unified = match (kind.next()?, kind.nth(1)?) {
            ("cgroup2", _) => true,
            ("cgroup", options) if options.split(',').any(|option| option == "memory") => false,
            _ => return None,
        };
        Some(Self {
            mounted,
            folder,
            unified,
        })
    }

    /// Returns the path of the process's cgroup relative to the mounted folder, from `line` of
    /// `/proc/self/cgroup`. `None` if the line is about another hierarchy. If the mount shows only
    /// a part of the hierarchy and the cgroup is outside of it, as in some containers, the path is
    /// empty, which stands for the mounted folder.
    fn cgroup_of(&self, line: &'a str) -> Option<&'a str> {
        let mut fields = line.splitn(3, ':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let is_this = if self.unified {
            number == "0" && controllers.is_empty()
        } else {
            controllers.split(',').any(|name| name == "memory")
        };
        let below = match self.mounted {
            "/" => path,
            mounted => path.strip_prefix(mounted).unwrap_or_default(),
        };
        is_this.then(|| below.trim_start_matches('/'))
    }

    /// Returns the lowest memory limit, in bytes, of the cgroup at `path` in the mounted folder and
    /// of the cgroups above it. `None` if none of them has a limit.
    fn lowest_limit(&self, root: &Path, path: &str) -> Option<u64> {
        let name = if self.unified {
            "memory.max"
        } else {
            "memory.limit_in_bytes"
        };
        let top: PathBuf = root.join(self.folder.trim_start_matches('/'));
        let own = top.join(path);
        let up = own
            .ancestors()
            .take_while(|folder| folder.starts_with(&top));
        // Files that do not exist or hold no number are skipped: `memory.max` holds `max` if there
        // is no limit, and the root cgroup has no `memory.max`.
        up.filter_map(|folder| read_to_string(folder.join(name)).ok()?.trim().parse().ok())
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "35 33 0:29 /docker/a /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
                      36 33 0:30 /docker/a /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n";
    const V2_GROUP: &str = "0::/app.slice/a.service\n";
    const V1_GROUP: &str = "4:memory:/docker/a/b\n1:cpu:/docker/a\n0::/\n";
    const MIB: u64 = 1 << 20;

    /// Writes `files`, pairs of a relative path and a content, to a new temporary folder.
    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        root
    }

    #[test]
    fn the_lowest_limit_of_the_cgroup_or_the_machine_counts() {
        type Files<'a> = &'a [(&'a str, &'a str)];
        const OWN: &str = "sys/fs/cgroup/app.slice/a.service/memory.max";
        const PARENT: &str = "sys/fs/cgroup/app.slice/memory.max";
        const V1_OWN: &str = "sys/fs/cgroup/memory/b/memory.limit_in_bytes";
        const V1_TOP: &str = "sys/fs/cgroup/memory/memory.limit_in_bytes";
        const NONE: &str = "9223372036854771712\n";
        let cgroup = |mib| Some((mib * MIB, BudgetOrigin::Cgroup));
        let physical = Some((2048 * MIB, BudgetOrigin::Physical));
        // Contents of `mountinfo` and `cgroup`, files with limits, and the expected memory limit.
        let cases: [(&str, &str, Files<'_>, _); 8] = [
            (V2, V2_GROUP, &[(OWN, "536870912\n")], cgroup(512)),
            (
                V2,
                V2_GROUP,
                &[(OWN, "max\n"), (PARENT, "104857600\n")],
                cgroup(100),
            ),
            (V2, V2_GROUP, &[(OWN, "max\n"), (PARENT, "max\n")], physical),
            (V2, V2_GROUP, &[(OWN, "99999999999\n")], physical),
            (
                V1,
                V1_GROUP,
                &[(V1_OWN, NONE), (V1_TOP, "1073741824\n")],
                cgroup(1024),
            ),
            (V1, V1_GROUP, &[(V1_OWN, NONE), (V1_TOP, NONE)], physical),
            // In some containers, the mount shows the container's cgroup as `/`, but `cgroup`
            // states a path relative to the host.
            (
                V2,
                "0::/../b\n",
                &[("sys/fs/cgroup/memory.max", "1048576")],
                cgroup(1),
            ),
            ("", "", &[], physical),
        ];
        for (mounts, groups, limits, expected) in cases {
            let mut files = vec![
                (
                    "proc/meminfo",
                    "MemTotal:        2097152 kB\nMemFree: 1 kB\n",
                ),
                ("proc/self/mountinfo", mounts),
                ("proc/self/cgroup", groups),
            ];
            files.extend(limits);
            let limit = memory_limit(tree(&files).path());
            assert_eq!(limit, expected, "{groups:?} {limits:?}");
        }
        assert_eq!(memory_limit(tree(&[]).path()), None);
    }
}
