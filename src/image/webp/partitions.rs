//! The lengths that a lossy WebP bitstream (VP8) states for its partitions. The decoder allocates as much memory as they
//! state before it reads the partitions, up to 112 MiB for a file of a few bytes.
//!
//! Source: RFC 6386, 7.3 for the coding of the header, 9.2 to 9.5 and 19.2 for its fields.

use super::super::bytes::u24_le;

/// Length in bytes of the part of the header that is not coded: length of the first partition, start code and size.
const UNCODED: usize = 10;
/// Length in bytes of the stated length of a partition.
const LENGTH: usize = 3;

/// Returns whether the key frame `data` has all bytes of its partitions.
pub(super) fn are_complete(data: &[u8]) -> bool {
    stated(data).is_some_and(|(stated, rest)| stated <= rest)
}

/// Returns the sum of the stated lengths of the partitions after the first one, and the number of bytes that are left for
/// them. `None` if the first partition or the list of lengths is incomplete.
fn stated(data: &[u8]) -> Option<(usize, usize)> {
    let first = (u24_le(data, 0)? >> 5) as usize;
    let (first, rest) = data.get(UNCODED..)?.split_at_checked(first)?;
    // The last partition takes what is left, so its length is not stated.
    let count = Header::new(first).partitions() - 1;
    let (lengths, partitions) = rest.split_at_checked(count * LENGTH)?;
    let lengths = (0..count).filter_map(|index| u24_le(lengths, index * LENGTH));
    Some((
        lengths.map(|length| length as usize).sum(),
        partitions.len(),
    ))
}

/// Reads the fields at the beginning of the first partition. Bits after its end are 0.
struct Header<'a> {
    bytes: &'a [u8],
    /// The bits that decide the next values: 8 that are compared with the range, and those that follow them.
    value: u32,
    /// Width of the interval that the next value divides, 128 to 255.
    range: u32,
    /// Number of bits that were shifted out of the lower byte of `value`.
    shifted: u32,
}

impl<'a> Header<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let mut header = Self {
            bytes,
            value: 0,
            range: 255,
            shifted: 0,
        };
        header.value = header.byte() << 8 | header.byte();
        header
    }

    /// Returns the number of partitions after the first one: 1, 2, 4 or 8.
    fn partitions(mut self) -> usize {
        let _color_space_and_clamping = self.literal(2);
        if self.flag() {
            self.segments();
        }
        let _filter_type_level_and_sharpness = self.literal(1 + 6 + 3);
        // Adjustments of the filter: whether they exist, and whether they change.
        if self.flag() && self.flag() {
            self.optional(4 + 4, 6 + 1);
        }
        1 << self.literal(2)
    }

    /// Skips the fields of the segments.
    fn segments(&mut self) {
        let (map, features) = (self.flag(), self.flag());
        if features {
            let _mode = self.flag();
            // Quantizers, then levels of the filter, each with a sign.
            self.optional(4, 7 + 1);
            self.optional(4, 6 + 1);
        }
        if map {
            self.optional(3, 8);
        }
    }

    /// Skips `count` values of `bits` bits, each of which follows a flag that states whether it exists.
    fn optional(&mut self, count: u32, bits: u32) {
        for _ in 0..count {
            if self.flag() {
                self.literal(bits);
            }
        }
    }

    /// Reads an unsigned value of `bits` bits, the highest first.
    fn literal(&mut self, bits: u32) -> u32 {
        (0..bits).fold(0, |value, _| value << 1 | u32::from(self.flag()))
    }

    /// Reads a flag, both values of which are equally probable.
    fn flag(&mut self) -> bool {
        let split = self.range.div_ceil(2);
        let is_set = self.value >= split << 8;
        if is_set {
            self.range -= split;
            self.value -= split << 8;
        } else {
            self.range = split;
        }
        while self.range < 128 {
            self.range <<= 1;
            self.value <<= 1;
            self.shifted += 1;
            if self.shifted == 8 {
                self.shifted = 0;
                self.value |= self.byte();
            }
        }
        is_set
    }

    fn byte(&mut self) -> u32 {
        let byte = self.bytes.split_off_first();
        byte.copied().map_or(0, u32::from)
    }
}

#[cfg(test)]
mod tests {
    use super::super::container::Container;
    use super::*;

    /// A frame with segments and 8 partitions, and one with a single partition.
    const MANY: &[u8] = include_bytes!("../../../tests/golden/images/partitions.webp");
    const ONE: &[u8] = include_bytes!("../../../tests/golden/images/lossy.webp");

    /// Returns the frame in a file, and its first partition.
    fn frame(file: &[u8]) -> (&[u8], &[u8]) {
        let data = Container::read(file).unwrap().frame.data;
        let first = (u24_le(data, 0).unwrap() >> 5) as usize;
        (data, &data[UNCODED..][..first])
    }

    #[test]
    fn partitions_are_counted() {
        for (file, expected) in [(ONE, 1), (MANY, 8)] {
            let (data, first) = frame(file);
            assert_eq!(Header::new(first).partitions(), expected);
            assert!(are_complete(data));
        }
        assert_eq!(Header::new(&[]).partitions(), 1);
    }

    #[test]
    fn partitions_that_are_longer_than_the_file_are_found() {
        let (data, first) = frame(MANY);
        let list = UNCODED + first.len();
        for index in 0..7 {
            let mut data = data.to_vec();
            data[list + index * LENGTH..][..LENGTH].fill(0xff);
            assert!(!are_complete(&data), "{index}");
        }
        let lengths = (0..7).map(|index| u24_le(data, list + index * LENGTH).unwrap() as usize);
        let stated = list + 7 * LENGTH + lengths.sum::<usize>();
        for cut in 0..data.len() {
            assert_eq!(are_complete(&data[..cut]), cut >= stated, "{cut}");
        }
    }
}
