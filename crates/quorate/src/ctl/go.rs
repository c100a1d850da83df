//! What Go does to values on the way to a terminal, so that scripts written for `etcdctl` read ours unchanged.
//!
//! etcdctl's JSON is not protobuf's JSON mapping: it is Go's `encoding/json` let loose on generated structs. 64-bit
//! integers are numbers and not strings, enums are numbers, names are the proto's own, zero values are left out, bytes
//! are base64, the member of a `oneof` hangs below the capitalised name of the `oneof`, and `<`, `>` and `&` are
//! escaped. One walk over a message by its description says all that once, for every answer there is.

use std::fmt::Write as _;
use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine as _;
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage};
use serde_json::{Map, Value};

/// A message as Go's `encoding/json` prints it. `name` is the message's full name (`etcdserverpb.PutResponse`).
///
/// Null when there is no message of that name: the names are written beside the types, and a test reads them all.
#[must_use]
pub fn json<M: prost::Message>(name: &str, message: &M) -> Value {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    let pool =
        POOL.get_or_init(|| DescriptorPool::decode(quorate_wire::FILE_DESCRIPTOR_SET).unwrap_or_default());
    let Some(descriptor) = pool.get_message_by_name(name) else { return Value::Null };
    let bytes = message.encode_to_vec();
    DynamicMessage::decode(descriptor, bytes.as_slice()).map_or(Value::Null, |message| object(&message))
}

fn object(message: &DynamicMessage) -> Value {
    let mut object = Map::new();
    // Only what is set, which is what `omitempty` leaves.
    for field in message.descriptor().fields().filter(|field| message.has_field(field)) {
        let found = value(&message.get_field(&field));
        match field.containing_oneof() {
            Some(oneof) if !oneof.is_synthetic() => {
                let mut inner = Map::new();
                inner.insert(field.name().to_owned(), found);
                object.insert(capitalised(oneof.name()), Value::Object(inner));
            }
            Some(_) | None => {
                object.insert(field.name().to_owned(), found);
            }
        }
    }
    Value::Object(object)
}

fn value(found: &prost_reflect::Value) -> Value {
    use prost_reflect::Value as Found;
    match found {
        Found::Bool(flag) => (*flag).into(),
        Found::I32(number) | Found::EnumNumber(number) => (*number).into(),
        Found::I64(number) => (*number).into(),
        Found::U32(number) => (*number).into(),
        Found::U64(number) => (*number).into(),
        Found::F32(number) => (*number).into(),
        Found::F64(number) => (*number).into(),
        Found::String(text) => text.clone().into(),
        Found::Bytes(bytes) => base64(bytes).into(),
        Found::Message(message) => object(message),
        Found::List(items) => items.iter().map(value).collect(),
        // etcd's messages have no maps.
        Found::Map(_) => Value::Null,
    }
}

fn capitalised(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// JSON text with Go's escapes.
#[must_use]
pub fn json_text(value: &Value) -> String {
    // These three stand only inside strings.
    value.to_string().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// Standard base64, as protobuf's JSON and Go's write bytes.
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Text between quotes, as Go's `%q` prints it: bytes that are no text become `\x..`.
#[must_use]
pub fn quoted(bytes: &[u8]) -> String {
    let mut quoted = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => quoted.push_str("\\\""),
                '\\' => quoted.push_str("\\\\"),
                '\n' => quoted.push_str("\\n"),
                '\r' => quoted.push_str("\\r"),
                '\t' => quoted.push_str("\\t"),
                '\u{7}' => quoted.push_str("\\a"),
                '\u{8}' => quoted.push_str("\\b"),
                '\u{b}' => quoted.push_str("\\v"),
                '\u{c}' => quoted.push_str("\\f"),
                c if c.is_ascii_control() => {
                    let _ = write!(quoted, "\\x{:02x}", u32::from(c));
                }
                c if c.is_control() => {
                    let _ = write!(quoted, "\\u{:04x}", u32::from(c));
                }
                c => quoted.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(quoted, "\\x{byte:02x}");
        }
    }
    quoted.push('"');
    quoted
}

/// Takes one quoted word, in Go's syntax, from the front of `text`: `"..."` with escapes, or back quotes without.
/// Gives its bytes and what follows; None when there is none or it does not end.
#[must_use]
pub fn unquoted(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (&quote, mut rest) = text.split_first()?;
    if quote == b'`' {
        let end = rest.iter().position(|byte| *byte == b'`')?;
        return Some((rest[..end].to_vec(), &rest[end + 1..]));
    }
    if quote != b'"' {
        return None;
    }
    let mut word = Vec::new();
    loop {
        let (&byte, after) = rest.split_first()?;
        rest = after;
        match byte {
            b'"' => return Some((word, rest)),
            b'\\' => rest = escape(rest, &mut word)?,
            byte => word.push(byte),
        }
    }
}

