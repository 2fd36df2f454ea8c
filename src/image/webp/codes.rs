//! The prefix codes (Huffman codes) of a lossless WebP bitstream (VP8L).

use super::bits::Bits;

/// The five prefix codes of a group, in the order of the bitstream: green (its symbols also state
/// copy lengths and color cache indices), red, blue, alpha, and copy distances.
pub(super) type Group = [Code; 5];

/// Number of symbols of each code of a `Group` if there is no color cache.
const SYMBOLS: [usize; 5] = [256 + 24, 256, 256, 256, 40];
/// Largest number of symbols of a code: the green code with a color cache of 11 bits.
const MAX_SYMBOLS: usize = 256 + 24 + (1 << 11);
/// Largest length of a symbol's code, in bits.
const MAX_LENGTH: usize = 15;
/// Order in which the bitstream stores the code lengths of the code that encodes the lengths of
/// another code.
const LENGTH_ORDER: [usize; 19] = [
    17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
];

/// A canonical prefix code. The symbol of a code with a single symbol takes no bits.
pub(super) struct Code {
    /// Number of symbols for each code length in bits. In a code with a single symbol, that symbol
    /// has length 0.
    counts: [u16; MAX_LENGTH + 1],
    /// The symbols that occur in the code, sorted by code length, then by value.
    symbols: Vec<u16>,
}

impl Code {
    fn single(symbol: u16) -> Self {
        let mut counts = [0; MAX_LENGTH + 1];
        counts[0] = 1;
        let symbols = vec![symbol];
        Self { counts, symbols }
    }

    /// Builds the code in which symbol `i` has a code of `lengths[i]` bits, or does not occur if
    /// that is 0. `None` if no symbol occurs, or if the lengths do not fill the space of codes
    /// exactly: too short lengths leave too little room, too long ones leave bit patterns without a
    /// symbol.
    fn from_lengths(lengths: &[u8]) -> Option<Self> {
        let mut counts = [0; MAX_LENGTH + 1];
        for length in lengths.iter().filter(|length| **length > 0) {
            counts[usize::from(*length)] += 1;
        }
        let mut symbols = Vec::with_capacity(counts.iter().sum::<u16>().into());
        for wanted in 1..=MAX_LENGTH as u8 {
            if counts[usize::from(wanted)] > 0 {
                let own = lengths.iter().enumerate();
                let own = own.filter(|(_, length)| **length == wanted);
                symbols.extend(own.map(|(symbol, _)| symbol as u16));
            }
        }
        if let [symbol] = *symbols {
            return Some(Self::single(symbol));
        }
        // Number of bit patterns of the current length that do not begin with a shorter code.
        let mut free: i32 = 1;
        for count in &counts[1..] {
            free = free * 2 - i32::from(*count);
            if free < 0 {
                return None;
            }
        }
        (free == 0 && !symbols.is_empty()).then_some(Self { counts, symbols })
    }

    /// Reads one symbol. `None` if the bits end before a code is complete.
    pub(super) fn read(&self, bits: &mut Bits<'_>) -> Option<u16> {
        if self.counts[0] == 1 {
            return self.symbols.first().copied();
        }
        // The codes of one length are consecutive numbers. `code` is the difference of the bits
        // read so far from the first code of their length, and `index` is the number of symbols
        // with shorter codes.
        let (mut code, mut index) = (0, 0);
        for count in &self.counts[1..] {
            code = code * 2 + bits.read(1)? as usize;
            let count = usize::from(*count);
            if code < count {
                return self.symbols.get(index + code).copied();
            }
            code -= count;
            index += count;
        }
        None
    }

