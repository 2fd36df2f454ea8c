//! The contact sheet: the worst images of an evaluation in one PNG.

use anyhow::{Context, Result};
use bytes::Bytes;
use image::{Rgb, RgbImage, imageops};
use sightline::cancel::Cancel;
use sightline::draw::{DrawnFormat, encode, label, rectangle};
use sightline::evaluate::detection::BoxXywh;
use sightline::geometry::BoxXyxy;
use sightline::image::{DecodeOptions, Orientation, decode};
use sightline::pipeline::{MaskSize, Segment};
use sightline::postprocess::segment::{EncodedMask, MaskEncoding};
use sightline::store::read_regular;

use super::args::MaskSizeName;
use super::dataset::{Dataset, Truth};
use super::record::{Outcome, Record};
use super::run::Evaluated;
use super::worst::{Ranked, SURE};

/// Number of images per row.
const COLUMNS: u32 = 4;
/// Maximum number of images on a sheet.
const MOST: usize = 20;
/// Width and height of the field of an image, in pixels.
const FIELD: (u32, u32) = (320, 240);
/// Height of the caption below an image, in pixels.
const CAPTION: u32 = 44;
/// Space between fields, in pixels.
const GAP: u32 = 8;
/// Color of the sheet, and of captions.
const PAPER: [u8; 3] = [250; 3];
/// Color of annotated boxes.
const TRUTH: [u8; 3] = [0, 170, 60];
/// Color of detected boxes.
const FOUND: [u8; 3] = [220, 30, 30];

/// Returns the sheet of the worst images as a PNG file. `None` if no image has errors.
///
/// # Errors
/// If an image cannot be decoded again.
pub(super) fn sheet(
    evaluated: &Evaluated,
    dataset: &Dataset,
    worst: &[Ranked],
) -> Result<Option<Vec<u8>>> {
    let worst = &worst[..worst.len().min(MOST)];
    if worst.is_empty() {
        return Ok(None);
    }
    let count = u32::try_from(worst.len())?;
    let (columns, rows) = (COLUMNS.min(count), count.div_ceil(COLUMNS));
    let (width, height) = (FIELD.0 + GAP, FIELD.1 + CAPTION + GAP);
    let mut sheet = RgbImage::from_pixel(columns * width + GAP, rows * height + GAP, Rgb(PAPER));
    for (image, index) in worst.iter().zip(0_u32..) {
        let field = field(evaluated, dataset, image)?;
        let (x, y) = (
            index % COLUMNS * width + GAP,
            index / COLUMNS * height + GAP,
        );
        imageops::replace(&mut sheet, &field, x.into(), y.into());
    }
    let file = encode(&sheet, DrawnFormat::Png, &Cancel::never())?;
    Ok(Some(file))
}

/// Returns the field of one image: the image with its boxes or mask, and a caption.
fn field(evaluated: &Evaluated, dataset: &Dataset, ranked: &Ranked) -> Result<RgbImage> {
    let sample = dataset
        .samples
        .get(ranked.image)
        .context("an unknown image")?;
    let bytes = read_regular(&sample.path, evaluated.limits().max_body_bytes as u64)?;
    let mut pixels = decoded(&bytes, evaluated)?;
    let record = evaluated.records.get(ranked.image);
    match (&sample.truth, record) {
        (
            Truth::Boxes(annotations),
            Some(Record {
                result: Outcome::Boxes(found),
                ..
            }),
        ) => {
            let truth = annotations.iter().map(|a| (a.bounding_box, TRUTH));
            let sure = found.iter().filter(|found| found.score >= SURE);
            for (bounding_box, color) in truth.chain(sure.map(|f| (f.bounding_box, FOUND))) {
                // Lines are 2 pixels thick after the image is made smaller.
                let thickness = (pixels.width() / FIELD.0).max(pixels.height() / FIELD.1) * 2;
                rectangle(&mut pixels, corners(bounding_box), color, thickness.max(2));
            }
        }
        (Truth::Mask(_), _) => {
            pixels = decoded(&drawn_mask(evaluated, dataset, bytes)?, evaluated)?;
        }
        _ => {}
    }
    let mut field = RgbImage::from_pixel(FIELD.0, FIELD.1 + CAPTION, Rgb(PAPER));
    let scale = f64::from(FIELD.0) / f64::from(pixels.width());
    let scale = scale.min(f64::from(FIELD.1) / f64::from(pixels.height()));
    let side = |side: u32, most: u32| ((f64::from(side) * scale).round() as u32).clamp(1, most);
    let (width, height) = (
        side(pixels.width(), FIELD.0),
        side(pixels.height(), FIELD.1),
    );
    let small = imageops::thumbnail(&pixels, width, height);
    let at = ((FIELD.0 - width) / 2, (FIELD.1 - height) / 2);
    imageops::replace(&mut field, &small, at.0.into(), at.1.into());
    let name = sample
        .path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    caption(&mut field, &[&name, &ranked.caption]);
    Ok(field)
}

/// Writes lines below the image.
fn caption(field: &mut RgbImage, lines: &[&str]) {
    let line_height = CAPTION as f32 / lines.len() as f32;
    for (index, line) in lines.iter().enumerate() {
        // A label is above its box.
        let bottom = FIELD.1 as f32 + line_height * (index + 1) as f32 - 2.0;
        let below = BoxXyxy {
            x1: 0.0,
            y1: bottom,
            x2: FIELD.0 as f32,
            y2: bottom + 1.0,
        };
        label(field, below, line, PAPER);
    }
}

fn corners(b: BoxXywh) -> BoxXyxy {
    let [x1, y1, x2, y2] = [b.x, b.y, b.x + b.width, b.y + b.height].map(|edge| edge as f32);
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
        encoding: MaskEncoding::Drawn(DrawnFormat::Png.into()),
    };
    let subject = evaluated.subject(dataset, MaskSizeName::Input);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(subject.run(Bytes::from(bytes), segment))?;
    let file = result.mask.and_then(EncodedMask::into_file);
    file.context("the pipeline returned no drawing")
}
