//! Remembers which contents of the files are in use, and which could not be used.

use super::files::Digest;

/// What happened to the same unusable contents before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    /// The read before this one found other contents.
    First,
    /// The read before this one found the same contents, and the failure has not been reported.
    Repeated,
    /// The failure has been reported.
    Reported,
}

/// The contents in use, and the last unusable contents.
#[derive(Debug)]
pub(super) struct Rotation {
    current: Digest,
    failed: Option<Failed>,
}

/// Contents that cannot be used.
#[derive(Debug)]
struct Failed {
    /// `None` if a file cannot be read.
    digest: Option<Digest>,
    reported: bool,
}

impl Rotation {
    pub(super) fn new(current: Digest) -> Self {
        Self {
            current,
            failed: None,
        }
    }

    /// Returns whether `digest` is in use. If it is, an earlier failure is forgotten.
    pub(super) fn is_current(&mut self, digest: &Digest) -> bool {
        let same = self.current == *digest;
        if same {
            self.failed = None;
        }
        same
    }

    /// Records that the contents with `digest` are in use now.
    pub(super) fn replaced(&mut self, digest: Digest) {
        *self = Self::new(digest);
    }

    /// Records that the contents with `digest` cannot be used; `None` if a file cannot be read.
    pub(super) fn failed(&mut self, digest: Option<Digest>) -> Attempt {
        match &self.failed {
            Some(failed) if failed.digest == digest && failed.reported => Attempt::Reported,
            Some(failed) if failed.digest == digest => Attempt::Repeated,
            _ => {
                let reported = false;
                self.failed = Some(Failed { digest, reported });
                Attempt::First
            }
        }
    }

    /// Records that the last failure has been reported.
    pub(super) fn reported(&mut self) {
        if let Some(failed) = &mut self.failed {
            failed.reported = true;
        }
    }
}
