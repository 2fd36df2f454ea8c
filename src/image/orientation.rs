//! Reading of the orientation that EXIF or XMP metadata state.
//!
//! Source: `PIL.Image.Exif.load` and `PIL.Image.Image.getexif`.

use image::metadata::Orientation as Turn;

use super::bytes::array;

/// The prefix of an EXIF block in a JPEG segment. An EXIF block in another format may also begin
/// with it.
pub(super) const EXIF_PREFIX: &[u8] = b"Exif\0\0";

/// The tag `Orientation` of TIFF.
const ORIENTATION: u16 = 0x0112;

/// The result of looking for an orientation in an EXIF block.
enum Exif {
    /// Value of the orientation tag, which may be outside 1..=8.
    Value(u8),
    /// The block is empty, or it is a TIFF structure without a readable orientation tag.
    NoTag,
    /// The block is not a TIFF structure.
    Malformed,
}

/// Returns the turn that makes an image upright, from its EXIF block and its XMP packet.
///
/// The XMP packet is used only if there is no EXIF block, or if the EXIF block is valid and has no
/// orientation tag. Returns `NoTransforms` if the orientation is outside 1..=8 or the EXIF block is
/// malformed.
pub(super) fn stated(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Turn {
    let value = match exif.map(read_exif) {
        Some(Exif::Value(value)) => Some(value),
        Some(Exif::Malformed) => None,
        Some(Exif::NoTag) | None => xmp.and_then(read_xmp),
    };
    value
        .and_then(Turn::from_exif)
        .unwrap_or(Turn::NoTransforms)
}

/// Returns the value of the first readable orientation tag in the first directory of a TIFF structure.
fn read_exif(block: &[u8]) -> Exif {
    let mut block = block;
    for _ in 0..2 {
        block = block.strip_prefix(EXIF_PREFIX).unwrap_or(block);
    }
    if block.is_empty() {
        return Exif::NoTag;
    }
    let order = match block.first_chunk() {
        Some(b"II\x2a\0" | b"II\0\x2a") => ByteOrder::Little,
        Some(b"MM\0\x2a" | b"MM\x2a\0") => ByteOrder::Big,
        _ => return Exif::Malformed,
    };
    let tiff = Tiff { block, order };
    let Some(directory) = tiff.u32(4) else {
        return Exif::Malformed;
    };
    tiff.orientation(directory as usize)
        .map_or(Exif::NoTag, Exif::Value)
}

#[derive(Clone, Copy)]
enum ByteOrder {
    Little,
    Big,
}

#[derive(Clone, Copy)]
struct Tiff<'a> {
    block: &'a [u8],
    order: ByteOrder,
}

impl Tiff<'_> {
    fn u16(self, at: usize) -> Option<u16> {
        self.ordered(at).map(u16::from_le_bytes)
    }

    fn u32(self, at: usize) -> Option<u32> {
        self.ordered(at).map(u32::from_le_bytes)
    }

    /// Returns the `N` bytes at offset `at`, converted to little-endian order. `None` if the block
    /// ends before them.
    fn ordered<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        let mut bytes = array::<N>(self.block, at)?;
        if matches!(self.order, ByteOrder::Big) {
            bytes.reverse();
        }
        Some(bytes)
    }

    /// Returns the value of the first readable orientation tag of the directory at `at`. An entry that
    /// lies outside the block ends the search.
    fn orientation(self, at: usize) -> Option<u8> {
        let entries = usize::from(self.u16(at)?);
        let places = (0..entries).map_while(|entry| at.checked_add(2 + entry * 12));
        places
            .take_while(|place| {
                place
                    .checked_add(12)
                    .is_some_and(|end| end <= self.block.len())
            })
            .filter(|place| self.u16(*place) == Some(ORIENTATION))
            .find_map(|place| self.first_value(place))
    }

    /// Returns the first value of the directory entry at offset `at`, or 0 if that value is not a
    /// whole number of 1 to 8. `None` if the entry must be ignored because it has no value, an
    /// unknown type, or data outside the block.
    fn first_value(self, at: usize) -> Option<u8> {
        let kind = self.u16(at + 2)?;
        let unit = match kind {
            1 | 2 | 6 | 7 => 1,
            3 | 8 => 2,
            4 | 9 | 11 | 13 => 4,
            5 | 10 | 12 | 16 => 8,
            _ => return None,
        };
        let size = unit * (self.u32(at + 4)? as usize);
        let data = if size > 4 {
            self.u32(at + 8)? as usize
        } else {
            at + 8
        };
        if size == 0 || data.checked_add(size)? > self.block.len() {
            return None;
        }
        let value = match kind {
            3 | 8 => f64::from(self.u16(data)?),
            4 | 9 | 13 => f64::from(self.u32(data)?),
            5 | 10 => f64::from(self.u32(data)?) / f64::from(self.u32(data + 4)?),
            6 => f64::from(*self.block.get(data)?),
            11 => f64::from(f32::from_le_bytes(self.ordered(data)?)),
            12 => f64::from_le_bytes(self.ordered(data)?),
            16 => u64::from_le_bytes(self.ordered(data)?) as f64,
            // Text and untyped bytes do not count as numbers, whatever their content.
            _ => 0.0,
        };
        let whole = value.fract() == 0.0 && (1.0..=8.0).contains(&value);
        Some(if whole { value as u8 } else { 0 })
    }
}

