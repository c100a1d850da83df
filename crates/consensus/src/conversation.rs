//! The answerer's end of a conversation: see [`crate::line`] for the other one.
//!
//! Questions of one stream are worked on side by side, inside the one task that serves the stream: a question is a future,
//! not a task. Whatever is answered when the connection has room for a message goes into it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use quorate_wire::raft as wire;
use tonic::{Status, Streaming};

use crate::peer_service::PeerHandler;

/// Questions of one stream that are worked on at once; beyond that the stream is not read.
const OPEN: usize = 16_384;
/// Answers in one message.
const MESSAGE_ANSWERS: usize = 256;
/// The longest a question may take, whatever the asker says.
const LONGEST: Duration = Duration::from_secs(60);

/// Answers, in the order in which they are found.
pub(crate) struct Conversation {
    /// None once the asker has ended the stream.
    questions: Option<Streaming<wire::Questions>>,
    open: FuturesUnordered<BoxFuture<'static, wire::NumberedAnswer>>,
    handler: Arc<dyn PeerHandler>,
    ended: BoxFuture<'static, ()>,
}

impl Conversation {
    /// `ended` resolves when this member stops taking part: the stream is cut off.
    pub(crate) fn new(
        questions: Streaming<wire::Questions>,
        handler: Arc<dyn PeerHandler>,
        ended: BoxFuture<'static, ()>,
    ) -> Conversation {
        Conversation { questions: Some(questions), open: FuturesUnordered::new(), handler, ended }
    }

    fn begin(&self, asked: wire::NumberedQuestion) -> Option<BoxFuture<'static, wire::NumberedAnswer>> {
        let number = asked.number;
        // A question of a kind that this version does not know: the asker's deadline answers it.
        let question = asked.question?.question?;
        let answer = self.handler.ask(question, Duration::from_millis(asked.within_ms).min(LONGEST));
        Some(Box::pin(async move { wire::NumberedAnswer { number, answer: Some(answer.await) } }))
    }
}

impl Stream for Conversation {
    type Item = Result<wire::Answers, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.ended.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        while this.open.len() < OPEN
            && let Some(questions) = &mut this.questions
        {
            match Pin::new(questions).poll_next(cx) {
                Poll::Ready(Some(Ok(message))) => {
                    for asked in message.questions {
                        let begun = this.begin(asked);
                        this.open.extend(begun);
                    }
                }
                // The connection is gone: nobody is there to be answered.
                Poll::Ready(Some(Err(_))) => return Poll::Ready(None),
                Poll::Ready(None) => this.questions = None,
                Poll::Pending => break,
            }
        }
        let mut answers = Vec::new();
        while answers.len() < MESSAGE_ANSWERS {
            match Pin::new(&mut this.open).poll_next(cx) {
                Poll::Ready(Some(answer)) => answers.push(answer),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        if !answers.is_empty() {
            return Poll::Ready(Some(Ok(wire::Answers { answers })));
        }
        if this.questions.is_none() && this.open.is_empty() { Poll::Ready(None) } else { Poll::Pending }
    }
}
