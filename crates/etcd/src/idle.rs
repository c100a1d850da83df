//! Connections on which nothing moves.
//!
//! hyper's timers begin with its protocol state, and which protocol it is shows only in the first bytes: a
//! connection that sends none, or the beginning of HTTP/2's preface and no more, would be held for ever. So the stream
//! notes when the protocol is decided, and the owner of the connection looks at the note once, a little after the start.
//!
//! A client that reads nothing is held by nobody's timer either. A watch or a large answer then stays in memory, and with
//! it the client's place among the connections. So a write that has not moved for some time ends the connection; a client
//! that was only slow comes back and goes on where it was.
//!
//! A client whose machine is gone says nothing at all: the kernel asks for it ([`keep_alive`]).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// When the kernel first asks whether a silent client is still there, how often after that, and how often in vain.
const KEEP_ALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 3);

/// Lets the kernel find out that the client's machine is gone.
pub(crate) fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    let (idle, interval, count) = KEEP_ALIVE;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, idle)?;
    sockopt::set_tcp_keepintvl(stream, interval)?;
    sockopt::set_tcp_keepcnt(stream, count)?;
    Ok(())
}

/// What every HTTP/2 connection begins with (RFC 9113, 3.4). HTTP/1.1 has no method that begins so.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream that notes how it begins, and ends when nothing can be written.
pub(crate) struct Noted<S> {
    stream: S,
    note: Note,
    /// Bytes of the preface that have come.
    preface: usize,
    stall_time: Duration,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
}

/// What a connection said first.
#[derive(Clone, Default)]
pub(crate) struct Note(Arc<AtomicU16>);

/// Above any byte: something has been said.
const SPOKEN: u16 = 0x100;
/// Whether this is HTTP/2 is known.
const DECIDED: u16 = 0x200;
/// The first byte of every TLS connection: a record of the handshake (RFC 8446, 5.1). No request of HTTP begins with it.
const TLS: u16 = 0x16;

impl Note {
    /// It is known which protocol it speaks.
    pub(crate) fn is_decided(&self) -> bool {
        self.0.load(Ordering::Relaxed) & DECIDED != 0
    }

    /// It wants TLS where there is none.
    pub(crate) fn is_tls(&self) -> bool {
        self.0.load(Ordering::Relaxed) & !DECIDED == SPOKEN | TLS
    }
}

impl<S> Noted<S> {
    /// The stream, and where to look.
    pub(crate) fn new(stream: S, stall_time: Duration) -> (Noted<S>, Note) {
        let note = Note::default();
        let noted = Noted { stream, note: note.clone(), preface: 0, stall_time, stalled: None };
        (noted, note)
    }

    fn see(&mut self, data: &[u8]) {
        if data.is_empty() || self.note.is_decided() {
            return;
        }
        let mut note = self.note.0.load(Ordering::Relaxed);
        if note == 0 {
            note = SPOKEN | u16::from(data[0]);
        }
        let missing = &PREFACE[self.preface..];
        if missing.len() > data.len() && missing.starts_with(data) {
            self.preface += data.len();
        } else {
            note |= DECIDED;
        }
        self.note.0.store(note, Ordering::Relaxed);
    }

    /// `written`, or an error when that has been pending for too long.
    fn unless_stalled<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stall_time = self.stall_time;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(stall_time)));
        match stalled.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Noted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.see(&buffer.filled()[before..]);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.unless_stalled(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.unless_stalled(written, context)
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const TIME: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn the_protocol_is_decided_by_what_comes_and_not_by_how() {
        for (said, decided) in [
            ("", false),
            ("P", false),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r", false),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", true),
            ("PO", true),
            ("G", true),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0", true),
        ] {
            for piece in [1, 5, 100] {
                let (mut client, server) = duplex(1_000);
                let (mut noted, note) = Noted::new(server, TIME);
                for piece in said.as_bytes().chunks(piece) {
                    client.write_all(piece).await.expect("room");
                    let mut read = [0; 100];
                    assert_eq!(noted.read(&mut read).await.expect("bytes"), piece.len());
                }
                assert_eq!(note.is_decided(), decided, "{said} in pieces of {piece}");
                assert!(!note.is_tls());
            }
        }
    }

    #[tokio::test]
    async fn a_write_that_does_not_move_is_an_error_and_a_slow_one_is_not() {
        let (mut client, server) = duplex(10);
        let (mut noted, _) = Noted::new(server, TIME);
        noted.write_all(&[7; 10]).await.expect("room");
        let reading = tokio::spawn(async move {
            let mut read = [0; 5];
            for _ in 0..4 {
                tokio::time::sleep(TIME / 2).await;
                client.read_exact(&mut read).await.expect("bytes");
            }
            client
        });
        noted.write_all(&[7; 20]).await.expect("a client that reads");
        let _open = reading.await.expect("no panic");
        let stalled = noted.write_all(&[7; 1]).await.expect_err("a client that does not");
        assert_eq!(stalled.kind(), io::ErrorKind::TimedOut);
    }
}
