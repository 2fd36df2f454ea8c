//! The results of an interrupted evaluation, one JSON line per image, so that the same command continues it.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::record::Record;
use crate::cli::say::complain;

/// Maximum size in bytes of a file that is continued.
const MAX_BYTES: u64 = 8 << 30;

/// What the results depend on. Results are continued only if it is equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) version: String,
    pub(super) model: String,
    pub(super) weights_sha256: Vec<String>,
    /// SHA-256 of the manifest's settings, which results depend on, too.
    pub(super) settings_sha256: String,
    pub(super) annotations_sha256: String,
    pub(super) decode: String,
    pub(super) mask_size: String,
    /// Version, size and arithmetic of ONNX Runtime's library.
    pub(super) runtime: String,
    /// Instruction sets for vectors that the CPU has, by which kernels are chosen. Empty if they are unknown.
    pub(super) cpu: String,
}

/// The file of results.
pub(super) struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Opens the file at `path` or creates it. Returns it with the results of the run that wrote it,
    /// without an incomplete last line.
    ///
    /// # Errors
    /// If the file cannot be used or is not a regular file (links are not followed), if another process uses it, or if it belongs to another evaluation.
    pub(super) fn open(path: PathBuf, identity: &Identity) -> Result<(Self, Vec<Record>)> {
        let cannot = || format!("cannot use {}", path.display());
        let mut options = OpenOptions::new();
        // A pipe must not block, and a link must not lead to a file of something else.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        options.read(true).append(true).create(true);
        let mut file = options
            .custom_flags(flags)
            .open(&path)
            .with_context(cannot)?;
        if !file.metadata().with_context(cannot)?.is_file() {
            bail!("{}: it is not a regular file", cannot());
        }
        if file.try_lock().is_err() {
            bail!("{} is in use by another evaluation", path.display());
        }
        if file.metadata().with_context(cannot)?.len() > MAX_BYTES {
            bail!(
                "{}: delete the file, which has more than {MAX_BYTES} bytes",
                path.display()
            );
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text).with_context(cannot)?;
        // The process may have been killed while it wrote the last line.
        let complete = text
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        if complete == 0 && !text.is_empty() {
            bail!(foreign(&path));
        }
        let records = read(&text[..complete], identity, &path)?;
        // Only now is it known that the file has results of this evaluation.
        file.set_len(complete as u64).with_context(cannot)?;
        let journal = Self { path, file };
        if complete == 0 {
            journal.write(identity)?;
        }
        Ok((journal, records))
    }

    /// Adds a result.
    pub(super) fn add(&self, record: &Record) -> Result<()> {
        self.write(record)
    }

    fn write(&self, value: &impl Serialize) -> Result<()> {
        let line = serde_json::to_string(value)? + "\n";
        let written = (&self.file).write_all(line.as_bytes());
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Deletes the file, because the reports are written.
    pub(super) fn delete(self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            complain!("warning: cannot delete {}: {error}", self.path.display());
        }
    }
}

/// Returns the message about a file that this evaluation has not written.
fn foreign(path: &Path) -> String {
    format!(
        "{} has results of another evaluation: delete the file, or choose another folder with -o",
        path.display()
    )
}

/// Returns the results in `text`, complete lines that begin with the identity of the evaluation.
fn read(text: &[u8], identity: &Identity, path: &Path) -> Result<Vec<Record>> {
    let other = || foreign(path);
    let mut lines = text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    let Some(first) = lines.next() else {
        return Ok(Vec::new());
    };
    let written: Identity = serde_json::from_slice(first).with_context(other)?;
    if written != *identity {
        bail!(other());
    }
    let record = |line| {
        let record: Record = serde_json::from_slice(line).with_context(other)?;
        Ok(Record {
            result: record.result.restored(),
            ..record
        })
    };
    lines.map(record).collect()
}

#[cfg(test)]
mod tests {
    use sightline::evaluate::classification::Classified;

    use super::*;
    use crate::cli::eval::record::Outcome;

    fn identity(model: &str) -> Identity {
        Identity {
            version: "1".to_owned(),
            model: model.to_owned(),
            weights_sha256: Vec::new(),
            settings_sha256: String::new(),
            annotations_sha256: String::new(),
            decode: "exact".to_owned(),
            mask_size: "input".to_owned(),
            runtime: String::new(),
            cpu: String::new(),
        }
    }

    fn record(image: usize) -> Record {
        Record {
            image,
            digest: "00".to_owned(),
            result: Outcome::Class(Classified {
                truth: 1,
                ranked: vec![1, 2],
                confidence: 0.75,
                truth_score: 0.125,
            }),
        }
    }

    #[test]
    fn a_torn_last_line_is_dropped_and_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        let (journal, records) = Journal::open(path.clone(), &identity("a")).unwrap();
        assert!(records.is_empty());
        journal.add(&record(0)).unwrap();
        journal.add(&record(1)).unwrap();
        drop(journal);
        let length = std::fs::metadata(&path).unwrap().len();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(length - 3).unwrap();
        let (journal, records) = Journal::open(path.clone(), &identity("a")).unwrap();
        assert_eq!(format!("{records:?}"), format!("{:?}", [record(0)]));
        journal.add(&record(2)).unwrap();
        let busy = Journal::open(path.clone(), &identity("a")).map(|_| ());
        assert!(busy.unwrap_err().to_string().contains("in use"));
        drop(journal);
        let other = Journal::open(path.clone(), &identity("b")).map(|_| ());
        assert!(
            other
                .unwrap_err()
                .to_string()
                .contains("another evaluation")
        );
        let (journal, records) = Journal::open(path.clone(), &identity("a")).unwrap();
        assert_eq!(records.len(), 2);
        journal.delete();
        assert!(!path.exists());
    }

    #[test]
    fn files_of_other_formats_are_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        let link = folder.path().join("b.jsonl");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        for content in ["precious\n", "precious", "precious\nwithout an end"] {
            std::fs::write(&path, content).unwrap();
            for path in [&path, &link] {
                assert!(Journal::open(path.clone(), &identity("a")).is_err());
            }
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
        std::fs::write(&path, "").unwrap();
        assert!(Journal::open(link, &identity("a")).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    }
}
