//! The values of a network's input for one image: its own, or a view of the bytes in which a client sent them.

use std::ops::Deref;

use bytes::Bytes;

/// Values in planes `[3, H, W] f32`.
#[derive(Debug, Clone)]
pub struct Planes(Storage);

#[derive(Debug, Clone)]
enum Storage {
    Owned(Vec<f32>),
    /// The bytes of values in the byte order of the CPU, aligned to values: [`view`] returns all of them.
    Shared(Bytes),
}

impl Planes {
    /// Returns the values that `bytes` are in little-endian byte order. They share the memory of `bytes` if that is
    /// possible, or else they are copied. Bytes after the last whole value are ignored.
    pub fn of_le_bytes(bytes: Bytes) -> Self {
        if Self::can_share(&bytes) {
            return Self(Storage::Shared(bytes));
        }
        let (values, _) = bytes.as_chunks();
        let values = values.iter().map(|value| f32::from_le_bytes(*value));
        Self(Storage::Owned(values.collect()))
    }

    /// Returns whether values can share the memory of `bytes`: not if it is not aligned, and not on a CPU with another
    /// byte order.
    pub fn can_share(bytes: &[u8]) -> bool {
        cfg!(target_endian = "little") && view(bytes).is_some()
    }

    /// Returns the values for changes. Shared ones are copied before.
    pub fn to_mut(&mut self) -> &mut [f32] {
        if let Storage::Shared(bytes) = &self.0 {
            self.0 = Storage::Owned(view(bytes).unwrap_or_default().to_vec());
        }
        match &mut self.0 {
            Storage::Owned(values) => values,
            Storage::Shared(_) => &mut [],
        }
    }
}

/// Returns `bytes` as values. `None` if they are not aligned to values, or end within one.
fn view(bytes: &[u8]) -> Option<&[f32]> {
    bytemuck::try_cast_slice(bytes).ok()
}

impl Deref for Planes {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.0 {
            Storage::Owned(values) => values,
            Storage::Shared(bytes) => view(bytes).unwrap_or_default(),
        }
    }
}

impl From<Vec<f32>> for Planes {
    fn from(values: Vec<f32>) -> Self {
        Self(Storage::Owned(values))
    }
}

/// Compares the values, whoever owns them.
impl PartialEq for Planes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: [f32; 6] = [1.0, -2.5, -0.0, f32::MAX, f32::INFINITY, 7.25];

    /// Returns the bytes of [`VALUES`], `offset` bytes after an address that is aligned to values.
    fn bytes_at(offset: usize) -> Bytes {
        let mut buffer = vec![0; 40];
        let start = buffer.as_ptr().align_offset(size_of::<f32>()) + offset;
        let place = start..start + size_of_val(&VALUES);
        for (bytes, value) in buffer[place.clone()].chunks_mut(4).zip(VALUES) {
            bytes.copy_from_slice(&value.to_le_bytes());
        }
        Bytes::from(buffer).slice(place)
    }

    #[test]
    fn aligned_bytes_are_shared_and_others_are_copied() {
        for offset in 0..8 {
            let bytes = bytes_at(offset);
            let start = bytes.as_ptr();
            let planes = Planes::of_le_bytes(bytes);
            assert_eq!(*planes, VALUES, "{offset}");
            let is_shared = planes.as_ptr().cast() == start;
            assert_eq!(is_shared, offset % 4 == 0, "{offset}");
        }
    }

    #[test]
    fn bytes_after_the_last_value_are_ignored() {
        for left in 1..4 {
            let bytes = bytes_at(0).slice(..20 + left);
            assert_eq!(*Planes::of_le_bytes(bytes), VALUES[..5]);
        }
        assert!(Planes::of_le_bytes(Bytes::new()).is_empty());
    }

    #[test]
    fn a_change_does_not_reach_the_shared_bytes() {
        let bytes = bytes_at(0);
        let mut planes = Planes::of_le_bytes(bytes.clone());
        planes.to_mut()[0] = 3.0;
        assert_eq!(planes[..2], [3.0, -2.5]);
        assert_eq!(*Planes::of_le_bytes(bytes), VALUES);
        let mut owned = Planes::from(vec![1.0]);
        let start = owned.as_ptr();
        owned.to_mut()[0] = 2.0;
        assert_eq!((&*owned, owned.as_ptr()), (&[2.0][..], start));
    }
}
