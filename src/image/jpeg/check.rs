//! What is looked at before the decoder runs: damage that it would paint over, and features that it
//! lacks or gets wrong.
//!
//! libjpeg-turbo warns of most damage and goes on in grey, and Pillow hides the warnings; here such
//! files are refused.

use super::super::ImageError;
use super::segments::{END, START, Segments};
use super::{damaged, unsupported};

const QUANTISATION: u8 = 0xDB;
const HUFFMAN: u8 = 0xC4;
const SCAN: u8 = 0xDA;
const RESTART_INTERVAL: u8 = 0xDD;
const PROGRESSIVE: u8 = 0xC2;

/// Whether a marker begins a frame header: SOF0 to SOF15, less the three codes that mean something else.
pub(in crate::image) fn is_frame(marker: u8) -> bool {
    matches!(marker, 0xC0..=0xCF) && !matches!(marker, 0xC4 | 0xC8 | 0xCC)
}

/// Refuses what must not reach the decoder.
///
/// The checks end where decoding would, with the scan that holds all components of a sequential frame;
/// the end marker must follow in any case, as it must for Pillow.
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

/// What has been read of a file.
#[derive(Default)]
struct File<'a> {
    frame: Option<Frame>,
    /// The latest quantisation table of each number, as written.
    tables: [Option<&'a [u8]>; 4],
    /// Units of a scan between two restarts, or 0.
    interval: usize,
    /// Bit by bit, the components of the frame that some scan begins.
    begun: u8,
    scans: usize,
    /// Inside a scan.
    restarts: Option<Restarts>,
    /// The only scan of its frame has begun, or has ended.
    last_scan: bool,
    done: bool,
}

struct Frame {
    progressive: bool,
    size: (usize, usize),
    /// Name, and sampling across and down; the first is the finest.
    components: Vec<(u8, usize, usize)>,
}

/// The restarts of one scan: where one is missing, so is a part of the picture.
struct Restarts {
    next: u8,
    /// How many must still come.
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
            return Err(damaged("a scan ends before its last restart"));
        }
        self.done |= self.last_scan;
        if self.done {
            return Ok(());
        }
        match marker {
            1 | START => return Err(damaged("a marker is out of place")),
            SCAN => self.scan(payload)?,
            RESTART_INTERVAL => self.interval = interval(payload)?,
            // The decoder keeps those of every scan apart.
            HUFFMAN => each_table(payload, huffman_len, |_| Ok(()))?,
            QUANTISATION => {
                each_table(payload, quantisation_len, |table| self.quantisation(table))?;
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

    /// One table. The decoder knows only the last of each number, for all scans.
    fn quantisation(&mut self, table: &'a [u8]) -> Result<(), ImageError> {
        let number = usize::from(table[0] & 15);
        let latest = self.tables.get_mut(number);
        let latest =
            latest.ok_or_else(|| damaged("a quantisation table of an impossible number"))?;
        if self.scans > 0 && *latest != Some(table) {
            return Err(unsupported("quantisation tables that change between scans"));
        }
        *latest = Some(table);
        Ok(())
    }

    /// Restarts count from 0 to 7 and again.
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
        let wrong_length = || damaged("a scan header of the wrong length");
        let components = payload.get(1..1 + 2 * count).ok_or_else(wrong_length)?;
        let Some(&[first, last, approximation]) = payload.get(1 + 2 * count..) else {
            return Err(wrong_length());
        };
        let all = count == frame.components.len();
        if frame.progressive {
            check_progression(count, first, last, approximation)?;
        } else if !all && count != 1 {
            return Err(unsupported("scans of some of several components"));
        }
        let mut units = frame.units();
        for [id, _] in components.as_chunks::<2>().0 {
            let place = frame.components.iter().position(|(own, ..)| own == id);
            let place = place.ok_or_else(|| damaged("a scan of a component that is not there"))?;
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
            return Err(damaged("it ends before all its components"));
        }
        Ok(())
    }
}

