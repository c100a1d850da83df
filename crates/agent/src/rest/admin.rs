//! The unsafe half of the REST API: switchover, failover, restart, reload, reinitialize, configuration.
//!
//! Texts and codes are Patroni's (measured, and where not, from `api.py`): scripts and the ctl match on them. What is
//! written is written by a guarded transaction on a state that was read linearizably in the same request, so of two
//! operators who ask for different switchovers at the same moment one is told that it did not happen (S14).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use quorate_ha::cluster::{FailoverRequest, MemberRecord, MemberRole, SyncDocument};
use quorate_ha::facts::Lsn;
use quorate_ha::{Key, Preset};
use serde_json::{Map, Value};
use tokio::sync::oneshot;

use super::answer::Answer;
use crate::error::WriteError;
use crate::observe::local;
use crate::registry::Reading;
use crate::shared::{Request, Shared};

/// For one call of the store on behalf of an operator.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a switchover's answer waits for its outcome: twice Patroni's `max(10, loop_wait)`.
const OUTCOME_TIMEOUT: Duration = Duration::from_secs(20);
/// Between two looks at the keys while waiting: the answer is at most so late.
const POLL: Duration = Duration::from_millis(50);
/// Once the lock has moved, how long the answer waits for the new primary to say that it is one.
const PROMOTION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long `/restart` waits for the restart.
const RESTART_TIMEOUT: Duration = Duration::from_secs(300);

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Verb {
    Switchover,
    Failover,
    CancelSwitchover,
    Restart,
    CancelRestart,
    Reload,
    Reinitialize,
    PatchConfig,
    PutConfig,
    Failsafe,
}

impl Verb {
    /// By method and first path segment; None: not supported.
    #[must_use]
    pub fn of(method: &Method, path: &str) -> Option<Verb> {
        let first = path.trim_start_matches('/').split('/').next().unwrap_or("");
        match (method.as_str(), first) {
            ("POST", "switchover") => Some(Verb::Switchover),
            ("POST", "failover") => Some(Verb::Failover),
            ("DELETE", "switchover") => Some(Verb::CancelSwitchover),
            ("POST", "restart") => Some(Verb::Restart),
            ("DELETE", "restart") => Some(Verb::CancelRestart),
            ("POST", "reload") => Some(Verb::Reload),
            ("POST", "reinitialize") => Some(Verb::Reinitialize),
            ("PATCH", "config") => Some(Verb::PatchConfig),
            ("PUT", "config") => Some(Verb::PutConfig),
            ("POST", "failsafe") => Some(Verb::Failsafe),
            _ => None,
        }
    }

    /// Without a body these mean nothing.
    #[must_use]
    pub fn needs_body(self) -> bool {
        match self {
            Verb::Switchover | Verb::Failover | Verb::PatchConfig | Verb::PutConfig => true,
            Verb::CancelSwitchover
            | Verb::Restart
            | Verb::CancelRestart
            | Verb::Reload
            | Verb::Reinitialize
            | Verb::Failsafe => false,
        }
    }
}

pub(super) async fn perform(verb: Verb, body: &Bytes, shared: &Arc<Shared>) -> Answer {
    let body = match object(verb, body) {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    match verb {
        Verb::Switchover | Verb::Failover => switchover(verb, &body, shared).await,
        Verb::CancelSwitchover => cancel_switchover(shared).await,
        Verb::Restart => restart(&body, shared).await,
        // Nothing can be scheduled, so nothing is.
        Verb::CancelRestart => Answer::text(404, "no restarts are scheduled"),
        Verb::Reload => {
            if let Some(hook) = &shared.config.on_reload {
                (hook.0)();
            }
            shared.wake.notify_one();
            Answer::text(202, "reload scheduled")
        }
        Verb::Reinitialize => reinitialize(shared).await,
        Verb::PatchConfig | Verb::PutConfig => configure(verb, &body, shared).await,
        Verb::Failsafe => Answer::text(502, "failsafe mode is not enabled"),
    }
}

/// The body as a JSON object; an optional one may be missing.
fn object(verb: Verb, body: &Bytes) -> Result<Map<String, Value>, Answer> {
    if body.is_empty() && !verb.needs_body() {
        return Ok(Map::new());
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(map)) if !(map.is_empty() && verb.needs_body()) => Ok(map),
        Ok(_) => Err(Answer::text(400, "The body must be a JSON object that is not empty.")),
        Err(error) => Err(Answer::text(400, format!("The body is no JSON: {error}"))),
    }
}

