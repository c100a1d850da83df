//! The JSON documents, in Patroni's layout. What Quorate adds stands beside Patroni's fields, never instead.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::Revision;
use crate::facts::{Lsn, Position, TimelineId};

/// A document that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {why}")]
pub struct DocumentError {
    /// Which document.
    pub key: &'static str,
    /// What is wrong with it.
    pub why: String,
}

/// `/members/<name>`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemberRecord {
    /// `postgres://host:port/database`.
    pub conn_url: String,
    /// `http://host:port/patroni`.
    pub api_url: String,
    /// As of its last tick.
    pub state: MemberState,
    /// As of its last tick.
    pub role: MemberRole,
    /// The agent's version.
    pub version: String,
    /// Only of a running instance.
    pub timeline: Option<TimelineId>,
    /// `xlog_location`: written (primary), or the larger of received and replayed (standby).
    pub xlog_location: Option<Lsn>,
    /// Received and flushed (standby).
    pub receive_lsn: Option<Lsn>,
    /// Replayed (standby).
    pub replay_lsn: Option<Lsn>,
    /// `replication_state`: "streaming", "in archive recovery".
    pub replication_state: Option<String>,
    /// Tags, without those that are false.
    pub tags: Tags,
    /// A changed setting waits for a restart.
    pub pending_restart: bool,
    /// False until a primary has checkpointed on its timeline (published only while false, as Patroni does): nobody
    /// rewinds from it before.
    pub checkpoint_after_promote: bool,
    /// This node honours a pause.
    pub pause: bool,
    /// Quorate's, of a primary: where the oldest WAL begins that it still has. Patroni ignores it.
    pub wal_start: Option<Lsn>,
    /// Quorate's: where this standby stood after its WAL receiver was gone, for the race. Patroni ignores it.
    pub race: Option<RaceStamp>,
    /// Fields of other writers, kept as they are.
    pub other: BTreeMap<String, Value>,
}

/// "At this revision the lock was absent and my WAL receiver was gone, and this is all I have."
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaceStamp {
    /// The absence of the lock that it belongs to: see [`super::Lock::Absent`].
    pub revision: Revision,
    /// What it has.
    pub position: Position,
}

/// `state`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub enum MemberState {
    Running,
    Starting,
    Stopping,
    #[default]
    Stopped,
    Crashed,
    InitializingNewCluster,
    CreatingReplica,
    RunningRewind,
    Restarting,
    StartFailed,
    Other(String),
}

impl MemberState {
    /// Patroni's word.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            MemberState::Running => "running",
            MemberState::Starting => "starting",
            MemberState::Stopping => "stopping",
            MemberState::Stopped => "stopped",
            MemberState::Crashed => "crashed",
            MemberState::InitializingNewCluster => "initializing new cluster",
            MemberState::CreatingReplica => "creating replica",
            MemberState::RunningRewind => "running pg_rewind",
            MemberState::Restarting => "restarting",
            MemberState::StartFailed => "start failed",
            MemberState::Other(other) => other,
        }
    }
    /// Any of Patroni's words; a replica that streams says "streaming" in some versions.
    #[must_use]
    pub fn parse(text: &str) -> MemberState {
        match text {
            "running" | "streaming" | "in archive recovery" => MemberState::Running,
            "starting" => MemberState::Starting,
            "stopping" => MemberState::Stopping,
            "stopped" => MemberState::Stopped,
            "crashed" => MemberState::Crashed,
            "initializing new cluster" => MemberState::InitializingNewCluster,
            "creating replica" => MemberState::CreatingReplica,
            "running pg_rewind" => MemberState::RunningRewind,
            "restarting" => MemberState::Restarting,
            "start failed" => MemberState::StartFailed,
            other => MemberState::Other(other.to_owned()),
        }
    }
}

/// `role`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub enum MemberRole {
    Primary,
    Replica,
    Demoted,
    #[default]
    Uninitialized,
}

impl MemberRole {
    /// Patroni 4's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            MemberRole::Primary => "primary",
            MemberRole::Replica => "replica",
            MemberRole::Demoted => "demoted",
            MemberRole::Uninitialized => "uninitialized",
        }
    }
    /// Any of Patroni's words, old ones too.
    #[must_use]
    pub fn parse(text: &str) -> MemberRole {
        match text {
            "primary" | "master" | "promoted" | "standby_leader" => MemberRole::Primary,
            "demoted" => MemberRole::Demoted,
            "uninitialized" => MemberRole::Uninitialized,
            _ => MemberRole::Replica,
        }
    }
}