impl Frame {
    fn read(marker: u8, payload: &[u8]) -> Result<Self, ImageError> {
        match marker {
            0xC0..=PROGRESSIVE => {}
            0xC3 => return Err(unsupported("lossless coding")),
            // Zeros may be left off its end, so a cut in it looks like a plain part of the picture.
            0xC9..=0xCB => return Err(unsupported("arithmetic coding")),
            _ => return Err(unsupported("hierarchical coding")),
        }
        let Some((&[precision, h1, h0, w1, w0, count], components)) = payload.split_first_chunk()
        else {
            return Err(damaged("the frame header is incomplete"));
        };
        let (components, rest) = components.as_chunks::<3>();
        if components.len() != usize::from(count) || !rest.is_empty() {
            return Err(damaged("a frame header of the wrong length"));
        }
        if precision != 8 {
            return Err(unsupported(&format!("samples of {precision} bits")));
        }
        if !matches!(count, 1 | 3 | 4) {
            return Err(unsupported(&format!("{count} components")));
        }
        let component = |[id, sampling, _]: &[u8; 3]| {
            (*id, usize::from(sampling >> 4), usize::from(sampling & 15))
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

    /// Units of a scan of all components.
    fn units(&self) -> usize {
        if self.components.len() == 1 {
            return self.blocks(0);
        }
        let (_, across, down) = self.components[0];
        self.size.0.div_ceil(8 * across) * self.size.1.div_ceil(8 * down)
    }

    /// Blocks, which are the units, of a scan of one component.
    fn blocks(&self, place: usize) -> usize {
        let ((_, across, down), (_, own_across, own_down)) =
            (self.components[0], self.components[place]);
        let width = (self.size.0 * own_across).div_ceil(across);
        let height = (self.size.1 * own_down).div_ceil(down);
        width.div_ceil(8) * height.div_ceil(8)
    }
}

/// Units of a scan between two restarts.
fn interval(payload: &[u8]) -> Result<usize, ImageError> {
    let interval = payload.try_into().map(u16::from_be_bytes);
    interval
        .map(usize::from)
        .map_err(|_| damaged("a restart interval of the wrong length"))
}

/// Gives `check` each table of a segment, of which `len` tells the length.
///
/// There must be one, and they must fill the segment: the decoder would read on beyond it, into the
/// next header.
fn each_table<'a>(
    mut payload: &'a [u8],
    len: impl Fn(&[u8]) -> Option<usize>,
    mut check: impl FnMut(&'a [u8]) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    if payload.is_empty() {
        return Err(damaged("a segment for tables without one"));
    }
    while !payload.is_empty() {
        let table = len(payload).and_then(|len| payload.split_at_checked(len));
        let (table, rest) = table.ok_or_else(|| damaged("a table of the wrong length"))?;
        check(table)?;
        payload = rest;
    }
    Ok(())
}

/// Precision and number, then 64 factors of one or two bytes.
fn quantisation_len(table: &[u8]) -> Option<usize> {
    let wide = *table.first()? >= 16;
    Some(if wide { 129 } else { 65 })
}

/// Class and number, how many codes there are of each length, then a symbol for each.
fn huffman_len(table: &[u8]) -> Option<usize> {
    let codes = table.get(1..17)?.iter().map(|count| usize::from(*count));
    Some(17 + codes.sum::<usize>())
}

/// Names differ, the first component is the finest, and the others are smaller by whole factors.
fn check_components(components: &[(u8, usize, usize)]) -> Result<(), ImageError> {
    for (place, (id, across, down)) in components.iter().enumerate() {
        if components[..place].iter().any(|(other, ..)| other == id) {
            return Err(damaged("two components of one name"));
        }
        if !(1..=4).contains(across) || !(1..=4).contains(down) {
            return Err(damaged("a sampling factor out of range"));
        }
        let (_, most_across, most_down) = components[0];
        if most_across % across != 0 || most_down % down != 0 {
            return Err(unsupported("fractional sampling"));
        }
    }
    Ok(())
}

/// The rules of a progressive scan. Source: libjpeg-turbo, jdphuff.c, `start_pass_phuff_decoder`.
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
    Err(damaged("a progressive scan with impossible parameters"))
}
