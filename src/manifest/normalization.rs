//! Recognizes mean and standard deviation of another scale or channel order than the manifest states.

use super::{InvalidField, Preprocess, require};

/// The scale of values of 8-bit pixels.
const BYTES: u8 = 255;
/// Mean of ImageNet's channels in the order blue, green, red, for values of 0 to 1.
const IMAGENET_BGR: [f32; 3] = [0.406, 0.456, 0.485];
/// Largest difference from [`IMAGENET_BGR`] that is still ImageNet's mean; Caffe's mean differs by 0.002.
const TOLERANCE: f32 = 0.004;

/// Checks that mean and standard deviation fit the scale and the channel order.
///
/// # Errors
/// [`InvalidField`], whose message says which lines to write.
pub(super) fn check(preprocess: &Preprocess) -> Result<(), InvalidField> {
    let scale = preprocess.scale.unwrap_or(1);
    require(
        matches!(scale, 1 | BYTES),
        "preprocess.scale",
        "1 or 255",
        &scale,
    )?;
    check_scale(preprocess)?;
    check_order(preprocess)
}

/// Rejects values for pixels of 0..255 where the scale is 0..1, unless the manifest states
/// `scale = 1`, and values for 0..1 where the scale is 0..255.
fn check_scale(preprocess: &Preprocess) -> Result<(), InvalidField> {
    let Preprocess {
        mean, std, scale, ..
    } = preprocess;
    let above_one = |values: &[f32; 3]| values.iter().any(|value| value.abs() > 1.0);
    if scale.is_none() && (above_one(mean) || above_one(std)) {
        return Err(InvalidField {
            field: if above_one(mean) {
                "preprocess.mean".into()
            } else {
                "preprocess.std".into()
            },
            expected: "values for pixels of 0..1".into(),
            got: format!(
                "mean {mean:?} and std {std:?}, which are for pixels of 0..255; write `mean = {}` and `std = {}`, or \
                 keep the values and write `scale = 255`; write `scale = 1` if the values are for pixels of 0..1",
                divided(mean),
                divided(std)
            ),
        });
    }
    if *scale == Some(BYTES) && std.iter().all(|value| *value < 1.0) {
        return Err(InvalidField {
            field: "preprocess.std".into(),
            expected: "values for pixels of 0..255, since `scale` is 255".into(),
            got: format!("{std:?}, which are for pixels of 0..1; remove `scale`"),
        });
    }
    Ok(())
}

/// Rejects ImageNet's mean in the order blue, green, red, unless the manifest states the order.
fn check_order(preprocess: &Preprocess) -> Result<(), InvalidField> {
    let Preprocess { mean, .. } = preprocess;
    let white = f32::from(preprocess.scale.unwrap_or(1));
    let pairs = mean.iter().zip(IMAGENET_BGR);
    let reversed = pairs
        .clone()
        .all(|(value, bgr)| (value / white - bgr).abs() <= TOLERANCE);
    if !reversed || preprocess.channel_order.is_some() {
        return Ok(());
    }
    let [blue, green, red] = mean;
    Err(InvalidField {
        field: "preprocess.mean".into(),
        expected: "the channels in the order red, green, blue".into(),
        got: format!(
            "{mean:?}, which is ImageNet's mean in the order blue, green, red; write `channel_order = \"bgr\"` if the \
             network reads BGR, as with OpenCV and Caffe, or `mean = [{red}, {green}, {blue}]`"
        ),
    })
}

/// Returns `values` divided by 255 as a TOML list, with the seven decimals that matter.
fn divided(values: &[f32; 3]) -> String {
    let values = values.map(|value| (f64::from(value) / 255.0 * 1e7).round() / 1e7);
    format!("{values:?}")
}
