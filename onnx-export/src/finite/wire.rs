//! Iterates over the fields of a protobuf message without copying or decoding its parts.

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field<'a> {
    /// An integer.
    Varint(u64),
    /// A text, bytes, a message or packed numbers.
    Bytes(&'a [u8]),
}

/// The fields of the message with these bytes, as pairs of field number and value. Fields of fixed
/// size are skipped. The iteration ends at the first byte that is not part of a valid field; the
/// runtime that loads the file reports it.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Field<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let key = self.varint()?;
            let value = match key & 7 {
                0 => Field::Varint(self.varint()?),
                1 => {
                    self.take(8)?;
                    continue;
                }
                2 => {
                    let length = self.varint()?;
                    Field::Bytes(self.take(length)?)
                }
                5 => {
                    self.take(4)?;
                    continue;
                }
                _ => return None,
            };
            return Some((key >> 3, value));
        }
    }
}

impl<'a> Fields<'a> {
    /// Reads an integer of at most ten bytes with seven bits each, the lowest bits first.
    pub(super) fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_until_the_first_error() {
        use Field::{Bytes, Varint};
        let cases: &[(&[u8], &[(u64, Field<'_>)])] = &[
            (b"", &[]),
            (b"\x08\x96\x01", &[(1, Varint(150))]),
            (b"\x12\x02hi\x08\x01", &[(2, Bytes(b"hi")), (1, Varint(1))]),
            (b"\x09\0\0\0\0\0\0\0\0\x08\x01", &[(1, Varint(1))]),
            (b"\x0d\0\0\0\0\x08\x01", &[(1, Varint(1))]),
            (b"\x08\x01\x12\x05hi", &[(1, Varint(1))]),
            (b"\x08\x01\x0b\x08\x02", &[(1, Varint(1))]),
            (
                b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
                &[(1, Varint(u64::MAX))],
            ),
            (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", &[]),
            (b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", &[]),
        ];
        for (bytes, expected) in cases {
            let fields: Vec<_> = Fields(bytes).collect();
            assert_eq!(fields, *expected, "{}", bytes.escape_ascii());
        }
    }
}