    /// Returns the memory in bytes that the crate `image-webp` allocates for the code: a table with
    /// 4 bytes for each bit pattern of the longest code, cut to 10 bits; three nodes of 16 bytes
    /// for each code longer than 10 bits; and 128 bytes for the code itself.
    pub(super) fn table_bytes(&self) -> u64 {
        let longest = self.counts.iter().rposition(|count| *count > 0);
        let table = match longest.unwrap_or(0) {
            0 => 0,
            bits => 4 << bits.min(10),
        };
        let long: u64 = self.counts[11..]
            .iter()
            .map(|count| u64::from(*count))
            .sum();
        128 + table + 48 * long
    }
}

/// Reads the five codes of a group. `cache` is the number of bits of a color cache index, `None` if
/// there is no color cache. Returns `None` if the bits end or a code is not valid.
pub(super) fn read_group(bits: &mut Bits<'_>, cache: Option<u32>) -> Option<Group> {
    let mut symbols = SYMBOLS;
    symbols[0] += cache.map_or(0, |bits| 1 << bits);
    let mut group: [Option<Code>; 5] = [const { None }; 5];
    for (code, symbols) in group.iter_mut().zip(symbols) {
        *code = Some(read_code(bits, symbols)?);
    }
    let [
        Some(green),
        Some(red),
        Some(blue),
        Some(alpha),
        Some(distance),
    ] = group
    else {
        return None;
    };
    Some([green, red, blue, alpha, distance])
}

/// Reads one code whose alphabet has `symbols` symbols. `None` if the bits end or the code is not
/// valid.
fn read_code(bits: &mut Bits<'_>, symbols: usize) -> Option<Code> {
    if bits.read(1)? == 1 {
        return read_simple(bits, symbols);
    }
    let mut stored = [0; LENGTH_ORDER.len()];
    let count = bits.read(4)? as usize + 4;
    for place in LENGTH_ORDER.iter().take(count) {
        stored[*place] = bits.read(3)? as u8;
    }
    let code = Code::from_lengths(&stored)?;
    let mut lengths = [0; MAX_SYMBOLS];
    let lengths = lengths.get_mut(..symbols)?;
    read_lengths(bits, &code, lengths)?;
    Code::from_lengths(lengths)
}

/// Reads a code of one or two symbols: the bitstream states the symbols themselves instead of code
/// lengths. `None` if the bits end or a symbol is not below `symbols`.
fn read_simple(bits: &mut Bits<'_>, symbols: usize) -> Option<Code> {
    let two = bits.read(1)? == 1;
    let wide = bits.read(1)? == 1;
    let first = bits.read(if wide { 8 } else { 1 })? as u16;
    let possible = |symbol: u16| (usize::from(symbol) < symbols).then_some(symbol);
    let first = possible(first)?;
    if !two {
        return Some(Code::single(first));
    }
    let second = possible(bits.read(8)? as u16)?;
    let mut counts = [0; MAX_LENGTH + 1];
    counts[1] = 2;
    let symbols = vec![first, second];
    Some(Code { counts, symbols })
}

/// Reads the code length of each symbol into `lengths`. The bitstream encodes the lengths, and runs
/// of equal lengths, with `code`. Symbols after the last stored length keep length 0. `None` if the
/// bits end or state more lengths than `lengths` has.
fn read_lengths(bits: &mut Bits<'_>, code: &Code, lengths: &mut [u8]) -> Option<()> {
    let mut stored = lengths.len();
    if bits.read(1)? == 1 {
        let width = bits.read(3)? * 2 + 2;
        stored = bits.read(width)? as usize + 2;
        if stored > lengths.len() {
            return None;
        }
    }
    let (mut at, mut previous) = (0, 8);
    for _ in 0..stored {
        if at == lengths.len() {
            break;
        }
        let (length, run) = match code.read(bits)? {
            16 => (previous, bits.read(2)? + 3),
            17 => (0, bits.read(3)? + 3),
            18 => (0, bits.read(7)? + 11),
            length => {
                let length = length as u8;
                if length > 0 {
                    previous = length;
                }
                (length, 1)
            }
        };
        lengths.get_mut(at..at + run as usize)?.fill(length);
        at += run as usize;
    }
    Some(())
}
