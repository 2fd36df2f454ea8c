//! The files of a model as they were at one moment, to find out whether they have changed.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::source::Origin;
use super::{Boundary, MAX_ONNX_BYTES, ModelSource};

/// Modification times, change times, sizes and, if they were computed, SHA-256 of the files of one model: the
/// manifest, the labels, and the ONNX and ranges files of all variants. Empty for a model without
/// files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fingerprint(BTreeMap<PathBuf, Stamp>);

/// Time of the last change of a file's content or metadata, in seconds and nanoseconds. Unlike the modification time,
/// it cannot be set: archives and images often give all versions of a file the same modification time, and networks
/// of one architecture have the same size.
type ChangeTime = (i64, i64);

fn change_time(file: &Metadata) -> ChangeTime {
    (file.ctime(), file.ctime_nsec())
}

/// The state of one file. All fields are `None` if the file cannot be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    changed: Option<ChangeTime>,
    size: Option<u64>,
    sha256: Option<String>,
}

impl Stamp {
    fn of(path: &Path) -> Self {
        // Symbolic links are followed: Kubernetes replaces the folder to which they lead.
        let metadata = path.metadata().ok();
        Self {
            modified: metadata.as_ref().and_then(|file| file.modified().ok()),
            changed: metadata.as_ref().map(change_time),
            size: metadata.map(|file| file.len()),
            sha256: None,
        }
    }

    fn is_same_file(&self, other: &Self) -> bool {
        (self.modified, self.changed, self.size) == (other.modified, other.changed, other.size)
    }
}

impl ModelSource {
    /// Returns the fingerprint of the model's files, without their SHA-256.
    pub fn fingerprint(&self) -> Fingerprint {
        let Some(path) = &self.path else {
            return Fingerprint::default();
        };
        let labels = path.with_file_name(&self.manifest.labels);
        let files = [path.clone(), labels].into_iter().chain(self.files());
        Fingerprint(files.map(|file| (file.clone(), Stamp::of(&file))).collect())
    }

    /// Returns the fingerprint of the model's files with their SHA-256. Reads only the files one of
    /// whose times or whose size differs from that in `known`.
    pub fn hashed_fingerprint(&self, known: &Fingerprint) -> Fingerprint {
        let boundary = match &self.origin {
            Origin::Files { boundary, .. } => boundary.clone(),
            Origin::Embedded | Origin::Memory(_) => Boundary::None,
        };
        let mut current = self.fingerprint();
        for (path, stamp) in &mut current.0 {
            let known = known.0.get(path).filter(|known| known.is_same_file(stamp));
            let known = known.and_then(|known| known.sha256.clone());
            let read = || boundary.sha256(path, MAX_ONNX_BYTES).ok();
            stamp.sha256 = known.or_else(read);
        }
        current
    }
}

impl Fingerprint {
    /// Returns whether both have the same files with the same times and sizes.
    pub fn has_same_files(&self, other: &Self) -> bool {
        self.all(other, Stamp::is_same_file)
    }

    /// Returns whether both have the same files with the same content, as far as it is known: two
    /// files without SHA-256 are the same if their times and sizes are.
    pub fn has_same_content(&self, other: &Self) -> bool {
        self.all(other, |one, other| match (&one.sha256, &other.sha256) {
            (Some(one), Some(other)) => one == other,
            _ => one.is_same_file(other),
        })
    }

    /// Adopts the times and sizes of `now`, which has the same content, and its SHA-256
    /// where they were computed.
    pub fn refresh(&mut self, now: &Self) {
        for (path, now) in &now.0 {
            let stamp = self.0.entry(path.clone()).or_default();
            let known = stamp.sha256.take();
            *stamp = now.clone();
            stamp.sha256 = stamp.sha256.take().or(known);
        }
    }

    fn all(&self, other: &Self, same: impl Fn(&Stamp, &Stamp) -> bool) -> bool {
        let mut pairs = self.0.iter().zip(&other.0);
        self.0.len() == other.0.len() && pairs.all(|(a, b)| a.0 == b.0 && same(a.1, b.1))
    }
}

/// Maximum number of files of a folder that a [`FileList`] has.
const MAX_LISTED: usize = 10_000;

/// The visible files in several folders and in their subfolders, with modification times, change times and sizes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileList(Vec<(PathBuf, Option<SystemTime>, ChangeTime, u64)>);

impl FileList {
    /// Lists the files in `folders` and in the folders directly inside them. Hidden files, and
    /// folders that cannot be read, are left out.
    pub fn of<'p>(folders: impl IntoIterator<Item = &'p Path>) -> Self {
        let mut list = Self::default();
        for folder in folders {
            for path in visible(folder) {
                let files = if path.is_dir() {
                    visible(&path)
                } else {
                    vec![path]
                };
                for file in files {
                    list.add(file);
                }
            }
        }
        list
    }

    fn add(&mut self, path: PathBuf) {
        // Symbolic links are followed: Kubernetes replaces the folder to which they lead.
        if let Ok(metadata) = path.metadata() {
            let (modified, changed) = (metadata.modified().ok(), change_time(&metadata));
            self.0.push((path, modified, changed, metadata.len()));
        }
    }
}

/// Returns the visible entries of `folder`, sorted. Empty if it cannot be read.
fn visible(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let entries = entries.take(MAX_LISTED).filter_map(Result::ok);
    let hidden = |entry: &std::fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(b".");
    let mut paths: Vec<_> = entries
        .filter(|entry| !hidden(entry))
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_swapped_link_is_a_change_of_the_files_behind_it() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for version in ["..one", "..second"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("model.toml"), version).unwrap();
        }
        symlink("..one", at("..data")).unwrap();
        symlink("..data/model.toml", at("model.toml")).unwrap();
        let list = || FileList::of([directory.path()]);
        let before = list();
        assert_eq!(before.0.len(), 1, "{before:?}");
        assert_eq!(list(), before);
        symlink("..second", at("..new")).unwrap();
        fs::rename(at("..new"), at("..data")).unwrap();
        assert_ne!(list(), before);
        assert_eq!(FileList::of([at("missing").as_path()]), FileList::default());
    }

    #[test]
    fn files_are_compared_by_their_content_if_it_is_known() {
        let stamp = |seconds: u64, size: u64, sha256: Option<&str>| Stamp {
            modified: Some(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds)),
            changed: Some((7, 0)),
            size: Some(size),
            sha256: sha256.map(str::to_owned),
        };
        let of = |stamp| Fingerprint([("a".into(), stamp)].into());
        let known = of(stamp(1, 2, Some("x")));
        for (now, same) in [
            (stamp(1, 2, None), true),
            (stamp(3, 2, None), false),
            (stamp(1, 3, None), false),
            (stamp(3, 2, Some("x")), true),
            (stamp(1, 2, Some("y")), false),
        ] {
            assert_eq!(known.has_same_content(&of(now.clone())), same, "{now:?}");
        }
        assert!(!known.has_same_content(&Fingerprint::default()));
        let mut refreshed = known;
        refreshed.refresh(&of(stamp(3, 2, None)));
        assert_eq!(refreshed, of(stamp(3, 2, Some("x"))));
    }
}
