//! A cursor over the bytes of a pickle. Text and bytes are borrowed, not copied.

use crate::weights::{Format, WeightsError, limits};

/// A cursor over the bytes of a pickle.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Creates a cursor at the byte offset `at` of `bytes`.
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    /// Returns the byte offset of the cursor.
    pub(super) fn offset(&self) -> usize {
        self.at
    }

    /// Reads the next `n` bytes.
    pub(super) fn take(&mut self, n: u64) -> Result<&'a [u8], WeightsError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = usize::try_from(n).ok().and_then(|n| rest.get(..n));
        let Some(taken) = taken else {
            return Err(WeightsError::Truncated {
                format: Format::Pickle,
                offset: self.at,
                needed: n,
                got: rest.len(),
            });
        };
        self.at += taken.len();
        Ok(taken)
    }

    /// Returns an error if fewer than `n` bytes are left. Reads nothing.
    pub(super) fn require(&self, n: u64) -> Result<(), WeightsError> {
        let mut ahead = Self {
            bytes: self.bytes,
            at: self.at,
        };
        ahead.take(n).map(drop)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WeightsError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64)?);
        Ok(out)
    }

    pub(super) fn u8(&mut self) -> Result<u8, WeightsError> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, WeightsError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, WeightsError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, WeightsError> {
        self.array().map(i32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, WeightsError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Reads the next f64, which pickles store big-endian.
    pub(super) fn f64_be(&mut self) -> Result<f64, WeightsError> {
        self.array().map(f64::from_be_bytes)
    }

    /// Reads the next `n` bytes as UTF-8 text.
    pub(super) fn text(&mut self, n: u64) -> Result<&'a str, WeightsError> {
        limits::at_most(Format::Pickle, "bytes of a text", limits::MAX_TEXT, n)?;
        let start = self.at;
        let bytes = self.take(n)?;
        str::from_utf8(bytes)
            .map_err(|_| WeightsError::pickle(start, "UTF-8 text", bytes.escape_ascii()))
    }

    /// Reads text up to a line feed and skips the line feed.
    pub(super) fn line(&mut self) -> Result<&'a str, WeightsError> {
        // No class or function name in torch's pickles is longer than 255 bytes, so the search for
        // the line feed is bounded.
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let window = &rest[..rest.len().min(256)];
        let Some(n) = window.iter().position(|&b| b == b'\n') else {
            let expected = "a name that ends in a line feed after at most 255 bytes";
            return Err(WeightsError::pickle(self.at, expected, "no line feed"));
        };
        let line = self.text(n as u64)?;
        self.at += 1;
        Ok(line)
    }
}
