//! A client that watches, writes down every response, and goes on after whatever ended its stream.
//!
//! It behaves as a careful library: it begins again right behind what it has, at another member, and it leaves a stream that
//! has been silent for long, since a member that is stopped says nothing. Some leave now and then for no reason, so that
//! resumption is not only met at faults.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use fastrand::Rng;
use quorate_wire::etcdserverpb::watch_client::WatchClient;
use quorate_wire::etcdserverpb::{
    self as wire, WatchCreateRequest, WatchProgressRequest, WatchRequest, watch_create_request, watch_request,
};
use quorate_wire::mvccpb::event::EventType;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::client::{Recorder, channel, kv, text};
use crate::history::{Event, Heard, Opened, Record};

/// A stream that says nothing for so long is left for another member.
const SILENCE: Duration = Duration::from_secs(2);

/// What to watch, and how.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) watcher: u32,
    pub(crate) member: usize,
    pub(crate) key: String,
    pub(crate) end: String,
    /// 0: from now on.
    pub(crate) start: i64,
    pub(crate) prev_kv: bool,
    pub(crate) no_put: bool,
    pub(crate) no_delete: bool,
    pub(crate) fragment: bool,
    /// Leaves its stream now and then.
    pub(crate) restless: bool,
    /// Asks for progress now and then.
    pub(crate) curious: bool,
}

/// The last put and the last deletion of every key: who has seen the one that it does not filter has seen everything.
pub(crate) type End = Option<(i64, i64)>;

/// One that runs.
pub(crate) struct Watcher {
    pub(crate) plan: Plan,
    pub(crate) endpoints: Vec<String>,
    pub(crate) recorder: Recorder,
    pub(crate) streams: Arc<AtomicU32>,
    /// Where it is: everything up to here it has.
    pub(crate) position: Arc<AtomicI64>,
    pub(crate) end: watch::Receiver<End>,
    pub(crate) random: Rng,
}

/// How a stream ended.
enum Left {
    Finished,
    GoOn,
}

impl Watcher {
    /// Until it has everything.
    pub(crate) async fn run(mut self) {
        let channels: Vec<Channel> = self.endpoints.iter().map(|address| channel(address)).collect();
        let mut member = self.plan.member;
        let mut next = self.plan.start;
        loop {
            match self.follow(channels[member].clone(), member, &mut next).await {
                Left::Finished => return,
                Left::GoOn => {}
            }
            member = (member + 1) % channels.len();
            // Not a storm of attempts while members are down.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn is_finished(&self, next: i64) -> bool {
        let wanted = self.end.borrow().map(|(put, deleted)| if self.plan.no_delete { put } else { deleted });
        wanted.is_some_and(|wanted| next > wanted)
    }

    async fn follow(&mut self, channel: Channel, member: usize, next: &mut i64) -> Left {
        let stream = self.streams.fetch_add(1, Ordering::Relaxed);
        let (requests, queue) = mpsc::channel(16);
        let Plan { watcher, key, end, prev_kv, no_put, no_delete, fragment, .. } = self.plan.clone();
        let mut filters = Vec::new();
        if no_put {
            filters.push(watch_create_request::FilterType::Noput as i32);
        }
        if no_delete {
            filters.push(watch_create_request::FilterType::Nodelete as i32);
        }
        let start = *next;
        let create = WatchCreateRequest {
            key: key.clone().into(),
            range_end: end.clone().into(),
            start_revision: start,
            prev_kv,
            filters,
            fragment,
            ..Default::default()
        };
        let request = |union| WatchRequest { request_union: Some(union) };
        let _ = requests.send(request(watch_request::RequestUnion::CreateRequest(create))).await;
        let at_ns = self.recorder.now_ns();
        self.recorder.push(Record::Opened(Opened {
            watcher,
            stream,
            member,
            at_ns,
            key,
            end,
            start,
            prev_kv,
            no_put,
            no_delete,
        }));
        let mut client = WatchClient::new(channel);
        let opened = tokio::time::timeout(SILENCE, client.watch(ReceiverStream::new(queue))).await;
        let Ok(Ok(answer)) = opened else { return Left::GoOn };
        let mut responses: Streaming<wire::WatchResponse> = answer.into_inner();
        let patience = if self.plan.restless { self.random.usize(5..60) } else { usize::MAX };
        for _ in 0..patience {
            if self.is_finished(*next) {
                return Left::Finished;
            }
            if self.plan.curious && self.random.u8(0..4) == 0 {
                let progress = watch_request::RequestUnion::ProgressRequest(WatchProgressRequest {});
                let _ = requests.try_send(request(progress));
            }
            let response = tokio::select! {
                response = tokio::time::timeout(SILENCE, responses.message()) => response,
                _ = self.end.changed() => continue,
            };
            let Ok(Ok(Some(response))) = response else { return Left::GoOn };
            let heard = self.hear(stream, &response);
            if heard.created && start == 0 {
                *next = heard.revision + 1;
            }
            if let Some(last) = heard.events.last() {
                // Half of a response is not had.
                *next = (*next).max(if heard.fragment { last.revision } else { last.revision + 1 });
            }
            if heard.is_bookmark() {
                *next = (*next).max(heard.revision + 1);
            }
            let canceled = heard.canceled;
            self.recorder.push(Record::Heard(heard));
            self.position.store(*next - 1, Ordering::Relaxed);
            if let Some(compacted) = canceled {
                *next = (*next).max(compacted);
                return Left::GoOn;
            }
        }
        Left::GoOn
    }

    fn hear(&self, stream: u32, response: &wire::WatchResponse) -> Heard {
        let events = response.events.iter().map(|event| {
            let pair = event.kv.as_ref().map(kv);
            let (key, revision) =
                event.kv.as_ref().map_or_else(Default::default, |kv| (text(&kv.key), kv.mod_revision));
            let now = if event.r#type() == EventType::Put { pair } else { None };
            Event { key, revision, now, previous: event.prev_kv.as_ref().map(kv) }
        });
        Heard {
            stream,
            at_ns: self.recorder.now_ns(),
            revision: response.header.as_ref().map_or(0, |header| header.revision),
            created: response.created,
            canceled: response.canceled.then_some(response.compact_revision),
            fragment: response.fragment,
            events: events.collect(),
        }
    }
}
