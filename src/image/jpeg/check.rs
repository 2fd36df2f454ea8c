//! Checks of a JPEG's segments before decoding. They find damage that the decoder would fill with
//! gray, and features that the decoder lacks or decodes wrongly.
//!
//! libjpeg-turbo only warns of most damage and fills the missing part of the image with gray, and
//! Pillow hides the warnings. Here a damaged file is an error.

use super::super::ImageError;
use super::segments::{END, START, Segments};
use super::{damaged, unsupported};

pub(super) const QUANTIZATION: u8 = 0xDB;
pub(super) const HUFFMAN: u8 = 0xC4;
pub(super) const SCAN: u8 = 0xDA;
pub(super) const RESTART_INTERVAL: u8 = 0xDD;
pub(super) const PROGRESSIVE: u8 = 0xC2;

/// Returns whether a marker begins a frame header: SOF0 to SOF15, except three codes with other meanings.
pub(super) fn is_frame(marker: u8) -> bool {
    matches!(marker, 0xC0..=0xCF) && !matches!(marker, 0xC4 | 0xC8 | 0xCC)
}

/// Returns an error if the file has damage, or a feature, that the decoder would not report.
///
/// If one sequential scan holds all components, decoding ends with it, and segments after this scan
/// are not checked; in other files all segments are checked. Every file must have an end marker.
pub(super) fn check(bytes: &[u8]) -> Result<(), ImageError> {
    let mut file = File::default();
    for (marker, payload) in Segments::new(bytes) {
        file.segment(marker, payload)?;
        if marker == END {
            return file.end();
        }
    }
    Err(damaged("it ends before its end marker"))
}

/// State of the check: what the segments so far have defined.
#[derive(Default)]
struct File<'a> {
    frame: Option<Frame>,
    /// The latest quantization table of each table number, as stored; `None` until one is defined.
    tables: [Option<&'a [u8]>; 4],
    /// Number of coding units (MCUs) between two restart markers of a scan; 0 if scans have no
    /// restart markers.
    interval: usize,
    /// Bit `i` is 1 if the first scan of component `i` has been found.
    begun: u8,
    scans: usize,
    /// State of the restart markers in the current scan; `None` outside scans.
    restarts: Option<Restarts>,
    /// Whether a sequential scan that holds all components has begun.
    last_scan: bool,
    /// Whether a sequential scan that holds all components has ended. Later segments are not
    /// checked.
    done: bool,
}

struct Frame {
    progressive: bool,
    size: (usize, usize),
    /// Components in the order of the frame header. The first has the finest sampling.
    components: Vec<Component>,
}

struct Component {
    id: u8,
    /// Horizontal sampling factor, 1 to 4. The field `down` is the vertical sampling factor.
    across: usize,
    down: usize,
}

/// Restart markers that one scan must contain. If one is missing, a part of the image is missing.
struct Restarts {
    /// Number that the next restart marker must have, 0 to 7.
    next: u8,
    /// Number of restart markers that must still follow in the scan.
    due: usize,
}

