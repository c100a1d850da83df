//! Clients that put a URL where HTTP/2 wants a host.
//!
//! # The problem
//!
//! gRPC for Go, in the releases that etcd 3.4's clients are built with, sends the endpoint as it was configured as the
//! `:authority` of every call: `http://10.0.0.1:2379` instead of `10.0.0.1:2379`; over a Unix socket every release sends a
//! path. Go's server takes what it gets. h2 holds to the RFC and resets such a stream (`hyperium/h2`, issues 442 and 525), so
//! that `etcdctl --endpoints http://… endpoint status` would fail against us and works against etcd.
//!
//! # The model
//!
//! A client never changes its mind about the authority of a connection. So a connection is read with care up to its first
//! header block, and from there it is one of two kinds:
//!
//! ```text
//!              no preface of HTTP/2, or an authority h2 can read
//!   Start ─────────────────────────────────────────────────────► Plain    bytes pass, nothing is looked at
//!     │   the first block has an authority h2 would refuse
//!     └─────────────────────────────────────────────────────────► Mended   every block is decoded and written anew
//! ```
//!
//! Mended blocks are written as literals that are never put into a table, without the authority (which a request may
//! lack): h2's decoder then has no state that could differ from the client's encoder, whose table only ours follows.
//!
//! What it costs: a healthy connection pays for one decoded block; a mended one some microseconds a call.
//!
//! # Bounds
//!
//! A header block of at most [`MOST_BLOCK`] bytes, decoded to at most [`MOST_FIELDS`]; beyond, the connection ends.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use http::uri::Authority;
use loona_hpack::Decoder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length, type, flags, stream.
const HEAD: usize = 9;
const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// The largest frame a peer must take without being asked.
const MOST_FRAME: usize = 16_384;
/// The size of the decoder's table that a client may count on without being told otherwise, and it is not told.
const TABLE: usize = 4_096;
/// A header block on the wire.
const MOST_BLOCK: usize = 64 << 10;
/// Its fields, names and values together. h2 itself takes 16 KiB.
const MOST_FIELDS: usize = 64 << 10;
/// One read from the socket.
const READ: usize = 16 << 10;

/// A stream whose reader never sees an authority that it would refuse.
pub(crate) struct Mending<S> {
    stream: S,
    reader: Option<Box<Reader>>,
}

/// What exists only while blocks are looked at.
struct Reader {
    mender: Mender,
    /// Ready for hyper.
    out: BytesMut,
    buffer: Vec<u8>,
}

impl<S> Mending<S> {
    pub(crate) fn new(stream: S) -> Mending<S> {
        let reader = Reader { mender: Mender::new(), out: BytesMut::new(), buffer: vec![0; READ] };
        Mending { stream, reader: Some(Box::new(reader)) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Mending<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some(reader) = &mut this.reader else {
            return Pin::new(&mut this.stream).poll_read(context, buffer);
        };
        while reader.out.is_empty() {
            let mut bytes = ReadBuf::new(&mut reader.buffer);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut bytes))?;
            if bytes.filled().is_empty() {
                // Half a frame before the end means nothing to the reader either.
                return Poll::Ready(Ok(()));
            }
            reader.mender.feed(bytes.filled(), &mut reader.out)?;
        }
        let length = reader.out.len().min(buffer.remaining());
        buffer.put_slice(&reader.out.split_to(length));
        if reader.out.is_empty() && matches!(reader.mender.kind, Kind::Plain) {
            this.reader = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Mending<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Start,
    Plain,
    Mended,
}

type Field = (Vec<u8>, Vec<u8>);

/// Bytes in, bytes out. Knows nothing of sockets.
struct Mender {
    kind: Kind,
    prefaced: bool,
    /// Read and not yet passed on: less than a frame's head, a header frame that is not whole.
    pending: BytesMut,
    /// Bytes of a frame under way that pass as they are.
    passing: usize,
    block: Block,
    decoder: Decoder<'static>,
}

/// A header block that is being gathered from its frames.
#[derive(Default)]
struct Block {
    /// Frames as they came, in case nothing has to be changed.
    frames: BytesMut,
    fragments: BytesMut,
    flags: u8,
    stream: [u8; 4],
}

impl Mender {
    fn new() -> Mender {
        let mut decoder = Decoder::new();
        decoder.set_max_allowed_table_size(TABLE);
        Mender {
            kind: Kind::Start,
            prefaced: false,
            pending: BytesMut::new(),
            passing: 0,
            block: Block::default(),
            decoder,
        }
    }

