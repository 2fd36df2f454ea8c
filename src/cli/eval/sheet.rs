//! The contact sheet: the worst images of an evaluation in one PNG.

use anyhow::{Context, Result};
use bytes::Bytes;
use image::{Rgb, RgbImage, imageops};
use sightline::cancel::Cancel;
use sightline::draw::{
    Color, Drawing, DrawnFormat, LabelText, Paragraph, Style, encode, place_labels, rectangle,
};
use sightline::evaluate::detection::BoxXywh;
use sightline::geometry::BoxXyxy;
use sightline::image::{DecodeOptions, Orientation, decode};
use sightline::pipeline::{MaskSize, Segment};
use sightline::postprocess::segment::{EncodedMask, MaskEncoding};
use sightline::store::read_regular;

use super::args::MaskSizeName;
use super::dataset::{Dataset, Truth};
use super::figures::label;
use super::record::Outcome;
use super::run::Evaluated;
use super::worst::{BoxErrors, Ranked, SURE};

/// Number of images per row.
const COLUMNS: u32 = 4;
/// Maximum number of images on a sheet.
const MOST: usize = 20;
/// Width and height of the field of an image, in pixels.
const FIELD: (u32, u32) = (320, 240);
/// Height of the caption below an image, in pixels.
const CAPTION: u32 = 60;
/// Height of the title above all images, in pixels.
const TITLE: u32 = 48;
/// Space between fields, in pixels.
const GAP: u32 = 12;
/// Height of the letters of errors and of file names, in pixels.
const SIZES: [f32; 2] = [15.0, 12.0];
/// Thickness of boxes around objects with errors and without, in pixels.
const THICKNESS: [u32; 2] = [3, 1];
/// Most objects of an image that are labeled: more labels would hide the image.
const LABELED: usize = 4;
/// Color of the sheet.
const PAPER: Color = [250; 3];
/// Colors of errors and titles, of file names, and of the frames of images.
const INK: Color = [20; 3];
const GRAY: Color = [100; 3];
const FRAME: Color = [210; 3];
/// Colors of boxes around missed objects, wrong detections, and detected objects.
const MISSED: Color = [0, 170, 60];
const WRONG: Color = [220, 30, 30];
const RIGHT: Color = [255; 3];

/// Returns the sheet of the worst images as a PNG file, the worst first. `None` if no image has errors.
///
/// # Errors
/// If an image cannot be decoded again.
pub(super) fn sheet(
    evaluated: &Evaluated,
    dataset: &Dataset,
    worst: &[Ranked],
) -> Result<Option<Vec<u8>>> {
    let shown = &worst[..worst.len().min(MOST)];
    if shown.is_empty() {
        return Ok(None);
    }
    let count = u32::try_from(shown.len())?;
    let (columns, rows) = (COLUMNS.min(count), count.div_ceil(COLUMNS));
    let (width, height) = (FIELD.0 + GAP, FIELD.1 + CAPTION + GAP);
    let size = (columns * width + GAP, TITLE + rows * height + GAP);
    let mut sheet = RgbImage::from_pixel(size.0, size.1, Rgb(PAPER));
    let title = Paragraph {
        at: (GAP, GAP),
        width: size.0 - 2 * GAP,
        size: SIZES[0],
        lines: 2,
        color: INK,
    };
    title.draw(&mut sheet, &heading(evaluated, dataset, worst.len()));
    for (image, index) in shown.iter().zip(0_u32..) {
        let field = field(evaluated, dataset, (image, index + 1))?;
        let (x, y) = (
            index % COLUMNS * width + GAP,
            index / COLUMNS * height + TITLE + GAP,
        );
        imageops::replace(&mut sheet, &field, x.into(), y.into());
    }
    let file = encode(&sheet, DrawnFormat::Png, &Cancel::never())?;
    Ok(Some(file))
}

/// Returns the title of the sheet: the model, the number of images with errors, and what the colors of boxes mean.
fn heading(evaluated: &Evaluated, dataset: &Dataset, wrong: usize) -> String {
    let images = dataset.samples.len();
    let boxes = if dataset.kind == "coco" {
        format!("; green: missed, red: wrong (score {SURE} or more), white: detected")
    } else {
        String::new()
    };
    let name = evaluated.name();
    format!("{name}: errors in {wrong} of {images} images, the worst first{boxes}")
}

