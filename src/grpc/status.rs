//! Converts errors to the status of a call. Only this file chooses the status codes of gRPC.

use axum::http::StatusCode;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::error::ServeError;
use crate::http::problem::Problem;

/// Metadata with the `code` of the error, as in the problem documents of HTTP.
const PROBLEM: &str = "sightline-code";
/// Metadata with the time in milliseconds after which clients with a retry policy retry.
const RETRY: &str = "grpc-retry-pushback-ms";

/// Returns the status of a call that failed with `problem`.
pub(super) fn status(problem: &Problem) -> Status {
    with_text(problem, problem.open_inference_text(false))
}

/// Returns the status of a call to load a model that failed with `problem`. Clients look for the beginning of its text.
pub(super) fn load_status(problem: &Problem) -> Status {
    with_text(problem, problem.open_inference_text(true))
}

fn with_text(problem: &Problem, text: String) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert(PROBLEM, MetadataValue::from_static(problem.code.as_str()));
    if let Some(after) = problem.retry_after() {
        let milliseconds = after.as_millis().max(1) as u64;
        metadata.insert(RETRY, MetadataValue::from(milliseconds));
    }
    Status::with_metadata(code(problem), text, metadata)
}

/// Returns the status of a call that failed with `error`, which concerns no model.
pub(super) fn status_of(error: ServeError) -> Status {
    status(&error.into())
}

/// Returns the status code for `problem`. It follows Triton where a client can tell the difference: a full queue is
/// `UNAVAILABLE`, which clients retry, and every mistake in a request is `INVALID_ARGUMENT`.
fn code(problem: &Problem) -> Code {
    match problem.code.as_str() {
        "no_route" => return Code::Unimplemented,
        "key_rate" | "key_concurrency" => return Code::ResourceExhausted,
        "body_interrupted" => return Code::Cancelled,
        _ => {}
    }
    match problem.status() {
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::NotFound,
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => Code::DeadlineExceeded,
        StatusCode::CONFLICT => Code::Aborted,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
        StatusCode::INTERNAL_SERVER_ERROR => Code::Internal,
        _ => Code::InvalidArgument,
    }
}

/// Returns the HTTP status that metrics and logs record for a call that ended with `code`.
pub(super) fn recorded(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Cancelled
        | Code::InvalidArgument
        | Code::OutOfRange
        | Code::FailedPrecondition
        | Code::AlreadyExists => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound | Code::Unimplemented => StatusCode::NOT_FOUND,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Aborted => StatusCode::CONFLICT,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::batch::BatchError;
    use crate::keys::KeyError;

    #[test]
    fn errors_have_the_codes_that_clients_expect() {
        let full = BatchError::QueueFull {
            capacity: 1,
            retry_after: Duration::from_millis(40),
        };
        let limit = Duration::from_secs(1);
        let cases: [(ServeError, Code); 9] = [
            (full.into(), Code::Unavailable),
            (ServeError::Starting, Code::Unavailable),
            (ServeError::Draining, Code::Unavailable),
            (ServeError::DeadlinePassed { limit }, Code::DeadlineExceeded),
            (ServeError::BodyTooLarge { limit: 1 }, Code::InvalidArgument),
            (ServeError::NoImage { expected: "x" }, Code::InvalidArgument),
            (ServeError::Internal("x"), Code::Internal),
            (ServeError::Key(KeyError::Missing), Code::Unauthenticated),
            (
                ServeError::NoMethod {
                    path: "/x".to_owned(),
                },
                Code::Unimplemented,
            ),
        ];
        for (error, expected) in cases {
            let shown = error.to_string();
            let status = status_of(error);
            assert_eq!(status.code(), expected, "{shown}");
        }
    }

    #[test]
    fn a_rejection_says_when_to_retry_and_a_fault_hides_its_cause() {
        let full = BatchError::QueueFull {
            capacity: 1,
            retry_after: Duration::from_millis(40),
        };
        let status = status_of(full.into());
        assert_eq!(status.metadata().get(RETRY).unwrap(), "40");
        assert_eq!(status.metadata().get(PROBLEM).unwrap(), "queue_full");
        let status = status_of(ServeError::Internal("secret"));
        assert!(!status.message().contains("secret"));
    }
}
