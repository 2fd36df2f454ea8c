//! Query parameters: each is taken by name and checked, and leftover parameters are rejected.

use std::ops::RangeInclusive;

use axum::extract::Query;
use axum::http::Uri;

use crate::error::ServeError;
use crate::image::Orientation;

/// The query of one request.
#[derive(Debug)]
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    /// Splits the query into names and values and decodes them.
    pub(super) fn parse(uri: &Uri) -> Result<Self, ServeError> {
        match Query::<Vec<(String, String)>>::try_from_uri(uri) {
            Ok(Query(pairs)) => Ok(Self(pairs)),
            Err(_) => Err(bad(
                "query",
                "percent-encoded UTF-8",
                uri.query().unwrap_or_default(),
            )),
        }
    }

    /// Takes the value of `name`. `None` if the query does not have it; more than one is an error.
    pub(super) fn take(&mut self, name: &str) -> Result<Option<String>, ServeError> {
        let mut values = self.0.extract_if(.., |(key, _)| key == name);
        let value = values.next().map(|(_, value)| value);
        if let Some((_, second)) = values.next() {
            return Err(bad(name, "one value", &format!("a second one, {second}")));
        }
        Ok(value)
    }

    /// Takes an integer within `range`, or `default` if the query does not have it.
    pub(super) fn integer(
        &mut self,
        name: &str,
        range: RangeInclusive<usize>,
        default: usize,
    ) -> Result<usize, ServeError> {
        Ok(self.optional_integer(name, range)?.unwrap_or(default))
    }

    /// Takes an integer within `range`. `None` if the query does not have it.
    pub(super) fn optional_integer(
        &mut self,
        name: &str,
        range: RangeInclusive<usize>,
    ) -> Result<Option<usize>, ServeError> {
        let Some(text) = self.take(name)? else {
            return Ok(None);
        };
        match text.parse() {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => {
                let expected = format!("a whole number from {} to {}", range.start(), range.end());
                Err(bad(name, &expected, &text))
            }
        }
    }

    /// Takes a number from 0 to 1. `None` if the query does not have it.
    pub(super) fn share(&mut self, name: &str) -> Result<Option<f64>, ServeError> {
        let Some(text) = self.take(name)? else {
            return Ok(None);
        };
        match text.parse() {
            Ok(number) if (0.0..=1.0).contains(&number) => Ok(Some(number)),
            _ => Err(bad(name, "a number from 0 to 1", &text)),
        }
    }

    /// Takes one of the words of `choices`, or `default` if the query does not have it.
    pub(super) fn choice<T: Copy>(
        &mut self,
        name: &str,
        choices: &[(&str, T)],
        default: T,
    ) -> Result<T, ServeError> {
        let Some(text) = self.take(name)? else {
            return Ok(default);
        };
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Ok(*value);
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        Err(bad(name, &words.join(" or "), &text))
    }

    /// Takes `true` or `false`, which is the default.
    pub(super) fn flag(&mut self, name: &str) -> Result<bool, ServeError> {
        self.choice(name, &[("true", true), ("false", false)], false)
    }

    /// Takes `orientation`, a parameter of every route that takes images.
    pub(super) fn orientation(&mut self) -> Result<Orientation, ServeError> {
        let choices = [
            ("apply", Orientation::Apply),
            ("ignore", Orientation::Ignore),
        ];
        self.choice("orientation", &choices, Orientation::Apply)
    }

    /// Rejects a parameter that no one has taken, because it would have no effect. `known` is for the error.
    pub(super) fn finish(self, known: &[&str]) -> Result<(), ServeError> {
        match self.0.first() {
            None => Ok(()),
            Some((name, value)) => Err(bad(name, &format!("one of {}", known.join(", ")), value)),
        }
    }
}

/// An error about the value of a parameter. Echoed values are cut to 64 characters; an empty value is
/// shown as `nothing`.
pub(super) fn bad(field: &str, expected: &str, got: &str) -> ServeError {
    let cut = |text: &str| text.chars().take(64).collect();
    ServeError::BadParameter {
        field: cut(field),
        expected: expected.to_owned(),
        got: if got.is_empty() {
            "nothing".to_owned()
        } else {
            cut(got)
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(query: &str) -> Params {
        Params::parse(&format!("/x?{query}").parse().unwrap()).unwrap()
    }

    #[test]
    fn integers_are_bounded() {
        let cases = [
            ("", Ok(5)),
            ("top_k=1", Ok(1)),
            ("top_k=10", Ok(10)),
            (
                "top_k=0",
                Err("`top_k`: expected a whole number from 1 to 10, got 0"),
            ),
            (
                "top_k=-1",
                Err("`top_k`: expected a whole number from 1 to 10, got -1"),
            ),
            (
                "top_k=",
                Err("`top_k`: expected a whole number from 1 to 10, got nothing"),
            ),
            (
                "top_k=1&top_k=2",
                Err("`top_k`: expected one value, got a second one, 2"),
            ),
        ];
        for (query, expected) in cases {
            let got = params(query)
                .integer("top_k", 1..=10, 5)
                .map_err(|e| e.to_string());
            assert_eq!(got, expected.map_err(str::to_owned), "{query}");
        }
    }

    #[test]
    fn unknown_parameters_are_rejected() {
        let error = params("topk=3")
            .finish(&["model", "top_k"])
            .unwrap_err()
            .to_string();
        assert_eq!(error, "`topk`: expected one of model, top_k, got 3");
        assert!(params("").finish(&["model"]).is_ok());
    }

    #[test]
    fn choices() {
        assert_eq!(
            params("orientation=ignore").orientation().unwrap(),
            Orientation::Ignore
        );
        let error = params("orientation=up")
            .orientation()
            .unwrap_err()
            .to_string();
        assert_eq!(error, "`orientation`: expected apply or ignore, got up");
    }
}
