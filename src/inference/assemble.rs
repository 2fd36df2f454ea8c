//! Assembly of the results of single images into output tensors, whose first axis is the batch. Results of different
//! sizes are padded to the largest: boxes, scores and counts with 0, classes with -1 and empty names, masks with
//! [`NO_CLASS`].

use super::answer::{ImageResult, TaskResult};
use super::outputs::Part;
use super::tensor::{DataType, OutputTensor};
use crate::engine::{Output, Values};
use crate::error::ServeError;
use crate::geometry::BoxXyxy;
use crate::image::ImageSize;
use crate::postprocess::classify::{Prediction, classify};
use crate::postprocess::detect::Detection;

/// Value of the pixels of a mask that are padding: the void class of Pascal VOC.
const NO_CLASS: u8 = 255;

/// Reserves memory for a number of bytes before they are allocated.
pub(super) type Reserve<'a> = &'a mut dyn FnMut(u64) -> Result<(), ServeError>;

const MIXED: ServeError =
    ServeError::Internal("the model's outputs for the images of one request cannot be combined");

/// Returns the network's output at position `at` for all images.
///
/// # Errors
/// Those of `reserve`, and [`ServeError::Internal`] if the outputs of two images have different data types or axes.
pub(super) fn raw(
    name: &str,
    results: &[ImageResult],
    at: usize,
    reserve: Reserve<'_>,
) -> Result<OutputTensor, ServeError> {
    let outputs = results.iter().map(|result| result.raw.get(at));
    let outputs: Vec<&Output> = outputs.collect::<Option<_>>().ok_or(MIXED)?;
    let first = outputs.first().ok_or(MIXED)?;
    let axes = first.shape().len();
    let alike =
        |other: &&Output| other.data_type() == first.data_type() && other.shape().len() == axes;
    if !outputs.iter().all(alike) {
        return Err(MIXED);
    }
    let largest = |axis: usize| outputs.iter().map(|o| o.shape()[axis]).max().unwrap_or(0);
    let row: Vec<usize> = (0..axes).map(largest).collect();
    let datatype = DataType::of(first.data_type());
    let element = datatype.size().unwrap_or(1);
    let bytes = row.iter().try_fold(element, |n, size| n.checked_mul(*size));
    let bytes = bytes
        .and_then(|row| row.checked_mul(outputs.len()))
        .ok_or(MIXED)?;
    reserve(bytes as u64)?;
    let mut data = Vec::with_capacity(bytes);
    for output in &outputs {
        let values = bytes_of(&output.values);
        if output.shape() == row {
            data.extend_from_slice(&values);
        } else {
            let start = data.len();
            data.resize(start + bytes / outputs.len(), 0);
            let target = data.get_mut(start..).unwrap_or_default();
            place(&values, output.shape(), target, &row, element);
        }
    }
    Ok(OutputTensor {
        name: name.to_owned(),
        datatype,
        shape: [&[outputs.len()], &row[..]].concat(),
        data,
    })
}

/// Copies a tensor of the shape `from` to the start of each axis of a tensor of the shape `to`, which is at least as large.
fn place(values: &[u8], from: &[usize], target: &mut [u8], to: &[usize], element: usize) {
    let ([size, inner @ ..], [_, outer @ ..]) = (from, to) else {
        target.copy_from_slice(values);
        return;
    };
    let row = inner.iter().product::<usize>() * element;
    let stride = outer.iter().product::<usize>() * element;
    if row == 0 {
        return;
    }
    let rows = values
        .chunks_exact(row)
        .zip(target.chunks_exact_mut(stride));
    for (values, target) in rows.take(*size) {
        place(values, inner, target, outer, element);
    }
}

/// Returns the little-endian bytes of `values`.
fn bytes_of(values: &Values) -> Vec<u8> {
    match values {
        Values::F32(tensor) => tensor.data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Values::I64(tensor) => tensor.data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Values::I32(tensor) => tensor.data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Values::U8(tensor) => tensor.data.clone(),
    }
}