async fn read(shared: &Shared) -> Result<Reading, Answer> {
    shared.registry.read(STORE_TIMEOUT).await.map_err(|error| {
        tracing::warn!(%error, "the store did not answer a request of the REST API");
        Answer::text(503, "the store does not answer")
    })
}

// --- switchover and failover ----------------------------------------------------------------------------------------

/// What a switchover is judged by, from one reading.
struct Situation {
    leader: Option<String>,
    members: Vec<(String, MemberRecord)>,
    sync: Option<SyncDocument>,
    last_lsn: Option<Lsn>,
    /// The `/failover` key's revision.
    failover_at: Option<i64>,
    failover: FailoverRequest,
}

impl Situation {
    fn of(shared: &Shared, reading: &Reading) -> Situation {
        let keys = shared.registry.keys();
        let text = |key: &Key| reading.text(&keys.path(key));
        let members = reading.kvs.iter().filter_map(|(path, kv)| match keys.parse(path)? {
            Key::Member(name) => {
                Some((name, MemberRecord::parse(std::str::from_utf8(&kv.value).ok()?).ok()?))
            }
            _ => None,
        });
        Situation {
            leader: text(&Key::Leader).map(str::to_owned),
            members: members.collect(),
            sync: text(&Key::Sync).and_then(|text| SyncDocument::parse(text).ok()),
            last_lsn: text(&Key::Status)
                .and_then(|text| quorate_ha::cluster::Status::parse(text).ok())
                .map(|status| status.optime),
            failover_at: reading.kvs.get(&keys.path(&Key::Failover)).map(|kv| kv.mod_revision),
            failover: text(&Key::Failover)
                .and_then(|text| FailoverRequest::parse(text).ok())
                .unwrap_or_default(),
        }
    }

    /// Commits wait for somebody, by name.
    fn sync_names(&self) -> Option<Vec<&str>> {
        let entries = &self.sync.as_ref()?.entries;
        (!entries.is_empty())
            .then(|| entries.iter().flat_map(|entry| entry.members.iter().map(String::as_str)).collect())
    }

    /// Patroni's sentence when it cannot work; None when it may.
    fn obstacle(
        &self,
        verb: Verb,
        leader: Option<&str>,
        candidate: Option<&str>,
        lag_limit: u64,
    ) -> Option<String> {
        let what = noun(verb);
        if leader.is_some() && self.leader.as_deref() != leader {
            return Some("leader name does not match".into());
        }
        let sync = self.sync_names();
        let candidates: Vec<_> = match (candidate, sync) {
            (Some(candidate), sync) => {
                if verb == Verb::Switchover && sync.is_some_and(|names| !names.contains(&candidate)) {
                    return Some("candidate name does not match with sync_standby".into());
                }
                let found: Vec<_> = self.members.iter().filter(|(name, _)| name == candidate).collect();
                if found.is_empty() {
                    return Some("candidate does not exists".into());
                }
                found
            }
            (None, Some(names)) => {
                let found: Vec<_> =
                    self.members.iter().filter(|(name, _)| names.contains(&name.as_str())).collect();
                if found.is_empty() {
                    return Some(format!("{what} is not possible: can not find sync_standby"));
                }
                found
            }
            (None, None) => {
                let found: Vec<_> = self
                    .members
                    .iter()
                    .filter(|(name, _)| Some(name.as_str()) != self.leader.as_deref())
                    .collect();
                if found.is_empty() {
                    return Some(format!(
                        "{what} is not possible: cluster does not have members except leader"
                    ));
                }
                found
            }
        };
        let good = candidates.iter().any(|(_, record)| {
            let lag = self
                .last_lsn
                .map_or(0, |last| last.0.saturating_sub(record.xlog_location.unwrap_or_default().0));
            record.role == MemberRole::Replica
                && record.state.as_str() == "running"
                && !record.tags.nofailover()
                && lag <= lag_limit
        });
        (!good).then(|| format!("{what} is not possible: no good candidates have been found"))
    }
}

