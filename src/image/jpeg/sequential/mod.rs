//! Decoding of sequential JPEG at 1/8 of its width and height.
//!
//! A block is one sample then: all its coefficients but the first are skipped, several at a time. The
//! decode takes about two thirds of the time of the crate that decodes all other files, and has the
//! same samples. Unlike that crate, it can be cancelled at any time.
//!
//! What is *not* here: other scales, progressive files, files with several scans, and CMYK.

mod bits;
mod huffman;
mod idct;
mod scan;

use libjpeg_turbo_rs::ColorSpace;

use super::check::{HUFFMAN, QUANTIZATION, RESTART_INTERVAL, SCAN};
use super::planes::Plane;
use super::segments::Segments;
use super::{color, damaged};
use crate::cancel::{Cancel, Cancelled};
use crate::image::bytes::u16_be;
use crate::image::{ImageError, ImageSize, Scale};
use huffman::Table;
use scan::ScanError;

/// Largest symbol of a table of first coefficients: the number of extra bits of a difference.
const MAX_SIZE: u8 = 15;

/// A file whose only scan is decoded.
pub(super) struct Plan<'a> {
    /// Size of the decoded image.
    size: ImageSize,
    components: Vec<Component>,
    /// Number of units (MCUs) in a row and number of rows.
    units: (usize, usize),
    /// Number of pixels at full scale in a unit.
    unit_pixels: usize,
    /// Number of units between two restart markers; 0 if the scan has none.
    interval: usize,
    /// The entropy-coded data, followed by the rest of the file.
    data: &'a [u8],
}

/// A component of the image.
struct Component {
    /// Number of blocks in a unit, across and down.
    blocks: (usize, usize),
    /// Number of samples in a row of a decoded block: 1, 2 or 4.
    side: usize,
    /// Table of the differences between first coefficients.
    mean: Table,
    /// Table of the other coefficients.
    rest: Table,
    /// Factors of the coefficients, row by row.
    factors: [u16; 64],
}

impl<'a> Plan<'a> {
    /// Reads the headers of a file that the module `check` has accepted. `None` if this module does
    /// not decode such files, or if tables are missing.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut tables = Tables::default();
        let mut frame = None;
        let mut interval = 0;
        let mut segments = Segments::new(bytes);
        while let Some((marker, payload)) = segments.next() {
            match marker {
                QUANTIZATION => tables.read_quantization(payload)?,
                HUFFMAN => tables.read_huffman(payload)?,
                RESTART_INTERVAL => interval = u16_be(payload, 0)?,
                // Baseline and extended sequential coding.
                0xC0 | 0xC1 => frame = Some(payload),
                SCAN => {
                    let mut plan = Self::new(frame?, payload, &tables)?;
                    plan.interval = interval.into();
                    plan.data = segments.rest();
                    return Some(plan);
                }
                _ => {}
            }
        }
        None
    }

    /// Returns the plan without its data, from the payloads of the frame header and of the scan header.
    fn new(frame: &[u8], scan: &[u8], tables: &Tables<'_>) -> Option<Self> {
        let full = ImageSize {
            width: u16_be(frame, 3)?.into(),
            height: u16_be(frame, 1)?.into(),
        };
        let specs = frame.get(6..)?.as_chunks::<3>().0;
        let (&count, scan) = scan.split_first()?;
        if !matches!(specs.len(), 1 | 3) || usize::from(count) != specs.len() {
            return None;
        }
        let &[_, finest, _] = specs.first()?;
        let finest = if specs.len() == 1 { 0x11 } else { finest };
        let finest = (usize::from(finest >> 4), usize::from(finest & 15));
        let mut components = Vec::with_capacity(specs.len());
        for (spec, selected) in specs.iter().zip(scan.as_chunks::<2>().0) {
            let [id, sampling, factors] = *spec;
            // Scans list the components in the order of the frame, or the file is decoded elsewhere.
            if selected[0] != id {
                return None;
            }
            let sampling = if specs.len() == 1 { 0x11 } else { sampling };
            let blocks = (usize::from(sampling >> 4), usize::from(sampling & 15));
            let (mean, rest) = tables.huffman(selected[1])?;
            components.push(Component {
                blocks,
                side: side(blocks, finest),
                mean,
                rest,
                factors: tables.factors(factors)?,
            });
        }
        let units = |side: u32, finest: usize| (side as usize).div_ceil(8 * finest);
        Some(Self {
            size: Scale::Eighth.of(full),
            components,
            units: (units(full.width, finest.0), units(full.height, finest.1)),
            unit_pixels: 64 * finest.0 * finest.1,
            interval: 0,
            data: &[],
        })
    }

    /// Decodes the image to RGB samples, `[H, W, 3] u8`. `space` is the color space of the file.
    ///
    /// # Errors
    /// [`ImageError`] if the data is damaged, or if `cancel` is cancelled.
    pub(super) fn decode(&self, space: ColorSpace, cancel: &Cancel) -> Result<Vec<u8>, ImageError> {
        let samples = scan::decode(self, cancel).map_err(|error| match error {
            ScanError::Damaged(reason) => damaged(reason),
            ScanError::Cancelled => ImageError::Cancelled(Cancelled),
        })?;
        let planes: Vec<Plane> = self
            .components
            .iter()
            .zip(&samples)
            .map(|pair| self.plane(pair))
            .collect();
        Ok(color::to_rgb(&planes, space, self.size, cancel)?)
    }

    /// Returns width and height of the plane of a component, padding included.
    fn plane_size(&self, component: &Component) -> (usize, usize) {
        let (across, down) = component.blocks;
        let (columns, rows) = self.units;
        (
            columns * across * component.side,
            rows * down * component.side,
        )
    }

    /// Returns the plane with the samples of a component.
    fn plane<'s>(&self, (component, samples): (&Component, &'s Vec<u8>)) -> Plane<'s> {
        let (width, height) = self.plane_size(component);
        let (finest_width, finest_height) = self
            .components
            .first()
            .map_or((width, height), |finest| self.plane_size(finest));
        let scale = (finest_width / width, finest_height / height);
        let (columns, rows) = (self.size.width as usize, self.size.height as usize);
        Plane {
            samples,
            stride: width,
            size: (columns.div_ceil(scale.0), rows.div_ceil(scale.1)),
            scale,
            // As in libjpeg, which repeats samples at this scale.
            smooth: false,
        }
    }
}

