//! Matches the detections of each image and class with the annotations.
//!
//! Source: `COCOeval.evaluateImg` of pycocotools.

use std::collections::BTreeMap;

use super::{AREAS, Annotation, Found, ImageBoxes, MAX_DETECTIONS, THRESHOLDS};

/// Ranges of the object's area in square pixels, both ends included: all, small, medium, large.
const AREA_RANGES: [(f64, f64); AREAS] =
    [(0.0, 1e10), (0.0, 1024.0), (1024.0, 9216.0), (9216.0, 1e10)];

/// The annotations and detections of one class in one image.
#[derive(Debug)]
pub(super) struct Group<'a> {
    /// Position of the image in the data set.
    image: u32,
    annotations: Vec<&'a Annotation>,
    found: Vec<&'a Found>,
}

/// A detection with its matches. Bit `t` of a set belongs to the IoU threshold `t`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ranked {
    pub(super) score: f64,
    /// Position of the image in the data set.
    pub(super) image: u32,
    /// Rank among the detections of the image and class, from 0.
    pub(super) rank: u32,
    /// Thresholds at which the detection matches an annotation, for each area range.
    pub(super) matched: [u16; AREAS],
    /// Thresholds at which the detection does not count, for each area range.
    pub(super) ignored: [u16; AREAS],
}

/// The detections of one class in all images, and the number of annotations that count.
#[derive(Debug, Clone, Default)]
pub(super) struct Matches {
    /// The detections, best first once [`Matches::sort`] was called.
    pub(super) detections: Vec<Ranked>,
    /// Number of annotations that count, for each area range.
    pub(super) counted: [u64; AREAS],
    /// Number of annotations of any area that count, by image; images without any are left out.
    pub(super) by_image: Vec<(u32, u32)>,
}

/// Returns the annotations and detections by class, then by image in the order of `images`.
pub(super) fn by_class(images: &[ImageBoxes]) -> BTreeMap<usize, Vec<Group<'_>>> {
    let mut classes: BTreeMap<usize, Vec<Group<'_>>> = BTreeMap::new();
    for (index, boxes) in images.iter().enumerate() {
        let image = u32::try_from(index).unwrap_or(u32::MAX);
        for annotation in &boxes.annotations {
            let groups = classes.entry(annotation.class_id).or_default();
            group(groups, image).annotations.push(annotation);
        }
        for found in &boxes.found {
            let groups = classes.entry(found.class_id).or_default();
            group(groups, image).found.push(found);
        }
    }
    classes
}

/// Returns the group of `image`, which is the last one of `groups` or is added to them.
fn group<'g, 'a>(groups: &'g mut Vec<Group<'a>>, image: u32) -> &'g mut Group<'a> {
    if groups.last().is_none_or(|last| last.image != image) {
        groups.push(Group {
            image,
            annotations: Vec::new(),
            found: Vec::new(),
        });
    }
    let last = groups.len() - 1;
    &mut groups[last]
}

/// Returns the IoU threshold at `index`, rounded as `numpy.linspace(0.5, 0.95, 10)` does.
pub(super) fn threshold(index: usize) -> f64 {
    if index + 1 == THRESHOLDS {
        return 0.95;
    }
    0.5 + index as f64 * ((0.95 - 0.5) / (THRESHOLDS - 1) as f64)
}

impl Matches {
    /// Adds the annotations and detections of one image.
    pub(super) fn add(&mut self, group: &Group<'_>) {
        let mut found = group.found.clone();
        found.sort_by(|one, other| other.score.total_cmp(&one.score));
        found.truncate(MAX_DETECTIONS[2]);
        let overlaps = overlaps(&group.annotations, &found);
        let first = self.detections.len();
        self.detections
            .extend(found.iter().zip(0..).map(|(found, rank)| Ranked {
                score: found.score,
                image: group.image,
                rank,
                matched: [0; AREAS],
                ignored: [0; AREAS],
            }));
        for (area, range) in AREA_RANGES.into_iter().enumerate() {
            let outside = |area: f64| area < range.0 || area > range.1;
            let ignored = |a: &Annotation| a.is_crowd || outside(a.area);
            let mut order: Vec<usize> = (0..group.annotations.len()).collect();
            order.sort_by_key(|index| ignored(group.annotations[*index]));
            let counted = order.partition_point(|index| !ignored(group.annotations[*index]));
            self.counted[area] += counted as u64;
            if area == 0 && counted > 0 {
                self.by_image.push((group.image, counted as u32));
            }
            let candidates = Candidates {
                annotations: &group.annotations,
                overlaps: &overlaps,
                order: &order,
                counted,
            };
            for index in 0..THRESHOLDS {
                candidates.assign(threshold(index), |detection, is_ignored| {
                    let ranked = &mut self.detections[first + detection];
                    ranked.matched[area] |= 1 << index;
                    ranked.ignored[area] |= u16::from(is_ignored) << index;
                });
            }
            for (ranked, found) in self.detections[first..].iter_mut().zip(&found) {
                if outside(found.bounding_box.area()) {
                    ranked.ignored[area] |= !ranked.matched[area];
                }
            }
        }
    }

    /// Sorts the detections of all images, best first; equal scores keep the order of the images.
    pub(super) fn sort(&mut self) {
        self.detections
            .sort_by(|one, other| other.score.total_cmp(&one.score));
    }
}

/// Returns the IoU of each detection with each annotation, `[found, annotations]`. With a crowd, the
/// intersection is divided by the area of the detection.
fn overlaps(annotations: &[&Annotation], found: &[&Found]) -> Vec<f64> {
    let overlap = |found: &Found, annotation: &Annotation| {
        let (one, other) = (found.bounding_box, annotation.bounding_box);
        let intersection = one.intersection(&other);
        if intersection <= 0.0 {
            return 0.0;
        }
        let union = one.area() + other.area() - intersection;
        intersection
            / if annotation.is_crowd {
                one.area()
            } else {
                union
            }
    };
    let rows = found.iter();
    rows.flat_map(|found| annotations.iter().map(move |other| overlap(found, other)))
        .collect()
}

/// The annotations of one image and class that detections can match, for one area range.
struct Candidates<'a> {
    annotations: &'a [&'a Annotation],
    /// `[found, annotations]`.
    overlaps: &'a [f64],
    /// Indices of the annotations, those that count first.
    order: &'a [usize],
    /// Number of annotations that count.
    counted: usize,
}

impl Candidates<'_> {
    /// Matches each detection, best first, with the free annotation of the highest IoU of at least
    /// `threshold`, and calls `matched` with the detection's index and whether the annotation does not
    /// count. Annotations that count are preferred.
    fn assign(&self, threshold: f64, mut matched: impl FnMut(usize, bool)) {
        let count = self.annotations.len();
        if count == 0 {
            return;
        }
        let mut taken = vec![false; count];
        for (detection, overlaps) in self.overlaps.chunks_exact(count).enumerate() {
            let mut best = threshold.min(1.0 - 1e-10);
            let mut choice = None;
            for (position, index) in self.order.iter().copied().enumerate() {
                if taken[index] && !self.annotations[index].is_crowd {
                    continue;
                }
                let is_counted = |(position, _): (usize, usize)| position < self.counted;
                if position >= self.counted && choice.is_some_and(is_counted) {
                    break;
                }
                if overlaps[index] >= best {
                    best = overlaps[index];
                    choice = Some((position, index));
                }
            }
            if let Some((position, index)) = choice {
                taken[index] = true;
                matched(detection, position >= self.counted);
            }
        }
    }
}