/// Returns the field of one image and its rank: the image with its boxes or mask, and a caption.
fn field(
    evaluated: &Evaluated,
    dataset: &Dataset,
    (ranked, rank): (&Ranked, u32),
) -> Result<RgbImage> {
    let sample = dataset
        .samples
        .get(ranked.image)
        .context("an unknown image")?;
    let bytes = read_regular(&sample.path, evaluated.limits().max_body_bytes as u64)?;
    let record = evaluated.records.get(ranked.image);
    let pixels = match sample.truth {
        Truth::Mask(_) => decoded(&drawn_mask(evaluated, dataset, bytes)?, evaluated)?,
        Truth::Class(_) | Truth::Boxes(_) => decoded(&bytes, evaluated)?,
    };
    let (mut small, scale) = reduced(&pixels);
    if let (Truth::Boxes(truth), Some(Outcome::Boxes(found))) =
        (&sample.truth, record.map(|record| &record.result))
    {
        let errors = BoxErrors::new(truth, found);
        draw_boxes(&mut small, scale, &errors, &evaluated.source.labels)?;
    }
    let mut field = RgbImage::from_pixel(FIELD.0, FIELD.1 + CAPTION, Rgb(PAPER));
    // Next to the caption.
    let at = ((FIELD.0 - small.width()) / 2, FIELD.1 - small.height());
    imageops::replace(&mut field, &small, at.0.into(), at.1.into());
    let mut caption = Paragraph {
        at: (0, FIELD.1 + 3),
        width: FIELD.0,
        size: SIZES[0],
        lines: 2,
        color: INK,
    };
    let below = caption.draw(&mut field, &format!("{rank}. {}", ranked.caption));
    let name = sample.path.file_name().unwrap_or_default();
    caption = Paragraph {
        at: (0, below),
        size: SIZES[1],
        lines: 1,
        color: GRAY,
        ..caption
    };
    caption.draw(&mut field, &name.to_string_lossy());
    Ok(field)
}

/// Returns the image in the size of a field, with a thin frame, and the factor by which it is smaller.
fn reduced(pixels: &RgbImage) -> (RgbImage, f64) {
    let scale = f64::from(FIELD.0) / f64::from(pixels.width());
    let scale = scale.min(f64::from(FIELD.1) / f64::from(pixels.height()));
    let side = |side: u32, most: u32| ((f64::from(side) * scale).round() as u32).clamp(1, most);
    let (width, height) = (
        side(pixels.width(), FIELD.0),
        side(pixels.height(), FIELD.1),
    );
    let mut small = imageops::thumbnail(pixels, width, height);
    let (right, bottom) = (width - 1, height - 1);
    for (x, y, pixel) in small.enumerate_pixels_mut() {
        if x == 0 || y == 0 || x == right || y == bottom {
            *pixel = Rgb(FRAME);
        }
    }
    (small, scale)
}

/// Draws the objects of an image: those without errors in thin lines, the others in thick ones, some with their labels.
fn draw_boxes(
    image: &mut RgbImage,
    scale: f64,
    errors: &BoxErrors<'_>,
    labels: &[String],
) -> Result<()> {
    let missed = errors.missed.iter();
    let missed = missed.map(|one| (corners(one.bounding_box, scale), one.class_id, MISSED));
    let wrong = errors.wrong.iter();
    let wrong = wrong.map(|one| (corners(one.bounding_box, scale), one.class_id, WRONG));
    for right in &errors.right {
        rectangle(
            image,
            corners(right.bounding_box, scale),
            RIGHT,
            THICKNESS[1],
        );
    }
    for (bounding_box, _, color) in missed.clone().chain(wrong.clone()) {
        rectangle(image, bounding_box, color, THICKNESS[0]);
    }
    let labeled = wrong.chain(missed).take(LABELED);
    let labeled =
        labeled.map(|(bounding_box, class, color)| (bounding_box, label(labels, class), color));
    let labeled: Vec<(BoxXyxy, String, Color)> = labeled.collect();
    Ok(place_labels(image, &labeled, &Cancel::never())?)
}

/// Returns the corners of a box in an image that is smaller by the factor `scale`.
fn corners(b: BoxXywh, scale: f64) -> BoxXyxy {
    let edges = [b.x, b.y, b.x + b.width, b.y + b.height];
    let [x1, y1, x2, y2] = edges.map(|edge| (edge * scale) as f32);
    BoxXyxy { x1, y1, x2, y2 }
}

fn decoded(bytes: &[u8], evaluated: &Evaluated) -> Result<RgbImage> {
    let options = DecodeOptions {
        max_pixels: evaluated.limits().max_pixels,
        orientation: Orientation::Apply,
    };
    Ok(decode(bytes, &options)?)
}

/// Runs the model again and returns the image with the mask drawn in, as a PNG file.
fn drawn_mask(evaluated: &Evaluated, dataset: &Dataset, bytes: Vec<u8>) -> Result<Vec<u8>> {
    let segment = Segment {
        size: MaskSize::Input,
        encoding: MaskEncoding::Drawn(Drawing {
            format: DrawnFormat::Png,
            // A legend would be too small to read, and hide the image.
            style: Style {
                labels: LabelText::Off,
                ..Style::default()
            },
        }),
    };
    let subject = evaluated.subject(dataset, MaskSizeName::Input);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(subject.run(Bytes::from(bytes), segment))?;
    let file = result.mask.and_then(EncodedMask::into_file);
    file.context("the pipeline returned no drawing")
}
