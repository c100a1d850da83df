//! The JSON values of a request's body, one after the other, as they arrive.
//!
//! A watch's body is open-ended: a value is handed on when its last brace is there, without waiting for more. So the end
//! of a value is found first, by looking at braces and quotes alone, and only then is it read. The same look bounds the
//! depth, before any reader could recurse that far.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;
use tonic::Status;

use crate::punctual::Share;
use crate::status;

/// Braces within braces. A transaction may be nested to a depth of 32 (`quorate_state::MAX_TXN_DEPTH`), each at three of
/// them, and the reader stands 128.
const MAX_DEPTH: usize = 120;

/// Why there is no further value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No JSON, in Go's words.
    Malformed(String),
    /// Too many braces within braces.
    TooDeep,
    /// A value, or what follows the only one, has so many bytes already.
    TooLarge(usize, usize),
    /// All unfinished requests together have too many bytes.
    TooMuch,
    /// The client has gone, or does not speak HTTP.
    BrokeOff,
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        match refusal {
            Refusal::Malformed(why) => Status::invalid_argument(why),
            Refusal::TooDeep => Status::invalid_argument("exceeded max depth"),
            Refusal::TooLarge(size, limit) => status::message_too_large(size, limit),
            Refusal::TooMuch => status::TOO_MANY_REQUESTS.into(),
            // Nobody will read it.
            Refusal::BrokeOff => Status::cancelled("the request broke off"),
        }
    }
}

/// The values of `body`.
pub(crate) struct Values<B> {
    body: B,
    /// What has arrived and was not handed on.
    buffer: BytesMut,
    scan: Scan,
    limit_bytes: usize,
    share: Share,
}

impl<B> Values<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    /// `share`: what is held of the body is counted there until it is handed on.
    pub(crate) fn new(body: B, limit_bytes: usize, share: Share) -> Values<B> {
        Values { body, buffer: BytesMut::new(), scan: Scan::default(), limit_bytes, share }
    }

    /// The next value; None at the end of the body. After an error there is no more.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        loop {
            if let Some(end) = self.scan.run(&self.buffer)? {
                self.scan = Scan::default();
                self.share.release();
                return Ok(Some(self.buffer.split_to(end).freeze()));
            }
            let Some(frame) = self.body.frame().await else {
                return if self.scan.is_between() { Ok(None) } else { Err(malformed("unexpected EOF")) };
            };
            let Ok(data) = frame.map_err(|_| Refusal::BrokeOff)?.into_data() else { continue };
            let size = self.buffer.len() + data.len();
            if size > self.limit_bytes {
                return Err(Refusal::TooLarge(size, self.limit_bytes));
            }
            self.share.hold(size).map_err(|_| Refusal::TooMuch)?;
            self.buffer.extend_from_slice(&data);
        }
    }

    /// To the end of the body, whatever is there.
    pub(crate) async fn drain(&mut self) -> Result<(), Refusal> {
        while let Some(frame) = self.body.frame().await {
            frame.map_err(|_| Refusal::BrokeOff)?;
        }
        Ok(())
    }

    /// The first value of a body that should have no other; what follows is passed over, as etcd does.
    pub(crate) async fn only(mut self) -> Result<Option<Bytes>, Refusal> {
        let value = self.next().await;
        if let Err(Refusal::TooLarge(..) | Refusal::TooMuch | Refusal::BrokeOff) = value {
            return value;
        }
        let mut rest = self.buffer.len();
        // To its end, so that the connection can be used again.
        while let Some(Ok(frame)) = self.body.frame().await {
            rest += frame.data_ref().map_or(0, Bytes::len);
            if rest > self.limit_bytes {
                return Err(Refusal::TooLarge(rest, self.limit_bytes));
            }
        }
        value
    }
}

fn malformed(why: impl Into<String>) -> Refusal {
    Refusal::Malformed(why.into())
}