/// Returns the `most` classes with the highest values in the network's output at position `at`, as texts.
///
/// # Errors
/// [`ServeError::Internal`] if the output is not one value per class.
pub(super) fn raw_classes(
    name: &str,
    results: &[ImageResult],
    (at, most): (usize, usize),
    labels: &[String],
) -> Result<OutputTensor, ServeError> {
    let classes = |result: &ImageResult| {
        let output = result.raw.get(at)?.as_f32().ok()?;
        Some(classify(&output.data, labels, most))
    };
    let classes: Option<Vec<Vec<Prediction>>> = results.iter().map(classes).collect();
    let classes = classes.ok_or(MIXED)?;
    Ok(texts(name, classes.iter().map(|all| &all[..])))
}

/// Returns the first `most` classes of each image as texts.
pub(super) fn classes(name: &str, results: &[ImageResult], most: usize) -> OutputTensor {
    texts(
        name,
        results
            .iter()
            .map(|result| first(predictions(result), most)),
    )
}

/// Returns a tensor `[N, K]` of texts `value:index:label`.
fn texts<'a>(
    name: &str,
    images: impl ExactSizeIterator<Item = &'a [Prediction]> + Clone,
) -> OutputTensor {
    let shape = vec![
        images.len(),
        images.clone().map(<[_]>::len).max().unwrap_or(0),
    ];
    let text =
        |class: &Prediction| format!("{:.6}:{}:{}", class.score, class.class_id, class.label);
    let texts: Vec<String> = images.flatten().map(text).collect();
    OutputTensor::strings(name, shape, texts.iter().map(String::as_str))
}

/// Returns the masks of all images. The only mask of a request is moved, others are copied.
///
/// # Errors
/// Those of `reserve`.
pub(super) fn mask(
    name: &str,
    results: &mut [ImageResult],
    reserve: Reserve<'_>,
) -> Result<OutputTensor, ServeError> {
    let sizes: Vec<ImageSize> = results.iter().map(mask_size).collect();
    let width = sizes.iter().map(|size| size.width).max().unwrap_or(0) as usize;
    let height = sizes.iter().map(|size| size.height).max().unwrap_or(0) as usize;
    let mut data = Vec::new();
    match results {
        [only] => data = take_mask(only),
        results => {
            let bytes = width as u64 * height as u64 * results.len() as u64;
            reserve(bytes)?;
            data.resize(bytes as usize, NO_CLASS);
            let planes = data.chunks_exact_mut((width * height).max(1));
            for ((result, size), plane) in results.iter_mut().zip(&sizes).zip(planes) {
                let from = [size.height as usize, size.width as usize];
                place(&take_mask(result), &from, plane, &[height, width], 1);
            }
        }
    }
    Ok(OutputTensor {
        name: name.to_owned(),
        datatype: DataType::Uint8,
        shape: vec![sizes.len(), height, width],
        data,
    })
}

/// Moves the classes of the pixels out of the result, and leaves the size of the mask. Empty for other tasks.
fn take_mask(result: &mut ImageResult) -> Vec<u8> {
    match &mut result.task {
        Some(TaskResult::Mask { classes, .. }) => std::mem::take(classes),
        _ => Vec::new(),
    }
}

fn mask_size(result: &ImageResult) -> ImageSize {
    match &result.task {
        Some(TaskResult::Mask { size, .. }) => *size,
        _ => ImageSize {
            width: 0,
            height: 0,
        },
    }
}

/// Returns the classes of an image. Empty for other tasks.
fn predictions(result: &ImageResult) -> &[Prediction] {
    match &result.task {
        Some(TaskResult::Classes(classes)) => classes,
        _ => &[],
    }
}

fn first<T>(all: &[T], most: usize) -> &[T] {
    all.get(..most).unwrap_or(all)
}