/// What follows a backslash.
fn escape<'t>(text: &'t [u8], word: &mut Vec<u8>) -> Option<&'t [u8]> {
    let (&kind, rest) = text.split_first()?;
    let (digits, radix) = match kind {
        b'x' => (2, 16),
        b'u' => (4, 16),
        b'U' => (8, 16),
        b'0'..=b'7' => (3, 8),
        _ => {
            word.push(match kind {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'a' => 7,
                b'b' => 8,
                b'v' => 11,
                b'f' => 12,
                b'\\' | b'"' | b'\'' => kind,
                _ => return None,
            });
            return Some(rest);
        }
    };
    // An octal escape has no letter before its digits.
    let from = if radix == 8 { text } else { rest };
    let number = std::str::from_utf8(from.get(..digits)?).ok()?;
    let number = u32::from_str_radix(number, radix).ok()?;
    match kind {
        b'u' | b'U' => {
            word.extend(char::from_u32(number)?.to_string().bytes());
        }
        _ => word.push(u8::try_from(number).ok()?),
    }
    Some(&from[digits..])
}

/// Bytes as `--hex` prints them: `\x66\x6f\x6f`.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "\\x{byte:02x}");
        text
    })
}

/// `152 kB`, as etcdctl prints sizes: powers of 1000, one digit behind the point below 10.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn size(bytes: i64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = bytes.max(0) as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit < UNITS.len() - 1 {
        value /= 1000.0;
        unit += 1;
    }
    let value = (value * 10.0 + 0.5).floor() / 10.0;
    if unit > 0 && value < 10.0 {
        format!("{value:.1} {}", UNITS[unit])
    } else {
        format!("{value:.0} {}", UNITS[unit])
    }
}

/// A duration as Go prints it: `4.40502ms`, `1.5s`.
#[must_use]
pub fn duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let (unit, name) = match nanos {
        0 => return "0s".to_owned(),
        1..1_000 => (1, "ns"),
        1_000..1_000_000 => (1_000, "µs"),
        1_000_000..1_000_000_000 => (1_000_000, "ms"),
        _ => (1_000_000_000, "s"),
    };
    let (whole, rest) = (nanos / unit, nanos % unit);
    let digits = unit.ilog10() as usize;
    let fraction = format!("{rest:0digits$}");
    let fraction = fraction.trim_end_matches('0');
    if rest == 0 { format!("{whole}{name}") } else { format!("{whole}.{fraction}{name}") }
}

/// A boolean as Go's flags read it.
///
/// # Errors
/// It is none.
pub fn bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use quorate_wire::etcdserverpb::response_op::Response;
    use quorate_wire::etcdserverpb::{RangeResponse, ResponseHeader, ResponseOp, TxnResponse};
    use quorate_wire::mvccpb::KeyValue;

    use super::*;

    #[test]
    fn a_message_as_go_prints_it() {
        let header = |revision| Some(ResponseHeader { revision, ..ResponseHeader::default() });
        let kv = KeyValue { key: "<a>".into(), mod_revision: i64::MAX, ..KeyValue::default() };
        let range = RangeResponse { header: header(3), kvs: vec![kv], ..RangeResponse::default() };
        let op = ResponseOp { response: Some(Response::ResponseRange(range)) };
        let txn = TxnResponse { header: header(0), succeeded: true, responses: vec![op] };
        assert_eq!(
            json_text(&json("etcdserverpb.TxnResponse", &txn)),
            "{\"header\":{},\"succeeded\":true,\"responses\":[{\"Response\":{\"response_range\":{\"header\":\
             {\"revision\":3},\"kvs\":[{\"key\":\"PGE+\",\"mod_revision\":9223372036854775807}]}}}]}"
        );
        assert_eq!(json_text(&"<&>".into()), "\"\\u003c\\u0026\\u003e\"");
    }

    #[test]
    fn sizes_and_durations_as_etcdctl_prints_them() {
        assert_eq!(size(151_552), "152 kB");
        assert_eq!(size(20_480), "20 kB");
        assert_eq!(size(8_192), "8.2 kB");
        assert_eq!(size(999), "999 B");
        assert_eq!(duration(Duration::from_nanos(4_405_020)), "4.40502ms");
        assert_eq!(duration(Duration::from_millis(1500)), "1.5s");
        assert_eq!(duration(Duration::from_nanos(950)), "950ns");
    }

    #[test]
    fn bytes_between_quotes_and_in_base64() {
        assert_eq!(quoted(b"a\"b\n\xff\xc3\xa9\x01"), "\"a\\\"b\\n\\xff\u{e9}\\x01\"");
        assert_eq!(base64(b"foo"), "Zm9v");
        assert_eq!(hex(b"fo"), "\\x66\\x6f");
    }

    #[test]
    fn quoted_words_are_read_back() {
        assert_eq!(
            unquoted(b"\"a\\\"\\x01\\377\\u00e9\" x"),
            Some((b"a\"\x01\xff\xc3\xa9".to_vec(), &b" x"[..]))
        );
        assert_eq!(unquoted(b"`a\\n`"), Some((b"a\\n".to_vec(), &b""[..])));
        assert_eq!(unquoted(b"\"no end"), None);
        assert_eq!(unquoted(b"\"\\q\""), None);
        assert_eq!(unquoted(b"bare"), None);
        for bytes in [&b"plain"[..], b"\x00\xff\"\\\n", "ü\u{85}".as_bytes()] {
            assert_eq!(unquoted(quoted(bytes).as_bytes()), Some((bytes.to_vec(), &b""[..])));
        }
    }
}
