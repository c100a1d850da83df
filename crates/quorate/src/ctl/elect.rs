//! `elect`: stands for election until it is told to stop, or shows who is elected.

use clap::Args;
use quorate_wire::etcdserverpb::range_request::{SortOrder, SortTarget};
use quorate_wire::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader, WatchCreateRequest};
use quorate_wire::mvccpb::KeyValue;
use quorate_wire::mvccpb::event::EventType;

use super::answer::{Form, Printer};
use super::follow::Watcher;
use super::kv::Keys;
use super::queue::{Place, asked_to_stop};
use super::store::prefix_end;
use super::{Context, Failure, Outcome};

/// A candidate that is gone is forgotten after so many seconds (clientv3's default session).
const SESSION_TTL_S: i64 = 60;

/// Arguments of `elect`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The election's name, and what to say when elected
    #[arg(value_name = "NAME [PROPOSAL]")]
    words: Vec<String>,
    /// Show who is elected, whenever it changes
    #[arg(short, long)]
    listen: bool,
    #[command(flatten)]
    form: Form,
}

impl Arguments {
    /// Does it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn run(&self, context: &Context) -> Outcome {
        let printer = self.form.printer::<Keys>(context)?;
        match (self.words.as_slice(), self.listen) {
            ([_], false) => Err(Failure::bad_arguments("no proposal argument but -l not set")),
            ([_, _], true) => Err(Failure::bad_arguments("proposal given but -l is set")),
            ([name], true) => {
                tokio::select! {
                    ended = observe(context, name, &printer) => ended,
                    stopped = asked_to_stop() => stopped,
                }
            }
            ([name, proposal], false) => campaign(context, name, proposal, &printer).await,
            _ => Err(Failure::bad_arguments(
                "elect takes one election name argument and an optional proposal argument",
            )),
        }
    }
}

async fn campaign(context: &Context, name: &str, proposal: &str, printer: &Printer<Keys>) -> Outcome {
    let mut place = Place::take(&context.store, name.as_bytes(), SESSION_TTL_S, proposal.as_bytes()).await?;
    let renewing = place.renewing();
    tokio::pin!(renewing);
    let elected = tokio::select! {
        elected = place.wait() => elected,
        lost = &mut renewing => { lost?; Err(Failure::new("elect: session expired")) }
        stopped = asked_to_stop() => { stopped?; Err(Failure::new("context canceled")) }
    };
    if let Err(failure) = elected {
        let _ = place.leave().await;
        return Err(failure);
    }
    printer.print(&Keys { response: place.read().await?, values_only: false });
    tokio::select! {
        stopped = asked_to_stop() => { stopped?; place.leave().await }
        lost = &mut renewing => { lost?; Err(Failure::new("elect: session expired")) }
    }
}

/// Prints the elected key whenever it changes, and the next one when it goes.
async fn observe(context: &Context, name: &str, printer: &Printer<Keys>) -> Outcome {
    let show = |header: Option<ResponseHeader>, kv: KeyValue| {
        let response = RangeResponse { header, kvs: vec![kv], ..RangeResponse::default() };
        printer.print(&Keys { response, values_only: false });
    };
    let prefix = format!("{name}/").into_bytes();
    loop {
        let first = RangeRequest {
            key: prefix.clone().into(),
            range_end: prefix_end(&prefix).into(),
            limit: 1,
            sort_order: SortOrder::Ascend.into(),
            sort_target: SortTarget::Create.into(),
            ..RangeRequest::default()
        };
        let found = context.store.range(first).await?;
        let revision = found.header.as_ref().map_or(0, |header| header.revision);
        let (header, kv) = match found.kvs.into_iter().next() {
            Some(kv) => (found.header, kv),
            None => first_put(context, &prefix, revision + 1).await?,
        };
        let since = header.as_ref().map_or(0, |header| header.revision).max(kv.mod_revision);
        let key = kv.key.clone();
        show(header, kv);
        let create = WatchCreateRequest { key, start_revision: since + 1, ..WatchCreateRequest::default() };
        let mut watcher = Watcher::new(&context.store, create);
        'elected: loop {
            let response = watcher.next().await?;
            if response.canceled {
                return Err(Failure::new("elect: observer lost"));
            }
            for event in response.events {
                if event.r#type() == EventType::Delete {
                    break 'elected;
                }
                if let Some(kv) = event.kv {
                    show(response.header, kv);
                }
            }
        }
    }
}

/// Nobody stands for election: waits for the first.
async fn first_put(
    context: &Context,
    prefix: &[u8],
    revision: i64,
) -> Result<(Option<ResponseHeader>, KeyValue), Failure> {
    let create = WatchCreateRequest {
        key: prefix.to_vec().into(),
        range_end: prefix_end(prefix).into(),
        start_revision: revision,
        ..WatchCreateRequest::default()
    };
    let mut watcher = Watcher::new(&context.store, create);
    loop {
        let response = watcher.next().await?;
        if response.canceled {
            return Err(Failure::new("elect: observer lost"));
        }
        let put = response.events.into_iter().find(|event| event.r#type() == EventType::Put);
        if let Some(kv) = put.and_then(|event| event.kv) {
            // A batch may hold several revisions; what follows is watched from this one on.
            let header = response.header.map(|header| ResponseHeader { revision: kv.mod_revision, ..header });
            return Ok((header, kv));
        }
    }
}