fn noun(verb: Verb) -> &'static str {
    if verb == Verb::Failover { "failover" } else { "switchover" }
}

/// "switched" or "failed".
fn done(verb: Verb) -> &'static str {
    if verb == Verb::Failover { "failed" } else { "switched" }
}

fn title(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
}

async fn switchover(verb: Verb, body: &Map<String, Value>, shared: &Arc<Shared>) -> Answer {
    let field = |name: &str| body.get(name).and_then(Value::as_str).filter(|value| !value.is_empty());
    let (leader, candidate) = (field("leader"), field("candidate").or_else(|| field("member")));
    let scheduled = field("scheduled_at");
    let paused = shared.snapshot().cluster.paused;

    // In Patroni's order, so that of two mistakes the same one is named.
    if verb == Verb::Failover && candidate.is_none() {
        return Answer::text(400, "Failover could be performed only to a specific candidate");
    }
    if verb == Verb::Switchover && leader.is_none() {
        return Answer::text(400, "Switchover could be performed only from a specific leader");
    }
    let at = match scheduled {
        Some(_) if verb == Verb::Failover => return Answer::text(400, "Failover can't be scheduled"),
        Some(_) if paused => return Answer::text(400, "Can't schedule switchover in the paused state"),
        Some(text) => match schedule(text) {
            Ok(at) => Some(at),
            Err(refusal) => return refusal,
        },
        None => None,
    };
    if paused && candidate.is_none() {
        return Answer::text(400, "Switchover is possible only to a specific candidate in a paused state");
    }
    // A failover that names the leader it expects is a switchover.
    let verb = if leader.is_some() { Verb::Switchover } else { verb };
    if leader.is_some() && leader == candidate {
        return Answer::text(400, "Switchover target and source are the same");
    }
    let situation = match read(shared).await {
        Ok(reading) => Situation::of(shared, &reading),
        Err(refusal) => return refusal,
    };
    let lag_limit = shared.snapshot().cluster.maximum_lag_on_failover;
    if at.is_none()
        && let Some(obstacle) = situation.obstacle(verb, leader, candidate, lag_limit)
    {
        return Answer::text(412, obstacle);
    }
    let request = FailoverRequest {
        leader: leader.map(str::to_owned),
        member: candidate.map(str::to_owned),
        scheduled_at: at.as_ref().map(|at| at.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()),
    };
    let written = shared
        .registry
        .write_at(&Key::Failover, situation.failover_at, request.to_json(), STORE_TIMEOUT)
        .await;
    if let Err(error) = written {
        tracing::warn!(%error, "the failover key was not written");
        return Answer::text(503, "failed to write failover key into DCS");
    }
    tracing::info!(leader, candidate, scheduled_at = request.scheduled_at, "received {} request", noun(verb));
    shared.wake.notify_one();
    if at.is_some() {
        return Answer::text(202, "Switchover scheduled");
    }
    outcome(verb, situation.leader.as_deref(), candidate, shared).await
}

