//! Non-maximum suppression: of boxes that overlap too much, the one with the best score is kept.
//!
//! Boxes are arranged class by class and best first within a class, with one array for each edge
//! (left, top, right, bottom). A kept box is compared with all boxes that follow it in its class;
//! with this layout, several of these boxes are compared at a time in vector registers.

#![expect(
    clippy::inline_always,
    reason = "functions that a SIMD kernel calls must be inlined to use its instruction set"
)]

use std::ops::Range;

use fearless_simd::Simd;

use super::BoxXyxy;
use super::topk::{key, unpack};
use crate::simd::{Kernel, dispatch};

/// Largest number of boxes for which torchvision shifts the boxes of each class apart; see
/// [`batched_nms`].
const MAX_SHIFTED: usize = 1000;

/// Returns the indices of the boxes that are kept, best score first. Boxes of equal score are in
/// ascending order of index.
///
/// A box is suppressed if its intersection over union with a kept box that has the same class and
/// precedes it in this order is more than `iou_threshold`. `boxes`, `scores` and `classes` have one
/// element per box; elements past the length of the shortest slice are ignored. No score may be
/// NaN.
///
/// For up to 1,000 boxes torchvision runs one suppression over the boxes of all classes. To keep
/// boxes of different classes from overlapping, it adds an offset to the edges of each box: the
/// class index times a distance that is larger than any edge. Shifted edges are rounded more
/// coarsely (to 1/128 pixel for class 90 of an image of 1,333 pixels), which can change the result
/// for an overlap near the threshold. This function compares the same shifted edges, but class by
/// class.
///
/// Source: torchvision's `ops/boxes.py:batched_nms` and `csrc/ops/cpu/nms_kernel.cpp`.
pub fn batched_nms(
    boxes: &[BoxXyxy],
    scores: &[f32],
    classes: &[u32],
    iou_threshold: f64,
) -> Vec<usize> {
    let len = boxes.len().min(scores.len()).min(classes.len());
    let (boxes, classes) = (&boxes[..len], &classes[..len]);
    let order = best_first(&scores[..len]);
    let mut layout = Layout::new(boxes, &order, classes);
    if len <= MAX_SHIFTED {
        layout.shift_classes_apart(boxes);
    }
    dispatch(Suppress {
        layout: &mut layout,
        threshold: round_down(iou_threshold),
    });
    let mut kept = vec![false; len];
    for (rank, suppressed) in layout.ranks.iter().zip(&layout.suppressed) {
        kept[*rank as usize] = *suppressed == 0;
    }
    let ranked = order.iter().zip(kept);
    ranked
        .filter(|(_, kept)| *kept)
        .map(|(i, _)| *i as usize)
        .collect()
}

/// Returns the largest f32 that is not above `threshold`. An f32 overlap is above the returned
/// value exactly if it is above `threshold`, the f64 with which torchvision compares it.
fn round_down(threshold: f64) -> f32 {
    let near = threshold as f32;
    if f64::from(near) > threshold {
        near.next_down()
    } else {
        near
    }
}

/// Returns the indices of `scores` from the highest score to the lowest. The indices of equal
/// scores are in ascending order.
fn best_first(scores: &[f32]) -> Vec<u32> {
    let keyed = scores.iter().enumerate();
    let mut keys: Vec<u64> = keyed.map(|(i, score)| key(*score, i as u32)).collect();
    keys.sort_unstable_by(|a, b| b.cmp(a));
    keys.into_iter().map(|key| unpack(key).1).collect()
}

/// The range of positions in a [`Layout`] that holds the boxes of one class.
struct ClassRange {
    class: u32,
    range: Range<usize>,
}