/// Tags, with Patroni's defaults. Those that Quorate does not read are kept for `?tag_x=y`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tags(pub BTreeMap<String, Value>);

impl Tags {
    fn flag(&self, name: &str) -> bool {
        match self.0.get(name) {
            Some(Value::Bool(on)) => *on,
            Some(Value::String(text)) => {
                matches!(text.to_ascii_lowercase().as_str(), "true" | "on" | "yes" | "1")
            }
            Some(Value::Number(number)) => number.as_i64() != Some(0),
            Some(_) | None => false,
        }
    }
    /// May never be promoted by itself: `nofailover`, or `failover_priority` of 0 or less. The former wins.
    #[must_use]
    pub fn nofailover(&self) -> bool {
        self.flag("nofailover") || (!self.0.contains_key("nofailover") && self.failover_priority() <= 0)
    }
    /// `failover_priority`, default 1.
    #[must_use]
    pub fn failover_priority(&self) -> i64 {
        match self.0.get("failover_priority") {
            Some(Value::Number(number)) => number.as_i64().unwrap_or(1),
            Some(Value::String(text)) => text.parse().unwrap_or(1),
            Some(_) | None => 1,
        }
    }
    /// `noloadbalance`.
    #[must_use]
    pub fn noloadbalance(&self) -> bool {
        self.flag("noloadbalance")
    }
    /// `clonefrom`.
    #[must_use]
    pub fn clonefrom(&self) -> bool {
        self.flag("clonefrom")
    }
    /// `nosync`.
    #[must_use]
    pub fn nosync(&self) -> bool {
        self.flag("nosync")
    }
}

fn object(key: &'static str, text: &str) -> Result<Map<String, Value>, DocumentError> {
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(DocumentError { key, why: "not a JSON object".to_owned() }),
        Err(error) => Err(DocumentError { key, why: error.to_string() }),
    }
}

fn text(map: &mut Map<String, Value>, name: &str) -> Option<String> {
    match map.shift_remove(name) {
        Some(Value::String(text)) => Some(text),
        Some(_) | None => None,
    }
}

fn number(map: &mut Map<String, Value>, name: &str) -> Option<u64> {
    match map.shift_remove(name) {
        Some(Value::Number(number)) => number.as_u64(),
        Some(Value::String(text)) => text.parse().ok(),
        Some(_) | None => None,
    }
}

impl MemberRecord {
    /// What is left when all that moves with the WAL is taken out.
    #[must_use]
    pub fn without_positions(&self) -> MemberRecord {
        MemberRecord {
            xlog_location: None,
            receive_lsn: None,
            replay_lsn: None,
            wal_start: None,
            ..self.clone()
        }
    }

    /// Reads Patroni's layout, of any version; unknown fields are kept.
    pub fn parse(json: &str) -> Result<MemberRecord, DocumentError> {
        let mut map = object("member", json)?;
        let race = match map.shift_remove("race") {
            Some(Value::Object(mut race)) => (|| {
                Some(RaceStamp {
                    revision: Revision(i64::try_from(number(&mut race, "revision")?).ok()?),
                    position: Position {
                        timeline: TimelineId(u32::try_from(number(&mut race, "timeline")?).ok()?),
                        lsn: Lsn(number(&mut race, "lsn")?),
                    },
                })
            })(),
            Some(_) | None => None,
        };
        let tags = match map.shift_remove("tags") {
            Some(Value::Object(tags)) => Tags(tags.into_iter().collect()),
            Some(_) | None => Tags::default(),
        };
        let timeline = number(&mut map, "timeline").and_then(|t| u32::try_from(t).ok()).map(TimelineId);
        let mut flag = |name: &str, default: bool| match map.shift_remove(name) {
            Some(Value::Bool(on)) => on,
            Some(_) | None => default,
        };
        Ok(MemberRecord {
            pending_restart: flag("pending_restart", false),
            checkpoint_after_promote: flag("checkpoint_after_promote", true),
            pause: flag("pause", false),
            conn_url: text(&mut map, "conn_url").unwrap_or_default(),
            api_url: text(&mut map, "api_url").unwrap_or_default(),
            state: MemberState::parse(&text(&mut map, "state").unwrap_or_default()),
            role: MemberRole::parse(&text(&mut map, "role").unwrap_or_default()),
            version: text(&mut map, "version").unwrap_or_default(),
            timeline,
            xlog_location: number(&mut map, "xlog_location").map(Lsn),
            receive_lsn: number(&mut map, "receive_lsn").map(Lsn),
            replay_lsn: number(&mut map, "replay_lsn").map(Lsn),
            wal_start: number(&mut map, "wal_start").map(Lsn),
            replication_state: text(&mut map, "replication_state"),
            tags,
            race,
            other: map.into_iter().collect(),
        })
    }