    fn feed(&mut self, mut bytes: &[u8], out: &mut BytesMut) -> io::Result<()> {
        // The body of a large frame is not gathered first.
        if self.pending.is_empty() {
            let passing = self.passing.min(bytes.len());
            out.extend_from_slice(&bytes[..passing]);
            self.passing -= passing;
            bytes = &bytes[passing..];
        }
        self.pending.extend_from_slice(bytes);
        while self.kind != Kind::Plain && self.step(out)? {}
        if self.kind == Kind::Plain {
            out.extend_from_slice(&self.block.frames.split());
            out.extend_from_slice(&self.pending.split());
        }
        Ok(())
    }

    /// Moves on by one piece. False: more bytes are needed.
    fn step(&mut self, out: &mut BytesMut) -> io::Result<bool> {
        if !self.prefaced {
            return Ok(self.preface(out));
        }
        if self.passing > 0 {
            let passing = self.passing.min(self.pending.len());
            out.extend_from_slice(&self.pending.split_to(passing));
            self.passing -= passing;
            return Ok(passing > 0);
        }
        let Some(&[l0, l1, l2, kind, flags, s0, s1, s2, s3]) = self.pending.first_chunk::<HEAD>() else {
            return Ok(false);
        };
        let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        match kind {
            HEADERS | CONTINUATION => {
                if length > MOST_BLOCK {
                    return Err(too_much("a header frame"));
                }
                if self.pending.len() < HEAD + length {
                    return Ok(false);
                }
                let frame = self.pending.split_to(HEAD + length);
                if kind == HEADERS {
                    self.block.flags = flags;
                    self.block.stream = [s0, s1, s2, s3];
                }
                self.gather(&frame, kind, flags)?;
                if flags & END_HEADERS != 0 {
                    self.finish(out)?;
                }
            }
            _ => self.passing = HEAD + length,
        }
        Ok(true)
    }

    fn preface(&mut self, out: &mut BytesMut) -> bool {
        let known = self.pending.len().min(PREFACE.len());
        if self.pending[..known] != PREFACE[..known] {
            self.kind = Kind::Plain;
            return false;
        }
        if known < PREFACE.len() {
            // HTTP/1.1 clients say more than this at once; hyper decides on these bytes as well.
            return false;
        }
        out.extend_from_slice(&self.pending.split_to(PREFACE.len()));
        self.prefaced = true;
        true
    }

    fn gather(&mut self, frame: &[u8], kind: u8, flags: u8) -> io::Result<()> {
        let mut payload = &frame[HEAD..];
        if kind == HEADERS {
            let mut padding = 0;
            if flags & PADDED != 0 {
                padding = usize::from(*payload.first().ok_or_else(malformed)?);
                payload.advance(1);
            }
            if flags & PRIORITY != 0 {
                payload = payload.get(5..).ok_or_else(malformed)?;
            }
            payload =
                payload.len().checked_sub(padding).map(|length| &payload[..length]).ok_or_else(malformed)?;
        }
        if self.block.fragments.len() + payload.len() > MOST_BLOCK {
            return Err(too_much("a header block"));
        }
        self.block.fragments.extend_from_slice(payload);
        self.block.frames.extend_from_slice(frame);
        Ok(())
    }

    /// A block is whole: the first one decides what the connection is.
    fn finish(&mut self, out: &mut BytesMut) -> io::Result<()> {
        let fragments = self.block.fragments.split();
        let frames = self.block.frames.split();
        let fields = self.decode(&fragments)?;
        if self.kind == Kind::Start {
            if fields.iter().all(is_readable) {
                self.kind = Kind::Plain;
                out.extend_from_slice(&frames);
                return Ok(());
            }
            self.kind = Kind::Mended;
        }
        let mut block = BytesMut::with_capacity(fragments.len() * 2);
        for (name, value) in fields.iter().filter(|field| is_readable(field)) {
            literal(&mut block, name, value);
        }
        self.write(&block, out);
        Ok(())
    }

    fn decode(&mut self, block: &[u8]) -> io::Result<Vec<Field>> {
        let mut fields = Vec::new();
        let mut size = 0;
        let decoded = self.decoder.decode_with_cb(block, |name, value| {
            size += name.len() + value.len();
            if size <= MOST_FIELDS {
                fields.push((name.into_owned(), value.into_owned()));
            }
        });
        decoded.map_err(|_| malformed())?;
        if size > MOST_FIELDS { Err(too_much("a request's header")) } else { Ok(fields) }
    }

