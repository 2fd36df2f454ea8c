//! Where the samples of a bilinear resize without antialias come from.

/// Between which inputs output `out` of `to` falls, of `from` of them, which must not be none: the
/// first one's number, and the weight of the one after it, 0..=1.
///
/// Source: `compute_source_index_and_lambda` of PyTorch's `aten/src/ATen/native/UpSample.h`, for
/// `align_corners=False` and no scale factor, in f32 as there.
pub(crate) fn source_index(out: usize, from: usize, to: usize) -> (usize, f32) {
    let scale = from as f32 / to as f32;
    let at = (scale * (out as f32 + 0.5) - 0.5).max(0.0);
    let first = (at as usize).min(from - 1);
    (first, (at - first as f32).clamp(0.0, 1.0))
}