/// Returns the digit after the first `tiff:Orientation="` or `tiff:Orientation>` of an XMP packet
/// that a digit follows. `None` if the packet has none.
fn read_xmp(packet: &[u8]) -> Option<u8> {
    const NAME: &[u8] = b"tiff:Orientation";
    let mut rest = packet;
    while let Some(at) = rest.windows(NAME.len()).position(|bytes| bytes == NAME) {
        rest = &rest[at + NAME.len()..];
        let value = rest.strip_prefix(b"=\"").or(rest.strip_prefix(b">"));
        if let Some([digit @ b'0'..=b'9', ..]) = value {
            return Some(digit - b'0');
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROTATE: Turn = Turn::Rotate90;

    /// Returns a TIFF structure of `entries` (tag, type, count, four bytes of value), followed by
    /// `tail`.
    fn tiff(entries: &[(u16, u16, u32, [u8; 4])], tail: &[u8]) -> Vec<u8> {
        let mut block = b"II\x2a\0\x08\0\0\0".to_vec();
        block.extend((entries.len() as u16).to_le_bytes());
        for (tag, kind, count, value) in entries {
            block.extend(tag.to_le_bytes());
            block.extend(kind.to_le_bytes());
            block.extend(count.to_le_bytes());
            block.extend(value);
        }
        block.extend([0; 4]);
        block.extend(tail);
        block
    }

    /// The expected turns are those of Pillow 13.0.0 for a JPEG with the same EXIF data.
    #[test]
    fn every_numeric_type_counts_as_in_pillow() {
        let turned = [3, 4, 6, 8, 9, 13].map(|kind| (kind, [6, 0, 0, 0], &b""[..], ROTATE));
        let stored = [1, 2, 7, 99].map(|kind| (kind, [6, 0, 0, 0], &b""[..], Turn::NoTransforms));
        let outside = |kind: u16, tail: &'static [u8; 8]| (kind, [26, 0, 0, 0], &tail[..], ROTATE);
        let wide = [
            (11, 6f32.to_le_bytes(), &b""[..], ROTATE),
            outside(5, b"\x06\0\0\0\x01\0\0\0"),
            outside(10, b"\x0c\0\0\0\x02\0\0\0"),
            outside(12, b"\0\0\0\0\0\0\x18\x40"),
            outside(16, b"\x06\0\0\0\0\0\0\0"),
        ];
        for (kind, value, tail, expected) in turned.into_iter().chain(stored).chain(wide) {
            let block = tiff(&[(ORIENTATION, kind, 1, value)], tail);
            assert_eq!(stated(Some(&block), None), expected, "type {kind}");
        }
    }

    #[test]
    fn the_first_readable_entry_counts() {
        let six = (ORIENTATION, 3, 1, [6, 0, 0, 0]);
        let one = (ORIENTATION, 3, 1, [1, 0, 0, 0]);
        let unknown = (ORIENTATION, 99, 1, [1, 0, 0, 0]);
        let outside = (305, 2, 100, [0xFF, 0xFF, 0, 0]);
        let several = (ORIENTATION, 3, 2, [6, 0, 1, 0]);
        let none = (ORIENTATION, 3, 0, [6, 0, 0, 0]);
        let cases: [(&[_], Turn); 7] = [
            (&[six, one], ROTATE),
            (&[one, six], Turn::NoTransforms),
            (&[six, unknown], ROTATE),
            (&[unknown, six], ROTATE),
            (&[outside, six], ROTATE),
            (&[several], ROTATE),
            (&[none], Turn::NoTransforms),
        ];
        for (entries, expected) in cases {
            assert_eq!(stated(Some(&tiff(entries, b"")), None), expected);
        }
        let cut = tiff(&[six, outside], b"");
        assert_eq!(stated(Some(&cut[..27]), None), ROTATE);
    }

    #[test]
    fn xmp_counts_only_without_the_tag_in_exif() {
        let xmp = &b"<x tiff:Orientation='3' tiff:Orientation=\"6\"/>"[..];
        let one = tiff(&[(ORIENTATION, 3, 1, [1, 0, 0, 0])], b"");
        let untagged = tiff(&[(305, 2, 1, [0; 4])], b"");
        let cases: [(Option<&[u8]>, Turn); 4] = [
            (None, ROTATE),
            (Some(&untagged), ROTATE),
            (Some(&one), Turn::NoTransforms),
            (Some(b"garbage"), Turn::NoTransforms),
        ];
        for (exif, expected) in cases {
            assert_eq!(stated(exif, Some(xmp)), expected, "{exif:?}");
        }
        assert_eq!(
            stated(None, Some(b"<tiff:Orientation>8</")),
            Turn::Rotate270
        );
    }
}
