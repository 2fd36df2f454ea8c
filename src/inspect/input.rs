//! Checks of a network's input: one batch of float32 images of the size that preprocessing makes.

use onnx_export::proto::{FLOAT, UINT8};
use onnx_export::summary::{Axis, Port, Summary, TensorType};
use onnx_export::text::shown;

use super::Finding;
use super::finding::ports;
use crate::manifest::{Filter, ModelManifest, Preprocess, Resize, Task};

/// `TensorProto.DataType` of float16.
pub(super) const FLOAT16: i32 = 10;

/// How to get a float32 input instead of a uint8 input.
const FROM_UINT8: &str = "export the network with a float32 input; if it normalizes pixels of 0..255 itself, write \
     `mean = [0.0, 0.0, 0.0]`, `std = [1.0, 1.0, 1.0]` and `scale = 255` into `[preprocess]`";
/// How to get float32 inputs and outputs of a float16 network.
pub(super) const FROM_FLOAT16: &str = "export the float32 network (`model.float()`), or convert it with \
     `convert_float_to_float16(model, keep_io_types=True)`";
/// How to get float32 inputs and outputs of other networks.
const FROM_OTHER: &str = "export the network with float32 inputs and outputs";

/// Returns what is wrong with the input of the network.
pub(super) fn check(summary: &Summary, manifest: &ModelManifest) -> Vec<Finding> {
    let [input] = &summary.inputs[..] else {
        return vec![Finding::Inputs {
            got: ports(&summary.inputs),
        }];
    };
    let mut findings = Vec::new();
    if let Some(tensor) = &input.tensor {
        findings.extend(check_type(input, tensor));
        if let Some(axes) = &tensor.shape {
            match <&[Axis; 4]>::try_from(axes.as_slice()) {
                Ok(axes) => findings.extend(check_axes(input, tensor, axes, manifest)),
                Err(_) => findings.push(shape(input, tensor, RANK.to_owned())),
            }
        }
    }
    let stated = manifest.preprocess.channel_order.is_some();
    findings.extend(channel_order(summary).filter(|_| !stated));
    findings
}

/// What to do about an input without four axes.
const RANK: &str = "export the network with a batch of RGB images as its input, channels first";

fn shape(input: &Port, tensor: &TensorType, advice: String) -> Finding {
    Finding::InputShape {
        name: input.name.clone(),
        got: tensor.to_string(),
        advice,
    }
}

fn check_type(input: &Port, tensor: &TensorType) -> Option<Finding> {
    let advice = match tensor.data_type {
        FLOAT => return None,
        UINT8 => FROM_UINT8,
        FLOAT16 => FROM_FLOAT16,
        _ => FROM_OTHER,
    };
    Some(Finding::InputType {
        name: input.name.clone(),
        got: tensor.to_string(),
        advice,
    })
}

fn check_axes(
    input: &Port,
    tensor: &TensorType,
    axes: &[Axis; 4],
    manifest: &ModelManifest,
) -> Vec<Finding> {
    let [batch, channels, height, width] = axes.each_ref().map(Axis::fixed);
    if !matches!(channels, None | Some(3)) {
        let advice = match (channels, width) {
            (_, Some(1 | 3)) => format!(
                "the channels are last: export with channels first, with tf2onnx by \
                 `--inputs-as-nchw {}`",
                shown(&input.name)
            ),
            (Some(1), _) => {
                "images are RGB: for a grayscale network, export a network that converts \
                 three channels to one"
                    .to_owned()
            }
            _ => RANK.to_owned(),
        };
        return vec![shape(input, tensor, advice)];
    }
    let mut findings = Vec::new();
    if let Some(got) = batch.filter(|batch| *batch != 1) {
        let name = input.name.clone();
        findings.push(Finding::FixedBatch { name, got });
    }
    findings.extend(check_size(width, height, manifest));
    findings
}

