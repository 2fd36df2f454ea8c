//! Tests that drawing never panics, on images of any size, and changes no pixel outside of what is
//! drawn.

use image::{Rgb, RgbImage};

use super::canvas::Point;
use super::text::{draw_text, fit, text_width};
use super::*;
use crate::cancel::{Cancel, Cancelled};
use crate::geometry::BoxXyxy;
use crate::image::ImageSize;
use crate::postprocess::detect::Detection;
use crate::postprocess::segment::{Mask, VOC_PALETTE};

const GRAY: Color = [90; 3];

fn gray_image(width: u32, height: u32) -> RgbImage {
    RgbImage::from_pixel(width, height, Rgb(GRAY))
}

/// Returns the positions `(x, y)` of the pixels whose color is no longer the initial [`GRAY`].
fn changed(image: &RgbImage) -> Vec<(u32, u32)> {
    let pixels = image.enumerate_pixels();
    pixels
        .filter(|(_, _, pixel)| pixel.0 != GRAY)
        .map(|(x, y, _)| (x, y))
        .collect()
}

fn tint(alpha: f32, outline: u32) -> Tint {
    Tint {
        palette: VOC_PALETTE,
        alpha,
        outline,
    }
}

#[test]
fn a_mask_tints_all_pixels_but_the_background() {
    for (width, height) in [(1, 1), (7, 3), (640, 2), (33, 50)] {
        let class = |i: u32| ((i / 20) % 4) as u8;
        let classes: Vec<u8> = (0..width * height).map(class).collect();
        let mask = Mask::new(ImageSize { width, height }, classes.clone()).unwrap();
        for alpha in [0.0, 0.5, 1.0, 7.0, f32::NAN] {
            let mut image = gray_image(width, height);
            overlay(&mut image, &mask, &tint(alpha, 0), &Cancel::never()).unwrap();
            let kept = 1.0 - if alpha.is_nan() { 0.0 } else { alpha.min(1.0) };
            for (pixel, class) in image.pixels().zip(&classes) {
                for (value, color) in pixel.0.iter().zip(VOC_PALETTE[usize::from(*class)]) {
                    let mixed = 90.0 * kept + f32::from(color) * (1.0 - kept);
                    let expected = if *class == 0 { 90.0 } else { mixed };
                    assert!((f32::from(*value) - expected).abs() <= 1.0);
                }
            }
        }
    }
}

#[test]
fn a_mask_of_another_size_is_stretched() {
    let size = ImageSize {
        width: 2,
        height: 1,
    };
    let mask = Mask::new(size, vec![0, 1]).unwrap();
    for (width, height) in [(9, 4), (1, 1), (0, 0), (2, 9)] {
        let mut image = gray_image(width, height);
        overlay(&mut image, &mask, &tint(1.0, 0), &Cancel::never()).unwrap();
        let right = |(x, _): &(u32, u32)| u64::from(*x) * 2 >= u64::from(width);
        let changed = changed(&image);
        assert!(changed.iter().all(right), "{width}x{height}");
        assert_eq!(changed.len() as u32, width / 2 * height, "{width}x{height}");
    }
}

/// Returns the class of a pixel of the image, `None` outside of it.
fn class_at(mask: &Mask, x: i64, y: i64) -> Option<u8> {
    let ImageSize { width, height } = mask.size();
    let inside = (0..i64::from(width)).contains(&x) && (0..i64::from(height)).contains(&y);
    inside.then(|| mask.classes()[(y * i64::from(width) + x) as usize])
}

