//! Finds places for labels at their boxes, so that no label hides another one.

use super::canvas::Area;
use crate::image::ImageSize;

/// Number of times that a label is moved along an edge of its box to pass other labels. Limits the
/// work, which is at most a few dozen comparisons with each earlier label.
const MOVES: usize = 6;
/// Distance in pixels between two labels next to each other.
const GAP: i64 = 1;
/// A label is placed inside its box before it is placed below only if the box is this many times as
/// high as the label, so that it hides little of the object.
const ROOMY: i64 = 4;

/// The places of the labels in an image that are already placed.
#[derive(Debug)]
pub(super) struct Places {
    image: ImageSize,
    taken: Vec<Area>,
}

impl Places {
    /// Returns the places of an image of size `image` without labels.
    pub(super) fn new(image: ImageSize) -> Self {
        let taken = Vec::new();
        Self { image, taken }
    }

    /// Finds and takes a place of `width` x `height` pixels for the label of the box `target`: above it,
    /// inside, below or next to it, where no other label is. Returns `None` if there is no place within
    /// the image.
    ///
    /// The result depends on the order of the calls only. Earlier labels have the better places.
    pub(super) fn take(&mut self, target: Area, width: i64, height: i64) -> Option<Area> {
        let place = self.find(target, width, height)?;
        self.taken.push(place);
        Some(place)
    }

    fn find(&self, target: Area, width: i64, height: i64) -> Option<Area> {
        let right = target.x + target.width;
        let at = |x: i64, y: i64| Area {
            x: x.min(i64::from(self.image.width) - width).max(0),
            y,
            width,
            height,
        };
        let rows = rows(target, height);
        let aligned = rows
            .iter()
            .flat_map(|y| [at(target.x, *y), at(right - width, *y)]);
        let moved = rows.iter().filter_map(|y| {
            let mut place = at(target.x, *y);
            for _ in 0..MOVES {
                let other = self.obstacle(place)?;
                let x = other.x + other.width + GAP;
                if x >= right {
                    return None;
                }
                place = at(x, *y);
            }
            Some(place)
        });
        let beside = [
            at(right, target.y),
            at(target.x - width, target.y),
            at(right, target.y + target.height - height),
        ];
        let mut places = aligned.chain(moved).chain(beside);
        places.find(|place| self.is_free(*place))
    }

    /// Returns a placed label that overlaps `place`.
    fn obstacle(&self, place: Area) -> Option<Area> {
        let overlaps = |other: &&Area| other.overlaps(place);
        self.taken.iter().find(overlaps).copied()
    }

    /// Returns whether `place` is within the image and overlaps no label.
    fn is_free(&self, place: Area) -> bool {
        let (width, height) = (i64::from(self.image.width), i64::from(self.image.height));
        place.x >= 0
            && place.y >= 0
            && place.x + place.width <= width
            && place.y + place.height <= height
            && self.obstacle(place).is_none()
    }
}

/// Returns the tops of the rows in which the label of `target` may be, best first. Some may be outside
/// of the image.
fn rows(target: Area, height: i64) -> [i64; 4] {
    let (above, inside) = (target.y - height, target.y);
    let below = target.y + target.height;
    let inside_bottom = below - height;
    if target.height >= ROOMY * height {
        [above, inside, below, inside_bottom]
    } else {
        [above, below, inside, inside_bottom]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: ImageSize = ImageSize {
        width: 200,
        height: 100,
    };

    fn area(x: i64, y: i64, width: i64, height: i64) -> Area {
        Area {
            x,
            y,
            width,
            height,
        }
    }

    #[test]
    fn a_single_label_is_above_inside_or_below_its_box() {
        for (target, expected) in [
            (area(20, 30, 60, 60), Some((20, 20))),
            (area(20, 5, 60, 60), Some((20, 5))),
            (area(20, 5, 60, 30), Some((20, 35))),
            (area(190, 30, 10, 60), Some((160, 20))),
            (area(0, 0, 200, 100), Some((0, 0))),
            (area(0, 200, 10, 10), None),
        ] {
            let place = Places::new(IMAGE).take(target, 40, 10);
            assert_eq!(place.map(|p| (p.x, p.y)), expected, "{target:?}");
        }
        assert_eq!(Places::new(IMAGE).take(area(0, 0, 9, 9), 201, 10), None);
        assert_eq!(Places::new(IMAGE).take(area(0, 0, 9, 9), 10, 101), None);
    }

    #[test]
    fn labels_of_one_box_do_not_overlap() {
        let target = area(60, 40, 80, 50);
        let mut places = Places::new(IMAGE);
        let placed: Vec<Area> = (0..300)
            .map_while(|_| places.take(target, 30, 10))
            .collect();
        assert!(placed.len() >= 8, "{}", placed.len());
        for (i, one) in placed.iter().enumerate() {
            assert!(
                placed[..i].iter().all(|other| !other.overlaps(*one)),
                "{one:?}"
            );
            // Each touches its box.
            assert!(one.overlaps(target.grown(1)), "{one:?}");
        }
    }
}
