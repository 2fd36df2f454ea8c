//! Parameters of requests: those that schedule a request, those that are reserved, and those of the model's task.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::ServeError;
use crate::parameters::{Params, bad};

/// The value of a parameter of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Parameter {
    /// A truth value.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// An unsigned integer.
    Uint(u64),
    /// A number with a fraction.
    Double(f64),
    /// A text.
    Text(String),
}

/// The parameters of a request by their names.
pub type Parameters = BTreeMap<String, Parameter>;

/// Reserved parameters that have no effect here: models have no sequences, headers are not forwarded, and a front end
/// with binary and other outputs takes their choice itself.
const IGNORED: [&str; 5] = [
    "binary_data_output",
    "headers",
    "sequence_end",
    "sequence_id",
    "sequence_start",
];
/// Start of the names that are reserved for servers and their clients.
const RESERVED: &str = "triton_";

/// The parameters that decide when a request runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scheduling {
    /// Priority of the request: 1 is the highest, 0 is that of the model. All requests have the same priority today, so
    /// that it has no effect.
    pub priority: u64,
    /// Maximum time from the arrival of the request to its response. `None` for that of the server.
    pub timeout: Option<Duration>,
}

impl Parameter {
    /// Returns the value as the text that a query parameter would have.
    fn text(&self) -> String {
        match self {
            Self::Bool(value) => value.to_string(),
            Self::Int(value) => value.to_string(),
            Self::Uint(value) => value.to_string(),
            Self::Double(value) => value.to_string(),
            Self::Text(text) => text.clone(),
        }
    }

    fn unsigned(&self) -> Option<u64> {
        match self {
            Self::Int(value) => u64::try_from(*value).ok(),
            Self::Uint(value) => Some(*value),
            Self::Bool(_) | Self::Double(_) | Self::Text(_) => None,
        }
    }
}

/// Removes the parameters that schedule a request, and the reserved ones, from `parameters`. Returns the scheduling
/// and the remaining parameters, which are those of the model's task.
///
/// # Errors
/// [`ServeError::BadParameter`] if `priority` or `timeout` is not an unsigned integer.
pub(super) fn split(mut parameters: Parameters) -> Result<(Scheduling, Params), ServeError> {
    let mut unsigned = |name: &str| match parameters.remove(name) {
        None => Ok(0),
        Some(value) => value
            .unsigned()
            .ok_or_else(|| bad(name, "an unsigned integer", &value.text())),
    };
    let priority = unsigned("priority")?;
    let timeout = unsigned("timeout")?;
    let scheduling = Scheduling {
        priority,
        timeout: (timeout > 0).then(|| Duration::from_micros(timeout)),
    };
    let own = |name: &String| !name.starts_with(RESERVED) && !IGNORED.contains(&name.as_str());
    let own = parameters.into_iter().filter(|(name, _)| own(name));
    let pairs = own.map(|(name, value)| (name, value.text())).collect();
    Ok((scheduling, Params::new(pairs)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters<const N: usize>(pairs: [(&str, Parameter); N]) -> Parameters {
        let pairs = pairs.into_iter();
        pairs
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    #[test]
    fn scheduling_and_reserved_parameters_are_taken() {
        let (scheduling, mut rest) = split(parameters([
            ("priority", Parameter::Uint(2)),
            ("timeout", Parameter::Int(1500)),
            ("sequence_id", Parameter::Int(7)),
            ("sequence_start", Parameter::Bool(true)),
            ("headers", Parameter::Text("a".to_owned())),
            ("binary_data_output", Parameter::Bool(true)),
            ("triton_enable_empty_final_response", Parameter::Bool(true)),
            ("top_k", Parameter::Int(3)),
        ]))
        .unwrap();
        assert_eq!(scheduling.priority, 2);
        assert_eq!(scheduling.timeout, Some(Duration::from_micros(1500)));
        assert_eq!(rest.integer("top_k", 1..=9, 5).unwrap(), 3);
        assert!(rest.finish(&[]).is_ok());
    }

    #[test]
    fn scheduling_is_checked() {
        let cases = [
            (
                "timeout",
                Parameter::Int(-1),
                "`timeout`: expected an unsigned integer, got -1",
            ),
            (
                "timeout",
                Parameter::Double(0.5),
                "`timeout`: expected an unsigned integer, got 0.5",
            ),
            (
                "priority",
                Parameter::Bool(true),
                "`priority`: expected an unsigned integer, got true",
            ),
        ];
        for (name, value, expected) in cases {
            let error = split(parameters([(name, value)])).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
        let (none, _) = split(parameters([("timeout", Parameter::Uint(0))])).unwrap();
        assert_eq!(none, Scheduling::default());
        let (longest, _) = split(parameters([("timeout", Parameter::Uint(u64::MAX))])).unwrap();
        assert!(longest.timeout.is_some());
    }
}