#[test]
fn outlines_are_where_the_class_changes() {
    for (width, height) in [(1, 1), (1, 9), (9, 1), (40, 30), (64, 7)] {
        let class = |i: u32| ((i % width / 9 + i / width / 8) % 3) as u8;
        let classes: Vec<u8> = (0..width * height).map(class).collect();
        let mask = Mask::new(ImageSize { width, height }, classes).unwrap();
        for line in [0, 1, 2, 5, 100, u32::MAX] {
            let mut image = gray_image(width, height);
            overlay(&mut image, &mask, &tint(0.0, line), &Cancel::never()).unwrap();
            for (x, y, pixel) in image.enumerate_pixels() {
                let (x, y, line) = (i64::from(x), i64::from(y), i64::from(line));
                let class = class_at(&mask, x, y).unwrap();
                // The rows beyond the image count as its first and last row.
                let row = |y: i64| y.clamp(0, i64::from(height) - 1);
                let near = [
                    (x - line, y),
                    (x + line, y),
                    (x, row(y - line)),
                    (x, row(y + line)),
                ];
                let changes = near
                    .iter()
                    .any(|(x, y)| class_at(&mask, *x, *y).is_some_and(|other| other != class));
                let expected = if changes && class != 0 {
                    VOC_PALETTE[usize::from(class)]
                } else {
                    GRAY
                };
                assert_eq!(
                    pixel.0, expected,
                    "{x}, {y} of {width}x{height}, line {line}"
                );
            }
        }
    }
}

#[test]
fn labels_of_overlapping_boxes_do_not_hide_each_other() {
    let found = |offset: f32, class_id: usize| Detection {
        class_id,
        score: 0.9,
        bounding_box: BoxXyxy::new(50.0 + offset, 60.0, 250.0 + offset, 180.0),
    };
    let labels = ["", "chair", "person"].map(str::to_owned);
    let draw = |found: &[Detection], labels_text: LabelText| {
        let mut image = gray_image(300, 200);
        let style = Style {
            labels: labels_text,
            ..Style::default()
        };
        detections(&mut image, found, &labels, style, &Cancel::never()).unwrap();
        image
    };
    let color = |image: &RgbImage, class_id: usize| {
        let color = ColorScheme::Bright.color(class_id);
        image.pixels().filter(|pixel| pixel.0 == color).count()
    };
    let boxes = [found(0.0, 1), found(2.0, 2)];
    let (both, bare) = (draw(&boxes, LabelText::Score), draw(&boxes, LabelText::Off));
    for (i, class_id) in [1, 2].into_iter().enumerate() {
        let alone = draw(&boxes[i..=i], LabelText::Score);
        let lines = draw(&boxes[i..=i], LabelText::Off);
        let plate = color(&alone, class_id) - color(&lines, class_id);
        let shown = color(&both, class_id) - color(&bare, class_id);
        assert!(
            shown * 10 >= plate * 9,
            "class {class_id}: {shown} of {plate}"
        );
    }
    let named = draw(&boxes[..1], LabelText::Name);
    assert!(color(&named, 1) < color(&draw(&boxes[..1], LabelText::Score), 1));
}

#[test]
fn a_line_width_is_used_as_it_is() {
    let found = Detection {
        class_id: 1,
        score: 0.9,
        bounding_box: BoxXyxy::new(10.0, 10.0, 90.0, 90.0),
    };
    for width in [1, 3, 20] {
        let mut image = gray_image(100, 100);
        let style = Style {
            palette: Some(ColorScheme::Voc),
            line_width: Some(width),
            labels: LabelText::Off,
        };
        detections(&mut image, &[found], &[], style, &Cancel::never()).unwrap();
        let line = (0..50).filter(|x| image.get_pixel(*x, 50).0 == VOC_PALETTE[1]);
        assert_eq!(line.count() as u32, width);
    }
}

#[test]
fn nothing_panics_and_small_images_stay_unchanged() {
    let entries: Vec<(&str, Color)> = vec![("dining table", [9, 99, 200]); 150];
    let far = [f32::MIN, -50.0, 0.0, 3.3, 1e9, f32::INFINITY, f32::NAN];
    for (width, height) in [(0, 0), (1, 1), (1, 4000), (4000, 1), (30, 20), (200, 150)] {
        let mut image = gray_image(width, height);
        legend(&mut image, &entries);
        legend(&mut image, &[]);
        label(
            &mut image,
            BoxXyxy::new(0.0, 0.0, 9.0, 9.0),
            "cat 0.99",
            WHITE,
        );
        if width.min(height) < 12 {
            assert!(changed(&image).is_empty(), "{width}x{height}");
        }
        for (a, b) in far.iter().flat_map(|a| far.map(|b| (*a, b))) {
            for thickness in [0, 1, 7, u32::MAX] {
                rectangle(&mut image, BoxXyxy::new(a, b, b, a), WHITE, thickness);
                rectangle(&mut image, BoxXyxy::new(a, a, b, b), WHITE, thickness);
            }
            label(
                &mut image,
                BoxXyxy::new(a, b, b, a),
                "Größe ψ Ж 猫 \n",
                WHITE,
            );
            let at = Point {
                x: a as i64,
                y: b as i64,
            };
            draw_text(&mut image, at, "somewhere", b, WHITE);
        }
    }
}