/// Waits until the lock has moved, or the request is gone without.
async fn outcome(verb: Verb, before: Option<&str>, candidate: Option<&str>, shared: &Shared) -> Answer {
    let deadline = tokio::time::Instant::now() + OUTCOME_TIMEOUT;
    let mut promotion = None;
    while tokio::time::Instant::now() < deadline {
        tokio::time::sleep(POLL).await;
        let Ok(reading) = shared.registry.read(STORE_TIMEOUT).await else { continue };
        let situation = Situation::of(shared, &reading);
        if let Some(leader) = situation.leader.as_deref().filter(|leader| Some(*leader) != before) {
            // The lock has moved. "Successfully" should mean that one can write, so wait for that a little.
            let promoted = situation
                .members
                .iter()
                .any(|(name, record)| name == leader && record.role == MemberRole::Primary);
            let patience = *promotion.get_or_insert_with(|| tokio::time::Instant::now() + PROMOTION_TIMEOUT);
            if !promoted && tokio::time::Instant::now() < patience {
                continue;
            }
            return match candidate {
                Some(wanted) if wanted != leader => Answer::text(
                    200,
                    format!("{} over to \"{leader}\" instead of \"{wanted}\"", title(done(verb))),
                ),
                _ => Answer::text(200, format!("Successfully {} over to \"{leader}\"", done(verb))),
            };
        }
        if situation.leader.is_some() && situation.failover.is_empty() {
            return Answer::text(503, format!("{} failed", title(noun(verb))));
        }
    }
    Answer::text(503, format!("{} status unknown", title(noun(verb))))
}

/// A time with its zone, in the future.
fn schedule(text: &str) -> Result<jiff::Zoned, Answer> {
    let Ok(at) = text.parse::<jiff::Timestamp>() else {
        return Err(if text.parse::<jiff::civil::DateTime>().is_ok() {
            Answer::text(400, "Timezone information is mandatory for the scheduled switchover")
        } else {
            Answer::text(
                422,
                "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO 8601",
            )
        });
    };
    if at <= jiff::Timestamp::now() {
        return Err(Answer::text(422, "Cannot schedule switchover in the past"));
    }
    Ok(at.to_zoned(jiff::tz::TimeZone::UTC))
}

async fn cancel_switchover(shared: &Arc<Shared>) -> Answer {
    let situation = match read(shared).await {
        Ok(reading) => Situation::of(shared, &reading),
        Err(refusal) => return refusal,
    };
    if situation.failover.scheduled_at.is_none() {
        return Answer::text(404, "no switchover is scheduled");
    }
    match shared.registry.write_at(&Key::Failover, situation.failover_at, "{}".into(), STORE_TIMEOUT).await {
        Ok(()) => Answer::text(200, "scheduled switchover deleted"),
        Err(_) => Answer::text(409, "failed to delete scheduled switchover"),
    }
}

// --- restart and reinitialize -----------------------------------------------------------------------------------------

async fn restart(body: &Map<String, Value>, shared: &Arc<Shared>) -> Answer {
    let snapshot = shared.snapshot();
    let instance = &snapshot.instance;
    let mut matches = true;
    for (name, value) in body {
        match name.as_str() {
            "schedule" => return Answer::text(400, "scheduled restarts are not supported"),
            "role" => match value.as_str() {
                Some(role @ ("primary" | "master" | "standby_leader" | "replica")) => {
                    matches &= if role == "master" { "primary" } else { role } == instance.role;
                }
                _ => {
                    return Answer::text(
                        400,
                        "PostgreSQL role should be either primary, standby_leader, or replica",
                    );
                }
            },
            "postgres_version" => {
                let wanted = value.as_str().unwrap_or("");
                let Some(version) = version_number(wanted) else {
                    return Answer::text(400, format!("Invalid PostgreSQL version: {wanted}"));
                };
                matches &= instance.server_version.is_none_or(|have| have < version);
            }
            "timeout" => {
                if value.as_u64().is_none_or(|seconds| seconds == 0) {
                    return Answer::text(400, "Timeout should be a positive number of seconds");
                }
            }
            "restart_pending" => {
                matches &= value != &Value::Bool(true) || instance.restart_pending;
            }
            other => return Answer::text(400, format!("Unknown filter for the scheduled restart: {other}")),
        }
    }
    if !matches {
        return Answer::text(503, "restart conditions are not satisfied");
    }
    if instance.state == "starting" {
        return Answer::text(503, "postgres is still starting");
    }
    let wait = body.get("timeout").and_then(Value::as_u64).map_or(RESTART_TIMEOUT, Duration::from_secs);
    match ask(shared, wait, Request::Restart).await {
        Ok(()) => Answer::text(200, "restarted successfully"),
        Err(why) => Answer::text(503, why),
    }
}

