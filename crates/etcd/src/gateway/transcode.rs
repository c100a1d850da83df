//! JSON to messages and back, by the messages' descriptions.
//!
//! `prost-reflect` does it, by the rules of proto3's JSON mapping. One of them has to be two: unknown *fields* are passed
//! over, so that a client may be newer than we are, but an unknown *name of an enumeration* is refused as etcd refuses
//! it. A misspelt `GREATER` that counted as absent would mean `EQUAL`. The library knows only both or none, so
//! it refuses both, and a value with unknown fields is read once more without them.

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use prost_reflect::{
    DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, SerializeOptions,
};
use serde_json::Value;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::gateway::error;
use crate::gateway::routes::Route;

const STRICT: DeserializeOptions = DeserializeOptions::new().deny_unknown_fields(true);
const WRITE: SerializeOptions = SerializeOptions::new().use_proto_field_name(true);

/// The message that `json` describes.
pub(crate) fn read(description: MessageDescriptor, json: &[u8]) -> Result<DynamicMessage, Status> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let strict = DynamicMessage::deserialize_with_options(description.clone(), &mut reader, &STRICT);
    if let Ok(message) = strict {
        return Ok(message);
    }
    let mut value: Value = serde_json::from_slice(json).map_err(|error| error::malformed(&error))?;
    forget_unknown(&description, &mut value);
    DynamicMessage::deserialize_with_options(description, value, &STRICT)
        .map_err(|error| error::malformed(&error))
}

/// Takes out what `description` has no field for. Recursion ends with the value, whose depth is bounded.
fn forget_unknown(description: &MessageDescriptor, value: &mut Value) {
    let Value::Object(object) = value else { return };
    let field = |name: &str| -> Option<FieldDescriptor> {
        description.get_field_by_json_name(name).or_else(|| description.get_field_by_name(name))
    };
    object.retain(|name, _| field(name).is_some());
    for (name, value) in object {
        let Some(Kind::Message(inner)) = field(name).map(|field| field.kind()) else { continue };
        match value {
            Value::Array(values) => values.iter_mut().for_each(|value| forget_unknown(&inner, value)),
            value => forget_unknown(&inner, value),
        }
    }
}

/// Requests into the call, answers out of it as JSON.
pub(crate) struct Transcoder {
    output: MessageDescriptor,
    /// Of a stream every answer is a line of its own: `{"result":…}`.
    lines: bool,
}

impl Transcoder {
    /// One answer.
    pub(crate) fn one(route: &Route) -> Transcoder {
        Transcoder { output: route.output(), lines: false }
    }

    /// A line for each answer.
    pub(crate) fn lines(route: &Route) -> Transcoder {
        Transcoder { output: route.output(), lines: true }
    }
}

impl Codec for Transcoder {
    type Encode = DynamicMessage;
    type Decode = Bytes;
    type Encoder = ToWire;
    type Decoder = ToJson;

    fn encoder(&mut self) -> ToWire {
        ToWire
    }

    fn decoder(&mut self) -> ToJson {
        ToJson { output: self.output.clone(), lines: self.lines }
    }
}

pub(crate) struct ToWire;

impl Encoder for ToWire {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, message: DynamicMessage, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        // Fails only where the buffer is full, and this one grows.
        message.encode(into).map_err(|error| Status::internal(error.to_string()))
    }
}

pub(crate) struct ToJson {
    output: MessageDescriptor,
    lines: bool,
}

impl ToJson {
    fn write(&self, from: impl Buf) -> Result<Bytes, Status> {
        // Base64 and names make a third more at least; a little too much room is given back with the answer.
        let mut json = Vec::with_capacity(from.remaining() * 3 / 2 + 128);
        let message = DynamicMessage::decode(self.output.clone(), from)
            .map_err(|error| Status::internal(error.to_string()))?;
        if self.lines {
            json.put_slice(b"{\"result\":");
        }
        message
            .serialize_with_options(&mut serde_json::Serializer::new(&mut json), &WRITE)
            .map_err(|error| Status::internal(error.to_string()))?;
        if self.lines {
            json.put_slice(b"}\n");
        }
        Ok(json.into())
    }
}