/// Boxes arranged class by class, and best score first within a class. All arrays except `classes`
/// have one element per box.
struct Layout {
    /// Rank of each box by its score among the boxes of all classes, 0 for the best.
    ranks: Vec<u32>,
    classes: Vec<ClassRange>,
    x1: Vec<f32>,
    y1: Vec<f32>,
    x2: Vec<f32>,
    y2: Vec<f32>,
    area: Vec<f32>,
    /// 1 for each suppressed box, 0 for each other box. The elements have 32 bits like the edges,
    /// so that the vector mask of a comparison of f32 overlaps has the width of these elements.
    suppressed: Vec<u32>,
}

impl Layout {
    /// Arranges `boxes` by class. `order` holds the indices of the boxes, best score first;
    /// `classes` holds the class of each box.
    fn new(boxes: &[BoxXyxy], order: &[u32], classes: &[u32]) -> Self {
        let ranked = order.iter().enumerate();
        let mut keys: Vec<u64> = ranked
            .map(|(rank, i)| u64::from(classes[*i as usize]) << 32 | rank as u64)
            .collect();
        keys.sort_unstable();
        let ranks: Vec<u32> = keys.iter().map(|key| *key as u32).collect();
        let sorted = ranks
            .iter()
            .map(|rank| boxes[order[*rank as usize] as usize]);
        let sorted: Vec<BoxXyxy> = sorted.collect();
        Self {
            classes: class_ranges(keys.iter().map(|key| (*key >> 32) as u32)),
            area: vec![0.0; ranks.len()],
            suppressed: vec![0; ranks.len()],
            x1: sorted.iter().map(|b| b.x1).collect(),
            y1: sorted.iter().map(|b| b.y1).collect(),
            x2: sorted.iter().map(|b| b.x2).collect(),
            y2: sorted.iter().map(|b| b.y2).collect(),
            ranks,
        }
    }

    /// Shifts the boxes of each class so that boxes of different classes cannot overlap. `boxes`
    /// are the same boxes before the shift.
    ///
    /// Source: torchvision's `ops/boxes.py:_batched_nms_coordinate_trick`.
    fn shift_classes_apart(&mut self, boxes: &[BoxXyxy]) {
        let edges = boxes.iter().flat_map(|b| b.to_array());
        let largest = edges.fold(f32::NEG_INFINITY, f32::max);
        for ClassRange { class, range } in &self.classes {
            let offset = *class as f32 * (largest + 1.0);
            for edges in [&mut self.x1, &mut self.y1, &mut self.x2, &mut self.y2] {
                for edge in &mut edges[range.clone()] {
                    *edge += offset;
                }
            }
        }
    }

    /// Returns the box at position `i` of the layout.
    #[inline(always)]
    fn at(&self, i: usize) -> BoxXyxy {
        BoxXyxy {
            x1: self.x1[i],
            y1: self.y1[i],
            x2: self.x2[i],
            y2: self.y2[i],
        }
    }
}

/// Returns the range of positions of each class. `sorted` holds the class of each box, in ascending
/// order.
fn class_ranges(sorted: impl Iterator<Item = u32>) -> Vec<ClassRange> {
    let mut ranges: Vec<ClassRange> = Vec::new();
    for (i, class) in sorted.enumerate() {
        match ranges.last_mut() {
            Some(last) if last.class == class => last.range.end = i + 1,
            _ => ranges.push(ClassRange {
                class,
                range: i..i + 1,
            }),
        }
    }
    ranges
}

/// The kernel that marks the suppressed boxes of every class in `layout.suppressed`.
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
        for class in 0..all.classes.len() {
            let range = all.classes[class].range.clone();
            for best in range.clone() {
                if all.suppressed[best] != 0 {
                    continue;
                }
                let (kept, area) = (all.at(best), all.area[best]);
                let rest = best + 1..range.end;
                Rest {
                    x1: &all.x1[rest.clone()],
                    y1: &all.y1[rest.clone()],
                    x2: &all.x2[rest.clone()],
                    y2: &all.y2[rest.clone()],
                    area: &all.area[rest.clone()],
                    suppressed: &mut all.suppressed[rest],
                }
                .suppress(kept, area, self.threshold);
            }
        }
    }
}

