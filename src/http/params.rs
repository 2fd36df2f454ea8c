//! Parses query parameters: each is taken from the query by name and checked, and a parameter that
//! remains is rejected.

use std::ops::RangeInclusive;

use axum::extract::Query;
use axum::http::Uri;

use super::cut;
use crate::error::ServeError;
use crate::image::{DecodeMode, Orientation};
use crate::nearest::nearest;

/// The names and values of the query parameters of one request that are not yet taken.
#[derive(Debug)]
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    /// Splits the query into percent-decoded names and values. A query that is not percent-encoded
    /// UTF-8 is an error.
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

    /// Takes the parameter `name` from the query. Returns `None` if the query does not have it, and
    /// an error if the query has it more than once.
    pub(super) fn take(&mut self, name: &str) -> Result<Option<String>, ServeError> {
        let mut values = self.0.extract_if(.., |(key, _)| key == name);
        let value = values.next().map(|(_, value)| value);
        if let Some((_, second)) = values.next() {
            return Err(bad(name, "one value", &format!("a second value, {second}")));
        }
        Ok(value)
    }

    /// Takes the parameter `name`, an integer within `range`. Returns `default` if the query does
    /// not have it.
    pub(super) fn integer(
        &mut self,
        name: &str,
        range: RangeInclusive<usize>,
        default: usize,
    ) -> Result<usize, ServeError> {
        Ok(self.optional_integer(name, range)?.unwrap_or(default))
    }

    /// Takes the parameter `name`, an integer within `range`. Returns `None` if the query does not
    /// have it.
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

    /// Takes the parameter `name`, a number from 0 to 1. Returns `None` if the query does not have
    /// it.
    pub(super) fn share(&mut self, name: &str) -> Result<Option<f64>, ServeError> {
        let Some(text) = self.take(name)? else {
            return Ok(None);
        };
        match text.parse() {
            Ok(number) if (0.0..=1.0).contains(&number) => Ok(Some(number)),
            _ => Err(bad(name, "a number from 0 to 1", &text)),
        }
    }

    /// Takes the parameter `name` and returns the value of its word in `choices`. Returns `default`
    /// if the query does not have the parameter.
    pub(super) fn choice<T: Copy>(
        &mut self,
        name: &str,
        choices: &[(&str, T)],
        default: T,
    ) -> Result<T, ServeError> {
        Ok(self.optional_choice(name, choices)?.unwrap_or(default))
    }

    /// Takes the parameter `name` and returns the value of its word in `choices`. Returns `None` if the
    /// query does not have the parameter.
    pub(super) fn optional_choice<T: Copy>(
        &mut self,
        name: &str,
        choices: &[(&str, T)],
    ) -> Result<Option<T>, ServeError> {
        let Some(text) = self.take(name)? else {
            return Ok(None);
        };
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Ok(Some(*value));
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        Err(bad(name, &words.join(" or "), &text))
    }

    /// Takes the parameter `name`, `true` or `false`. Returns `false` if the query does not have
    /// it.
    pub(super) fn flag(&mut self, name: &str) -> Result<bool, ServeError> {
        self.choice(name, &[("true", true), ("false", false)], false)
    }

    /// Takes the parameter `orientation`, which every route that takes images has. Returns
    /// [`Orientation::Apply`] if the query does not have it.
    pub(super) fn orientation(&mut self) -> Result<Orientation, ServeError> {
        let choices = [
            ("apply", Orientation::Apply),
            ("ignore", Orientation::Ignore),
        ];
        self.choice("orientation", &choices, Orientation::Apply)
    }

    /// Takes the parameter `decode`, which every route that takes images has. Returns `None` if the
    /// query does not have it; then the setting of the model applies.
    pub(super) fn decode(&mut self) -> Result<Option<DecodeMode>, ServeError> {
        let choices = [("exact", DecodeMode::Exact), ("fast", DecodeMode::Fast)];
        self.optional_choice("decode", &choices)
    }

    /// Rejects a parameter that was not taken, because it would have no effect. The error suggests the
    /// most similar of `known`, the parameters of the route, or lists all of them.
    pub(super) fn finish(self, known: &[&'static str]) -> Result<(), ServeError> {
        let Some((name, _)) = self.0.first() else {
            return Ok(());
        };
        let name = cut(name);
        Err(ServeError::UnknownParameter {
            nearest: nearest(&name, known.iter().copied()),
            known: known.to_vec(),
            name,
        })
    }
}

/// Returns the error for the invalid value `got` of the parameter `field`. Values in the error are
/// cut to 64 characters, and an empty value is shown as `nothing`.
pub(super) fn bad(field: &str, expected: &str, got: &str) -> ServeError {
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
                Err("`top_k`: expected one value, got a second value, 2"),
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
        let cases = [
            ("topk=3", "unknown parameter `topk`: did you mean `top_k`?"),
            (
                "verbose=1",
                "unknown parameter `verbose`: the parameters of this route are model, top_k",
            ),
        ];
        for (query, expected) in cases {
            let error = params(query).finish(&["model", "top_k"]).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
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
        let mode = |query| params(query).decode().map_err(|error| error.to_string());
        assert_eq!(mode(""), Ok(None));
        assert_eq!(mode("decode=exact"), Ok(Some(DecodeMode::Exact)));
        assert_eq!(mode("decode=fast"), Ok(Some(DecodeMode::Fast)));
        let error = "`decode`: expected exact or fast, got Fast";
        assert_eq!(mode("decode=Fast"), Err(error.to_owned()));
    }
}