impl Decoder for ToJson {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        self.write(from).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use quorate_wire::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader, TxnRequest};
    use quorate_wire::mvccpb::KeyValue;

    use super::*;
    use crate::gateway::routes::Routes;

    fn route(path: &str) -> &'static Route {
        Routes::get().find(path).expect("a route")
    }

    fn request<M: Message + Default>(path: &str, json: &str) -> Result<M, Status> {
        let message = route(path).read(Some(Bytes::copy_from_slice(json.as_bytes())))?;
        Ok(M::decode(message.encode_to_vec().as_slice()).expect("the same message"))
    }

    #[test]
    fn requests_are_read_in_every_spelling() {
        let expected = RangeRequest {
            key: "foo".into(),
            range_end: "\u{0}".into(),
            limit: 7,
            sort_order: 2,
            ..Default::default()
        };
        for json in [
            r#"{"key":"Zm9v","range_end":"AA==","limit":7,"sort_order":"DESCEND"}"#,
            r#"{"key":"Zm9v","rangeEnd":"AA","limit":"7","sortOrder":2,"serializable":false}"#,
            r#" {"key":"Zm9v","range_end":"AA==","limit":7.0,"sort_order":"DESCEND","revision":null,"new":[{}]} "#,
        ] {
            assert_eq!(request::<RangeRequest>("/v3/kv/range", json).expect("a request"), expected, "{json}");
        }
    }

    #[test]
    fn an_unknown_name_is_refused_beside_an_unknown_field_too() {
        for json in [
            r#"{"key":"Zm9v","sort_order":"UP"}"#,
            r#"{"key":"Zm9v","sort_order":"UP","new":1}"#,
            r#"{"new":{"sort_order":"DESCEND"},"sort_order":"UP"}"#,
        ] {
            let status = request::<RangeRequest>("/v3/kv/range", json).expect_err("refused");
            assert_eq!(status.code(), tonic::Code::InvalidArgument, "{json}");
            assert!(status.message().contains("UP"), "{}", status.message());
        }
        let txn = r#"{"compare":[{"result":"GRETER","x":1}],"success":[]}"#;
        assert!(request::<TxnRequest>("/v3/kv/txn", txn).is_err());
        let txn = r#"{"compare":[{"result":"GREATER","x":1,"target":"MOD","mod_revision":"9"}],"y":0}"#;
        let txn = request::<TxnRequest>("/v3/kv/txn", txn).expect("unknown fields alone are passed over");
        assert_eq!((txn.compare[0].result, txn.compare[0].target), (1, 2));
    }

    #[test]
    fn wrong_types_and_numbers_are_refused() {
        for json in [
            r#"{"key":1}"#,
            r#"{"key":"Z!9v"}"#,
            r#"{"limit":"x"}"#,
            r#"{"limit":1.5}"#,
            r#"{"limit":9223372036854775808}"#,
            r#"{"serializable":"true"}"#,
            "[]",
            r#"{"key":"Zm9v","key""#,
            r#"{"sort_order":99999999999}"#,
        ] {
            let refused = request::<RangeRequest>("/v3/kv/range", json).expect_err(json);
            assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{json}");
        }
    }

    #[test]
    fn answers_have_the_protocols_names_and_no_zeros() {
        let answer = RangeResponse {
            header: Some(ResponseHeader { cluster_id: u64::MAX, revision: -1, ..Default::default() }),
            kvs: vec![KeyValue { key: "foo".into(), mod_revision: 2, ..Default::default() }],
            more: false,
            count: 1,
        };
        let mut writer = Transcoder::one(route("/v3/kv/range")).decoder();
        let json = writer.write(answer.encode_to_vec().as_slice()).expect("JSON");
        let json = std::str::from_utf8(&json).expect("text");
        assert_eq!(
            json,
            r#"{"header":{"cluster_id":"18446744073709551615","revision":"-1"},"kvs":[{"key":"Zm9v","mod_revision":"2"}],"count":"1"}"#
        );
        writer.lines = true;
        let line = writer.write(&b""[..]).expect("JSON");
        assert_eq!(line, "{\"result\":{}}\n");
    }
}