/// The boxes that follow a kept box in its class: one slice for each edge, for the areas, and for
/// the marks of suppressed boxes.
struct Rest<'a> {
    x1: &'a [f32],
    y1: &'a [f32],
    x2: &'a [f32],
    y2: &'a [f32],
    area: &'a [f32],
    suppressed: &'a mut [u32],
}

impl Rest<'_> {
    /// Marks the boxes whose intersection over union with `kept` is more than `threshold`. `area`
    /// is the area of `kept`.
    #[inline(always)]
    fn suppress(self, kept: BoxXyxy, area: f32, threshold: f32) {
        let len = self.suppressed.len();
        // All slices are cut to one length, so that the compiler can drop the bounds checks in the
        // loop.
        let (x1, y1) = (&self.x1[..len], &self.y1[..len]);
        let (x2, y2) = (&self.x2[..len], &self.y2[..len]);
        let areas = &self.area[..len];
        for i in 0..len {
            let other = BoxXyxy {
                x1: x1[i],
                y1: y1[i],
                x2: x2[i],
                y2: y2[i],
            };
            let overlap = kept.iou_with_areas(area, other, areas[i]);
            self.suppressed[i] |= u32::from(overlap > threshold);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random::Random;

    /// Runs torchvision's algorithm box by box, as a slow reference, and returns the indices of the
    /// boxes that are kept.
    fn reference(boxes: &[BoxXyxy], scores: &[f32], classes: &[u32], threshold: f64) -> Vec<usize> {
        let edges = boxes.iter().flat_map(|b| b.to_array());
        let largest = edges.fold(f32::NEG_INFINITY, f32::max);
        let shifted = |i: usize| {
            let offset = if boxes.len() > 1000 {
                0.0
            } else {
                classes[i] as f32 * (largest + 1.0)
            };
            boxes[i].shifted(offset, offset)
        };
        let mut order: Vec<usize> = (0..boxes.len()).collect();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        let mut kept: Vec<usize> = Vec::new();
        for i in order {
            let overlaps = |j: &usize| {
                classes[i] == classes[*j] && f64::from(shifted(*j).iou(shifted(i))) > threshold
            };
            if !kept.iter().any(overlaps) {
                kept.push(i);
            }
        }
        kept
    }

    /// Returns `len` pseudo-random boxes and their scores. Edges are multiples of 300 / `grid`
    /// pixels and scores multiples of 1 / `grid`, so that a small grid yields equal boxes, equal
    /// scores and overlaps of exactly the threshold.
    fn boxes(len: usize, grid: u64, seed: u64) -> (Vec<BoxXyxy>, Vec<f32>) {
        let mut random = Random::new(seed);
        let mut next = |levels: u64| random.below(levels as usize) as f32;
        let step = 300.0 / grid as f32;
        (0..len)
            .map(|_| {
                let (x, y) = (next(grid) * step, next(grid) * step);
                let (w, h) = (next(grid / 2) * step, next(grid / 2) * step);
                let score = next(grid) / grid as f32;
                (BoxXyxy::new(x, y, x + w, y + h), score)
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
    fn an_overlap_of_exactly_the_threshold_is_kept() {
        let wide = |width: f32| BoxXyxy::new(0.0, 0.0, width, 1.0);
        let boxes = [wide(4.0), wide(2.0)];
        for (threshold, expected) in [(0.5, [0, 1].as_slice()), (0.499, &[0])] {
            assert_eq!(
                batched_nms(&boxes, &[0.9, 0.8], &[1, 1], threshold),
                expected
            );
        }
        // The overlap of these boxes is 11 / 20. The nearest f32 is above the f64 threshold 0.55,
        // so the second box is suppressed.
        let boxes = [wide(20.0), wide(11.0)];
        assert_eq!(batched_nms(&boxes, &[0.9, 0.8], &[1, 1], 0.55), [0]);
        let only_one_score = batched_nms(&boxes, &[0.9], &[1, 1], 0.55);
        assert_eq!(only_one_score, [0]);
    }
}
