//! Non-maximum suppression: of boxes that overlap too much, the one with the best score stays.
//!
//! Boxes are laid out class by class, best first, one array a corner. A box that stays is compared
//! with all that follow it in its class, several at once.

#![expect(
    clippy::inline_always,
    reason = "what a kernel calls must be compiled for its instruction set"
)]

use fearless_simd::Simd;

use super::Corners;
use super::topk::{key, unpack};
use crate::simd::{Kernel, dispatch};

/// Up to here torchvision separates classes by moving their boxes apart; see [`batched_nms`].
const MOST_MOVED: usize = 1000;

/// Indices of the boxes that stay, best score first; equal scores keep the order of the indices.
///
/// A box goes if its intersection over union with a better one of its class that stays is more than
/// `iou_threshold`. `boxes`, `scores` and `classes` are as many; what one has more is left out. No
/// score may be NaN.
///
/// torchvision gives up to 1,000 boxes to one suppression, with each class moved by its number times
/// a distance that no box reaches. Moved corners are rounded more coarsely, which can decide an overlap
/// near the threshold the other way (a class 90 of a picture of 1,333 pixels: corners to 1/128 of a
/// pixel), so the same corners are compared here, class by class all the same.
///
/// Source: torchvision's `ops/boxes.py:batched_nms` and `csrc/ops/cpu/nms_kernel.cpp`.
pub fn batched_nms(
    boxes: &[Corners],
    scores: &[f32],
    classes: &[u32],
    iou_threshold: f64,
) -> Vec<usize> {
    let len = boxes.len().min(scores.len()).min(classes.len());
    let (boxes, classes) = (&boxes[..len], &classes[..len]);
    let order = best_first(&scores[..len]);
    let mut layout = Layout::new(boxes, &order, classes);
    if len <= MOST_MOVED {
        layout.move_apart(boxes);
    }
    dispatch(Suppress {
        layout: &mut layout,
        threshold: not_above(iou_threshold),
    });
    let mut stays = vec![false; len];
    for (rank, gone) in layout.ranks.iter().zip(&layout.gone) {
        stays[*rank as usize] = *gone == 0;
    }
    let ranked = order.iter().zip(stays);
    ranked
        .filter(|(_, stays)| *stays)
        .map(|(i, _)| *i as usize)
        .collect()
}

/// The largest f32 that is not above `threshold`: torchvision compares an f32 with an f64.
fn not_above(threshold: f64) -> f32 {
    let near = threshold as f32;
    if f64::from(near) > threshold {
        near.next_down()
    } else {
        near
    }
}

/// Indices by descending score, equal scores by ascending index.
fn best_first(scores: &[f32]) -> Vec<u32> {
    let keyed = scores.iter().enumerate();
    let mut keys: Vec<u64> = keyed.map(|(i, score)| key(*score, i as u32)).collect();
    keys.sort_unstable_by(|a, b| b.cmp(a));
    keys.into_iter().map(|key| unpack(key).1).collect()
}

/// Boxes class by class, each class best first.
struct Layout {
    /// Place of each box among all, best first.
    ranks: Vec<u32>,
    /// Classes and where their boxes end.
    ends: Vec<(u32, usize)>,
    x1: Vec<f32>,
    y1: Vec<f32>,
    x2: Vec<f32>,
    y2: Vec<f32>,
    area: Vec<f32>,
    /// 1 for boxes that overlap a better one. As wide as the corners, so that vectors match.
    gone: Vec<u32>,
}

impl Layout {
    fn new(boxes: &[Corners], order: &[u32], classes: &[u32]) -> Self {
        let ranked = order.iter().enumerate();
        let mut keys: Vec<u64> = ranked
            .map(|(rank, i)| u64::from(classes[*i as usize]) << 32 | rank as u64)
            .collect();
        keys.sort_unstable();
        let mut ends: Vec<(u32, usize)> = Vec::new();
        for (i, class) in keys.iter().map(|key| (key >> 32) as u32).enumerate() {
            match ends.last_mut() {
                Some((last, end)) if *last == class => *end = i + 1,
                _ => ends.push((class, i + 1)),
            }
        }
        let ranks: Vec<u32> = keys.into_iter().map(|key| key as u32).collect();
        let corner = |c: usize| -> Vec<f32> {
            let boxes = ranks
                .iter()
                .map(|rank| boxes[order[*rank as usize] as usize]);
            boxes.map(|corners| corners[c]).collect()
        };
        let [x1, y1, x2, y2] = [0, 1, 2, 3].map(corner);
        Self {
            ends,
            area: vec![0.0; ranks.len()],
            gone: vec![0; ranks.len()],
            x1,
            y1,
            x2,
            y2,
            ranks,
        }
    }

    /// Source: `_batched_nms_coordinate_trick`.
    fn move_apart(&mut self, boxes: &[Corners]) {
        let largest = boxes
            .iter()
            .flatten()
            .copied()
            .fold(f32::NEG_INFINITY, f32::max);
        let mut start = 0;
        for (class, end) in &self.ends {
            let offset = *class as f32 * (largest + 1.0);
            for edges in [&mut self.x1, &mut self.y1, &mut self.x2, &mut self.y2] {
                for edge in &mut edges[start..*end] {
                    *edge += offset;
                }
            }
            start = *end;
        }
    }
}

/// Marks what goes, in every class.
struct Suppress<'a> {
    layout: &'a mut Layout,
    threshold: f32,
}

