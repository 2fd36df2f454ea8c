//! Explains a denied permission: which file or folder denies it to which user, and how to allow it.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

/// Maximum number of symbolic links that are followed in the search for a [`Barrier`].
const MAX_LINKS: usize = 16;

/// A file or folder that the user of this process may not read.
#[derive(Debug)]
pub struct Denied {
    /// Path of the file or folder.
    pub path: PathBuf,
    /// Id of the effective user of this process.
    pub user: u32,
    /// The file or folder that denies access to `path`. `None` if it cannot be determined.
    barrier: Option<Barrier>,
}

/// The file or folder whose permissions deny an access.
#[derive(Debug)]
struct Barrier {
    path: PathBuf,
    owner: u32,
    group: u32,
    /// Permission bits, 0 to 0o7777.
    mode: u32,
    is_folder: bool,
}

impl Denied {
    /// Explains why this process may not read `path`.
    pub(super) fn at(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
            user: geteuid().as_raw(),
            barrier: Barrier::before(path, MAX_LINKS),
        }
    }
}

impl Barrier {
    /// Returns what denies access to `path`: `path` itself if its metadata can be read, because its folders can then
    /// be searched, else the nearest folder above `path` with readable metadata.
    fn before(path: &Path, links: usize) -> Option<Self> {
        if let Ok(metadata) = path.metadata() {
            return Some(Self {
                path: path.to_path_buf(),
                owner: metadata.uid(),
                group: metadata.gid(),
                mode: metadata.mode() & 0o7777,
                is_folder: metadata.is_dir(),
            });
        }
        let parent = match path.parent()? {
            parent if parent.as_os_str().is_empty() => Path::new("."),
            parent => parent,
        };
        // The link itself can be read, so its target is behind the barrier.
        if let Ok(target) = path.read_link()
            && links > 0
        {
            return Self::before(&parent.join(target), links - 1);
        }
        Self::before(parent, links)
    }

    /// Returns whether the mode allows every user to read the file, or to list and search the folder.
    fn is_open(&self) -> bool {
        let needed = if self.is_folder { 0o555 } else { 0o444 };
        self.mode & needed == needed
    }

    /// Writes the command that lets every user read `wanted`.
    fn write_remedy(&self, f: &mut fmt::Formatter<'_>, wanted: &Path) -> fmt::Result {
        let rights = match () {
            () if !self.is_folder => "a+r",
            // Only a folder that is to be read may be opened with everything in it.
            () if self.path == wanted => "-R a+rX",
            () => "a+x",
        };
        let path = self.path.display();
        write!(f, "; `chmod {rights} {path}` allows every user to read it")
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, user, .. } = self;
        write!(
            f,
            "cannot read {}: permission denied for user {user}",
            path.display()
        )?;
        let Some(barrier) = &self.barrier else {
            return Ok(());
        };
        let Barrier {
            owner, group, mode, ..
        } = barrier;
        let place = barrier.path.display();
        write!(
            f,
            ": {place} has mode {mode:04o} and belongs to user {owner}, group {group}"
        )?;
        if barrier.is_open() {
            return f.write_str(
                ", which would allow it, but an access control list or a security module such as \
                 SELinux denies it (Docker relabels a volume that is mounted with `:z`)",
            );
        }
        barrier.write_remedy(f, path)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn the_explanation_names_what_denies_the_access_and_the_command_that_allows_it() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir(at("birds")).unwrap();
        fs::write(at("birds/model.toml"), "").unwrap();
        symlink("birds/model.toml", at("link")).unwrap();
        let metadata = root.path().metadata().unwrap();
        let (owner, group) = (metadata.uid(), metadata.gid());
        let cases = [
            ("birds", 0o700, "birds", "chmod -R a+rX "),
            ("birds/model.toml", 0o600, "birds/model.toml", "chmod a+r "),
            ("link", 0o600, "link", "chmod a+r "),
            ("birds/gone", 0o700, "birds", "chmod a+x "),
            ("birds", 0o755, "birds", "SELinux"),
        ];
        for (path, mode, barrier, remedy) in cases {
            let blocked = at(barrier);
            fs::set_permissions(&blocked, Permissions::from_mode(mode)).unwrap();
            let text = Denied::at(&at(path)).to_string();
            fs::set_permissions(&blocked, Permissions::from_mode(0o755)).unwrap();
            let start = format!(
                "cannot read {}: permission denied for user {}: {} has mode {mode:04o} and belongs \
                 to user {owner}, group {group}",
                at(path).display(),
                geteuid().as_raw(),
                blocked.display(),
            );
            assert!(text.starts_with(&start), "{path}: {text}");
            assert!(text.contains(remedy), "{path}: {text}");
        }
    }
}