/// 150018 of `15.18`, 90624 of `9.6.24`.
fn version_number(text: &str) -> Option<u32> {
    let parts: Vec<u32> = text.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    match parts[..] {
        [major, minor] if major >= 10 => Some(major * 10_000 + minor),
        [major, minor, patch] if major < 10 => Some(major * 10_000 + minor * 100 + patch),
        _ => None,
    }
}

async fn reinitialize(shared: &Arc<Shared>) -> Answer {
    match ask(shared, STORE_TIMEOUT * 2, Request::Reinitialize).await {
        Ok(()) => Answer::text(200, "reinitialize started"),
        Err(why) => Answer::text(503, why),
    }
}

async fn ask(
    shared: &Shared,
    wait: Duration,
    request: impl FnOnce(oneshot::Sender<Result<(), String>>) -> Request,
) -> Result<(), String> {
    let (reply, answer) = oneshot::channel();
    shared.requests.try_send(request(reply)).map_err(|_| "too many requests at once".to_owned())?;
    shared.wake.notify_one();
    match tokio::time::timeout(wait, answer).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err("the agent is shutting down".into()),
        Err(_) => Err("no answer in time; it may still happen".into()),
    }
}

// --- configuration ----------------------------------------------------------------------------------------------------

async fn configure(verb: Verb, body: &Map<String, Value>, shared: &Arc<Shared>) -> Answer {
    let reading = match read(shared).await {
        Ok(reading) => reading,
        Err(refusal) => return refusal,
    };
    let path = shared.registry.keys().path(&Key::Config);
    let current = reading.text(&path).and_then(|text| serde_json::from_str::<Value>(text).ok());
    let before = current.as_ref().map(|config| quorate_ha::budget::check_config(&local(shared), config));
    let document = match (verb, current) {
        (Verb::PatchConfig, Some(mut config)) => {
            // Who asks for a preset means its times, whatever was written before; those in the same patch win.
            if let (Some(Value::String(_)), Some(times)) = (body.get("preset"), config.as_object_mut()) {
                times.retain(|key, _| !Preset::KEYS.contains(&key.as_str()));
            }
            merge(&mut config, body);
            config
        }
        (Verb::PatchConfig, None) => return Answer::text(503, "the cluster has no configuration yet"),
        _ => Value::Object(body.clone()),
    };
    // Times that do not fit are refused with the term to change. Who inherits them may still change the rest.
    let verdict = quorate_ha::budget::check_config(&local(shared), &document);
    if let Err(error) = &verdict
        && before.as_ref() != Some(&verdict)
    {
        return Answer::text(400, format!("the configuration is not changed: {error}"));
    }
    let text = document.to_string();
    if reading.text(&path) != Some(&text) {
        let at = reading.kvs.get(&path).map(|kv| kv.mod_revision);
        match shared.registry.write_at(&Key::Config, at, text, STORE_TIMEOUT).await {
            Ok(()) => {}
            Err(WriteError::GuardFailed) => {
                return Answer::text(409, "the configuration was changed meanwhile");
            }
            Err(error) => {
                tracing::warn!(%error, "the configuration was not written");
                return Answer::text(
                    if verb == Verb::PutConfig { 502 } else { 503 },
                    "the store does not answer",
                );
            }
        }
        shared.wake.notify_one();
    }
    Answer::json(200, &document)
}

