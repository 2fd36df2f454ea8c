//! Reading of bits from entropy-coded data.

/// A byte of 0xFF in entropy-coded data is followed by 0, which is not part of the data. Before
/// another byte, it begins a marker.
const ESCAPE: u8 = 0xFF;
/// First restart marker; there are eight.
const RESTART: u8 = 0xD0;

/// Reads bits, the high bits of each byte first, up to the next marker. After it, bits are 0.
pub(super) struct Bits<'a> {
    data: &'a [u8],
    /// Index of the next byte that is not in `buffer`.
    next: usize,
    /// Bits that were not read yet, from the highest bit on. Bits below the highest `count` are 0,
    /// or equal to the bits that follow in the data.
    buffer: u64,
    /// Number of bits in `buffer`.
    count: u32,
    /// Number of bits in `buffer`, the last ones, that do not come from the data.
    padding: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self {
            data,
            next: 0,
            buffer: 0,
            count: 0,
            padding: 0,
        }
    }

    /// Makes at least 56 bits available, more than a code with its extra bits has.
    #[inline]
    pub(super) fn refill(&mut self) {
        if let Some(bytes) = self.data.get(self.next..self.next + 8)
            && let Ok(bytes) = <[u8; 8]>::try_from(bytes)
        {
            let word = u64::from_be_bytes(bytes);
            if !has_escape(word) {
                self.buffer |= word >> self.count;
                let whole = (63 - self.count) / 8;
                self.next += whole as usize;
                self.count += whole * 8;
                return;
            }
        }
        self.refill_bytewise();
    }

    /// Fills the buffer byte by byte, and looks for stuffed zeros and markers.
    #[cold]
    fn refill_bytewise(&mut self) {
        // Clears the bits that are not counted, because the bytes that follow may be stuffed zeros.
        self.buffer &= !(u64::MAX.checked_shr(self.count).unwrap_or(0));
        while self.count <= 56 {
            let byte = match self.data.get(self.next..) {
                Some([ESCAPE, 0, ..]) => {
                    self.next += 2;
                    ESCAPE
                }
                // Several escapes before a zero or a marker count as one.
                Some([ESCAPE, ESCAPE, ..]) => {
                    self.next += 1;
                    continue;
                }
                Some([byte, ..]) if *byte != ESCAPE => {
                    self.next += 1;
                    *byte
                }
                _ => {
                    self.padding += 8;
                    0
                }
            };
            self.buffer |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    /// Returns the number of bits that are available without a refill.
    #[inline]
    pub(super) fn available(&self) -> u32 {
        self.count
    }

    /// Returns the next `bits` bits, 1 to 32, without reading them.
    #[inline]
    pub(super) fn peek(&self, bits: u32) -> u32 {
        (self.buffer >> (64 - bits)) as u32
    }

    /// Skips `bits` bits that are available, fewer than 64.
    #[inline]
    pub(super) fn skip(&mut self, bits: u32) {
        self.buffer <<= bits;
        self.count -= bits;
    }

    /// Returns whether more bits were read than the data has.
    #[inline]
    pub(super) fn ran_short(&self) -> bool {
        self.count < self.padding
    }

    /// Skips the rest of the data up to the next marker. Returns whether it is a restart marker, and
    /// continues after it.
    pub(super) fn restart(&mut self) -> bool {
        let mut rest = self.data.get(self.next..).unwrap_or_default();
        while let Some(at) = rest.iter().position(|byte| *byte == ESCAPE) {
            rest = &rest[at + 1..];
            match rest.first() {
                Some(0 | &ESCAPE) => {}
                Some(marker) if marker & !7 == RESTART => {
                    *self = Self::new(&rest[1..]);
                    return true;
                }
                _ => return false,
            }
        }
        false
    }
}

/// Returns whether one of the bytes of `word` is an escape.
#[inline]
fn has_escape(word: u64) -> bool {
    const ONES: u64 = u64::MAX / 255;
    let inverted = !word;
    inverted.wrapping_sub(ONES) & !inverted & (ONES << 7) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bits: &mut Bits<'_>, count: u32) -> u32 {
        bits.refill();
        let value = bits.peek(count);
        bits.skip(count);
        value
    }

    #[test]
    fn stuffed_zeros_are_skipped_and_markers_end_the_data() {
        let plain = [0x12, 0x34, 0xFF, 0, 0x56, 0xFF, 0xFF, 0, 0x78, 0xFF, 0xD9];
        let mut bits = Bits::new(&plain);
        for expected in [0x12, 0x34, 0xFF, 0x56, 0xFF, 0x78] {
            assert_eq!(read(&mut bits, 8), expected);
            assert!(!bits.ran_short());
        }
        assert_eq!(read(&mut bits, 1), 0);
        assert!(bits.ran_short());
        assert!(!bits.restart());
    }

    #[test]
    fn words_and_bytes_give_the_same_bits() {
        let data: Vec<u8> = (0..2000u32).map(|i| (i * i / 7) as u8).collect();
        let data: Vec<u8> = data.into_iter().filter(|byte| *byte != 0xFF).collect();
        let mut bits = Bits::new(&data);
        let mut at = 0;
        for count in (1..=32).cycle() {
            if at + count > data.len() * 8 {
                break;
            }
            let expected = (at..at + count).fold(0, |value, bit| {
                value << 1 | u32::from(data[bit / 8] >> (7 - bit % 8) & 1)
            });
            assert_eq!(read(&mut bits, count as u32), expected, "bit {at}");
            at += count;
        }
        assert!(!bits.ran_short());
    }

    #[test]
    fn a_restart_skips_to_the_marker() {
        let mut bits = Bits::new(&[1, 2, 0xFF, 0, 3, 0xFF, 0xD7, 9, 0xFF, 0xD8]);
        assert_eq!(read(&mut bits, 8), 1);
        assert!(bits.restart());
        assert_eq!(read(&mut bits, 8), 9);
        assert!(!bits.restart());
    }
}
