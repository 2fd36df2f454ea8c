//! A reader of the bits of a lossless WebP bitstream (VP8L), which begin at the lowest bit of each
//! byte.

/// Reads unsigned values of up to 24 bits from a byte slice, from the lowest bit of each byte.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    /// Index of the next bit, counted from the lowest bit of the first byte.
    at: usize,
}

impl<'a> Bits<'a> {
    /// Returns a reader at the first bit of `bytes`.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Returns the index of the next bit, which is the number of bits read so far.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Reads `count` bits, at most 24, as an unsigned value whose lowest bit is read first. `None`
    /// if fewer than `count` bits are left.
    pub(super) fn read(&mut self, count: u32) -> Option<u32> {
        let end = self.at + count as usize;
        if end > self.bytes.len() * 8 {
            return None;
        }
        let rest = &self.bytes[self.at / 8..];
        let mut word = [0; 4];
        let available = rest.len().min(4);
        word[..available].copy_from_slice(&rest[..available]);
        let value = u32::from_le_bytes(word) >> (self.at % 8) & ((1 << count) - 1);
        self.at = end;
        Some(value)
    }

    /// Returns the length or distance, at least 1, whose prefix code has the symbol `symbol`, at
    /// most 39. Reads the extra bits that the symbol needs; `None` if the bits end.
    pub(super) fn read_prefixed(&mut self, symbol: u32) -> Option<u64> {
        if symbol < 4 {
            return Some(u64::from(symbol) + 1);
        }
        let extra = (symbol - 2) >> 1;
        let offset = (2 + (symbol & 1)) << extra;
        Some(u64::from(offset + self.read(extra)?) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_read_from_the_lowest_one() {
        let mut bits = Bits::new(&[0b1010_0110, 0xFF, 0x01, 0x80, 0x7F]);
        assert_eq!(bits.read(3), Some(0b110));
        assert_eq!(bits.read(0), Some(0));
        assert_eq!(bits.read(24), Some(0x3FF4));
        assert_eq!(bits.position(), 27);
        assert_eq!(bits.read(14), None);
        assert_eq!(bits.read(13), Some(0x7F << 5 | 0x10));
        assert_eq!(bits.read(1), None);
        assert_eq!(bits.read(0), Some(0));
    }

    #[test]
    fn prefixes_state_ranges() {
        let mut bits = Bits::new(&[0b01, 0xFF, 0xFF, 0xFF]);
        let symbols = [0, 3, 4, 5].map(|symbol| bits.read_prefixed(symbol));
        assert_eq!(symbols, [Some(1), Some(4), Some(6), Some(7)]);
    }
}
