//! The blocks of a GIF up to its first frame.
//!
//! Source: `GIF89a` Specification; what is tolerated is what `PIL.GifImagePlugin` tolerates.

use super::super::bytes::{array, u16_le};
use super::super::{ImageError, ImageSize};
use super::damaged;

const EXTENSION: u8 = b'!';
const FRAME: u8 = b',';
const TRAILER: u8 = b';';
/// Most pixels of a canvas that the first frame enlarges. Encoders write such files by mistake, and only
/// small ones; a large one has a header that lies.
const MAX_ENLARGED_PIXELS: u64 = 1 << 20;
/// Label of the extension that states a transparent index.
const GRAPHIC_CONTROL: u8 = 0xF9;

/// The first frame and what stands before it.
pub(super) struct FirstFrame<'a> {
    /// The logical screen, enlarged to hold the frame.
    pub(super) canvas: ImageSize,
    pub(super) size: ImageSize,
    /// First column on the canvas.
    pub(super) left: u32,
    /// First row on the canvas.
    pub(super) top: u32,
    /// Index whose pixels are transparent.
    pub(super) transparent: Option<u8>,
    /// The compressed indices, from the code size on, and everything behind them.
    pub(super) data: &'a [u8],
    interlaced: bool,
    /// The frame's own palette, or that of the screen.
    palette: &'a [[u8; 3]],
}

impl<'a> FirstFrame<'a> {
    /// Reads the blocks of a file that begins with a GIF signature.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, ImageError> {
        let cut = || damaged("it ends before its first frame");
        let mut at = Cursor { rest: bytes };
        let [.., w0, w1, h0, h1, flags, _, _] = at.array::<13>().ok_or_else(cut)?;
        let screen = ImageSize {
            width: u16::from_le_bytes([w0, w1]).into(),
            height: u16::from_le_bytes([h0, h1]).into(),
        };
        let global = at.palette(flags).ok_or_else(cut)?;
        let mut transparent = None;
        loop {
            let [introducer] = at.array().ok_or_else(cut)?;
            match introducer {
                EXTENSION => at.extension(&mut transparent).ok_or_else(cut)?,
                FRAME => break,
                TRAILER => return Err(damaged("it has no frame")),
                // Stray bytes between blocks.
                _ => {}
            }
        }
        let descriptor = at.array::<9>().ok_or_else(cut)?;
        let field = |place| u16_le(&descriptor, place).map_or(0, u32::from);
        let flags = descriptor[8];
        let local = at.palette(flags).ok_or_else(cut)?;
        let (left, top) = (field(0), field(2));
        let size = ImageSize {
            width: field(4),
            height: field(6),
        };
        if at.rest.is_empty() {
            return Err(cut());
        }
        if size.pixels() == 0 {
            return Err(damaged("its first frame has no pixels"));
        }
        let canvas = ImageSize {
            width: screen.width.max(left + size.width),
            height: screen.height.max(top + size.height),
        };
        if screen.pixels() > 0 && canvas != screen && canvas.pixels() > MAX_ENLARGED_PIXELS {
            return Err(damaged("its first frame is larger than its screen"));
        }
        Ok(Self {
            canvas,
            size,
            left,
            top,
            transparent,
            data: at.rest,
            interlaced: flags & 0x40 != 0,
            palette: if local.is_empty() { global } else { local },
        })
    }

    /// The color of each index; an index outside the palette is black.
    pub(super) fn colors(&self) -> [[u8; 3]; 256] {
        let gray = |index| [index as u8; 3];
        let mut entries = self.palette.iter().enumerate();
        let is_gray = entries.all(|(index, color)| *color == gray(index));
        if is_gray {
            return std::array::from_fn(gray);
        }
        std::array::from_fn(|index| self.palette.get(index).copied().unwrap_or_default())
    }

    /// The bytes that turn [`data`](Self::data) into a GIF of this frame alone.
    pub(super) fn alone(&self) -> Vec<u8> {
        let side = |side: u32| (side as u16).to_le_bytes();
        let (width, height) = (side(self.size.width), side(self.size.height));
        // Two colors, which nothing reads: the decoder wants a palette.
        let global = [0x80, 0, 0, 0, 0, 0, 0, 0, 0];
        let flags = if self.interlaced { 0x40 } else { 0 };
        [
            &b"GIF89a"[..],
            &width,
            &height,
            &global,
            &[FRAME, 0, 0, 0, 0],
            &width,
            &height,
            &[flags],
        ]
        .concat()
    }
}

struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let bytes = array(self.rest, 0)?;
        self.rest = self.rest.get(N..)?;
        Some(bytes)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(bytes)
    }

    /// The palette that the flags of a screen or frame announce; empty if they announce none.
    fn palette(&mut self, flags: u8) -> Option<&'a [[u8; 3]]> {
        if flags & 0x80 == 0 {
            return Some(&[]);
        }
        let colors = 2 << (flags & 7);
        Some(self.take(colors * 3)?.as_chunks::<3>().0)
    }

    /// Skips an extension, and sets `transparent` if it states a transparent index.
    fn extension(&mut self, transparent: &mut Option<u8>) -> Option<()> {
        let [label] = self.array()?;
        let mut first = true;
        loop {
            let [length] = self.array()?;
            if length == 0 {
                return Some(());
            }
            let block = self.take(length.into())?;
            if let (true, GRAPHIC_CONTROL, [flags, _, _, index, ..]) = (first, label, block)
                && flags & 1 != 0
            {
                *transparent = Some(*index);
            }
            first = false;
        }
    }
}