/// Patroni's `patch_config`: objects are merged, null removes, everything else replaces.
fn merge(into: &mut Value, patch: &Map<String, Value>) {
    if !into.is_object() {
        *into = Value::Object(Map::new());
    }
    let Value::Object(object) = into else { return };
    for (name, value) in patch {
        match value {
            Value::Null => {
                object.shift_remove(name);
            }
            Value::Object(patch) if object.get(name).is_some_and(Value::is_object) => {
                if let Some(inner) = object.get_mut(name) {
                    merge(inner, patch);
                }
            }
            other => {
                object.insert(name.clone(), other.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patches_merge_deeply_and_null_removes() {
        let mut config =
            json!({"ttl": 30, "postgresql": {"parameters": {"a": 1, "b": 2}, "use_slots": true}});
        let Value::Object(patch) =
            json!({"ttl": 20, "postgresql": {"parameters": {"a": null, "c": 3}}, "x": {"y": 1}})
        else {
            unreachable!()
        };
        merge(&mut config, &patch);
        let expected = json!({"ttl": 20, "postgresql": {"parameters": {"b": 2, "c": 3}, "use_slots": true}, "x": {"y": 1}});
        assert_eq!(config.to_string(), expected.to_string());
    }

    #[test]
    fn schedules_are_refused_with_patronis_words() {
        let code = |text: &str| schedule(text).map(|_| 202).unwrap_or_else(|refusal| refusal.code);
        assert_eq!(code("2020-01-01T00:00+00"), 422);
        assert_eq!(code("2040-01-01T00:00"), 400);
        assert_eq!(code("garbage"), 422);
        assert_eq!(code("2040-01-01T00:00+00"), 202);
        assert_eq!(code("2040-01-01T00:00:00Z"), 202);
        assert_eq!(code("2040-01-01 00:00:00+02:00"), 202);
    }

    #[test]
    fn versions_are_read_as_postgresql_counts() {
        assert_eq!(version_number("15.18"), Some(150_018));
        assert_eq!(version_number("9.6.24"), Some(90_624));
        assert_eq!(version_number("x"), None);
    }

    fn situation() -> Situation {
        let record = |role, lsn| MemberRecord {
            role,
            state: quorate_ha::cluster::MemberState::Running,
            xlog_location: Some(Lsn(lsn)),
            ..MemberRecord::default()
        };
        Situation {
            leader: Some("node1".into()),
            members: vec![
                ("node1".into(), record(MemberRole::Primary, 1000)),
                ("node2".into(), record(MemberRole::Replica, 1000)),
                ("node3".into(), record(MemberRole::Replica, 10)),
            ],
            sync: None,
            last_lsn: Some(Lsn(1000)),
            failover_at: None,
            failover: FailoverRequest::default(),
        }
    }

    #[test]
    fn obstacles_are_named_as_patroni_names_them() {
        let mut now = situation();
        let ask = |now: &Situation, leader, candidate| now.obstacle(Verb::Switchover, leader, candidate, 100);
        assert_eq!(ask(&now, Some("node1"), Some("node2")), None);
        assert_eq!(ask(&now, Some("node1"), None), None);
        assert_eq!(ask(&now, Some("nodeX"), None).unwrap(), "leader name does not match");
        assert_eq!(ask(&now, Some("node1"), Some("nope")).unwrap(), "candidate does not exists");
        assert_eq!(
            ask(&now, Some("node1"), Some("node3")).unwrap(),
            "switchover is not possible: no good candidates have been found",
            "it lags"
        );
        now.sync = SyncDocument::parse(r#"{"leader":"node1","sync_standby":"node3"}"#).ok();
        assert_eq!(
            ask(&now, Some("node1"), Some("node2")).unwrap(),
            "candidate name does not match with sync_standby"
        );
        now.members.truncate(1);
        assert_eq!(
            ask(&now, Some("node1"), None).unwrap(),
            "switchover is not possible: can not find sync_standby"
        );
        now.sync = None;
        assert_eq!(
            ask(&now, Some("node1"), None).unwrap(),
            "switchover is not possible: cluster does not have members except leader"
        );
    }
}
