//! A connection on which nothing was ever said.
//!
//! hyper's timers begin with its protocol state, and which protocol it is shows only in the first bytes: a
//! connection that sends none would be held for ever. So the stream notes that something has arrived, and the owner of
//! the connection looks at the note once, a little after the start.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that notes its first byte.
pub(crate) struct Noted<S> {
    stream: S,
    note: Note,
}

/// What a connection said first.
#[derive(Clone, Default)]
pub(crate) struct Note(Arc<AtomicU16>);

/// Above any byte: something has been said.
const SPOKEN: u16 = 0x100;
/// The first byte of every TLS connection: a record of the handshake (RFC 8446, 5.1). No request of HTTP begins with it.
const TLS: u16 = 0x16;

impl Note {
    pub(crate) fn has_spoken(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    /// It wants TLS where there is none.
    pub(crate) fn is_tls(&self) -> bool {
        self.0.load(Ordering::Relaxed) == SPOKEN | TLS
    }
}

impl<S> Noted<S> {
    /// The stream, and where to look.
    pub(crate) fn new(stream: S) -> (Noted<S>, Note) {
        let note = Note::default();
        (Noted { stream, note: note.clone() }, note)
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
        if buffer.filled().len() > before && !self.note.has_spoken() {
            self.note.0.store(SPOKEN | u16::from(buffer.filled()[before]), Ordering::Relaxed);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noted<S> {
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