impl Kernel for Suppress<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let all = self.layout;
        for i in 0..all.area.len() {
            all.area[i] = (all.x2[i] - all.x1[i]) * (all.y2[i] - all.y1[i]);
        }
        let mut start = 0;
        for (_, end) in &all.ends {
            for best in start..*end {
                if all.gone[best] != 0 {
                    continue;
                }
                let corners = [all.x1[best], all.y1[best], all.x2[best], all.y2[best]];
                let rest = best + 1..*end;
                Rest {
                    x1: &all.x1[rest.clone()],
                    y1: &all.y1[rest.clone()],
                    x2: &all.x2[rest.clone()],
                    y2: &all.y2[rest.clone()],
                    area: &all.area[rest.clone()],
                    gone: &mut all.gone[rest],
                }
                .compare(corners, all.area[best], self.threshold);
            }
            start = *end;
        }
    }
}

/// The boxes that follow one in its class.
struct Rest<'a> {
    x1: &'a [f32],
    y1: &'a [f32],
    x2: &'a [f32],
    y2: &'a [f32],
    area: &'a [f32],
    gone: &'a mut [u32],
}

impl Rest<'_> {
    /// Marks those that overlap a box of `area` by more than `threshold`.
    #[inline(always)]
    fn compare(self, [x1, y1, x2, y2]: Corners, area: f32, threshold: f32) {
        let larger = |a: f32, b: f32| if a < b { b } else { a };
        let smaller = |a: f32, b: f32| if b < a { b } else { a };
        let len = self.gone.len();
        // One length for all, so that no element is checked.
        let (left, upper, right) = (&self.x1[..len], &self.y1[..len], &self.x2[..len]);
        let (lower, areas) = (&self.y2[..len], &self.area[..len]);
        for i in 0..len {
            let width = larger(0.0, smaller(x2, right[i]) - larger(x1, left[i]));
            let height = larger(0.0, smaller(y2, lower[i]) - larger(y1, upper[i]));
            let both = width * height;
            let overlap = both / (area + areas[i] - both);
            self.gone[i] |= u32::from(overlap > threshold);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// torchvision's kernel, word for word, on the boxes that it gets.
    fn reference(boxes: &[Corners], scores: &[f32], classes: &[u32], threshold: f64) -> Vec<usize> {
        let largest = boxes
            .iter()
            .flatten()
            .copied()
            .fold(f32::NEG_INFINITY, f32::max);
        let moved = |i: usize| {
            let offset = if boxes.len() > 1000 {
                0.0
            } else {
                classes[i] as f32 * (largest + 1.0)
            };
            boxes[i].map(|edge| edge + offset)
        };
        let mut order: Vec<usize> = (0..boxes.len()).collect();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        let mut kept: Vec<usize> = Vec::new();
        for i in order {
            let overlaps = |j: &usize| {
                classes[i] == classes[*j] && f64::from(iou(moved(*j), moved(i))) > threshold
            };
            if !kept.iter().any(overlaps) {
                kept.push(i);
            }
        }
        kept
    }

    fn iou(a: Corners, b: Corners) -> f32 {
        let area = |[x1, y1, x2, y2]: Corners| (x2 - x1) * (y2 - y1);
        let width = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
        let height = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
        let both = width * height;
        both / (area(a) + area(b) - both)
    }

    /// Boxes on a coarse grid, so that equal boxes, equal scores and overlaps of just a threshold occur.
    fn boxes(len: usize, grid: u64, seed: u64) -> (Vec<Corners>, Vec<f32>) {
        let mut state = seed;
        let mut next = |levels: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % levels) as f32
        };
        let step = 300.0 / grid as f32;
        (0..len)
            .map(|_| {
                let (x, y) = (next(grid) * step, next(grid) * step);
                let (w, h) = (next(grid / 2) * step, next(grid / 2) * step);
                ([x, y, x + w, y + h], next(grid) / grid as f32)
            })
            .unzip()
    }

    #[test]
    fn the_kernel_equals_the_reference() {
        for len in [0, 1, 2, 17, 100, 999, 1000, 1001, 1500] {
            for (grid, kinds) in [(4, 1), (10, 3), (1 << 20, 90)] {
                let (boxes, scores) = boxes(len, grid, len as u64 + grid);
                let classes: Vec<u32> = (0..len as u32).map(|i| i * 7 % kinds).collect();
                for threshold in [0.0, 0.3, 0.5, 0.55, 1.0] {
                    let got = batched_nms(&boxes, &scores, &classes, threshold);
                    let expected = reference(&boxes, &scores, &classes, threshold);
                    assert_eq!(got, expected, "{len} on {grid}, {kinds}, {threshold}");
                }
            }
        }
    }

    #[test]
    fn an_overlap_of_just_the_threshold_stays() {
        let boxes = [[0.0, 0.0, 4.0, 1.0], [0.0, 0.0, 2.0, 1.0]];
        for (threshold, expected) in [(0.5, [0, 1].as_slice()), (0.499, &[0])] {
            assert_eq!(
                batched_nms(&boxes, &[0.9, 0.8], &[1, 1], threshold),
                expected
            );
        }
        // The f32 next to 0.55 is above it.
        let boxes = [[0.0, 0.0, 20.0, 1.0], [0.0, 0.0, 11.0, 1.0]];
        assert_eq!(batched_nms(&boxes, &[0.9, 0.8], &[1, 1], 0.55), [0]);
        let only_one_score = batched_nms(&boxes, &[0.9], &[1, 1], 0.55);
        assert_eq!(only_one_score, [0]);
    }
}