/// Returns the number of samples in a row of a decoded block of a component with `blocks` blocks per
/// unit, if the finest component has `finest` blocks. A subsampled component gets more samples than
/// one instead of being upsampled, if its factors permit it in both directions.
///
/// Source: libjpeg-turbo, jdmaster.c, `jpeg_calc_output_dimensions`.
fn side(blocks: (usize, usize), finest: (usize, usize)) -> usize {
    let fits = |side: &usize| {
        finest.0.is_multiple_of(blocks.0 * side) && finest.1.is_multiple_of(blocks.1 * side)
    };
    [4, 2].into_iter().find(fits).unwrap_or(1)
}

/// The tables that the segments before the scan define, as stored.
#[derive(Default)]
struct Tables<'a> {
    /// Quantization tables by number, each with its precision: 64 factors of one byte, or of two.
    quantization: [Option<(bool, &'a [u8])>; 4],
    /// Huffman tables by class (first coefficients, others) and number.
    huffman: [[Option<&'a [u8]>; 4]; 2],
}

impl<'a> Tables<'a> {
    fn read_quantization(&mut self, mut payload: &'a [u8]) -> Option<()> {
        while let Some((&kind, rest)) = payload.split_first() {
            let wide = kind >= 16;
            let (table, rest) = rest.split_at_checked(if wide { 128 } else { 64 })?;
            *self.quantization.get_mut(usize::from(kind & 15))? = Some((wide, table));
            payload = rest;
        }
        Some(())
    }

    fn read_huffman(&mut self, mut payload: &'a [u8]) -> Option<()> {
        while let Some((&kind, rest)) = payload.split_first() {
            let counts = rest.get(..16)?.iter();
            let length = 16 + counts.map(|count| usize::from(*count)).sum::<usize>();
            let (table, rest) = rest.split_at_checked(length)?;
            let class = self.huffman.get_mut(usize::from(kind >> 4))?;
            *class.get_mut(usize::from(kind & 15))? = Some(table);
            payload = rest;
        }
        Some(())
    }

    /// Returns the tables of the first coefficients and of the others that a scan header selects.
    fn huffman(&self, selected: u8) -> Option<(Table, Table)> {
        let [mean, rest] = [(0, selected >> 4), (1, selected & 15)].map(|(class, number)| {
            let tables: &[Option<&[u8]>; 4] = &self.huffman[class];
            Table::new((*tables.get(usize::from(number))?)?)
        });
        let mean = mean.filter(|table| table.largest_symbol() <= MAX_SIZE)?;
        Some((mean, rest?.with_skips()))
    }

    /// Returns the factors of the quantization table `number`, row by row.
    fn factors(&self, number: u8) -> Option<[u16; 64]> {
        let (wide, table) = (*self.quantization.get(usize::from(number))?)?;
        let mut factors = [0; 64];
        for (index, place) in scan::PLACES.iter().enumerate() {
            factors[usize::from(*place)] = if wide {
                u16_be(table, 2 * index)?
            } else {
                u16::from(*table.get(index)?)
            };
        }
        Some(factors)
    }
}
