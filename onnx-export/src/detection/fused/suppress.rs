//! Suppression of boxes within each class, and selection of the remaining boxes with the highest
//! scores.

use super::{Candidates, Detections};
use crate::error::BuildError;
use crate::graph::ops::NonMaxSuppression;
use crate::graph::{Dim, Graph, Value};

/// Returns the largest f32 that is not above `threshold`. Comparing f32 overlaps with the returned
/// value (`>`) has the same result as comparing them with the f64 `threshold`, as torchvision does.
pub(super) fn not_above(threshold: f64) -> f32 {
    let near = threshold as f32;
    if f64::from(near) > threshold {
        near.next_down()
    } else {
        near
    }
}

/// Adds suppression of `candidates` within each of `classes` classes, and returns the `config.most`
/// boxes with the highest scores. The number of returned boxes is the dynamic size called `count`.
///
/// `NonMaxSuppression` needs a score of every box for every class. For a class that is not its own,
/// a box has the score -1, which is below every threshold.
pub(super) fn by_class(
    g: &mut Graph,
    candidates: Candidates,
    classes: usize,
    config: NonMaxSuppression,
    count: &str,
) -> Result<Detections, BuildError> {
    let numbers: Vec<i64> = (0..classes as i64).collect();
    let numbers = g.list("classes", &numbers);
    let column = g.reshape(numbers, &[-1, 1], "classes")?;
    let members = g.equal(column, candidates.classes)?;
    let none = g.scalar(-1.0);
    let scores = g.choose(members, candidates.scores, none)?;
    let scores = add_first(g, scores)?;
    let boxes = add_first(g, candidates.boxes)?;
    let rows = g.non_max_suppression(boxes, scores, config, &format!("{count}_left"))?;
    // The columns of `rows` are batch, class and box index.
    let labels = column_of(g, rows, 1)?;
    let kept = Kept {
        boxes,
        scores,
        rows,
        labels,
    };
    best(g, kept, config.most, count)
}

/// Boxes of K classes, where every class has N boxes of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClassBoxes {
    /// Boxes `[K, N, 4]`.
    pub(super) boxes: Value,
    /// Scores `[K, N]` of the N boxes of each class.
    pub(super) scores: Value,
    /// Label of the first of the K classes.
    pub(super) first_label: i64,
}

/// Adds suppression within each of the K classes, and returns the `config.most` boxes with the
/// highest scores. The number of returned boxes is the dynamic size called `count`.
pub(super) fn by_batch(
    g: &mut Graph,
    classes: ClassBoxes,
    config: NonMaxSuppression,
    count: &str,
) -> Result<Detections, BuildError> {
    let ClassBoxes {
        boxes,
        scores,
        first_label,
    } = classes;
    // In `NonMaxSuppression`, the classes of a batch element share its boxes. Here each class has
    // boxes of its own, so each class becomes a batch element with one class.
    let [kinds, rest] = *g.shape(scores) else {
        return Err(g.shape_error("NonMaxSuppression", "", scores, "[K, N]"));
    };
    let sizes = match (kinds, rest) {
        (Dim::Fixed(kinds), Dim::Fixed(n)) => [kinds as i64, 1, n as i64],
        (Dim::Fixed(kinds), Dim::Dynamic(_)) => [kinds as i64, 1, -1],
        _ => [0, 1, -1],
    };
    let name = match rest {
        Dim::Dynamic(_) => g.show_dim(rest),
        Dim::Fixed(_) => String::new(),
    };
    let scores = g.reshape(scores, &sizes, &name)?;
    let rows = g.non_max_suppression(boxes, scores, config, &format!("{count}_left"))?;
    let labels = column_of(g, rows, 0)?;
    let offset = g.whole(first_label);
    let labels = g.add(labels, offset)?;
    let kept = Kept {
        boxes,
        scores,
        rows,
        labels,
    };
    best(g, kept, config.most, count)
}

/// The S boxes that suppression kept, as indices into all boxes and scores.
#[derive(Debug, Clone, Copy)]
struct Kept {
    /// All boxes before suppression, `[B, N, 4]`.
    boxes: Value,
    /// All scores before suppression, `[B, C, N]`.
    scores: Value,
    /// Batch, class and box index of each kept box, `[S, 3] i64`.
    rows: Value,
    /// Labels of the kept boxes, `[S] i64`.
    labels: Value,
}

/// Returns the `most` kept boxes with the highest scores. The number of returned boxes is the
/// dynamic size called `count`.
fn best(g: &mut Graph, kept: Kept, most: usize, count: &str) -> Result<Detections, BuildError> {
    let scores = g.gather_nd(kept.scores, kept.rows)?;
    let batch = g.slice(kept.rows, 1, 0..1)?;
    let index = g.slice(kept.rows, 1, 2..3)?;
    let pairs = g.concat_last(batch, index)?;
    let boxes = g.gather_nd(kept.boxes, pairs)?;
    let [scores, order] = g.top_k(scores, most, count)?;
    Ok(Detections {
        boxes: g.gather(boxes, order)?,
        labels: g.gather(kept.labels, order)?,
        scores,
    })
}

/// Returns column `column` of `rows` `[S, 3]`, as `[S]`.
fn column_of(g: &mut Graph, rows: Value, column: usize) -> Result<Value, BuildError> {
    let narrow = g.slice(rows, 1, column..column + 1)?;
    g.reshape(narrow, &[0], "")
}

/// Returns `x` reshaped from `[...]` to `[1, ...]`. At most one axis of `x` may be dynamic.
fn add_first(g: &mut Graph, x: Value) -> Result<Value, BuildError> {
    let shape = g.shape(x).to_vec();
    let mut name = String::new();
    let sizes = shape.iter().map(|dim| match dim {
        Dim::Fixed(size) => *size as i64,
        Dim::Dynamic(_) => {
            name = g.show_dim(*dim);
            -1
        }
    });
    let sizes: Vec<i64> = std::iter::once(1).chain(sizes).collect();
    g.reshape(x, &sizes, &name)
}
