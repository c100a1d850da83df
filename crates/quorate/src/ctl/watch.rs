//! `watch`: follows changes until it is interrupted.
//!
//! When the endpoint goes away the watch goes on at the next one, from the revision after the last event it has shown:
//! nothing is missed and nothing is shown twice.

use std::time::Duration;

use clap::Args;
use quorate_wire::etcdserverpb::watch_client::WatchClient;
use quorate_wire::etcdserverpb::watch_request::RequestUnion;
use quorate_wire::etcdserverpb::{WatchCreateRequest, WatchRequest};

use super::print::{Form, Shape, watch_answer};
use super::{Context, Failure, Outcome, output, store};

/// Between two attempts to find an endpoint.
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);

/// Arguments of `watch`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The key, and the end of a range (exclusive)
    #[arg(value_name = "KEY [RANGE_END]")]
    keys: Vec<String>,
    /// Every key that begins with KEY
    #[arg(long)]
    prefix: bool,
    /// Begin with this revision
    #[arg(long, default_value_t = 0)]
    rev: i64,
    /// Print what was there before
    #[arg(long)]
    prev_kv: bool,
    /// Print a line for progress messages
    #[arg(long)]
    progress_notify: bool,
    #[command(flatten)]
    form: Form,
}

enum End {
    /// The endpoint is gone; try again from the revision.
    Lost,
    /// The store ended it.
    Cancelled(Failure),
}

impl Arguments {
    /// Does it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn run(&self, context: &Context) -> Outcome {
        let (key, range_end) = store::key_range("watch", &self.keys, self.prefix, false)?;
        let shape = self.form.shape(Shape::Simple);
        if shape == Shape::Table {
            return Err(Failure::bad_feature("table not supported as output format"));
        }
        let mut next = self.rev;
        let mut connected = false;
        let follow = async {
            loop {
                match context.store.any().await {
                    Err(failure) if !connected => return Err(failure),
                    // It was there a moment ago: an outage is what one watches through.
                    Err(_) => tokio::time::sleep(RECONNECT_PAUSE).await,
                    Ok((channel, _)) => {
                        connected = true;
                        let create = WatchCreateRequest {
                            key: key.clone().into(),
                            range_end: range_end.clone().into(),
                            start_revision: next,
                            progress_notify: self.progress_notify,
                            prev_kv: self.prev_kv,
                            ..WatchCreateRequest::default()
                        };
                        match self.follow(channel, create, shape, &mut next).await {
                            End::Lost => tokio::time::sleep(RECONNECT_PAUSE).await,
                            End::Cancelled(failure) => return Err(failure),
                        }
                    }
                }
            }
        };
        tokio::select! {
            ended = follow => ended,
            _ = tokio::signal::ctrl_c() => Err(Failure { message: String::new(), code: 5 }),
        }
    }

    async fn follow(
        &self,
        channel: tonic::transport::Channel,
        create: WatchCreateRequest,
        shape: Shape,
        next: &mut i64,
    ) -> End {
        let (requests, receiver) = tokio::sync::mpsc::channel(1);
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        // The channel was made for this one message; it is kept open, because closing it ends the watch.
        let _ = requests.send(request).await;
        let requests_in = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let mut answers = match WatchClient::new(channel).watch(requests_in).await {
            Ok(answers) => answers.into_inner(),
            Err(_) => return End::Lost,
        };
        loop {
            let Ok(Some(response)) = answers.message().await else { return End::Lost };
            let revision = response.header.as_ref().map_or(0, |header| header.revision);
            if response.canceled {
                if response.compact_revision > 0 {
                    return End::Cancelled(Failure::new(format!(
                        "watch was canceled (etcdserver: mvcc: required revision has been compacted), oldest \
                         readable revision {}",
                        response.compact_revision
                    )));
                }
                return End::Cancelled(Failure::new(format!(
                    "watch was canceled ({})",
                    response.cancel_reason
                )));
            }
            if response.created {
                // From now on means from this moment, also after a change of the endpoint.
                if *next == 0 {
                    *next = revision + 1;
                }
                continue;
            }
            if response.events.is_empty() {
                if self.progress_notify {
                    output::line(&format!("progress notify: {revision}"));
                }
                continue;
            }
            if let Err(failure) = watch_answer(&response).print(shape) {
                return End::Cancelled(failure);
            }
            let last =
                response.events.iter().filter_map(|event| event.kv.as_ref()).map(|kv| kv.mod_revision).max();
            *next = (*next).max(last.unwrap_or(0) + 1);
        }
    }
}