/// Where in the buffer the look at it has come to.
#[derive(Default)]
struct Scan {
    at: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Scan {
    /// No value has begun.
    fn is_between(&self) -> bool {
        self.depth == 0
    }

    /// Looks at what is new in `buffer`: the end of the first value, once it is there.
    fn run(&mut self, buffer: &[u8]) -> Result<Option<usize>, Refusal> {
        while let Some(byte) = buffer.get(self.at) {
            self.at += 1;
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'{' | b'[' => {
                    self.depth += 1;
                    if self.depth > MAX_DEPTH {
                        return Err(Refusal::TooDeep);
                    }
                }
                b' ' | b'\t' | b'\r' | b'\n' => {}
                _ if self.depth == 0 => {
                    let character = char::from(*byte).escape_debug();
                    return Err(malformed(format!(
                        "invalid character '{character}' looking for beginning of value"
                    )));
                }
                b'"' => self.in_string = true,
                b'}' | b']' => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return Ok(Some(self.at));
                    }
                }
                _ => {}
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::convert::Infallible;

    use futures_util::stream;
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;
    use crate::punctual::Unfinished;

    /// A body of these pieces.
    fn values(pieces: &[&[u8]], limit: usize) -> Values<impl Body<Data = Bytes> + Send + Unpin + use<>> {
        let frames: Vec<Result<Frame<Bytes>, Infallible>> =
            pieces.iter().map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece)))).collect();
        Values::new(StreamBody::new(stream::iter(frames)), limit, Unfinished::default().share())
    }

    async fn all(pieces: &[&str]) -> Vec<Result<Bytes, Refusal>> {
        let pieces: Vec<&[u8]> = pieces.iter().map(|piece| piece.as_bytes()).collect();
        all_within(&pieces, 1_000).await
    }

    /// Its values, and why there is none after them.
    pub(crate) async fn all_within(pieces: &[&[u8]], limit: usize) -> Vec<Result<Bytes, Refusal>> {
        let mut values = values(pieces, limit);
        let mut all = Vec::new();
        loop {
            match values.next().await {
                Ok(Some(value)) => all.push(Ok(value)),
                Ok(None) => return all,
                Err(refusal) => {
                    all.push(Err(refusal));
                    return all;
                }
            }
        }
    }

    #[tokio::test]
    async fn values_end_with_their_last_brace_wherever_the_pieces_do() {
        let whole = r#" {"a":"}\"{\\"}{"b":[{}]}
 {}"#;
        let expected = vec![
            Ok(Bytes::from(" {\"a\":\"}\\\"{\\\\\"}")),
            Ok(Bytes::from(r#"{"b":[{}]}"#)),
            Ok(Bytes::from("\n {}")),
        ];
        assert_eq!(all(&[whole]).await, expected);
        for cut in 1..whole.len() {
            assert_eq!(all(&[&whole[..cut], &whole[cut..]]).await, expected, "cut at {cut}");
        }
        assert_eq!(all(&["", " \n"]).await, Vec::new());
    }

    #[tokio::test]
    async fn what_is_no_value_is_refused_in_gos_words() {
        let eof = || Err(malformed("unexpected EOF"));
        assert_eq!(all(&["{\"a\""]).await, [eof()]);
        assert_eq!(all(&["{}", "{\"}"]).await, [Ok(Bytes::from("{}")), eof()]);
        let x = || Err(malformed("invalid character 'x' looking for beginning of value"));
        assert_eq!(all(&["x"]).await, [x()]);
        assert_eq!(all(&["{}x"]).await, [Ok(Bytes::from("{}")), x()]);
        assert!(all(&["}"]).await[0].is_err());
    }

    #[tokio::test]
    async fn size_and_depth_are_bounded() {
        let mut large = values(&[b"{\"a\":\"", b"0123456789", b"\"}"], 12);
        let status = Status::from(large.next().await.expect_err("too large"));
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert_eq!(status.message(), "grpc: received message larger than max (16 vs. 12)");
        let trailing = values(&[b"{}", b"          ", b"          "], 12).only().await;
        assert_eq!(trailing.expect_err("too large"), Refusal::TooLarge(20, 12));
        let deep = "[".repeat(MAX_DEPTH + 1);
        assert_eq!(all(&[&deep]).await, [Err(Refusal::TooDeep)]);
        assert_eq!(all(&[&deep[1..]]).await, [Err(malformed("unexpected EOF"))]);
    }

    #[tokio::test]
    async fn behind_the_only_value_nothing_is_read() {
        let value = values(&[b"{}", b"xx"], 12).only().await.expect("a value");
        assert_eq!(value, Some(Bytes::from("{}")));
        assert_eq!(values(&[], 12).only().await.expect("nothing"), None);
    }
}
