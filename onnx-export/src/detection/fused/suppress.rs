//! Suppression class by class, and the best of what stays.

use super::{Candidates, Chosen};
use crate::error::BuildError;
use crate::graph::ops::NonMaxSuppression;
use crate::graph::{Dim, Graph, Value};

/// The largest f32 that is not above `threshold`: torchvision compares an f32 with an f64.
pub(super) fn not_above(threshold: f64) -> f32 {
    let near = threshold as f32;
    if f64::from(near) > threshold {
        near.next_down()
    } else {
        near
    }
}

/// The best of `candidates`, at most `config.most`; `classes` is how many there are. The result's size
/// has the name `count`.
///
/// Scores of other classes are -1, which no threshold lets pass.
pub(super) fn by_class(
    g: &mut Graph,
    candidates: Candidates,
    classes: usize,
    config: NonMaxSuppression,
    count: &str,
) -> Result<Chosen, BuildError> {
    let Candidates {
        boxes,
        scores,
        classes: own,
    } = candidates;
    let numbers: Vec<i64> = (0..classes as i64).collect();
    let numbers = g.list("classes", &numbers);
    let column = g.reshape(numbers, &[-1, 1], "classes")?;
    let members = g.equal(column, own)?;
    let none = g.scalar(-1.0);
    let table = g.choose(members, scores, none)?;
    let table = add_first(g, table)?;
    let boxes = add_first(g, boxes)?;
    let places = g.non_max_suppression(boxes, table, config, &format!("{count}_left"))?;
    // Places are [batch, class, box].
    let labels = column_of(g, places, 1)?;
    best(g, (boxes, table), places, labels, (config.most, count))
}

/// The best of `boxes` `[K, N, 4]` with `scores` `[K, N]`, where suppression treats each of K alone.
/// The labels start at `first`.
pub(super) fn by_batch(
    g: &mut Graph,
    (boxes, scores): (Value, Value),
    first: i64,
    config: NonMaxSuppression,
    count: &str,
) -> Result<Chosen, BuildError> {
    // A batch and a box are two axes of the scores, with the only class between them.
    let (kinds, rest) = (g.shape(scores)[0], g.shape(scores)[1]);
    let sizes = match (kinds, rest) {
        (Dim::Fixed(kinds), Dim::Fixed(n)) => [kinds as i64, 1, n as i64],
        (Dim::Fixed(kinds), Dim::Dynamic(_)) => [kinds as i64, 1, -1],
        _ => [0, 1, -1],
    };
    let name = match rest {
        Dim::Dynamic(_) => g.show_dim(rest),
        Dim::Fixed(_) => String::new(),
    };
    let table = g.reshape(scores, &sizes, &name)?;
    let places = g.non_max_suppression(boxes, table, config, &format!("{count}_left"))?;
    let labels = column_of(g, places, 0)?;
    let offset = g.whole(first);
    let labels = g.add_broadcast(labels, offset)?;
    best(g, (boxes, table), places, labels, (config.most, count))
}

/// The best `most` of the `places` `[S, 3]` that suppression left.
fn best(
    g: &mut Graph,
    (boxes, table): (Value, Value),
    places: Value,
    labels: Value,
    (most, count): (usize, &str),
) -> Result<Chosen, BuildError> {
    let scores = g.gather_nd(table, places)?;
    let (batch, number) = (g.slice(places, 1, 0..1)?, g.slice(places, 1, 2..3)?);
    let pairs = g.concat_last(batch, number)?;
    let boxes = g.gather_nd(boxes, pairs)?;
    let [scores, order] = g.top_k(scores, most, count)?;
    Ok(Chosen {
        boxes: g.gather(boxes, order)?,
        labels: g.gather(labels, order)?,
        scores,
    })
}

/// Column `column` of `[S, 3]` as `[S]`.
fn column_of(g: &mut Graph, places: Value, column: usize) -> Result<Value, BuildError> {
    let narrow = g.slice(places, 1, column..column + 1)?;
    g.reshape(narrow, &[0], "")
}

/// `[1, ...]` of `[...]`, whose last axis is fixed or the only open one.
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
