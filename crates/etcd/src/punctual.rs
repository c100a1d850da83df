//! A request that has begun has to come to its end: in time, and without taking all memory.
//!
//! # The problem
//!
//! A message of gRPC says its length first and then takes its time. Somebody who opens thousands of calls and sends half
//! a message on each costs us what was sent for as long as they like; etcd waits for ever.
//!
//! # The model
//!
//! The frames of the request's body are counted on their way to the service. Within a message, and in a unary call before
//! it too, the next frame has to come within the time for the *whole* message. Between the messages of a stream a client
//! may be silent as long as it wants.
//!
//! What has arrived of unfinished messages is counted over all calls ([`Unfinished`]): beyond a bound the call that
//! brings more is refused, whoever it is. A healthy client's messages arrive in one piece and are never counted.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};
use tonic::Status;
use tonic::codegen::StdError;

use crate::status;

/// Bytes of unfinished requests, of all clients together.
const UNFINISHED_BYTES: usize = 256 << 20;

/// In front of every message: whether it is compressed, and how long it is.
const PREFIX: usize = 5;

/// How much of unfinished requests is held. One per server; clones count together.
#[derive(Clone, Default)]
pub(crate) struct Unfinished(Arc<AtomicUsize>);

impl Unfinished {
    /// A share of nothing yet.
    pub(crate) fn share(&self) -> Share {
        Share { all: self.0.clone(), held: 0 }
    }
}

/// What one request holds; given back when it is dropped.
pub(crate) struct Share {
    all: Arc<AtomicUsize>,
    held: usize,
}

impl Share {
    /// Holds `bytes` in all.
    ///
    /// # Errors
    ///
    /// Everybody together would hold too much.
    pub(crate) fn hold(&mut self, bytes: usize) -> Result<(), Status> {
        let more = bytes.saturating_sub(self.held);
        if self.all.fetch_add(more, Ordering::Relaxed) + more > UNFINISHED_BYTES && more > 0 {
            self.all.fetch_sub(more, Ordering::Relaxed);
            return Err(status::TOO_MANY_REQUESTS.into());
        }
        self.held += more;
        Ok(())
    }

    /// Gives everything back.
    pub(crate) fn release(&mut self) {
        self.all.fetch_sub(std::mem::take(&mut self.held), Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.release();
    }
}

/// Where the frames have come to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Progress {
    /// Of the prefix, what has arrived; full ones are taken off at once.
    prefix: [u8; PREFIX],
    filled: usize,
    /// Of the message, what has and what has not.
    arrived: usize,
    missing: usize,
}

impl Progress {
    fn is_between(&self) -> bool {
        self.filled == 0 && self.missing == 0
    }

    fn see(&mut self, mut data: &[u8]) {
        while data.has_remaining() {
            if self.missing == 0 {
                self.arrived = 0;
                let take = data.len().min(PREFIX - self.filled);
                data.copy_to_slice(&mut self.prefix[self.filled..self.filled + take]);
                self.filled += take;
                if self.filled == PREFIX {
                    self.filled = 0;
                    let [_, length @ ..] = self.prefix;
                    // As it claims; what is too long is refused by the decoder.
                    self.missing = u32::from_be_bytes(length) as usize;
                }
            } else {
                let take = data.len().min(self.missing);
                data.advance(take);
                self.arrived += take;
                self.missing -= take;
            }
        }
    }
}

/// A request's body, watched.
pub(crate) struct Punctual<B> {
    body: B,
    time: Duration,
    /// Between messages it may be silent.
    is_stream: bool,
    begun: bool,
    progress: Progress,
    /// Runs while a message is awaited that has begun.
    clock: Option<Pin<Box<Sleep>>>,
    share: Share,
}

impl<B> Punctual<B> {
    /// `is_stream`: the client may send more than one message.
    pub(crate) fn new(body: B, time: Duration, is_stream: bool, unfinished: &Unfinished) -> Punctual<B> {
        Punctual {
            body,
            time,
            is_stream,
            begun: false,
            progress: Progress::default(),
            clock: None,
            share: unfinished.share(),
        }
    }

    fn see(&mut self, data: &[u8]) -> Result<(), Status> {
        self.begun = true;
        self.progress.see(data);
        if self.progress.is_between() {
            self.clock = None;
            self.share.release();
        } else if self.progress.missing > 0 {
            self.share.hold(self.progress.arrived)?;
        }
        Ok(())
    }
}

