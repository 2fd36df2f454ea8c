//! A buffer in which the pieces of a body are joined when they arrive.

use bytes::Bytes;

/// Divisor of the addresses at which tensors begin, in bytes. Allocators return such addresses for large buffers.
const ALIGNMENT: usize = 16;

/// The pieces of a body in one buffer. A piece is copied when it arrives: it is in the caches of the CPU then, and its own
/// buffer receives the next piece.
pub(super) struct Joined {
    /// Padding, then the bytes of the body.
    bytes: Vec<u8>,
    padding: usize,
}

impl Joined {
    /// Returns an empty buffer for a body with tensors from the offset `tensors` on, which is moved to an address that is
    /// aligned to elements.
    pub(super) fn new(tensors: usize) -> Self {
        let padding = tensors.wrapping_neg() % ALIGNMENT;
        Self {
            bytes: vec![0; padding],
            padding,
        }
    }

    /// Returns the number of bytes of the body that have arrived.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.padding
    }

    /// Returns the number of bytes of the body that fit without another allocation.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity() - self.padding
    }

    /// Makes room for a body of `capacity` bytes, which are at least as many as have arrived.
    pub(super) fn grow_to(&mut self, capacity: usize) {
        self.bytes
            .reserve_exact(capacity.saturating_sub(self.len()));
    }

    /// Appends `piece`.
    pub(super) fn push(&mut self, piece: &[u8]) {
        self.bytes.extend_from_slice(piece);
    }

    /// Returns the body.
    pub(super) fn into_bytes(self) -> Bytes {
        Bytes::from(self.bytes).slice(self.padding..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_aligned_however_the_body_arrives() {
        let body: Vec<u8> = (0..200).collect();
        for tensors in (0..40).chain([usize::MAX]) {
            for step in [1, 7, 200] {
                let mut joined = Joined::new(tensors);
                for piece in body.chunks(step) {
                    joined.grow_to(joined.len() + piece.len());
                    assert!(joined.capacity() >= joined.len() + piece.len());
                    joined.push(piece);
                }
                assert_eq!(joined.len(), body.len());
                let bytes = joined.into_bytes();
                assert_eq!(bytes, body);
                if let Some(tensors) = bytes.get(tensors..) {
                    assert_eq!(tensors.as_ptr().align_offset(ALIGNMENT), 0);
                }
            }
            assert!(Joined::new(tensors).into_bytes().is_empty());
        }
    }

    #[test]
    fn a_buffer_with_room_for_the_body_does_not_move() {
        let mut joined = Joined::new(3);
        joined.grow_to(100);
        let capacity = joined.capacity();
        assert!(capacity >= 100);
        let start = joined.bytes.as_ptr();
        joined.push(&[1; 60]);
        joined.grow_to(100);
        joined.push(&[2; 40]);
        assert_eq!(joined.capacity(), capacity);
        assert_eq!(joined.into_bytes().as_ptr(), start.wrapping_add(13));
    }
}
