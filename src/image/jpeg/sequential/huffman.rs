//! Huffman tables of sequential JPEG, as lookup tables.

/// Number of bits by which codes are looked up. Longer codes are found by their values.
const LOOKUP_BITS: u32 = 12;
/// Longest code in bits.
const MAX_CODE: usize = 16;

/// A Huffman table.
pub(super) struct Table {
    /// Symbol and code length in bits of the code that each group of `LOOKUP_BITS` bits begins with.
    /// A length of 0 if the code is longer.
    short: Vec<(u8, u8)>,
    /// For each code length, 1 to 16: the end of the codes of this length, in 16 bits, and the index of
    /// the symbol of code 0, which can be negative.
    long: [(u32, i32); MAX_CODE],
    symbols: Vec<u8>,
    /// The symbols that can be skipped together at each group of `LOOKUP_BITS` bits. Empty in a table
    /// that was built for single symbols only.
    skips: Vec<Skip>,
}

/// Symbols of coefficients that can be skipped together, because their codes and their extra bits
/// lie within `LOOKUP_BITS` bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Skip {
    /// Number of bits of the symbols. 0 if the bits do not contain a whole symbol.
    pub(super) bits: u8,
    /// Number of coefficients that the symbols stand for, without the end of the block.
    pub(super) coefficients: u8,
    /// Whether the last symbol ends the block.
    pub(super) ends: bool,
}

impl Table {
    /// Builds the table from its representation in the file: 16 counts of codes per code length, then
    /// the symbols in the order of their codes. `None` if it has more codes than their lengths permit,
    /// or fewer symbols than codes.
    pub(super) fn new(stored: &[u8]) -> Option<Self> {
        let (counts, symbols) = stored.split_at_checked(MAX_CODE)?;
        let mut short = vec![(0, 0); 1 << LOOKUP_BITS];
        let mut long = [(0, 0); MAX_CODE];
        let (mut code, mut index) = (0u32, 0);
        for (length, count) in (1u32..).zip(counts) {
            let count = usize::from(*count);
            let own = symbols.get(index..index + count)?;
            let first = code;
            for symbol in own {
                if length <= LOOKUP_BITS {
                    let rest = LOOKUP_BITS - length;
                    let start = (code << rest) as usize;
                    let entries = short.get_mut(start..start + (1 << rest))?;
                    entries.fill((*symbol, length as u8));
                }
                code += 1;
            }
            if code > 1 << length {
                return None;
            }
            let end = code << (MAX_CODE as u32 - length);
            long[length as usize - 1] = (end, index as i32 - first as i32);
            index += count;
            code <<= 1;
        }
        Some(Self {
            short,
            long,
            symbols: symbols[..index].to_vec(),
            skips: Vec::new(),
        })
    }

    /// Returns the table with support for [`Table::skip_of`], for tables of coefficients.
    pub(super) fn with_skips(mut self) -> Self {
        self.skips = (0..1 << LOOKUP_BITS).map(|bits| self.skip(bits)).collect();
        self
    }

    /// Returns the largest symbol, or 0 if the table is empty.
    pub(super) fn largest_symbol(&self) -> u8 {
        self.symbols.iter().copied().max().unwrap_or(0)
    }

    /// Returns the symbol that the 16 bits `bits` begin with, and the length of its code in bits.
    /// `None` if no code begins so.
    #[inline]
    pub(super) fn symbol(&self, bits: u32) -> Option<(u8, u32)> {
        let (symbol, length) = self.short[(bits >> (16 - LOOKUP_BITS)) as usize];
        if length > 0 {
            return Some((symbol, u32::from(length)));
        }
        self.long_symbol(bits)
    }