impl<B> Body for Punctual<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<StdError>,
{
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            let seen = match &frame {
                Some(Ok(frame)) => frame.data_ref().map_or(Ok(()), |data| this.see(data)),
                Some(Err(_)) | None => Ok(()),
            };
            if let Err(refused) = seen {
                return Poll::Ready(Some(Err(refused.into())));
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let may_wait = this.progress.is_between() && (this.is_stream || this.begun);
        if may_wait {
            return Poll::Pending;
        }
        let clock = this.clock.get_or_insert_with(|| Box::pin(sleep(this.time)));
        ready!(clock.as_mut().poll(context));
        Poll::Ready(Some(Err(status::slow_request().into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    const TIME: Duration = Duration::from_millis(200);

    /// A body that the test writes.
    fn body(
        is_stream: bool,
        unfinished: &Unfinished,
    ) -> (mpsc::Sender<Vec<u8>>, impl Body<Data = Bytes, Error = StdError> + Unpin) {
        use futures_util::StreamExt;
        let (sender, pieces) = mpsc::channel(16);
        let frames =
            ReceiverStream::new(pieces).map(|piece: Vec<u8>| Ok::<_, StdError>(Frame::data(piece.into())));
        (sender, Punctual::new(StreamBody::new(frames), TIME, is_stream, unfinished))
    }

    fn message(length: u8) -> Vec<u8> {
        let mut message = vec![0, 0, 0, 0, length];
        message.extend(vec![7; usize::from(length)]);
        message
    }

    #[test]
    fn messages_are_told_apart_wherever_the_frames_are_cut() {
        let mut whole = message(3);
        whole.extend(message(0));
        whole.extend(message(200));
        for cut in 0..=whole.len() {
            let mut progress = Progress::default();
            progress.see(&whole[..cut]);
            assert_eq!(progress.is_between(), [0, 8, 13, whole.len()].contains(&cut), "cut at {cut}");
            progress.see(&whole[cut..]);
            assert!(progress.is_between(), "cut at {cut}");
        }
    }

    #[tokio::test]
    async fn half_a_message_is_waited_for_and_not_for_ever() {
        for is_stream in [true, false] {
            let unfinished = Unfinished::default();
            let (sender, mut body) = body(is_stream, &unfinished);
            let (half, rest) = (message(9)[..10].to_vec(), message(9)[10..].to_vec());
            sender.send(half.clone()).await.expect("open");
            assert!(body.frame().await.expect("a frame").is_ok());
            assert_eq!(unfinished.0.load(Ordering::Relaxed), 5);
            tokio::time::sleep(TIME / 10).await;
            sender.send(rest).await.expect("open");
            assert!(body.frame().await.expect("a frame").is_ok());
            assert_eq!(unfinished.0.load(Ordering::Relaxed), 0);
            sender.send(half).await.expect("open");
            assert!(body.frame().await.expect("a frame").is_ok());
            let late = body.frame().await.expect("an error").expect_err("late");
            assert!(late.to_string().contains("did not arrive in time"), "{late}");
        }
    }

    #[tokio::test]
    async fn only_a_stream_may_be_silent() {
        let unfinished = Unfinished::default();
        let (_open, mut stream) = body(true, &unfinished);
        assert!(tokio::time::timeout(3 * TIME, stream.frame()).await.is_err());
        let (_open, mut unary) = body(false, &unfinished);
        assert!(unary.frame().await.expect("an error").is_err());
    }

    #[tokio::test]
    async fn all_together_may_hold_so_much() {
        let unfinished = Unfinished::default();
        let mut most = unfinished.share();
        most.hold(UNFINISHED_BYTES - 3).expect("room");
        let (sender, mut body) = body(true, &unfinished);
        sender.send(message(9)[..9].to_vec()).await.expect("open");
        let refused = body.frame().await.expect("an error").expect_err("too much");
        assert!(refused.to_string().contains("too many requests"), "{refused}");
        drop(body);
        assert_eq!(unfinished.0.load(Ordering::Relaxed), UNFINISHED_BYTES - 3);
        drop(most);
        assert_eq!(unfinished.0.load(Ordering::Relaxed), 0);
    }
}
