//! Detection of weights that are NaN or infinite, such as those of a training run that diverged.

mod file;

pub use file::{NotFinite, check_weights};

use crate::error::BuildError;
use crate::graph::{Data, Dim, Graph};

/// Checks that every f32 constant of `graph` is finite. Weights of the checkpoint are checked when
/// they are read, but a weight computed from them may overflow.
///
/// # Errors
/// [`BuildError::NotFinite`] for the first constant that is not finite.
pub(crate) fn check(graph: &Graph) -> Result<(), BuildError> {
    for initializer in graph.initializers() {
        let Data::F32(values) = &initializer.data else {
            continue;
        };
        let info = graph.info(initializer.value);
        let size = |dim: &Dim| match dim {
            Dim::Fixed(size) => *size,
            Dim::Dynamic(_) => 1,
        };
        let shape: Vec<usize> = info.shape.iter().map(size).collect();
        if let Some(reason) = not_finite(values.iter().copied(), &shape) {
            let name = info.name.clone();
            return Err(BuildError::NotFinite { name, reason });
        }
    }
    Ok(())
}

/// Describes the values of a tensor that are NaN or infinite: how many there are, and which is the
/// first. `values` are the tensor's elements in C order. Returns `None` if all are finite.
pub(crate) fn not_finite(values: impl Iterator<Item = f32>, shape: &[usize]) -> Option<String> {
    let (mut total, mut count, mut first) = (0, 0, None);
    for value in values {
        if !value.is_finite() {
            count += 1;
            first.get_or_insert((total, value));
        }
        total += 1;
    }
    let (position, value) = first?;
    let index = index_of(position, shape);
    Some(format!(
        "{count} of {total} values are NaN or infinite, the first is {value} at {index:?}; \
         use weights from before the training diverged"
    ))
}

/// Returns the index along each axis of the element at `position` in C order.
fn index_of(position: usize, shape: &[usize]) -> Vec<usize> {
    let mut rest = position;
    let mut index: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&size| {
            let size = size.max(1);
            let at = rest % size;
            rest /= size;
            at
        })
        .collect();
    index.reverse();
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_that_is_not_finite_is_named() {
        let inf = f32::INFINITY;
        let cases: [(&[f32], &[usize], Option<&str>); 5] = [
            (&[1.0, f32::MAX, f32::MIN_POSITIVE, -0.0], &[2, 2], None),
            (&[], &[0], None),
            (
                &[f32::NAN],
                &[],
                Some("1 of 1 values are NaN or infinite, the first is NaN at []"),
            ),
            (
                &[0.0, 1.0, 2.0, inf, f32::NAN, 5.0],
                &[2, 3],
                Some("2 of 6 values are NaN or infinite, the first is inf at [1, 0]"),
            ),
            (
                &[0.0, 1.0, -inf],
                &[1, 3, 1],
                Some("1 of 3 values are NaN or infinite, the first is -inf at [0, 2, 0]"),
            ),
        ];
        for (values, shape, expected) in cases {
            let got = not_finite(values.iter().copied(), shape);
            let start = got.as_deref().and_then(|text| text.split(';').next());
            assert_eq!(start, expected, "{values:?}");
        }
    }
}
