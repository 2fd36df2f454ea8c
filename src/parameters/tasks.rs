//! The parameters of the tasks that every protocol has, with their defaults.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use super::{Params, bad};
use crate::draw::{ColorScheme, LINE_WIDTHS, LabelText, Style};
use crate::error::ServeError;
use crate::pipeline::MaskSize;
use crate::postprocess::detect::DetectOptions;

/// Number of classes in a result unless the client sets `top_k`.
const DEFAULT_TOP_K: usize = 5;
/// Maximum of `top_k`; no network has more classes.
const MAX_TOP_K: usize = 100_000;
/// Lowest score of a returned detection unless the client sets `score_threshold`.
const DEFAULT_SCORE_THRESHOLD: f64 = 0.5;
/// Values of `max_detections` that a client may set if no boxes are drawn.
pub(crate) const MAX_DETECTIONS: RangeInclusive<usize> = 1..=1_000;

/// Maximum length of `classes` in bytes.
const MAX_CLASSES_BYTES: usize = 16 << 10;

/// Takes `top_k`, the number of classes to return for each image.
pub(crate) fn top_k(params: &mut Params) -> Result<usize, ServeError> {
    params.integer("top_k", 1..=MAX_TOP_K, DEFAULT_TOP_K)
}

/// Takes `score_threshold`, `iou_threshold` and `classes`, whose values are among `labels`. The maximum number of
/// detections stays that of the model.
pub(crate) fn detect_options(
    params: &mut Params,
    labels: &[String],
) -> Result<DetectOptions, ServeError> {
    let score = params.share("score_threshold")?;
    Ok(DetectOptions {
        score_threshold: score.unwrap_or(DEFAULT_SCORE_THRESHOLD) as f32,
        iou_threshold: params.share("iou_threshold")?,
        max_detections: None,
        classes: params
            .take("classes")?
            .map(|names| classes(&names, labels))
            .transpose()?,
    })
}

/// Takes `size`, the size of a mask.
pub(crate) fn mask_size(params: &mut Params) -> Result<MaskSize, ServeError> {
    let sizes = [("input", MaskSize::Input), ("logits", MaskSize::Logits)];
    params.choice("size", &sizes, MaskSize::Input)
}

/// The parameters of drawings, see [`style`].
const STYLE: [&str; 3] = ["palette", "line_width", "labels"];

/// Takes `palette`, `line_width` and `labels`, the appearance of a drawing.
///
/// # Errors
/// If a value is invalid, or if one of them is set although nothing is drawn.
pub(crate) fn style(params: &mut Params, drawn: bool) -> Result<Style, ServeError> {
    if !drawn {
        for name in STYLE {
            if let Some(value) = params.take(name)? {
                let expected = format!("no `{name}` without `annotate=true`");
                return Err(bad(name, &expected, &value));
            }
        }
    }
    let [palette, line_width, labels] = STYLE;
    let widths = *LINE_WIDTHS.start() as usize..=*LINE_WIDTHS.end() as usize;
    Ok(Style {
        palette: params.optional_choice(palette, &ColorScheme::ALL)?,
        line_width: params
            .optional_integer(line_width, widths)?
            .map(|width| width as u32),
        labels: params.choice(labels, &LabelText::ALL, LabelText::default())?,
    })
}

/// Returns the ids of the classes whose labels are listed in `names`, separated by commas. A label
/// that several classes share selects all of these classes.
pub(crate) fn classes(names: &str, labels: &[String]) -> Result<BTreeSet<usize>, ServeError> {
    if names.len() > MAX_CLASSES_BYTES {
        let expected = format!("at most {MAX_CLASSES_BYTES} bytes");
        return Err(bad("classes", &expected, names));
    }
    let listed = || names.split(',').map(str::trim);
    let wanted: BTreeSet<&str> = listed().collect();
    let mut found = BTreeSet::new();
    let mut chosen = BTreeSet::new();
    for (id, label) in labels.iter().enumerate() {
        // `N/A` is the label of unused class ids in COCO, so it selects no class.
        if label != "N/A" && wanted.contains(label.as_str()) {
            found.insert(label.as_str());
            chosen.insert(id);
        }
    }
    match listed().find(|name| !found.contains(name)) {
        None => Ok(chosen),
        Some(name) => Err(bad(
            "classes",
            "labels of the model (GET /v1/models/NAME), separated by commas",
            name,
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_known_labels() {
        let labels = [
            "__background__",
            "person",
            "N/A",
            "traffic light",
            "cup",
            "cup",
        ];
        let labels = labels.map(str::to_owned);
        let ids = |names| classes(names, &labels).map(|set| set.into_iter().collect::<Vec<_>>());
        assert_eq!(ids("traffic light, person").unwrap(), [1, 3]);
        assert_eq!(ids("cup").unwrap(), [4, 5]);
        for names in ["", "N/A", "person,", "Person", "person,cat"] {
            let error = ids(names).unwrap_err().to_string();
            assert!(
                error.starts_with("`classes`: expected labels"),
                "{names}: {error}"
            );
        }
        let long = "cup,".repeat(MAX_CLASSES_BYTES / 4) + "cup";
        let error = ids(&long).unwrap_err().to_string();
        assert!(error.starts_with("`classes`: expected at most"), "{error}");
        assert_eq!(ids(&long[4..]).unwrap(), [4, 5]);
    }
    #[test]
    fn drawings_have_a_style() {
        let style = |query: &[(&str, &str)], drawn| {
            let pairs = query
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            style(&mut Params::new(pairs.collect()), drawn).map_err(|error| error.to_string())
        };
        assert_eq!(style(&[], true), Ok(Style::default()));
        assert_eq!(style(&[], false), Ok(Style::default()));
        let all = [("palette", "voc"), ("line_width", "100"), ("labels", "off")];
        let expected = Style {
            palette: Some(ColorScheme::Voc),
            line_width: Some(100),
            labels: LabelText::Off,
        };
        assert_eq!(style(&all, true), Ok(expected));
        for (name, value, expected) in [
            (
                "palette",
                "VOC",
                "expected bright or voc or colorblind, got VOC",
            ),
            ("palette", "", "got nothing"),
            (
                "line_width",
                "0",
                "expected a whole number from 1 to 100, got 0",
            ),
            (
                "line_width",
                "101",
                "expected a whole number from 1 to 100, got 101",
            ),
            ("line_width", "2.5", "got 2.5"),
            ("labels", "true", "expected off or name or score, got true"),
        ] {
            let error = style(&[(name, value)], true).unwrap_err();
            assert!(error.starts_with(&format!("`{name}`: ")), "{error}");
            assert!(error.contains(expected), "{error}");
            let error = style(&[(name, value)], false).unwrap_err();
            assert!(error.contains("without `annotate=true`"), "{error}");
        }
    }
}