    /// Patroni's layout: fields in its order, false flags and false tags left out.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut map = Map::new();
        let mut put = |name: &str, value: Value| map.insert(name.to_owned(), value);
        put("conn_url", json!(self.conn_url));
        put("api_url", json!(self.api_url));
        put("state", json!(self.state.as_str()));
        put("role", json!(self.role.as_str()));
        put("version", json!(self.version));
        let tags: Map<String, Value> = self
            .tags
            .0
            .iter()
            .filter(|(_, v)| **v != Value::Bool(false))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        if !tags.is_empty() {
            put("tags", Value::Object(tags));
        }
        if self.pending_restart {
            put("pending_restart", json!(true));
        }
        if !self.checkpoint_after_promote {
            put("checkpoint_after_promote", json!(false));
        }
        if let Some(lsn) = self.xlog_location {
            put("xlog_location", json!(lsn.0));
        }
        if let Some(lsn) = self.receive_lsn {
            put("receive_lsn", json!(lsn.0));
        }
        if let Some(lsn) = self.replay_lsn {
            put("replay_lsn", json!(lsn.0));
        }
        if let Some(lsn) = self.wal_start {
            put("wal_start", json!(lsn.0));
        }
        if let Some(state) = &self.replication_state {
            put("replication_state", json!(state));
        }
        if let Some(timeline) = self.timeline {
            put("timeline", json!(timeline.0));
        }
        if self.pause {
            put("pause", json!(true));
        }
        if let Some(race) = &self.race {
            let Position { timeline, lsn } = race.position;
            put("race", json!({"revision": race.revision.0, "timeline": timeline.0, "lsn": lsn.0}));
        }
        for (name, value) in &self.other {
            put(name, value.clone());
        }
        Value::Object(map).to_string()
    }
}

/// `/sync`: Patroni's three fields, and beside them the entries that a promotion is judged by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SyncDocument {
    /// The last node that was allowed to acknowledge commits under these entries: it has all of them.
    pub leader: Option<String>,
    /// Every commit acknowledged so far was confirmed by one of the settings listed: for each commit there is an entry
    /// of which `confirm` members have it. The last entry is the one wanted now, or being changed to; the others are
    /// still possible. Empty: commits wait for nobody and nobody is bound.
    pub entries: Vec<SyncEntry>,
}

/// One setting: these standbys, of which so many confirm each commit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct SyncEntry {
    /// The standbys.
    pub members: BTreeSet<String>,
    /// How many of them confirm; 0 (with no members): the primary alone, nobody else may be promoted.
    pub confirm: usize,
}

impl SyncDocument {
    /// Reads Patroni's layout. A document without entries (written by Patroni) is read with the most cautious one: one
    /// confirmation of any of the named standbys.
    pub fn parse(json: &str) -> Result<SyncDocument, DocumentError> {
        let mut map = object("sync", json)?;
        let leader = text(&mut map, "leader").filter(|name| !name.is_empty());
        let entries = match map.shift_remove("entries") {
            Some(Value::Array(entries)) => {
                let bad =
                    || DocumentError { key: "sync", why: "an entry is not {members, confirm}".to_owned() };
                let mut parsed = Vec::new();
                for entry in entries {
                    let Value::Object(mut entry) = entry else { return Err(bad()) };
                    let Some(Value::Array(members)) = entry.shift_remove("members") else {
                        return Err(bad());
                    };
                    let members =
                        members.iter().map(|m| m.as_str().map(str::to_owned)).collect::<Option<_>>();
                    let confirm = number(&mut entry, "confirm").and_then(|n| usize::try_from(n).ok());
                    let (Some(members), Some(confirm)) = (members, confirm) else { return Err(bad()) };
                    parsed.push(SyncEntry { members, confirm });
                }
                parsed
            }
            Some(_) => return Err(DocumentError { key: "sync", why: "entries is not a list".to_owned() }),
            None => match (&leader, text(&mut map, "sync_standby")) {
                (Some(_), Some(names)) if !names.is_empty() => {
                    let members = names.split(',').map(|n| n.trim().to_owned()).collect();
                    vec![SyncEntry { members, confirm: 1 }]
                }
                (Some(_), _) => vec![SyncEntry::default()],
                (None, _) => Vec::new(),
            },
        };
        Ok(SyncDocument { leader, entries })
    }