    /// One HEADERS frame, and CONTINUATIONs for what does not fit.
    fn write(&self, block: &[u8], out: &mut BytesMut) {
        let mut kind = HEADERS;
        let mut flags = self.block.flags & !(PADDED | PRIORITY | END_HEADERS);
        let mut chunks = block.chunks(MOST_FRAME).peekable();
        loop {
            let chunk = chunks.next().unwrap_or_default();
            if chunks.peek().is_none() {
                flags |= END_HEADERS;
            }
            out.extend_from_slice(&u32::try_from(chunk.len()).unwrap_or(u32::MAX).to_be_bytes()[1..]);
            out.extend_from_slice(&[kind, flags]);
            out.extend_from_slice(&self.block.stream);
            out.extend_from_slice(chunk);
            if flags & END_HEADERS != 0 {
                return;
            }
            (kind, flags) = (CONTINUATION, 0);
        }
    }
}

/// What h2 itself asks of an authority.
fn is_readable((name, value): &Field) -> bool {
    name != b":authority" || Authority::try_from(value.as_slice()).is_ok()
}

/// "Literal header field without indexing, new name", uncompressed (RFC 7541, 6.2.2).
fn literal(block: &mut BytesMut, name: &[u8], value: &[u8]) {
    block.extend_from_slice(&[0]);
    for text in [name, value] {
        integer(block, text.len());
        block.extend_from_slice(text);
    }
}

/// With a prefix of seven bits (RFC 7541, 5.1).
fn integer(block: &mut BytesMut, number: usize) {
    const PREFIX: usize = 0x7f;
    let low = |number: usize| u8::try_from(number & 0x7f).unwrap_or_default();
    if number < PREFIX {
        return block.extend_from_slice(&[low(number)]);
    }
    block.extend_from_slice(&[0x7f]);
    let mut rest = number - PREFIX;
    while rest > 0x7f {
        block.extend_from_slice(&[low(rest) | 0x80]);
        rest >>= 7;
    }
    block.extend_from_slice(&[low(rest)]);
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a header block that cannot be decoded")
}

fn too_much(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} of more than {MOST_BLOCK} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = u32::try_from(payload.len()).expect("short").to_be_bytes()[1..].to_vec();
        frame.extend_from_slice(&[kind, flags]);
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        frame
    }

    /// As a client encodes: into its table, so that the second block refers to the first.
    fn blocks(authority: &[u8]) -> [Vec<u8>; 2] {
        let mut encoder = loona_hpack::Encoder::new();
        let fields = [
            (&b":method"[..], &b"POST"[..]),
            (b":authority", authority),
            (b"te", b"trailers"),
            (b"token", b"abc"),
        ];
        [encoder.encode(fields), encoder.encode(fields)]
    }

    fn conversation(authority: &[u8]) -> Vec<u8> {
        let [first, second] = blocks(authority);
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(4, 0, 0, &[]));
        bytes.extend(frame(HEADERS, END_HEADERS, 1, &first));
        bytes.extend(frame(0, 1, 1, &[7; 40_000]));
        // Padded, with a priority, in two frames.
        let mut padded = vec![3, 0, 0, 0, 0, 9];
        let (one, two) = second.split_at(2);
        padded.extend_from_slice(one);
        padded.extend_from_slice(&[0; 3]);
        bytes.extend(frame(HEADERS, PADDED | PRIORITY | 1, 3, &padded));
        bytes.extend(frame(CONTINUATION, END_HEADERS, 3, two));
        bytes.extend(frame(6, 0, 0, &[1; 8]));
        bytes
    }

    fn run(bytes: &[u8], pieces: impl Fn(usize) -> usize) -> (Vec<u8>, Kind) {
        let mut mender = Mender::new();
        let mut out = BytesMut::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(pieces(rest.len()).clamp(1, rest.len()));
            mender.feed(piece, &mut out).expect("well-formed");
            rest = after;
        }
        (out.to_vec(), mender.kind)
    }

    #[test]
    fn a_readable_authority_leaves_every_byte_alone() {
        let bytes = conversation(b"127.0.0.1:2379");
        assert_eq!(run(&bytes, |all| all), (bytes.clone(), Kind::Plain));
        assert_eq!(run(&bytes, |_| 1), (bytes, Kind::Plain));
    }

    #[test]
    fn http_1_passes() {
        let bytes = b"POST /v3/kv/range HTTP/1.1\r\nHost: a\r\n\r\n{}";
        assert_eq!(run(bytes, |_| 1), (bytes.to_vec(), Kind::Plain));
        // The first letters of the preface belong to a method of HTTP/1.1 too.
        let bytes = b"PRIVATE / HTTP/1.1\r\n\r\n";
        assert_eq!(run(bytes, |_| 1), (bytes.to_vec(), Kind::Plain));
    }

    #[test]
    fn an_unreadable_authority_is_left_out_of_every_block() {
        let expected: Vec<Field> = [(":method", "POST"), ("te", "trailers"), ("token", "abc")]
            .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
            .to_vec();
        for authority in [&b"http://127.0.0.1:2379"[..], b"/run/etcd.sock", b""] {
            let bytes = conversation(authority);
            let (mended, kind) = run(&bytes, |all| all);
            assert_eq!(kind, Kind::Mended);
            assert_eq!(run(&bytes, |_| 1).0, mended, "the pieces do not matter");
            assert_eq!(run(&bytes, |all| all % 7 + 1).0, mended);

            let mut frames = Vec::new();
            let mut rest = &mended[PREFACE.len()..];
            while let Some(head) = rest.first_chunk::<HEAD>() {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                frames.push((head[3], head[4], head[8], rest[HEAD..HEAD + length].to_vec()));
                rest = &rest[HEAD + length..];
            }
            let kinds: Vec<_> = frames.iter().map(|frame| (frame.0, frame.1, frame.2)).collect();
            assert_eq!(kinds, [(4, 0, 0), (1, 4, 1), (0, 1, 1), (1, 5, 3), (6, 0, 0)]);
            assert_eq!(frames[2].3, [7; 40_000], "data passes as it is");
            // Each with a decoder of its own: nothing refers to what came before.
            for block in [&frames[1].3, &frames[3].3] {
                assert_eq!(Decoder::new().decode(block).expect("decodes"), expected);
            }
        }
    }

    #[test]
    fn long_fields_are_written_in_several_frames() {
        let long = vec![b'x'; 40_000];
        let mut encoder = loona_hpack::Encoder::new();
        let block = encoder.encode([(&b":authority"[..], &b"a/b"[..]), (b"token", &long[..])]);
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(HEADERS, END_HEADERS, 1, &block));
        let (mended, _) = run(&bytes, |_| 1_000);
        let mut fragments = Vec::new();
        let mut rest = &mended[PREFACE.len()..];
        let mut kinds = Vec::new();
        while let Some(head) = rest.first_chunk::<HEAD>() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            kinds.push((head[3], head[4]));
            fragments.extend_from_slice(&rest[HEAD..HEAD + length]);
            rest = &rest[HEAD + length..];
        }
        assert_eq!(kinds, [(HEADERS, 0), (CONTINUATION, 0), (CONTINUATION, END_HEADERS)]);
        assert_eq!(Decoder::new().decode(&fragments).expect("decodes"), [(b"token".to_vec(), long)]);
    }

    #[test]
    fn too_much_and_nonsense_end_the_connection() {
        let feed = |bytes: &[u8]| {
            let mut whole = PREFACE.to_vec();
            whole.extend_from_slice(bytes);
            Mender::new().feed(&whole, &mut BytesMut::new())
        };
        assert!(feed(&frame(HEADERS, END_HEADERS, 1, &[0x80])).is_err(), "index 0 does not exist");
        assert!(feed(&frame(HEADERS, END_HEADERS | PADDED, 1, &[9, 0])).is_err(), "more padding than frame");
        let mut many = Vec::new();
        for _ in 0..5 {
            many.extend(frame(CONTINUATION, 0, 1, &[0; MOST_FRAME]));
        }
        assert!(feed(&many).is_err(), "a block without end");
        // Four kilobytes in the table, then one byte each.
        let mut encoder = loona_hpack::Encoder::new();
        let bomb = vec![b'y'; 3_000];
        let mut block = encoder.encode([(&b"a"[..], &bomb[..])]);
        block.extend(std::iter::repeat_n(0xbe, 1_000));
        assert!(feed(&frame(HEADERS, END_HEADERS, 1, &block)).is_err(), "decoded size is bounded");
    }
}