impl<'a> File<'a> {
    fn segment(&mut self, marker: u8, payload: &'a [u8]) -> Result<(), ImageError> {
        if let 0xD0..=0xD7 = marker {
            return self.restart(marker - 0xD0);
        }
        if self
            .restarts
            .take()
            .is_some_and(|restarts| restarts.due > 0)
        {
            return Err(damaged("a scan ends before its last restart marker"));
        }
        self.done |= self.last_scan;
        if self.done {
            return Ok(());
        }
        match marker {
            1 | START => return Err(damaged("it has a second start marker or a TEM marker")),
            SCAN => self.scan(payload)?,
            RESTART_INTERVAL => self.interval = interval(payload)?,
            // Only the lengths of Huffman tables are checked. The tables may change between scans,
            // because the decoder stores the tables of each scan separately.
            HUFFMAN => each_table(payload, huffman_len, |_| Ok(()))?,
            QUANTIZATION => {
                each_table(payload, quantization_len, |table| self.quantization(table))?;
            }
            _ if is_frame(marker) => {
                let first = self.frame.replace(Frame::read(marker, payload)?);
                if first.is_some() {
                    return Err(damaged("it has two frame headers"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Checks that a quantization table does not change after the first scan: the decoder applies the last
    /// table of each number to all scans.
    fn quantization(&mut self, table: &'a [u8]) -> Result<(), ImageError> {
        let number = usize::from(table[0] & 15);
        let latest = self.tables.get_mut(number);
        let latest = latest.ok_or_else(|| damaged("a quantization table has a number above 3"))?;
        if self.scans > 0 && *latest != Some(table) {
            return Err(unsupported("quantization tables that change between scans"));
        }
        *latest = Some(table);
        Ok(())
    }

    /// Checks that restart marker `number` is the next one of the scan. The restart markers of a
    /// scan are numbered 0 to 7 in turn.
    fn restart(&mut self, number: u8) -> Result<(), ImageError> {
        match &mut self.restarts {
            Some(restarts) if restarts.next == number => {
                restarts.next = (number + 1) % 8;
                restarts.due = restarts.due.saturating_sub(1);
            }
            None if self.done => {}
            _ => return Err(damaged("a restart marker is out of order")),
        }
        Ok(())
    }

    fn scan(&mut self, payload: &[u8]) -> Result<(), ImageError> {
        let frame = self.frame.as_ref();
        let frame = frame.ok_or_else(|| damaged("a scan precedes the frame header"))?;
        let count = usize::from(payload.first().copied().unwrap_or(0));
        let wrong_length = || damaged("a scan header has the wrong length");
        let components = payload.get(1..1 + 2 * count).ok_or_else(wrong_length)?;
        let Some(&[first, last, approximation]) = payload.get(1 + 2 * count..) else {
            return Err(wrong_length());
        };
        let all = count == frame.components.len();
        if frame.progressive {
            check_progression(count, first, last, approximation)?;
        } else if !all && count != 1 {
            return Err(unsupported("scans of several but not all components"));
        }
        let mut units = frame.units();
        for [id, _] in components.as_chunks::<2>().0 {
            let place = frame.components.iter().position(|own| own.id == *id);
            let place = place
                .ok_or_else(|| damaged("a scan has a component that the frame header lacks"))?;
            if !frame.progressive || first == 0 {
                self.begun |= 1 << place;
            }
            if count == 1 {
                units = frame.blocks(place);
            }
        }
        self.scans += 1;
        self.last_scan = all && !frame.progressive;
        let due = match self.interval {
            0 => 0,
            interval => units.saturating_sub(1) / interval,
        };
        self.restarts = Some(Restarts { next: 0, due });
        Ok(())
    }

    fn end(&self) -> Result<(), ImageError> {
        let components = self.frame.as_ref();
        let components = components.map_or(0, |frame| frame.components.len());
        if self.scans == 0 || self.begun.count_ones() as usize != components {
            return Err(damaged("it ends before every component has a scan"));
        }
        Ok(())
    }
}

impl Frame {
    fn read(marker: u8, payload: &[u8]) -> Result<Self, ImageError> {
        match marker {
            0xC0..=PROGRESSIVE => {}
            0xC3 => return Err(unsupported("lossless coding")),
            // With arithmetic coding, a truncated file cannot be recognized: encoders may omit
            // zeros at the end of the data, so it looks like an image that ends in a flat area.
            0xC9..=0xCB => return Err(unsupported("arithmetic coding")),
            _ => return Err(unsupported("hierarchical coding")),
        }
        let Some((&[precision, h1, h0, w1, w0, count], components)) = payload.split_first_chunk()
        else {
            return Err(damaged("the frame header is incomplete"));
        };
        let (components, rest) = components.as_chunks::<3>();
        if components.len() != usize::from(count) || !rest.is_empty() {
            return Err(damaged("the frame header has the wrong length"));
        }
        if precision != 8 {
            return Err(unsupported(&format!("{precision}-bit samples, not 8-bit")));
        }
        if !matches!(count, 1 | 3 | 4) {
            return Err(unsupported(&format!("{count} components, not 1, 3 or 4")));
        }
        let component = |[id, sampling, _]: &[u8; 3]| Component {
            id: *id,
            across: usize::from(sampling >> 4),
            down: usize::from(sampling & 15),
        };
        let components: Vec<_> = components.iter().map(component).collect();
        check_components(&components)?;
        let side = |high, low| usize::from(u16::from_be_bytes([high, low]));
        Ok(Self {
            progressive: marker == PROGRESSIVE,
            size: (side(w1, w0), side(h1, h0)),
            components,
        })
    }

    /// Returns the number of coding units (MCUs) in a scan that holds all components.
    fn units(&self) -> usize {
        if self.components.len() == 1 {
            return self.blocks(0);
        }
        let finest = &self.components[0];
        let (width, height) = self.size;
        width.div_ceil(8 * finest.across) * height.div_ceil(8 * finest.down)
    }

    /// Returns the number of coding units in a scan that holds only the component at index `place`.
    /// There, a coding unit is one block of 8x8 samples.
    fn blocks(&self, place: usize) -> usize {
        let (finest, own) = (&self.components[0], &self.components[place]);
        let width = (self.size.0 * own.across).div_ceil(finest.across);
        let height = (self.size.1 * own.down).div_ceil(finest.down);
        width.div_ceil(8) * height.div_ceil(8)
    }
}

/// Returns the number of coding units between two restart markers, from the payload of a restart
/// interval segment (DRI).
fn interval(payload: &[u8]) -> Result<usize, ImageError> {
    let interval = payload.try_into().map(u16::from_be_bytes);
    interval
        .map(usize::from)
        .map_err(|_| damaged("a restart interval segment has the wrong length"))
}

/// Calls `check` with each table in the `payload` of a segment. `len` returns the length in bytes
/// of the table at the start of a slice.
///
/// The tables must fill the segment exactly, because the decoder would read the rest of an
/// incomplete table from the next segment. A segment without tables is valid: some encoders write
/// one.
fn each_table<'a>(
    mut payload: &'a [u8],
    len: impl Fn(&[u8]) -> Option<usize>,
    mut check: impl FnMut(&'a [u8]) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    while !payload.is_empty() {
        let table = len(payload).and_then(|len| payload.split_at_checked(len));
        let (table, rest) =
            table.ok_or_else(|| damaged("a quantization or Huffman table has the wrong length"))?;
        check(table)?;
        payload = rest;
    }
    Ok(())
}

/// Returns the length in bytes of the quantization table at the start of `table`: a byte of
/// precision and number, then 64 factors of one or two bytes. `None` if `table` is empty.
fn quantization_len(table: &[u8]) -> Option<usize> {
    let wide = *table.first()? >= 16;
    Some(if wide { 129 } else { 65 })
}

/// Returns the length in bytes of the Huffman table at the start of `table`: a byte of class and
/// number, 16 counts of codes per code length, then one symbol per code. `None` if the counts are
/// incomplete.
fn huffman_len(table: &[u8]) -> Option<usize> {
    let codes = table.get(1..17)?.iter().map(|count| usize::from(*count));
    Some(17 + codes.sum::<usize>())
}

/// Checks that components have distinct identifiers and sampling factors of 1 to 4, and that the
/// sampling factors of the first component are multiples of the sampling factors of every other
/// component.
fn check_components(components: &[Component]) -> Result<(), ImageError> {
    for (place, component) in components.iter().enumerate() {
        if components[..place]
            .iter()
            .any(|other| other.id == component.id)
        {
            return Err(damaged("two components have the same identifier"));
        }
        let Component { across, down, .. } = component;
        if !(1..=4).contains(across) || !(1..=4).contains(down) {
            return Err(damaged("a component's sampling factor is not 1 to 4"));
        }
        let finest = &components[0];
        if !finest.across.is_multiple_of(*across) || !finest.down.is_multiple_of(*down) {
            return Err(unsupported("sampling factors with a fractional ratio"));
        }
    }
    Ok(())
}

/// Checks the parameters of a progressive scan of `count` components: its coefficients, `first` to
/// `last`, and its successive approximation, `bits`. Source: libjpeg-turbo, jdphuff.c,
/// `start_pass_phuff_decoder`.
fn check_progression(count: usize, first: u8, last: u8, bits: u8) -> Result<(), ImageError> {
    let band = match first {
        0 => last == 0,
        _ => first <= last && last < 64 && count == 1,
    };
    let (high, low) = (bits >> 4, bits & 15);
    let refines_one_bit = high == 0 || high - 1 == low;
    if band && refines_one_bit && low <= 13 {
        return Ok(());
    }
    Err(damaged("a progressive scan has invalid parameters"))
}