    /// Patroni's fields for its readers (the standbys that are sure to have every commit), then the entries.
    #[must_use]
    pub fn to_json(&self) -> String {
        let standbys =
            self.settled().map(|entry| entry.members.iter().cloned().collect::<Vec<_>>().join(","));
        let standbys = standbys.filter(|names| !names.is_empty());
        let quorum = self.settled().map_or(0, |entry| entry.members.len().saturating_sub(entry.confirm));
        let entries: Vec<Value> =
            self.entries.iter().map(|e| json!({"members": e.members, "confirm": e.confirm})).collect();
        json!({"leader": self.leader, "quorum": quorum, "sync_standby": standbys, "entries": entries})
            .to_string()
    }

    /// The one entry of a document at rest; None while it changes.
    #[must_use]
    pub fn settled(&self) -> Option<&SyncEntry> {
        match self.entries.as_slice() {
            [entry] => Some(entry),
            _ => None,
        }
    }
}

/// `/history`: one line per timeline that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History(pub Vec<HistoryLine>);

/// `[timeline, lsn, reason, timestamp, new leader]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryLine {
    /// The timeline that ended.
    pub timeline: TimelineId,
    /// Where.
    pub ended_at: Lsn,
    /// As PostgreSQL wrote it.
    pub why: String,
    /// When, RFC 3339; Patroni leaves it out in old documents.
    pub timestamp: Option<String>,
    /// Who was promoted to the next timeline; old documents leave it out.
    pub new_leader: Option<String>,
}

impl History {
    /// Patroni's layout; trailing fields may be missing.
    pub fn parse(json: &str) -> Result<History, DocumentError> {
        let bad = |why: &str| DocumentError { key: "history", why: why.to_owned() };
        let lines: Vec<Vec<Value>> = serde_json::from_str(json).map_err(|e| bad(&e.to_string()))?;
        let mut history = Vec::new();
        for line in lines {
            let timeline = line.first().and_then(Value::as_u64).and_then(|t| u32::try_from(t).ok());
            let lsn = line.get(1).and_then(Value::as_u64);
            let (Some(timeline), Some(lsn)) = (timeline, lsn) else {
                return Err(bad("a line does not start with timeline and position"));
            };
            let text = |at: usize| line.get(at).and_then(Value::as_str).map(str::to_owned);
            history.push(HistoryLine {
                timeline: TimelineId(timeline),
                ended_at: Lsn(lsn),
                why: text(2).unwrap_or_default(),
                timestamp: text(3),
                new_leader: text(4),
            });
        }
        Ok(History(history))
    }
    /// Patroni's layout.
    #[must_use]
    pub fn to_json(&self) -> String {
        let lines = self.0.iter().map(|line| {
            let mut fields = vec![json!(line.timeline.0), json!(line.ended_at.0), json!(line.why)];
            fields.extend(line.timestamp.iter().map(|t| json!(t)));
            if line.timestamp.is_some() {
                fields.extend(line.new_leader.iter().map(|l| json!(l)));
            }
            Value::Array(fields)
        });
        Value::Array(lines.collect()).to_string()
    }
    /// The timeline that the cluster is on: the one after the last that ended; 1 without any.
    #[must_use]
    pub fn current(&self) -> TimelineId {
        TimelineId(self.0.iter().map(|line| line.timeline.0).max().unwrap_or(0).saturating_add(1))
    }
    /// Where `timeline` ended; None while it is current.
    #[must_use]
    pub fn end_of(&self, timeline: TimelineId) -> Option<Lsn> {
        self.0.iter().find(|line| line.timeline == timeline).map(|line| line.ended_at)
    }
    /// Who was promoted to `timeline`, if known.
    #[must_use]
    pub fn leader_of(&self, timeline: TimelineId) -> Option<&str> {
        self.0
            .iter()
            .find(|line| line.timeline.0.checked_add(1) == Some(timeline.0))
            .and_then(|line| line.new_leader.as_deref())
    }
}