    #[cold]
    fn long_symbol(&self, bits: u32) -> Option<(u8, u32)> {
        let from = LOOKUP_BITS as usize;
        let lengths = (from + 1..).zip(&self.long[from..]);
        let (length, (_, offset)) = lengths.into_iter().find(|(_, (end, _))| bits < *end)?;
        let index = (bits >> (MAX_CODE - length)) as i32 + offset;
        let symbol = self.symbols.get(usize::try_from(index).ok()?)?;
        Some((*symbol, length as u32))
    }

    /// Returns the symbols of coefficients that the 16 bits `bits` begin with. The table must have been
    /// built [with skips](Self::with_skips).
    #[inline]
    pub(super) fn skip_of(&self, bits: u32) -> Skip {
        self.skips[(bits >> (16 - LOOKUP_BITS)) as usize]
    }

    /// Returns the whole symbols in the `LOOKUP_BITS` bits `group`.
    fn skip(&self, group: u32) -> Skip {
        let mut skip = Skip::default();
        loop {
            let left = group << u32::from(skip.bits) & ((1 << LOOKUP_BITS) - 1);
            let (symbol, length) = self.short[left as usize];
            let (run, size) = (symbol >> 4, symbol & 15);
            let bits = skip.bits + length + size;
            if length == 0 || u32::from(bits) > LOOKUP_BITS {
                return skip;
            }
            skip.bits = bits;
            skip.ends = size == 0 && run < 15;
            if skip.ends {
                return skip;
            }
            skip.coefficients += run + 1;
        }
    }
}

/// Returns the value of a coefficient with the `size` (1 to 15) extra bits `bits`.
/// Source: ITU-T T.81, figure F.12.
#[inline]
pub(super) fn extend(bits: u32, size: u32) -> i32 {
    let half = 1 << (size - 1);
    let value = bits as i32;
    if value < half {
        value - 2 * half + 1
    } else {
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes 0, 10, 110, 1110 and a code of 16 bits; symbols with runs and sizes.
    const STORED: [u8; 21] = [
        1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x01, 0x00, 0x12, 0xF0, 0x0A,
    ];

    #[test]
    fn codes_of_every_length_are_found() {
        let table = Table::new(&STORED).unwrap();
        let cases = [
            (0b0000_0000_0000_0000, Some((0x01, 1))),
            (0b1011_1111_1111_1111, Some((0x00, 2))),
            (0b1101_0000_0000_0000, Some((0x12, 3))),
            (0b1110_0000_0000_0000, Some((0xF0, 4))),
            (0b1111_0000_0000_0000, Some((0x0A, 16))),
            (0b1111_0000_0000_0001, None),
        ];
        for (bits, expected) in cases {
            assert_eq!(table.symbol(bits), expected, "{bits:016b}");
        }
    }

    #[test]
    fn symbols_are_skipped_together() {
        let table = Table::new(&STORED).unwrap().with_skips();
        let skip = |bits, coefficients, ends| Skip {
            bits,
            coefficients,
            ends,
        };
        let cases = [
            // Symbol 0x01 with its bit, twice, then the end of the block.
            (0b0101_1000_0000_0000, skip(6, 2, true)),
            // Symbol 0x12 with two bits, a run of 16 zeros, and symbol 0x01 with its bit.
            (0b1101_1111_0000_0000, skip(11, 19, false)),
            (0b1111_0000_0000_0000, skip(0, 0, false)),
        ];
        for (bits, expected) in cases {
            assert_eq!(table.skip_of(bits), expected, "{bits:016b}");
        }
    }

    #[test]
    fn malformed_tables_are_rejected() {
        assert!(Table::new(&STORED[..20]).is_none());
        assert!(Table::new(&STORED[..10]).is_none());
        let mut crowded = STORED;
        crowded[0] = 3;
        assert!(Table::new(&crowded).is_none());
    }

    #[test]
    fn extra_bits_are_signed() {
        let values = [(0, 1), (1, 1), (0, 3), (3, 3), (4, 3), (7, 3)];
        let got = values.map(|(bits, size)| extend(bits, size));
        assert_eq!(got, [-1, 1, -7, -4, 4, 7]);
    }
}
