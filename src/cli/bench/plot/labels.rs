//! Places the texts of points so that they cover neither points nor each other.

/// Mean width of a character, in font sizes.
const CHARACTER: f64 = 0.56;
/// Distances of a text from its point that are tried, in pixels.
const DISTANCES: [f64; 4] = [6.0, 15.0, 26.0, 40.0];
/// Distance from which on a line connects the point with its text, in pixels.
const FAR: f64 = 14.0;
/// Directions that are tried: the side of the point on which the text is, and how far up it is moved.
const DIRECTIONS: [(Anchor, f64); 8] = [
    (Anchor::Start, 0.0),
    (Anchor::End, 0.0),
    (Anchor::Middle, 1.0),
    (Anchor::Middle, -1.0),
    (Anchor::Start, 0.9),
    (Anchor::End, 0.9),
    (Anchor::Start, -0.9),
    (Anchor::End, -0.9),
];

/// A text and the pixel of its point. An empty text is not placed, but its point is not covered either.
pub(super) struct Label<'a> {
    pub(super) at: (f64, f64),
    pub(super) text: &'a str,
}

/// The part of a text that is at its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A position for a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Placed {
    /// Pixel of the anchor, on the base line of the text.
    pub(super) at: (f64, f64),
    pub(super) anchor: Anchor,
    /// Whether the text is so far from its point that a line must connect them.
    pub(super) is_far: bool,
}

/// Left, top, right and bottom.
type Area = [f64; 4];

/// Returns the width of `text` in pixels, by the mean width of characters.
pub(super) fn width(text: &str, size: f64) -> f64 {
    text.chars().count() as f64 * size * CHARACTER
}

/// Returns a position in `area` for each text in the font size `size`, or `None` for an empty text. `radius` is that of
/// the marks of points.
pub(super) fn place(
    labels: &[Label<'_>],
    area: Area,
    radius: f64,
    size: f64,
) -> Vec<Option<Placed>> {
    let marks = labels.iter().map(|label| {
        let (x, y) = label.at;
        [x - radius, y - radius, x + radius, y + radius]
    });
    let mut taken: Vec<Area> = marks.collect();
    let mut placed = Vec::with_capacity(labels.len());
    for label in labels {
        if label.text.is_empty() {
            placed.push(None);
            continue;
        }
        let candidates = DISTANCES.into_iter().flat_map(|distance| {
            DIRECTIONS.map(|direction| candidate(label, direction, distance, (radius, size)))
        });
        let cost = |rect: &Area| -> f64 {
            taken.iter().map(|other| overlap(rect, other)).sum::<f64>() + 3.0 * outside(rect, &area)
        };
        let mut best: Option<(f64, Placed, Area)> = None;
        for (position, rect) in candidates {
            let cost = cost(&rect);
            if best.as_ref().is_none_or(|(least, ..)| cost < *least) {
                best = Some((cost, position, rect));
            }
            if cost <= 0.0 {
                break;
            }
        }
        placed.push(best.map(|(_, position, rect)| {
            taken.push(rect);
            position
        }));
    }
    placed
}

/// Returns the position in a direction and at a distance, and the area that the text covers there.
fn candidate(
    label: &Label<'_>,
    (anchor, up): (Anchor, f64),
    distance: f64,
    (radius, size): (f64, f64),
) -> (Placed, Area) {
    let width = width(label.text, size);
    let side = match anchor {
        Anchor::Start => 1.0,
        Anchor::Middle => 0.0,
        Anchor::End => -1.0,
    };
    let reach = radius + distance;
    let x = label.at.0 + side * if up == 0.0 { reach } else { reach * 0.7 };
    let middle = label.at.1 - up * (reach + size * 0.4);
    let left = match anchor {
        Anchor::Start => x,
        Anchor::Middle => x - width / 2.0,
        Anchor::End => x - width,
    };
    let rect = [
        left - 1.0,
        middle - size * 0.6,
        left + width + 1.0,
        middle + size * 0.6,
    ];
    let placed = Placed {
        at: (x, middle + size * 0.35),
        anchor,
        is_far: distance > FAR,
    };
    (placed, rect)
}

/// Returns the area in which two rectangles overlap.
fn overlap(one: &Area, other: &Area) -> f64 {
    let width = one[2].min(other[2]) - one[0].max(other[0]);
    let height = one[3].min(other[3]) - one[1].max(other[1]);
    width.max(0.0) * height.max(0.0)
}

/// Returns the area of `rect` that is not in `area`.
fn outside(rect: &Area, area: &Area) -> f64 {
    (rect[2] - rect[0]) * (rect[3] - rect[1]) - overlap(rect, area)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_close_points_do_not_overlap() {
        let labels: Vec<Label<'_>> = (0..8)
            .map(|number| Label {
                at: (
                    200.0 + f64::from(number) * 4.0,
                    150.0 + f64::from(number % 3) * 5.0,
                ),
                text: "mobilenet_v3",
            })
            .collect();
        let area = [0.0, 0.0, 400.0, 300.0];
        let placed = place(&labels, area, 4.0, 11.0);
        let rects = placed.iter().map(|placed| {
            let Placed {
                at: (x, y), anchor, ..
            } = placed.unwrap();
            let width = width("mobilenet_v3", 11.0);
            let left = match anchor {
                Anchor::Start => x,
                Anchor::Middle => x - width / 2.0,
                Anchor::End => x - width,
            };
            [left, y - 9.0, left + width, y]
        });
        let rects: Vec<Area> = rects.collect();
        for (index, one) in rects.iter().enumerate() {
            assert!(outside(one, &area) < 1.0, "{one:?}");
            for other in &rects[..index] {
                assert!(overlap(one, other) < 1.0, "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn empty_texts_are_not_placed() {
        let labels = [
            Label {
                at: (5.0, 5.0),
                text: "",
            },
            Label {
                at: (1e6, 5.0),
                text: "a",
            },
        ];
        let placed = place(&labels, [0.0, 0.0, 100.0, 100.0], 4.0, 11.0);
        assert!(placed[0].is_none() && placed[1].is_some());
    }
}