/// One class or detection of an image.
struct Item<'a> {
    score: f32,
    class_id: i64,
    label: &'a str,
    corners: [f32; 4],
}

const PADDING: Item<'static> = Item {
    score: 0.0,
    class_id: -1,
    label: "",
    corners: [0.0; 4],
};

/// Returns a part of the task's results other than a mask. A class is named as in `labels`; a classification has at
/// most `top_k` classes.
pub(super) fn part(
    part: Part,
    results: &[ImageResult],
    (labels, top_k): (&[String], usize),
) -> OutputTensor {
    let images = results.iter().map(|result| items(result, labels, top_k));
    let images: Vec<Vec<Item<'_>>> = images.collect();
    let most = images.iter().map(Vec::len).max().unwrap_or(0);
    let padded = || {
        let padding = |image: &Vec<Item<'_>>| most - image.len();
        let padded = images.iter().map(move |image| {
            let padding = std::iter::repeat_n(&PADDING, padding(image));
            image.iter().chain(padding)
        });
        padded.flatten()
    };
    let axes = part.axes().iter();
    let axes = axes.map(|size| usize::try_from(*size).unwrap_or(most));
    let axes: Vec<usize> = std::iter::once(results.len()).chain(axes).collect();
    let data = match part {
        Part::Labels => {
            let labels = padded().map(|item| item.label);
            return OutputTensor::strings(part.name(), axes, labels);
        }
        Part::Scores => padded().flat_map(|item| item.score.to_le_bytes()).collect(),
        Part::ClassIds => padded()
            .flat_map(|item| item.class_id.to_le_bytes())
            .collect(),
        Part::Boxes => {
            let corners = padded().flat_map(|item| item.corners);
            corners.flat_map(f32::to_le_bytes).collect()
        }
        Part::Counts => {
            let counts = images.iter().map(|image| image.len() as i64);
            counts.flat_map(i64::to_le_bytes).collect()
        }
        Part::Mask | Part::MaskSizes => {
            let sizes = results.iter().map(mask_size);
            let sizes = sizes.flat_map(|size| [size.height, size.width].map(i64::from));
            sizes.flat_map(i64::to_le_bytes).collect()
        }
    };
    OutputTensor {
        name: part.name().to_owned(),
        datatype: part.datatype(),
        shape: axes,
        data,
    }
}

