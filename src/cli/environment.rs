//! Detection of misspelt environment variables.

use sightline::nearest::nearest;

/// Prefix of the environment variables that set command-line flags.
const PREFIX: &str = "SIGHTLINE_";
/// Prefix of the variables of the tests.
const TESTS: &str = "SIGHTLINE_TEST_";

/// Logs a warning for each environment variable whose name starts with `PREFIX` but is not in
/// `known`. Variables that Kubernetes sets, and those of the tests, are exempt.
pub(super) fn warn_unknown(known: &[String]) {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if is_unknown(&name, known) {
            tracing::warn!(
                variable = &*name,
                did_you_mean = similar(&name, known),
                "unknown environment variable is ignored"
            );
        }
    }
}

fn is_unknown(name: &str, known: &[String]) -> bool {
    name.starts_with(PREFIX)
        && !name.starts_with(TESTS)
        && !is_service_link(name)
        && !known.iter().any(|other| other == name)
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

/// Returns the name in `known` that is most similar to `name`, whatever the case of its letters.
/// `None` if no name is similar. Only the parts after `PREFIX` are compared.
fn similar(name: &str, known: &[String]) -> Option<String> {
    let word = name.strip_prefix(PREFIX)?.to_uppercase();
    let mut known = known.iter().filter_map(|name| name.strip_prefix(PREFIX));
    let same = known.clone().find(|rest| *rest == word);
    same.or_else(|| nearest(&word, &mut known))
        .map(|rest| format!("{PREFIX}{rest}"))
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
            ("SIGHTLINE_listen", Some(Some("SIGHTLINE_LISTEN"))),
            ("SIGHTLINE_X", Some(None)),
            ("SIGHTLINE_", Some(None)),
            ("SIGHTLIN_LISTEN", None),
            ("SIGHTLINE_TEST_BINARY", None),
            ("SIGHTLINE_SERVICE_HOST", None),
            ("SIGHTLINE_SERVICE_PORT_HTTP", None),
            ("SIGHTLINE_PORT", None),
            ("SIGHTLINE_PORT_8080_TCP_ADDR", None),
            ("SIGHTLINE_GPU_SERVICE_HOST", None),
        ];
        let known = known();
        for (name, expected) in cases {
            let got = is_unknown(name, &known).then(|| similar(name, &known));
            assert_eq!(got, expected.map(|name| name.map(str::to_owned)), "{name}");
        }
        assert_eq!(similar("SIGHTLINE_LISTEN", &[]), None);
    }
}
