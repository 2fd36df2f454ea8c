//! The blocks of a GIF up to its first frame.
//!
//! Source: `GIF89a` Specification; deviations from it are accepted where `PIL.GifImagePlugin` accepts
//! them.

use super::super::bytes::{array, u16_le};
use super::super::{ImageError, ImageSize};
use super::damaged;

const EXTENSION: u8 = b'!';
const FRAME: u8 = b',';
const TRAILER: u8 = b';';
/// Maximum number of pixels of a canvas that is larger than the logical screen, because the first
/// frame reaches beyond the screen. Some encoders write small files with this mistake; a larger
/// file is rejected as damaged.
const MAX_ENLARGED_PIXELS: u64 = 1 << 20;
/// Label of the extension that may state a transparent palette index.
const GRAPHIC_CONTROL: u8 = 0xF9;

/// The first frame, with the properties of the file that its decoding needs.
pub(super) struct FirstFrame<'a> {
    /// Size of the logical screen, extended if the frame reaches beyond it.
    pub(super) canvas: ImageSize,
    pub(super) size: ImageSize,
    /// Column of the canvas at which the frame begins.
    pub(super) left: u32,
    /// Row of the canvas at which the frame begins.
    pub(super) top: u32,
    /// Palette index of transparent pixels; `None` if the file states none.
    pub(super) transparent: Option<u8>,
    /// The frame's compressed indices, beginning with their code size, and the rest of the file.
    pub(super) data: &'a [u8],
    interlaced: bool,
    /// The frame's own palette, or the logical screen's if the frame has none.
    palette: &'a [[u8; 3]],
}

impl<'a> FirstFrame<'a> {
    /// Reads a file that begins with a GIF signature, up to its first frame.
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
                // Stray bytes between blocks are skipped.
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
            return Err(damaged("its first frame reaches beyond its screen"));
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

    /// Returns the RGB color of each of the 256 palette indices. If there is no palette, or if
    /// every palette entry is the gray value of its own index, all indices are used as gray values.
    /// With any other palette, an index beyond the end of the palette is black.
    pub(super) fn colors(&self) -> [[u8; 3]; 256] {
        let gray = |index| [index as u8; 3];
        let mut entries = self.palette.iter().enumerate();
        let is_gray = entries.all(|(index, color)| *color == gray(index));
        if is_gray {
            return std::array::from_fn(gray);
        }
        std::array::from_fn(|index| self.palette.get(index).copied().unwrap_or_default())
    }

    /// Returns the bytes that, put before [`data`](Self::data), make a GIF of this frame alone.
    pub(super) fn alone(&self) -> Vec<u8> {
        let side = |side: u32| (side as u16).to_le_bytes();
        let (width, height) = (side(self.size.width), side(self.size.height));
        // The decoder requires a palette, but returns indices: these two colors are never read.
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

    /// Reads the palette that follows the descriptor of a screen or frame. Returns an empty palette
    /// if the descriptor's `flags` announce none, and `None` if the file ends before the palette's
    /// last color.
    fn palette(&mut self, flags: u8) -> Option<&'a [[u8; 3]]> {
        if flags & 0x80 == 0 {
            return Some(&[]);
        }
        let colors = 2 << (flags & 7);
        Some(self.take(colors * 3)?.as_chunks::<3>().0)
    }

    /// Skips an extension; if it states a transparent palette index, stores that in `transparent`.
    /// `None` if the file ends before the extension does.
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