/// Returns the classes or detections of an image.
fn items<'a>(result: &'a ImageResult, labels: &'a [String], top_k: usize) -> Vec<Item<'a>> {
    match &result.task {
        Some(TaskResult::Classes(classes)) => {
            let item = |class: &'a Prediction| Item {
                score: class.score,
                class_id: class.class_id as i64,
                label: &class.label,
                corners: [0.0; 4],
            };
            first(classes, top_k).iter().map(item).collect()
        }
        Some(TaskResult::Boxes(boxes)) => {
            let item = |found: &'a Detection| {
                let BoxXyxy { x1, y1, x2, y2 } = found.bounding_box;
                Item {
                    score: found.score,
                    class_id: found.class_id as i64,
                    label: labels.get(found.class_id).map_or("", String::as_str),
                    corners: [x1, y1, x2, y2],
                }
            };
            boxes.detections.iter().map(item).collect()
        }
        Some(TaskResult::Mask { .. }) | None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Tensor;
    use crate::pipeline::Detected;

    fn output(shape: &[usize], data: &[f32]) -> ImageResult {
        let (shape, data) = (shape.to_vec(), data.to_vec());
        ImageResult {
            raw: vec![Output::f32("out", Tensor { shape, data })],
            task: None,
        }
    }

    fn floats(tensor: &OutputTensor) -> Vec<f32> {
        let (chunks, _) = tensor.data.as_chunks();
        chunks
            .iter()
            .map(|chunk| f32::from_le_bytes(*chunk))
            .collect()
    }

    #[test]
    fn outputs_of_different_sizes_are_padded() {
        let results = [
            output(&[1, 2], &[1.0, 2.0]),
            output(&[2, 1], &[3.0, 4.0]),
            output(&[0, 2], &[]),
        ];
        let mut reserved = 0;
        let tensor = raw("out", &results, 0, &mut |bytes| {
            reserved += bytes;
            Ok(())
        });
        let tensor = tensor.unwrap();
        assert_eq!((&tensor.shape[..], reserved), (&[3, 2, 2][..], 48));
        let expected = [1.0, 2.0, 0.0, 0.0, 3.0, 0.0, 4.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(floats(&tensor), expected);
        let mixed = [output(&[1], &[1.0]), output(&[1, 1], &[1.0])];
        assert!(raw("out", &mixed, 0, &mut |_| Ok(())).is_err());
        assert!(raw("out", &results, 1, &mut |_| Ok(())).is_err());
    }

    #[test]
    fn masks_of_different_sizes_are_padded() {
        let result = |width, height, class| ImageResult {
            raw: Vec::new(),
            task: Some(TaskResult::Mask {
                size: ImageSize { width, height },
                classes: vec![class; (width * height) as usize],
            }),
        };
        let mut results = [result(2, 1, 7), result(1, 2, 3)];
        let refused = mask("mask", &mut results, &mut |_| Err(MIXED));
        assert!(refused.is_err());
        let tensor = mask("mask", &mut results, &mut |_| Ok(())).unwrap();
        assert_eq!(tensor.shape, [2, 2, 2]);
        assert_eq!(tensor.data, [7, 7, 255, 255, 3, 255, 3, 255]);
        let sizes = part(Part::MaskSizes, &results, (&[], usize::MAX));
        let (sizes, _) = sizes.data.as_chunks();
        let sizes: Vec<i64> = sizes.iter().map(|size| i64::from_le_bytes(*size)).collect();
        assert_eq!(sizes, [1, 2, 2, 1]);
        let mut one = [result(2, 1, 7)];
        let tensor = mask("mask", &mut one, &mut |_| Err(MIXED)).unwrap();
        assert_eq!(
            (&tensor.shape[..], &tensor.data[..]),
            (&[1, 1, 2][..], &[7, 7][..])
        );
    }

    #[test]
    fn detections_are_padded_to_the_most_of_an_image() {
        let image = ImageSize {
            width: 9,
            height: 9,
        };
        let result = |detections: &[Detection]| ImageResult {
            raw: Vec::new(),
            task: Some(TaskResult::Boxes(Detected {
                image,
                detections: detections.to_vec(),
                drawn: None,
            })),
        };
        let found = Detection {
            class_id: 1,
            score: 0.75,
            bounding_box: BoxXyxy::new(1.0, 2.0, 3.0, 4.0),
        };
        let results = [result(&[]), result(&[found])];
        let labels = ["none".to_owned(), "cat".to_owned()];
        let part = |wanted| part(wanted, &results, (&labels, usize::MAX));
        assert_eq!(floats(&part(Part::Scores)), [0.0, 0.75]);
        let boxes = part(Part::Boxes);
        assert_eq!(boxes.shape, [2, 1, 4]);
        assert_eq!(floats(&boxes), [0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0]);
        let names: Vec<Vec<u8>> = part(Part::Labels)
            .byte_elements()
            .map(<[u8]>::to_vec)
            .collect();
        assert_eq!(names, [b"".to_vec(), b"cat".to_vec()]);
        assert_eq!(
            part(Part::ClassIds).data,
            [-1_i64, 1].map(i64::to_le_bytes).concat()
        );
        let counts = part(Part::Counts);
        assert_eq!(
            (&counts.shape[..], counts.data),
            (&[2, 1][..], [0_i64, 1].map(i64::to_le_bytes).concat())
        );
    }
}
