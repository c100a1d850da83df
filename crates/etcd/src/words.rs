//! Where tonic answers by itself, in the words of etcd's server, which is grpc-go.
//!
//! | what | tonic | here |
//! |---|---|---|
//! | a message over the limit | `OutOfRange`, words of its own | `ResourceExhausted`, grpc-go's (`rpc_util.go`, `recvMsg`) |
//! | a transaction nested beyond what is decoded | `Internal` | etcd's "too many operations": each level is one |
//! | anything else that cannot be decoded | `Internal`, prost's words | the same behind grpc-go's (`server.go`, `processUnaryRPC`) |
//! | no such service or method | `Unimplemented`, no words | grpc-go's (`server.go`, `handleStream`) |
//!
//! Clients compare codes: `OutOfRange` means "compacted" to a watch, and `Internal` is tried again.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Response};
use hyper::body::{Body, Frame, SizeHint};
use tonic::{Code, Status};

use crate::status;

/// What tonic begins with when a message is too large; then two numbers in words.
const TOO_LARGE: &str = "Error, decoded message length too large: ";
/// What prost begins with when a message is none.
const MALFORMED: &str = "failed to decode Protobuf message: ";
/// What prost ends with when it is nested too deeply.
const TOO_DEEP: &str = "recursion limit reached";

/// A client's version has to be text (etcd, `server/etcdserver/api/v3rpc/interceptor.go`).
pub(crate) fn check(headers: &HeaderMap) -> Result<(), Status> {
    match headers.get("client-api-version") {
        Some(version) if std::str::from_utf8(version.as_bytes()).is_err() => {
            Err(status::INVALID_CLIENT_VERSION.into())
        }
        _ => Ok(()),
    }
}

/// `response` to a call of `path`, in etcd's words. A unary call fails in the head; a stream can fail later.
pub(crate) fn in_etcds(
    path: &str,
    is_stream: bool,
    mut response: Response<tonic::body::Body>,
) -> Response<tonic::body::Body> {
    mend(path, response.headers_mut());
    if is_stream { response.map(|body| tonic::body::Body::new(Mended(body))) } else { response }
}

const TXN: &str = "/etcdserverpb.KV/Txn";

/// What is served, whole or in part.
const SERVICES: [&str; 9] = [
    "etcdserverpb.KV",
    "etcdserverpb.Watch",
    "etcdserverpb.Lease",
    "etcdserverpb.Cluster",
    "etcdserverpb.Maintenance",
    "etcdserverpb.Auth",
    "v3lockpb.Lock",
    "v3electionpb.Election",
    "grpc.health.v1.Health",
];

fn mend(path: &str, headers: &mut HeaderMap) {
    // Most answers have no status in their head, or a good one.
    if headers.get("grpc-status").is_none_or(|code| code == "0") {
        return;
    }
    let Some(status) = Status::from_header_map(headers) else { return };
    if let Some(better) = better(path, &status) {
        // Refused only where a text has no form as a header, and these have.
        let _ = better.add_header(headers);
    }
}

fn better(path: &str, status: &Status) -> Option<Status> {
    let text = status.message();
    match status.code() {
        Code::OutOfRange => {
            let mut numbers = text.strip_prefix(TOO_LARGE)?.split(|byte: char| !byte.is_ascii_digit());
            let mut number = || numbers.find(|number| !number.is_empty());
            let (found, limit) = (number()?, number()?);
            Some(status::message_too_large(found, limit))
        }
        Code::Internal => {
            let why = text.strip_prefix(MALFORMED)?;
            Some(if path == TXN && why.ends_with(TOO_DEEP) {
                status::TOO_MANY_OPS.into()
            } else {
                Status::internal(format!("grpc: error unmarshalling request: {why}"))
            })
        }
        Code::Unimplemented if text.is_empty() => {
            let (service, method) = path.strip_prefix('/')?.rsplit_once('/')?;
            Some(Status::unimplemented(if SERVICES.contains(&service) {
                format!("unknown method {method} for service {service}")
            } else {
                format!("unknown service {service}")
            }))
        }
        _ => None,
    }
}

/// A stream's body whose last words are mended.
struct Mended(tonic::body::Body);

impl Body for Mended {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.0).poll_frame(context).map_ok(|mut frame| {
            if let Some(trailers) = frame.trailers_mut() {
                mend("", trailers);
            }
            frame
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn mended(path: &str, status: Status) -> (Code, String) {
        let mut headers = HeaderMap::new();
        status.add_header(&mut headers).expect("headers");
        mend(path, &mut headers);
        let status = Status::from_header_map(&headers).expect("a status");
        (status.code(), status.message().to_owned())
    }

    #[test]
    fn tonics_words_become_grpc_gos() {
        let large = Status::out_of_range(
            "Error, decoded message length too large: found 3000000 bytes, the limit is: 2097152 bytes",
        );
        let text = "grpc: received message larger than max (3000000 vs. 2097152)";
        assert_eq!(mended("/x/Y", large), (Code::ResourceExhausted, text.to_owned()));
        let deep =
            || Status::internal("failed to decode Protobuf message: A.b: C.d: recursion limit reached");
        assert_eq!(
            mended(TXN, deep()),
            (Code::InvalidArgument, "etcdserver: too many operations in txn request".to_owned())
        );
        let text = "grpc: error unmarshalling request: A.b: C.d: recursion limit reached";
        assert_eq!(mended("/x/Y", deep()), (Code::Internal, text.to_owned()));
        let none = || Status::unimplemented("");
        assert_eq!(mended("/a.B/C", none()), (Code::Unimplemented, "unknown service a.B".to_owned()));
        let text = "unknown method Nope for service etcdserverpb.KV";
        assert_eq!(mended("/etcdserverpb.KV/Nope", none()), (Code::Unimplemented, text.to_owned()));
    }

    #[test]
    fn etcds_own_stay_as_they_are() {
        for status in
            [status::COMPACTED.into(), Status::internal("something else"), Status::unimplemented("why")]
        {
            let expected = (status.code(), status.message().to_owned());
            assert_eq!(mended(TXN, status), expected);
        }
    }

    #[test]
    fn a_version_has_to_be_text() {
        let mut headers = HeaderMap::new();
        assert!(check(&headers).is_ok());
        headers.insert("client-api-version", HeaderValue::from_static("3.5.21"));
        assert!(check(&headers).is_ok());
        headers.insert("client-api-version", HeaderValue::from_bytes(b"3.\xff").expect("bytes"));
        let refused = check(&headers).expect_err("refused");
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(refused.message(), "etcdserver: invalid client api version");
    }
}