/// `/failover`: a switchover (with leader) or a manual failover (without).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FailoverRequest {
    /// Who is expected to be the holder.
    pub leader: Option<String>,
    /// The candidate.
    pub member: Option<String>,
    /// RFC 3339; None: now. See [`crate::Observation::scheduled_in`].
    pub scheduled_at: Option<String>,
}

impl FailoverRequest {
    /// Patroni's layout, or its legacy `leader:candidate`.
    pub fn parse(text: &str) -> Result<FailoverRequest, DocumentError> {
        if !text.trim_start().starts_with('{') {
            let some = |name: &str| Some(name.trim().to_owned()).filter(|name| !name.is_empty());
            let (leader, member) = text.split_once(':').unwrap_or((text, ""));
            return Ok(FailoverRequest { leader: some(leader), member: some(member), scheduled_at: None });
        }
        let mut map = object("failover", text)?;
        let mut field = |name: &str| self::text(&mut map, name).filter(|value| !value.is_empty());
        Ok(FailoverRequest {
            leader: field("leader"),
            member: field("member").or_else(|| field("candidate")),
            scheduled_at: field("scheduled_at"),
        })
    }
    /// Patroni's layout; `{}` for nothing.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut map = Map::new();
        for (name, value) in
            [("leader", &self.leader), ("member", &self.member), ("scheduled_at", &self.scheduled_at)]
        {
            if let Some(value) = value {
                map.insert(name.to_owned(), json!(value));
            }
        }
        Value::Object(map).to_string()
    }
    /// It asks for nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leader.is_none() && self.member.is_none()
    }
}

/// `/suspicion`: the holder of a lock is thought to be gone. Changes nothing by itself; see `takeover`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Suspicion {
    /// The holder.
    pub suspect: String,
    /// The create revision of the lock that it holds: with any other lock the suspicion means nothing.
    pub lock: Revision,
    /// Who said so first.
    pub by: String,
    /// What it had seen, as a sentence.
    pub why: String,
    /// The lock was taken away on the strength of this.
    pub revoked: bool,
}

impl Suspicion {
    /// Reads what [`Suspicion::to_json`] writes.
    pub fn parse(json: &str) -> Result<Suspicion, DocumentError> {
        let mut map = object("suspicion", json)?;
        let revoked = map.get("revoked") == Some(&Value::Bool(true));
        let lock = number(&mut map, "lock").and_then(|lock| i64::try_from(lock).ok());
        let mut field = |name: &str| self::text(&mut map, name).filter(|value| !value.is_empty());
        let (Some(suspect), Some(lock)) = (field("suspect"), lock) else {
            return Err(DocumentError { key: "suspicion", why: "it names no suspect or no lock".to_owned() });
        };
        let (by, why) = (field("by").unwrap_or_default(), field("why").unwrap_or_default());
        Ok(Suspicion { suspect, lock: Revision(lock), by, why, revoked })
    }
    /// One object.
    #[must_use]
    pub fn to_json(&self) -> String {
        let Suspicion { suspect, lock, by, why, revoked } = self;
        json!({"suspect": suspect, "lock": lock.0, "by": by, "why": why, "revoked": revoked}).to_string()
    }
}

/// `/status`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// The holder's last published WAL position.
    pub optime: Lsn,
    /// Slot positions by slot name.
    pub slots: BTreeMap<String, Lsn>,
}

impl Status {
    /// Patroni's layout, or a bare number (its legacy `/optime/leader`).
    pub fn parse(text: &str) -> Result<Status, DocumentError> {
        if let Ok(optime) = text.trim().parse() {
            return Ok(Status { optime: Lsn(optime), slots: BTreeMap::new() });
        }
        let mut map = object("status", text)?;
        let optime = Lsn(number(&mut map, "optime").unwrap_or(0));
        let slots = match map.shift_remove("slots") {
            Some(Value::Object(slots)) => {
                slots.iter().filter_map(|(name, lsn)| Some((name.clone(), Lsn(lsn.as_u64()?)))).collect()
            }
            Some(_) | None => BTreeMap::new(),
        };
        Ok(Status { optime, slots })
    }
    /// Patroni's layout.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut map = Map::new();
        map.insert("optime".to_owned(), json!(self.optime.0));
        if !self.slots.is_empty() {
            map.insert("slots".to_owned(), json!(self.slots));
        }
        Value::Object(map).to_string()
    }
}
