//! Bodies that no client would send. A seed is a path in its first line and the body behind it.

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{DynamicMessage, SerializeOptions};
use quorate_wire::etcdserverpb as pb;

use super::body::Refusal;
use super::body::tests::all_within;
use super::routes::Routes;
use crate::{convert, validate};

const LIMIT_BYTES: usize = 40_000;

/// The values of a body that arrives in pieces of so many bytes.
async fn values(body: &[u8], piece: usize) -> Vec<Result<Bytes, Refusal>> {
    all_within(&body.chunks(piece).collect::<Vec<_>>(), LIMIT_BYTES).await
}

#[test]
fn gateway() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let write = SerializeOptions::new().use_proto_field_name(true);
    quorate_fuzz::fuzz(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/gateway"), |input| {
        let at = input.iter().position(|byte| *byte == b'\n').unwrap_or(0);
        let (path, body) = (String::from_utf8_lossy(&input[..at]), &input[at..]);
        let found = runtime.block_on(values(body, 7));
        if body.len() < LIMIT_BYTES {
            assert_eq!(
                runtime.block_on(values(body, body.len().max(1))),
                found,
                "it depends on how it arrives"
            );
        }
        let Some(route) = Routes::get().find(&path) else { return };
        for value in found.into_iter().flatten() {
            let Ok(message) = route.read(Some(value)) else { continue };
            // What was understood can be written, and says the same then.
            let mut json = Vec::new();
            message.serialize_with_options(&mut serde_json::Serializer::new(&mut json), &write).unwrap();
            let again = route.read(Some(json.into())).unwrap();
            assert_eq!(again.encode_to_vec(), message.encode_to_vec());
        }
    });
}

/// A transaction as it comes over gRPC: decoded, validated, translated.
#[test]
fn txn() {
    let routes = Routes::get();
    let route = routes.find("/v3/kv/txn").expect("a route");
    quorate_fuzz::fuzz(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/txn"), |input| {
        // Seeds are JSON, for people; what is mutated beyond JSON is taken for the wire's bytes.
        let request = match route.read(Some(Bytes::copy_from_slice(input))) {
            Ok(message) => pb::TxnRequest::decode(&message.encode_to_vec()[..]),
            Err(_) => pb::TxnRequest::decode(input),
        };
        let Ok(request) = request else { return };
        let _ = DynamicMessage::decode(route.output(), input);
        if validate::txn(&request, 128).is_ok() {
            let _ = convert::txn(request);
        }
    });
}
