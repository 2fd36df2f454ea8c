//! Computes the source positions of a bilinear resize without antialiasing.

/// Returns, for output sample `out` when `from` samples (> 0) are resized to `to`, the index of the
/// first of two source samples, and the weight (0..=1) of the second. The two weights add up to 1.
///
/// Source: `compute_source_index_and_lambda` of PyTorch's `aten/src/ATen/native/UpSample.h`, for
/// `align_corners=False` and no scale factor, computed in f32 as there.
pub(crate) fn source_index(out: usize, from: usize, to: usize) -> (usize, f32) {
    source_index_within(out, (from, 0.0, from as f32), to)
}

/// Returns the source samples as [`source_index`] does, when a part of `from` samples is resized to
/// `to`: the part that begins `start` samples after the edge of the first and is `len` samples long.
pub(crate) fn source_index_within(
    out: usize,
    (from, start, len): (usize, f32, f32),
    to: usize,
) -> (usize, f32) {
    let scale = len / to as f32;
    let at = (start + (scale * (out as f32 + 0.5) - 0.5)).max(0.0);
    let first = (at as usize).min(from - 1);
    (first, (at - first as f32).clamp(0.0, 1.0))
}
