//! Places the texts of points so that they cover neither points nor each other, and lines as little as possible.

use super::widths::width;

/// Distances of a text from its point that are tried, in pixels.
const DISTANCES: [f64; 4] = [6.0, 15.0, 26.0, 40.0];
/// Distance from which on a line connects the point with its text, in pixels.
const FAR: f64 = 14.0;
/// Number of times that the texts are placed, each time with the positions of all others in mind.
const ROUNDS: usize = 3;
/// Cost of a pixel of a line that a text covers, as an area in pixels.
const LINE_COST: f64 = 4.0;
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

/// What texts should not cover.
pub(super) struct Obstacles {
    /// The plot area, which texts should not leave.
    pub(super) area: Area,
    /// Radius of the marks of points.
    pub(super) radius: f64,
    /// Begin and end of each drawn line.
    pub(super) lines: Vec<[(f64, f64); 2]>,
}

/// Returns a position for each text in the font size `size`, or `None` for an empty text.
pub(super) fn place(labels: &[Label<'_>], obstacles: &Obstacles, size: f64) -> Vec<Option<Placed>> {
    let radius = obstacles.radius;
    let marks = labels.iter().map(|label| {
        let (x, y) = label.at;
        [x - radius, y - radius, x + radius, y + radius]
    });
    let marks: Vec<Area> = marks.collect();
    let mut placed: Vec<Option<(Placed, Area)>> = vec![None; labels.len()];
    for _ in 0..ROUNDS {
        for (index, label) in labels.iter().enumerate() {
            if label.text.is_empty() {
                continue;
            }
            let others = placed.iter().enumerate();
            let others = others.filter(|(other, _)| *other != index);
            let others = others.filter_map(|(_, placed)| placed.map(|(_, rect)| rect));
            let taken: Vec<Area> = others.chain(marks.iter().copied()).collect();
            placed[index] = best(label, &taken, obstacles, size);
        }
    }
    let placed = placed.into_iter();
    placed
        .map(|placed| placed.map(|(position, _)| position))
        .collect()
}

/// Returns the first of the best positions for a text and the area that it covers there, beside the areas `taken`.
fn best(
    label: &Label<'_>,
    taken: &[Area],
    obstacles: &Obstacles,
    size: f64,
) -> Option<(Placed, Area)> {
    let candidates = DISTANCES.into_iter().flat_map(|distance| {
        let radii = (obstacles.radius, size);
        DIRECTIONS.map(|direction| candidate(label, direction, distance, radii))
    });
    let cost = |rect: &Area| -> f64 {
        let covered: f64 = taken.iter().map(|other| overlap(rect, other)).sum();
        let lines = obstacles.lines.iter().map(|line| inside(*line, rect));
        covered + 3.0 * outside(rect, &obstacles.area) + LINE_COST * lines.sum::<f64>()
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
    best.map(|(_, position, rect)| (position, rect))
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

/// Returns the length of the part of a line that is inside `rect` (Liang and Barsky's algorithm).
fn inside([(x1, y1), (x2, y2)]: [(f64, f64); 2], rect: &Area) -> f64 {
    let (dx, dy) = (x2 - x1, y2 - y1);
    let (mut begin, mut end) = (0.0_f64, 1.0_f64);
    for (step, distance) in [
        (-dx, x1 - rect[0]),
        (dx, rect[2] - x1),
        (-dy, y1 - rect[1]),
        (dy, rect[3] - y1),
    ] {
        if step == 0.0 {
            if distance < 0.0 {
                return 0.0;
            }
        } else if step < 0.0 {
            begin = begin.max(distance / step);
        } else {
            end = end.min(distance / step);
        }
    }
    (end - begin).max(0.0) * dx.hypot(dy)
}

/// Returns the area of `rect` that is not in `area`.
fn outside(rect: &Area, area: &Area) -> f64 {
    (rect[2] - rect[0]) * (rect[3] - rect[1]) - overlap(rect, area)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn obstacles(area: Area, lines: &[[(f64, f64); 2]]) -> Obstacles {
        Obstacles {
            area,
            radius: 4.0,
            lines: lines.to_vec(),
        }
    }

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
        let placed = place(&labels, &obstacles(area, &[]), 11.0);
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
        let placed = place(&labels, &obstacles([0.0, 0.0, 100.0, 100.0], &[]), 11.0);
        assert!(placed[0].is_none() && placed[1].is_some());
    }

    #[test]
    fn texts_avoid_lines() {
        let label = Label {
            at: (50.0, 50.0),
            text: "16",
        };
        let area = [0.0, 0.0, 100.0, 100.0];
        let lines = [[(50.0, 50.0), (90.0, 50.0)], [(50.0, 50.0), (10.0, 50.0)]];
        let placed = place(&[label], &obstacles(area, &lines), 11.0);
        let Placed { at, anchor, .. } = placed[0].unwrap();
        assert_eq!(anchor, Anchor::Middle);
        assert!(at.1 < 45.0, "{at:?}");
    }

    #[test]
    fn the_length_of_a_line_in_a_rectangle_is_known() {
        let rect = [0.0, 0.0, 3.0, 4.0];
        for (line, expected) in [
            ([(0.0, 0.0), (3.0, 4.0)], 5.0),
            ([(-3.0, -4.0), (6.0, 8.0)], 5.0),
            ([(1.0, 1.0), (1.0, 1.0)], 0.0),
            ([(1.0, -9.0), (1.0, 9.0)], 4.0),
            ([(4.0, -9.0), (4.0, 9.0)], 0.0),
            ([(-1.0, 4.0), (3.0, 9.0)], 0.0),
        ] {
            let length = inside(line, &rect);
            assert!((length - expected).abs() < 1e-9, "{line:?}: {length}");
        }
    }
}