/// Compares the fixed size of the input with the size of preprocessed images. `None` stands for a
/// dynamic side.
fn check_size(
    width: Option<u64>,
    height: Option<u64>,
    manifest: &ModelManifest,
) -> Option<Finding> {
    let Preprocess { resize, crop, .. } = &manifest.preprocess;
    let (made, got) = made_size(&manifest.preprocess);
    let fits = |side: Option<u64>, made: Option<u64>| side.is_none() || side == made;
    if fits(width, made.map(|size| size.0)) && fits(height, made.map(|size| size.1)) {
        return None;
    }
    let show = |side: Option<u64>| side.map_or("any".to_owned(), |side| side.to_string());
    // A dynamic side is taken to be as long as the other one.
    let (wide, high) = (width.or(height)?, height.or(width)?);
    let lines = match resize {
        Resize::ShortSide { size, filter } if wide == high && crops(manifest.task) => {
            let crop = format!("`crop = {wide}`");
            if u64::from(*size) >= wide {
                crop
            } else {
                let filter = filter_name(*filter);
                let size = short_side(wide);
                format!(
                    "`resize = {{ mode = \"short_side\", size = {size}, filter = \"{filter}\" }}` and {crop}"
                )
            }
        }
        _ => {
            let line = format!("`resize = {}`", fixed_resize(wide, high));
            match crop {
                Some(_) => format!("{line} and remove `crop`"),
                None => line,
            }
        }
    };
    Some(Finding::Size {
        expected: format!("{} x {}", show(width), show(height)),
        got,
        lines,
    })
}

/// Returns the width and height that preprocessing makes of every image, `None` if they depend on
/// the image, and their text.
fn made_size(preprocess: &Preprocess) -> (Option<(u64, u64)>, String) {
    let size = match (&preprocess.resize, preprocess.crop) {
        (Resize::ShortSide { .. }, Some(crop)) => Some((u64::from(crop), u64::from(crop))),
        (Resize::Fixed { width, height }, _) => {
            let padded =
                |side: u32| u64::from(side).next_multiple_of(u64::from(preprocess.pad_to.max(1)));
            Some((padded(*width), padded(*height)))
        }
        (Resize::ShortSide { .. } | Resize::Bounded { .. }, _) => None,
    };
    let text = match size {
        Some((width, height)) => format!("{width} x {height}"),
        None => "different sizes".to_owned(),
    };
    (size, text)
}

/// Returns whether images of `task` are cropped. The mask of a segmentation covers the whole image.
pub(super) fn crops(task: Task) -> bool {
    task == Task::Classification
}

/// Returns the short side of the resize before a crop of `crop` pixels, in the ratio of
/// torchvision's 256 to 224.
pub(super) fn short_side(crop: u64) -> u64 {
    (crop.saturating_mul(8).saturating_add(3) / 7).clamp(crop, 4096.max(crop))
}

/// Returns the TOML value of a resize to a fixed size.
pub(super) fn fixed_resize(width: u64, height: u64) -> String {
    format!("{{ mode = \"fixed\", width = {width}, height = {height} }}")
}

fn filter_name(filter: Filter) -> &'static str {
    match filter {
        Filter::Bilinear => "bilinear",
        Filter::Bicubic => "bicubic",
    }
}

/// Returns where the file says that the network reads the channels in the order blue, green, red.
pub(super) fn channel_order(summary: &Summary) -> Option<Finding> {
    let mut texts = summary.texts.iter();
    let (place, _) = texts.find(|(_, text)| mentions(text, "BGR") && !mentions(text, "RGB"))?;
    Some(Finding::ChannelOrder {
        place: place.clone(),
    })
}

/// Returns whether `text` has `word`, which is upper-case, as a word of its own in any case, as in
/// `input_bgr`, `Bgr8` and `imageBGR`.
fn mentions(text: &str, word: &str) -> bool {
    let upper = text.to_ascii_uppercase();
    upper.match_indices(word).any(|(start, _)| {
        let end = start + word.len();
        let letter = |c: Option<char>| c.is_some_and(char::is_alphabetic);
        let is_upper = &text[start..end] == word;
        let before = text[..start].chars().next_back();
        let joined_before = letter(before) && !(is_upper && before.is_some_and(char::is_lowercase));
        // `BGR2RGB` has both words; a letter after the word makes it another one.
        !joined_before && !letter(text[end..].chars().next())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_orders_are_found_as_words() {
        let cases = [
            ("input_bgr", true),
            ("Bgr8", true),
            ("imageBGR", true),
            ("BGR, 0..255", true),
            ("größe bgr", true),
            ("subgroup", false),
            ("bgrx", false),
            ("images", false),
            ("", false),
        ];
        for (text, expected) in cases {
            assert_eq!(mentions(text, "BGR"), expected, "{text}");
        }
        assert!(mentions("converts BGR2RGB", "RGB"));
    }

    #[test]
    fn short_sides_have_torchvisions_ratio() {
        let cases = [(224, 256), (299, 342), (384, 439), (4096, 4096)];
        for (crop, expected) in cases {
            assert_eq!(short_side(crop), expected);
        }
    }
}
