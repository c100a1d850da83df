//! `GET /why` and `GET /forecast`: what happened and why, and what would happen now.
//!
//! Both answer one JSON object: `sentences` for people, and beside them what they were made of. `/why` tells the last thing that
//! happened to the primary with the records that belong to it; `/why?last=N` gives the newest N records whatever they tell.
//! A node answers what its store knows, so every node gives the same records; a forecast is made from what the asked node saw
//! in its last tick.

use std::time::Duration;

use quorate_ha::forecast::Voters;
use quorate_ha::record::{KEPT, incident, tell};
use quorate_ha::{Record, budget};
use serde_json::{Value, json};

use super::answer::Answer;
use super::query::Query;
use crate::chronicle::Numbered;
use crate::observe::local;
use crate::shared::Shared;

/// For one call of the store on behalf of a person.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);
/// For the question of which voters are silent; without an answer nothing is said about the quorum.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(1);

/// `/why`, `/why?last=N`.
pub(super) async fn why(query: &Query, shared: &Shared) -> Answer {
    let last = match query.get("last").map(str::parse::<u64>) {
        Some(Ok(last)) if last > 0 => Some(last.min(KEPT)),
        Some(_) => return Answer::text(400, "last must be a number above 0, such as /why?last=10"),
        None => None,
    };
    let numbered = match shared.registry.records(last.unwrap_or(KEPT), STORE_TIMEOUT).await {
        Ok(numbered) => numbered,
        Err(error) => {
            tracing::warn!(%error, "the store did not answer a request of the REST API");
            return Answer::text(503, "the store does not answer");
        }
    };
    let records: Vec<Record> = numbered.iter().map(|it| it.record.clone()).collect();
    let (sentences, shown): (Vec<String>, Vec<&Record>) = match last {
        Some(_) => (records.iter().map(Record::headline).collect(), records.iter().collect()),
        None => {
            let story = incident(&records).map(|(main, mut details)| {
                details.push(main);
                details
            });
            (tell(&records), story.unwrap_or_default())
        }
    };
    let number =
        |record: &Record| numbered.iter().find(|it| it.record == *record).map(|it: &Numbered| it.number);
    let shown: Vec<Value> = shown
        .into_iter()
        .map(|record| {
            let mut value = record.to_value();
            if let (Some(object), Some(number)) = (value.as_object_mut(), number(record)) {
                object.insert("number".to_owned(), json!(number));
            }
            value
        })
        .collect();
    Answer::json(200, &json!({"sentences": sentences, "records": shown}))
}

/// `/forecast`.
pub(super) async fn forecast(shared: &Shared) -> Answer {
    let Some(observed) = shared.observed() else {
        return Answer::text(503, "the agent has not looked at the cluster yet");
    };
    let voters = voters(shared).await;
    let now = shared.snapshot().reason.clone();
    let forecast = quorate_ha::forecast::forecast(&observed, &now, voters);
    let presets: Vec<Value> = budget::table(&local(shared))
        .iter()
        .map(|row| {
            let gaps = row.gaps.iter().map(|(event, bound, free)| {
                json!({
                    "event": event.title(),
                    "synchronous_s": bound.as_secs_f64(),
                    "asynchronous_s": free.as_secs_f64(),
                })
            });
            json!({
                "preset": row.preset.as_str(),
                "ttl_s": row.policy.ttl.as_secs_f64(),
                "failure_timeout_s": row.policy.failure_timeout.as_secs_f64(),
                "tolerated_stall_s": row.stall.as_secs_f64(),
                "gaps": gaps.collect::<Vec<_>>(),
            })
        })
        .collect();
    let sentences = forecast.sentences();
    Answer::json(200, &json!({"sentences": sentences, "forecast": forecast, "presets": presets}))
}

/// The voters of the store, as its leader hears them.
async fn voters(shared: &Shared) -> Option<Voters> {
    let silent = shared.handle.silence(SILENCE_TIMEOUT).await.ok()?;
    let voters: Vec<String> =
        shared.handle.members().into_iter().filter(|it| !it.is_learner).map(|it| it.name).collect();
    // Between two beats everybody is silent for a moment.
    let heard = |name: &String| silent.get(name).is_none_or(|silent| *silent < budget::BEAT * 5);
    let leader = shared.snapshot().cluster.leader.clone();
    let with_primary = leader.is_some_and(|leader| voters.contains(&leader) && heard(&leader));
    Some(Voters { all: voters.len(), heard: voters.iter().filter(|name| heard(name)).count(), with_primary })
}
