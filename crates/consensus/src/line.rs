//! The asker's end of a conversation: many questions to one peer over one stream.
//!
//! A call of its own for every forwarded write costs both members more than the write (headers, a task, a stream of HTTP/2).
//! Here whoever asks puts the question into a queue; the stream takes whatever is there when the connection has room for a
//! message, so that messages grow with the load and nobody waits for company.
//!
//! ```text
//!   askers ──► queue ──► Outgoing: numbers them, notes them as out ──► Questions … the peer
//!   askers ◄─────────────── answered by number ◄── run() ◄──────────── Answers
//! ```
//!
//! What became of a question decides what its asker may do next, so it is exact: one that never left the queue is
//! [`AskError::Unreachable`]; one that was handed to the connection is [`AskError::Lost`] unless the peer refused the stream
//! itself, which it does before it reads anything. A line that broke is not mended: the next question opens another.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use parking_lot::Mutex;
use quorate_wire::raft as wire;
use quorate_wire::raft::peer_client::PeerClient;
use tokio::sync::{mpsc, oneshot};
use tonic::transport::Channel;

use crate::network::{AskError, ask_error};

/// Questions that wait for the connection to take them; beyond that an asker waits its turn.
const QUEUE: usize = 4_096;
/// Questions in one message, and bytes of commands (one question may be larger, and then goes alone).
const MESSAGE_QUESTIONS: usize = 256;
const MESSAGE_BYTES: usize = 1 << 20;

type Outcome = Result<wire::Answer, AskError>;

struct Asked {
    question: wire::question::Question,
    within: Duration,
    answer: oneshot::Sender<Outcome>,
}

/// Questions that were handed to the connection, by number. None once the line is broken.
type Out = Arc<Mutex<Option<BTreeMap<u64, oneshot::Sender<Outcome>>>>>;

/// One stream to one member.
pub(crate) struct Line {
    url: String,
    queue: mpsc::Sender<Asked>,
}

impl Line {
    /// Must be called on a runtime. The stream opens within `setup`; `address` says whom it is meant for.
    pub(crate) fn open(
        client: PeerClient<Channel>,
        url: &str,
        setup: Duration,
        address: impl FnOnce(&mut tonic::Request<Outgoing>),
    ) -> Arc<Line> {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let out: Out = Arc::new(Mutex::new(Some(BTreeMap::new())));
        let outgoing = Outgoing { waiting, held: None, taken: Vec::new(), next: 0, out: Arc::clone(&out) };
        let mut request = tonic::Request::new(outgoing);
        address(&mut request);
        tokio::spawn(run(client, request, url.to_owned(), setup, out));
        Arc::new(Line { url: url.to_owned(), queue })
    }

    /// Whether a question may still be asked here, of a member at `url`.
    pub(crate) fn leads_to(&self, url: &str) -> bool {
        self.url == url && !self.queue.is_closed()
    }

    /// Asks and waits for the answer, for at most `within`.
    pub(crate) async fn ask(&self, question: wire::question::Question, within: Duration) -> Outcome {
        let (answer, answered) = oneshot::channel();
        let asked = Asked { question, within, answer };
        let conversation = async {
            if self.queue.send(asked).await.is_err() {
                return Err(AskError::Unreachable(self.url.clone()));
            }
            // Dropped unanswered: it was still in the queue when the line broke.
            answered.await.unwrap_or_else(|_| Err(AskError::Unreachable(self.url.clone())))
        };
        match tokio::time::timeout(within, conversation).await {
            Ok(outcome) => outcome,
            Err(_) => Err(AskError::Lost(self.url.clone())),
        }
    }
}

/// The stream that the connection draws messages from.
pub(crate) struct Outgoing {
    waiting: mpsc::Receiver<Asked>,
    /// Taken from the queue, but too large for the message before.
    held: Option<Asked>,
    taken: Vec<Asked>,
    next: u64,
    out: Out,
}

fn size(asked: &Asked) -> usize {
    match &asked.question {
        wire::question::Question::Propose(propose) => propose.payload.len(),
        _ => 0,
    }
}

impl Outgoing {
    /// Fills `taken` with at least one question.
    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<Option<()>> {
        self.taken.extend(self.held.take());
        let mut bytes: usize = self.taken.iter().map(size).sum();
        while self.taken.len() < MESSAGE_QUESTIONS {
            match self.waiting.poll_recv(cx) {
                Poll::Ready(Some(asked)) => {
                    // An asker whose deadline passed in the queue has left: nothing is asked in its name.
                    if asked.answer.is_closed() {
                        continue;
                    }
                    bytes += size(&asked);
                    if bytes > MESSAGE_BYTES && !self.taken.is_empty() {
                        self.held = Some(asked);
                        break;
                    }
                    self.taken.push(asked);
                }
                Poll::Ready(None) if self.taken.is_empty() => return Poll::Ready(None),
                Poll::Pending if self.taken.is_empty() => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        Poll::Ready(Some(()))
    }
}

impl Stream for Outgoing {
    type Item = wire::Questions;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<wire::Questions>> {
        let this = self.get_mut();
        match this.poll_take(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Ready(Some(())) => {}
        }
        let mut out = this.out.lock();
        // Broken: what is dropped here never left.
        let Some(out) = out.as_mut() else { return Poll::Ready(None) };
        let mut questions = Vec::with_capacity(this.taken.len());
        for Asked { question, within, answer } in this.taken.drain(..) {
            this.next += 1;
            out.insert(this.next, answer);
            let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
            let question = Some(wire::Question { question: Some(question) });
            questions.push(wire::NumberedQuestion { number: this.next, within_ms, question });
        }
        Poll::Ready(Some(wire::Questions { questions }))
    }
}

/// Hands out answers until the stream ends, then says what became of the questions that were out.
async fn run(
    mut client: PeerClient<Channel>,
    request: tonic::Request<Outgoing>,
    url: String,
    setup: Duration,
    out: Out,
) {
    let lost = |_: &tonic::Status| AskError::Lost(url.clone());
    let end = |failed: &dyn Fn() -> AskError| {
        for (_, answer) in out.lock().take().into_iter().flatten() {
            // An asker whose deadline passed has left.
            let _ = answer.send(Err(failed()));
        }
    };
    let mut answers = match tokio::time::timeout(setup, client.converse(request)).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return end(&|| ask_error(&url, &status)),
        Err(_) => return end(&|| AskError::Lost(url.clone())),
    };
    loop {
        match answers.message().await {
            Ok(Some(message)) => {
                let mut out = out.lock();
                let Some(out) = out.as_mut() else { return };
                for wire::NumberedAnswer { number, answer } in message.answers {
                    let (Some(asker), Some(answer)) = (out.remove(&number), answer) else { continue };
                    let _ = asker.send(Ok(answer));
                }
            }
            Ok(None) => return end(&|| AskError::Lost(url.clone())),
            Err(status) => return end(&|| lost(&status)),
        }
    }
}
