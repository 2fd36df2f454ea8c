//! Decoding, clipping and filtering of boxes `[..., 4]` (x1, y1, x2, y2 in pixels) in torchvision's
//! order of operations.

use crate::error::BuildError;
use crate::graph::{Graph, Value};

/// Upper limit of the deltas dw and dh, ln(1000 / 16): a decoded box is at most 62.5 times as wide
/// or high as the box that the deltas are relative to.
const MAX_LOG_SCALE: f32 = 4.135_166_6;

/// Splits the last axis of `boxes` `[..., 4]` into halves `[..., 2]`: the upper left and lower
/// right corners of boxes, or dx, dy and dw, dh of box deltas.
pub(super) fn halves(g: &mut Graph, boxes: Value) -> Result<[Value; 2], BuildError> {
    let last = g.shape(boxes).len().saturating_sub(1);
    Ok([g.slice(boxes, last, 0..2)?, g.slice(boxes, last, 2..4)?])
}

/// Decodes `deltas` `[..., 4]` (dx, dy, dw, dh), which are first divided by `weights` and are
/// relative to the boxes `references` `[N, 4]`. Returns boxes `[..., 4]`.
///
/// Source: torchvision's `models/detection/_utils.py`, `BoxCoder.decode_single`.
pub(super) fn decode(
    g: &mut Graph,
    deltas: Value,
    references: Value,
    weights: [f32; 4],
) -> Result<Value, BuildError> {
    let [upper, lower] = halves(g, references)?;
    let half = g.scalar(0.5);
    let size = g.sub(lower, upper)?;
    let to_center = g.mul(size, half)?;
    let center = g.add(upper, to_center)?;
    let [mut shift, mut scale] = halves(g, deltas)?;
    // Weights of 1 change nothing, so the division nodes are left out.
    if weights != [1.0; 4] {
        let divisors = weights.as_chunks::<2>().0;
        let [by, of] = [0, 1].map(|i| g.table("box_weights", &[2], divisors[i].to_vec()));
        shift = g.div(shift, by)?;
        scale = g.div(scale, of)?;
    }
    let shift = g.mul(shift, size)?;
    let center = g.add(shift, center)?;
    let most = g.scalar(MAX_LOG_SCALE);
    let scale = g.min(scale, most)?;
    let scale = g.exp(scale);
    let size = g.mul(scale, size)?;
    let half = g.mul(size, half)?;
    let upper = g.sub(center, half)?;
    let lower = g.add(center, half)?;
    g.concat_last(upper, lower)
}

/// Returns `boxes` `[..., 4]` clipped to the image, whose size is `limits` `[4]` (width, height, width,
/// height).
///
/// Source: torchvision's `ops/boxes.py:clip_boxes_to_image`.
pub(super) fn clip(g: &mut Graph, boxes: Value, limits: Value) -> Result<Value, BuildError> {
    let zero = g.scalar(0.0);
    let boxes = g.max(boxes, zero)?;
    g.min(boxes, limits)
}

/// Returns the `scores` `[...]` of `boxes` `[..., 4]` with -1 in place of the score of every box
/// that has a side shorter than `least` pixels.
///
/// Source: torchvision's `ops/boxes.py:remove_small_boxes`.
pub(super) fn without_small(
    g: &mut Graph,
    boxes: Value,
    scores: Value,
    least: f32,
) -> Result<Value, BuildError> {
    let [upper, lower] = halves(g, boxes)?;
    let size = g.sub(lower, upper)?;
    let last = g.shape(size).len().saturating_sub(1);
    let kept: Vec<i64> = vec![0; last];
    let (width, height) = (g.slice(size, last, 0..1)?, g.slice(size, last, 1..2)?);
    let shorter = g.min(width, height)?;
    let shorter = g.reshape(shorter, &kept, "")?;
    let least = g.scalar(least);
    let large = g.greater_or_equal(shorter, least)?;
    let none = g.scalar(-1.0);
    g.choose(large, scores, none)
}
