//! Detection of misspelt environment variables.

use strsim::levenshtein;

/// Prefix of the environment variables that set command-line flags.
const PREFIX: &str = "SIGHTLINE_";

/// Logs a warning for each environment variable whose name starts with `PREFIX` but is not in
/// `known`. Variables that Kubernetes sets are exempt.
pub(super) fn warn_unknown(known: &[String]) {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if is_unknown(&name, known) {
            let nearest = nearest(&name, known);
            tracing::warn!(
                variable = &*name,
                nearest,
                "unknown environment variable is ignored"
            );
        }
    }
}

fn is_unknown(name: &str, known: &[String]) -> bool {
    name.starts_with(PREFIX) && !is_service_link(name) && !known.iter().any(|other| other == name)
}

/// Returns whether `name` has the form of the variables that Kubernetes sets in every container for
/// a Service whose name starts with `sightline`, such as `SIGHTLINE_SERVICE_HOST` and
/// `SIGHTLINE_PORT_8080_TCP_ADDR`.
fn is_service_link(name: &str) -> bool {
    ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT_"]
        .iter()
        .any(|part| name.contains(part))
        || name.ends_with("_PORT")
}

/// Returns the name in `known` with the smallest edit distance to `name`. `None` if `known` is
/// empty or if this distance is more than a third of the length of `name` after `PREFIX`.
fn nearest<'a>(name: &str, known: &'a [String]) -> Option<&'a str> {
    let (edits, nearest) = known
        .iter()
        .map(|other| (levenshtein(name, other), other))
        .min_by_key(|(edits, _)| *edits)?;
    let letters = name.len() - PREFIX.len();
    (3 * edits <= letters).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Vec<String> {
        [
            "SIGHTLINE_LISTEN",
            "SIGHTLINE_MAX_IMAGES",
            "SIGHTLINE_THREADS",
        ]
        .map(str::to_owned)
        .into()
    }

    #[test]
    fn misspelt_variables_are_unknown_and_the_nearest_is_named() {
        let cases = [
            ("SIGHTLINE_LISTEN", None),
            ("SIGHTLINE_LISEN", Some(Some("SIGHTLINE_LISTEN"))),
            ("SIGHTLINE_MAX_IMAGSE", Some(Some("SIGHTLINE_MAX_IMAGES"))),
            ("SIGHTLINE_THREAD", Some(Some("SIGHTLINE_THREADS"))),
            ("SIGHTLINE_listen", Some(None)),
            ("SIGHTLINE_X", Some(None)),
            ("SIGHTLINE_", Some(None)),
            ("SIGHTLIN_LISTEN", None),
            ("SIGHTLINE_SERVICE_HOST", None),
            ("SIGHTLINE_SERVICE_PORT_HTTP", None),
            ("SIGHTLINE_PORT", None),
            ("SIGHTLINE_PORT_8080_TCP_ADDR", None),
            ("SIGHTLINE_GPU_SERVICE_HOST", None),
        ];
        let known = known();
        for (name, expected) in cases {
            let got = is_unknown(name, &known).then(|| nearest(name, &known));
            assert_eq!(got, expected, "{name}");
        }
        assert_eq!(nearest("SIGHTLINE_LISTEN", &[]), None);
    }
}
