//! Bytes in the pieces in which they arrived, so that a large body is not copied to one place only to be read once.

use bytes::Bytes;

/// Bytes in pieces. Clones and parts share the memory of the pieces.
#[derive(Debug, Clone, Default)]
pub struct Segments {
    /// The pieces, none of which is empty.
    pieces: Vec<Bytes>,
    /// Number of bytes of all pieces.
    length: usize,
}

impl Segments {
    /// Returns the number of bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Returns whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Returns the pieces, in their order. None is empty.
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// Appends `piece`.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.length += piece.len();
            self.pieces.push(piece);
        }
    }

    /// Removes and returns the first `count` bytes, or all bytes if there are fewer.
    #[must_use]
    pub fn split_to(&mut self, count: usize) -> Self {
        let (mut taken, mut whole) = (Self::default(), 0);
        let mut rest = None;
        for piece in &self.pieces {
            let missing = count - taken.length;
            if missing == 0 {
                break;
            }
            whole += 1;
            if missing < piece.len() {
                taken.push(piece.slice(..missing));
                rest = Some(piece.slice(missing..));
            } else {
                taken.push(piece.clone());
            }
        }
        drop(self.pieces.splice(..whole, rest));
        self.length -= taken.length;
        taken
    }

    /// Returns the bytes in one piece. Copies them if they are in several, each of which is dropped when it was copied.
    pub fn into_bytes(mut self) -> Bytes {
        if self.pieces.len() <= 1 {
            return self.pieces.pop().unwrap_or_default();
        }
        let mut bytes = Vec::with_capacity(self.length);
        for piece in self.pieces {
            bytes.extend_from_slice(&piece);
        }
        bytes.into()
    }

    /// Returns the 32-bit floating point values, in little-endian byte order, that the bytes are. Bytes after the last
    /// whole value are ignored.
    pub(crate) fn to_floats(&self) -> Vec<f32> {
        const SIZE: usize = size_of::<f32>();
        let mut values = Vec::with_capacity(self.length / SIZE);
        // A value may begin in one piece and end in another.
        let (mut begun, mut filled) = ([0; SIZE], 0);
        for piece in &self.pieces {
            let missing = (SIZE - filled) % SIZE;
            let (end, piece) = piece.split_at(missing.min(piece.len()));
            begun[filled..filled + end.len()].copy_from_slice(end);
            filled += end.len();
            if filled == SIZE {
                values.push(f32::from_le_bytes(begun));
                filled = 0;
            }
            let (whole, start) = piece.as_chunks::<SIZE>();
            values.extend(whole.iter().map(|value| f32::from_le_bytes(*value)));
            begun[filled..filled + start.len()].copy_from_slice(start);
            filled += start.len();
        }
        values
    }
}

impl From<Bytes> for Segments {
    fn from(bytes: Bytes) -> Self {
        let mut segments = Self::default();
        segments.push(bytes);
        segments
    }
}

/// Compares the bytes, whatever their pieces are.
impl PartialEq for Segments {
    fn eq(&self, other: &Self) -> bool {
        let [bytes, others] = [self, other].map(|segments| segments.pieces.iter().flatten());
        self.length == other.length && bytes.eq(others)
    }
}

impl Eq for Segments {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns `bytes` in pieces of `size` bytes.
    fn pieces(bytes: &[u8], size: usize) -> Segments {
        let mut segments = Segments::default();
        for piece in bytes.chunks(size) {
            segments.push(Bytes::copy_from_slice(piece));
        }
        segments
    }

    #[test]
    fn parts_are_the_same_however_the_bytes_arrived() {
        let bytes: Vec<u8> = (0..20).collect();
        for size in 1..=20 {
            for count in 0..=21 {
                let mut rest = pieces(&bytes, size);
                let taken = rest.split_to(count);
                let (expected, left) = bytes.split_at(count.min(20));
                assert_eq!((taken.len(), rest.len()), (expected.len(), left.len()));
                assert!(
                    taken
                        .pieces()
                        .iter()
                        .chain(rest.pieces())
                        .all(|p| !p.is_empty())
                );
                assert_eq!(taken.into_bytes(), expected);
                assert_eq!(rest.into_bytes(), left);
            }
        }
    }

    #[test]
    fn values_are_the_same_however_the_bytes_arrived() {
        let values = [1.0, -2.5, 0.0, f32::MAX, f32::MIN_POSITIVE, 7.25];
        let mut bytes: Vec<u8> = values.iter().flat_map(|v: &f32| v.to_le_bytes()).collect();
        for size in 1..=bytes.len() {
            assert_eq!(pieces(&bytes, size).to_floats(), values, "{size}");
        }
        bytes.extend([1, 2, 3]);
        for size in 1..=bytes.len() {
            assert_eq!(pieces(&bytes, size).to_floats(), values, "{size}");
        }
        assert!(Segments::default().to_floats().is_empty());
    }

    #[test]
    fn bytes_are_compared_and_not_their_pieces() {
        assert_eq!(pieces(b"abcdef", 2), pieces(b"abcdef", 4));
        assert_ne!(pieces(b"abcdef", 2), pieces(b"abcdeg", 2));
        assert_ne!(pieces(b"abcdef", 2), pieces(b"abcde", 2));
        let one = Bytes::from_static(b"abc");
        // One piece is not copied.
        assert_eq!(
            Segments::from(one.clone()).into_bytes().as_ptr(),
            one.as_ptr()
        );
    }
}
