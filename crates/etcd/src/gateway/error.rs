//! What a refused request is answered with.
//!
//! | where | body |
//! |---|---|
//! | instead of an answer | `{"error":M,"message":M,"code":N}`, the status from the table |
//! | within a stream, as its last line | `{"error":{"grpc_code","http_code","message","http_status","code"}}` |
//!
//! Source: grpc-gateway v1, `runtime/errors.go` (`HTTPStatusFromCode`), `runtime/handler.go`.

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use tonic::{Code, Status};

use crate::metrics::Answer;

/// JSON that is none, or none of this message.
pub(crate) fn malformed(error: &serde_json::Error) -> Status {
    Status::invalid_argument(error.to_string())
}

pub(crate) fn answer(status: &Status) -> Response<Answer> {
    let message = status.message();
    let body = serde_json::json!({"error": message, "message": message, "code": status.code() as i32});
    let mut response = super::respond(Full::new(body.to_string().into()));
    *response.status_mut() = http_status(status.code());
    response
}

pub(crate) fn line(status: &Status) -> Bytes {
    let http = http_status(status.code());
    let error = serde_json::json!({
        "grpc_code": status.code() as i32,
        "http_code": http.as_u16(),
        "message": status.message(),
        "http_status": http.canonical_reason().unwrap_or_default(),
        "code": status.code() as i32,
    });
    format!("{}\n", serde_json::json!({ "error": error })).into()
}

fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Cancelled => StatusCode::REQUEST_TIMEOUT,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_both_codes() {
        let line = line(&Status::unavailable("etcdserver: no leader"));
        let line: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
        let error = serde_json::json!({
            "grpc_code": 14,
            "http_code": 503,
            "message": "etcdserver: no leader",
            "http_status": "Service Unavailable",
            "code": 14,
        });
        assert_eq!(line, serde_json::json!({ "error": error }));
    }

    #[test]
    fn the_table_is_etcds() {
        for (code, http) in [
            (3, 400),
            (5, 404),
            (6, 409),
            (7, 403),
            (8, 429),
            (9, 400),
            (10, 409),
            (11, 400),
            (12, 501),
            (13, 500),
            (14, 503),
            (16, 401),
            (2, 500),
        ] {
            assert_eq!(http_status(Code::from_i32(code)).as_u16(), http, "code {code}");
        }
    }
}
