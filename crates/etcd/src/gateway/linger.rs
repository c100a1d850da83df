//! What is left of a request that was answered before its end.
//!
//! ```text
//!   client  ──── 12 MB of a body ────►│ 4 MB are read, then the answer is 429
//!           ◄──────── 429 ────────────│
//!           ──── the other 8 MB ─────►│ read and forgotten, up to a bound
//! ```
//!
//! A connection that is closed with bytes unread is reset, and a reset takes the answer along: the client learns that its
//! pipe is broken and not that its request was too large. So whoever lets go of a [`Lingering`] body before its end
//! leaves the rest to a task that passes over it, for a bounded time and a bounded size. A client that goes on beyond
//! both is cut off. (Go's server closes its own side and waits half a second instead, `net/http/server.go`,
//! `closeWriteAndWait`; a client that is slower than that loses the answer.)

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, SizeHint};
use tokio::runtime::Handle;

/// How long the rest of a body is waited for.
const TIME: Duration = Duration::from_secs(2);

/// How much of it is passed over.
const BYTES: usize = 64 * 1024 * 1024;

/// A body whose rest is passed over when it is dropped before its end.
pub(crate) struct Lingering<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    /// None when nothing is left of it.
    rest: Option<B>,
}

impl<B> Lingering<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    pub(crate) fn new(body: B) -> Lingering<B> {
        Lingering { rest: Some(body) }
    }
}

impl<B> Body for Lingering<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        let frame = std::task::ready!(Pin::new(rest).poll_frame(context));
        if !matches!(frame, Some(Ok(_))) {
            self.rest = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.rest.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B> Drop for Lingering<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    fn drop(&mut self) {
        let Some(rest) = self.rest.take().filter(|rest| !rest.is_end_stream()) else { return };
        // Without a runtime there is no connection either.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(tokio::time::timeout(TIME, pass_over(rest)));
        }
    }
}

async fn pass_over<B>(mut body: B)
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut passed = 0;
    while passed < BYTES {
        let Some(Ok(frame)) = body.frame().await else { return };
        passed += frame.data_ref().map_or(0, Bytes::len);
    }
}
