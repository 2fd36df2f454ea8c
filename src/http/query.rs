//! Parses the query of a request into its parameters.

use axum::extract::Query;
use axum::http::Uri;

use crate::error::ServeError;
use crate::parameters::{Params, bad};

impl Params {
    /// Splits the query into percent-decoded names and values.
    ///
    /// # Errors
    /// [`ServeError::BadParameter`] if the query is not percent-encoded UTF-8.
    pub(super) fn parse(uri: &Uri) -> Result<Self, ServeError> {
        match Query::<Vec<(String, String)>>::try_from_uri(uri) {
            Ok(Query(pairs)) => Ok(Self::new(pairs)),
            Err(_) => Err(bad(
                "query",
                "percent-encoded UTF-8",
                uri.query().unwrap_or_default(),
            )),
        }
    }
}