#[test]
fn a_box_is_drawn_at_its_edges() {
    let mut image = gray_image(40, 30);
    rectangle(&mut image, BoxXyxy::new(10.0, 5.0, 30.0, 25.0), WHITE, 2);
    for (x, y) in (0..40).flat_map(|x| (0..30).map(move |y| (x, y))) {
        let inside = |by: u32| {
            let (x, y) = (x + by, y + by);
            (10 + 2 * by..30).contains(&x) && (5 + 2 * by..25).contains(&y)
        };
        let line = inside(0) && !inside(2);
        assert_eq!(image.get_pixel(x, y).0 == WHITE, line, "{x}, {y}");
    }
    let seam = image.get_pixel(9, 10).0;
    assert!(seam != GRAY && seam != WHITE);
    assert_eq!(image.get_pixel(20, 15).0, GRAY);
    assert_eq!(image.get_pixel(3, 15).0, GRAY);
}

#[test]
fn a_label_is_above_or_inside_its_box() {
    for (top, expected) in [(100.0, 85..101), (3.0, 3..18), (500.0, 185..200)] {
        let mut image = gray_image(300, 200);
        label(
            &mut image,
            BoxXyxy::new(50.0, top, 90.0, top + 30.0),
            "cat",
            WHITE,
        );
        let changed = changed(&image);
        assert!(!changed.is_empty());
        assert!(changed.iter().all(|(_, y)| expected.contains(y)), "{top}");
    }
}

#[test]
fn long_labels_end_in_an_ellipsis() {
    let long = "a label that has far too many letters";
    for width in [0.0, 5.0, 12.0, 40.0, 100.0, 200.0, 1000.0] {
        let cut = fit(long, 16.0, width);
        assert!(text_width(&cut, 16.0) <= width, "{cut}");
        assert!(cut == long || cut.is_empty() || cut.ends_with('…'), "{cut}");
        assert_eq!(cut == long, width == 1000.0);
    }
    assert!(fit(long, 16.0, 100.0).starts_with("a label"));
    assert_eq!(fit("cat", 16.0, 100.0), "cat");
    let exact = text_width("cat", 16.0);
    assert_eq!(fit("cat", 16.0, exact), "cat");
}

#[test]
fn every_letter_leaves_a_mark() {
    for letter in ["A", "é", "Ω", "Ж", "ğ", "…", "猫", "\u{1F431}"] {
        let mut image = gray_image(60, 40);
        draw_text(&mut image, Point { x: 10, y: 5 }, letter, 24.0, WHITE);
        assert!(image.pixels().any(|p| p.0[0] > 200), "{letter}");
    }
}

#[test]
fn a_legend_that_is_too_long_stays_inside_of_the_image() {
    let entries = [("cat", [64, 0, 0]); 40];
    let mut image = gray_image(320, 240);
    legend(&mut image, &entries);
    let lowest = changed(&image).iter().map(|(_, y)| *y).max();
    assert!(lowest.is_some_and(|y| y < 240), "{lowest:?}");
}

#[test]
fn cancelled_drawing_stops() {
    let cancel = Cancel::never();
    cancel.cancel();
    let mut image = gray_image(40, 30);
    let size = ImageSize {
        width: 40,
        height: 30,
    };
    let mask = Mask::new(size, vec![1; 1200]).unwrap();
    let found = Detection {
        class_id: 1,
        score: 0.9,
        bounding_box: BoxXyxy::new(1.0, 1.0, 20.0, 20.0),
    };
    let drawn = [
        segmentation(&mut image, &mask, &[], Style::default(), &cancel),
        detections(&mut image, &[found], &[], Style::default(), &cancel),
    ];
    assert_eq!(drawn, [Err(Cancelled); 2]);
    assert!(changed(&image).is_empty());
}
