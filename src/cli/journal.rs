//! The results of an interrupted command, one JSON line per image, so that the same command continues it.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::OFlags;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::say::complain;

/// Maximum size in bytes of a file that is continued.
const MAX_BYTES: u64 = 8 << 30;

/// The file of results. Its first line is the identity: what the results depend on.
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// Size of the file in bytes.
    end: u64,
}

/// The place of a line in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    offset: u64,
    bytes: usize,
}

/// What a command calls its runs, and how it can be told to use another file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) what: &'static str,
    pub(super) advice: &'static str,
}

impl Journal {
    /// Opens the file at `path` or creates it. Calls `each` with every result of the run that wrote it, without an
    /// incomplete last line. Results are continued only if their identity is `identity`.
    ///
    /// # Errors
    /// If the file cannot be used or is not a regular file (links are not followed), if another process uses it, or if it belongs to another run.
    pub(super) fn open<I, R>(
        path: PathBuf,
        identity: &I,
        run: Run,
        mut each: impl FnMut(R, Place),
    ) -> Result<Self>
    where
        I: Serialize + DeserializeOwned + PartialEq,
        R: DeserializeOwned,
    {
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
            bail!("{} is in use by another {}", path.display(), run.what);
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
            bail!(foreign(&path, run));
        }
        read(&text[..complete], identity, &mut each).with_context(|| foreign(&path, run))?;
        // Only now is it known that the file has results of this run.
        file.set_len(complete as u64).with_context(cannot)?;
        let end = complete as u64;
        let mut journal = Self { path, file, end };
        if complete == 0 {
            journal.add(identity)?;
        }
        Ok(journal)
    }

    /// Adds a result, and returns its place.
    pub(super) fn add(&mut self, value: &impl Serialize) -> Result<Place> {
        let line = serde_json::to_string(value)? + "\n";
        let written = self.file.write_all(line.as_bytes());
        written.with_context(|| format!("cannot write {}", self.path.display()))?;
        let place = Place {
            offset: self.end,
            bytes: line.len(),
        };
        self.end += line.len() as u64;
        Ok(place)
    }

    /// Reads the result at `place` again.
    ///
    /// # Errors
    /// If the file cannot be read or was changed.
    pub(super) fn read<R: DeserializeOwned>(&self, place: Place) -> Result<R> {
        let cannot = || format!("cannot read {}", self.path.display());
        let mut line = vec![0; place.bytes];
        let read = self.file.read_exact_at(&mut line, place.offset);
        read.with_context(cannot)?;
        serde_json::from_slice(&line).with_context(cannot)
    }

    /// Deletes the file, because the results are written elsewhere.
    pub(super) fn delete(self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            complain!("warning: cannot delete {}: {error}", self.path.display());
        }
    }
}

/// Returns the message about a file that this run has not written.
fn foreign(path: &Path, run: Run) -> String {
    format!(
        "{} has results of another {}: delete the file, or {}",
        path.display(),
        run.what,
        run.advice
    )
}

/// Calls `each` with the results in `text`, complete lines that begin with the identity of the run.
fn read<I, R>(text: &[u8], identity: &I, each: &mut impl FnMut(R, Place)) -> Result<()>
where
    I: DeserializeOwned + PartialEq,
    R: DeserializeOwned,
{
    let mut offset = 0;
    let mut is_first = true;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let place = Place {
            offset,
            bytes: line.len(),
        };
        offset += line.len() as u64;
        if line == b"\n" {
            continue;
        }
        if is_first {
            is_first = false;
            if serde_json::from_slice::<I>(line)? != *identity {
                bail!("the identity differs");
            }
        } else {
            each(serde_json::from_slice(line)?, place);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: Run = Run {
        what: "evaluation",
        advice: "choose another folder with -o",
    };

    fn open(path: &Path, identity: &str) -> Result<(Journal, Vec<(u32, Place)>)> {
        let mut results = Vec::new();
        let journal = Journal::open(
            path.to_path_buf(),
            &identity.to_owned(),
            RUN,
            |result, at| results.push((result, at)),
        )?;
        Ok((journal, results))
    }

    #[test]
    fn a_torn_last_line_is_dropped_and_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        let (mut journal, results) = open(&path, "a").unwrap();
        assert!(results.is_empty());
        let first = journal.add(&100_u32).unwrap();
        journal.add(&101_u32).unwrap();
        drop(journal);
        let length = std::fs::metadata(&path).unwrap().len();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(length - 2).unwrap();
        let (mut journal, results) = open(&path, "a").unwrap();
        assert_eq!(results, [(100, first)]);
        let next = journal.add(&102_u32).unwrap();
        assert_eq!(journal.read::<u32>(next).unwrap(), 102);
        let busy = open(&path, "a").map(|_| ());
        assert!(busy.unwrap_err().to_string().contains("in use"));
        drop(journal);
        let other = open(&path, "b").map(|_| ());
        assert!(
            other
                .unwrap_err()
                .to_string()
                .contains("another evaluation")
        );
        let (journal, results) = open(&path, "a").unwrap();
        let results: Vec<u32> = results.into_iter().map(|(result, _)| result).collect();
        assert_eq!(results, [100, 102]);
        assert_eq!(journal.read::<u32>(first).unwrap(), 100);
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
                assert!(open(path, "a").is_err());
            }
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
        std::fs::write(&path, "").unwrap();
        assert!(open(&link, "a").is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    }
}
