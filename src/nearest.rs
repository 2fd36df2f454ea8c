//! The name that a misspelt name was probably meant to be.

use strsim::damerau_levenshtein;

/// Returns the candidate that `name` was probably meant to be: the one with the smallest edit
/// distance, if that is at most a third of the length of `name`. An edit inserts, removes, replaces
/// or swaps characters. Returns `None` if no candidate is that near, or if one equals `name`.
///
/// The time grows with the product of the lengths, so cut a `name` from a client before.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |candidate: &'a str| (damerau_levenshtein(name, candidate), candidate);
    let (edits, candidate) = candidates.into_iter().map(distance).min()?;
    (edits > 0 && 3 * edits <= name.chars().count()).then_some(candidate)
}

/// Returns `; did you mean NAME?` for an error message, or an empty text if `nearest` is `None`.
pub fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested_if_it_is_near() {
        let names = ["mobilenet_v3_large", "mobilenet_v3_small", "resnet18"];
        let cases = [
            ("mobilnet_v3_small", Some("mobilenet_v3_small")),
            ("mobilenetv3_large", Some("mobilenet_v3_large")),
            ("resnte18", Some("resnet18")),
            ("resnet19", Some("resnet18")),
            ("ResNet18", Some("resnet18")),
            ("resnet18", None),
            ("vgg16", None),
            ("", None),
        ];
        for (name, expected) in cases {
            assert_eq!(nearest(name, names), expected, "{name}");
        }
        assert_eq!(nearest("resnet18", []), None);
        assert_eq!(did_you_mean(Some("a")), "; did you mean `a`?");
        assert_eq!(did_you_mean(None), "");
    }
}
