//! The language of the scripts. `cluster` begins with a healthy cluster of n1 (primary, holds the lock since revision 20 on
//! lease 7), n2 and n3 (standbys), seen by `me` (n1 unless said otherwise) at 100 s; every further line changes one thing;
//! `decide` prints the decision. Times are seconds since boot.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use goldenscript::{Argument, Command};
use quorate_ha::cluster::*;
use quorate_ha::facts::*;
use quorate_ha::*;
use serde_json::json;

type Failed = Box<dyn Error>;

pub(crate) fn policy(name: &str, config: &serde_json::Value) -> Policy {
    let local = LocalPolicy {
        name: name.to_owned(),
        scope: "demo".to_owned(),
        conn_url: format!("postgres://{name}:5432/postgres"),
        api_url: format!("http://{name}:8008/patroni"),
        tags: Tags::default(),
        stop_budget: Duration::from_millis(500),
        margin: Duration::from_millis(500),
        bootstrap_config: json!({"ttl": 5}),
        version: "0.1.0".to_owned(),
        unfit: None,
    };
    Policy::resolve(local, Some(config))
}

pub(crate) fn key<T>(value: T, revision: i64, lease: Option<i64>) -> Versioned<T> {
    let revision = Revision(revision);
    Versioned { value, create_revision: revision, mod_revision: revision, lease: lease.map(LeaseId) }
}

fn data(primary: bool) -> Initialised {
    Initialised {
        system_identifier: SystemId(7_710_395_948_784_291_904),
        state: if primary { ControlState::InProduction } else { ControlState::InArchiveRecovery },
        timeline: TimelineId(1),
        redo: Lsn(0x4000),
        wal_end: None,
        consistent_from: None,
        incomplete: false,
        asked: None,
        standby_signal: !primary,
        was_primary_on: primary.then_some(TimelineId(1)),
        rewind_unfinished: false,
    }
}

fn running(role: Role) -> Process {
    Process::Running(Running {
        timeline: TimelineId(1),
        role,
        server_version: 150_018,
        postmaster_start_time: "2026-11-20 23:14:14+00".to_owned(),
        pending_restart: false,
        slots: ["n1", "n2", "n3"]
            .map(|n| SlotFacts { name: n.to_owned(), active: true, physical: true })
            .to_vec(),
    })
}

fn primary(lsn: u64) -> Role {
    let replica = |name: &str| ReplicaFacts {
        name: name.to_owned(),
        streaming: true,
        flushed: Lsn(lsn),
        replayed: Lsn(lsn),
        sync_state: SyncState::Async,
    };
    Role::Primary(PrimaryFacts {
        written: Lsn(lsn),
        oldest: None,
        since: Moment(Duration::from_secs(10)),
        checkpointed: true,
        replicas: vec![replica("n2"), replica("n3")],
        synchronous_standby_names: String::new(),
        sync_effective: None,
        forked: Vec::new(),
    })
}

fn standby(lsn: u64, upstream: Option<&str>) -> Role {
    let endpoint = upstream.map(|host| Endpoint { host: host.to_owned(), port: 5432 });
    Role::Standby(StandbyFacts {
        received: Lsn(lsn),
        replayed: Lsn(lsn),
        receiver: endpoint.clone().map_or(Receiver::Gone, |from| Receiver::Streaming { from }),
        upstream: endpoint,
        complete: true,
        replay_paused: false,
    })
}

struct Script {
    o: Observation,
    config: serde_json::Value,
    chronicle: Chronicle,
    /// The store, while it does not answer.
    away: Option<StoreFacts>,
}

impl Default for Script {
    fn default() -> Script {
        Script::cluster("n1")
    }
}

/// The arguments of a line: words in order, pairs by name.
struct Words<'c>(Vec<&'c str>, BTreeMap<&'c str, &'c str>);

impl<'c> Words<'c> {
    fn of(command: &'c Command) -> Words<'c> {
        let mut words = Words(Vec::new(), BTreeMap::new());
        for argument in &command.args {
            match argument {
                Argument::Positional(word) => words.0.push(word),
                Argument::KeyValue(key, value) => drop(words.1.insert(key, value)),
                other => panic!("{other:?}"),
            }
        }
        words
    }
    fn first(&self) -> &'c str {
        self.0.first().copied().unwrap_or_default()
    }
    fn has(&self, word: &str) -> bool {
        self.0.contains(&word)
    }
    fn lsn(&self, name: &str) -> Result<Option<Lsn>, Failed> {
        Ok(self.1.get(name).map(|text| text.parse()).transpose()?)
    }
    fn number(&self, name: &str) -> Result<Option<i64>, Failed> {
        Ok(self.1.get(name).map(|text| text.parse()).transpose()?)
    }
    fn timeline(&self) -> Result<TimelineId, Failed> {
        Ok(TimelineId(u32::try_from(self.number("timeline")?.unwrap_or(1))?))
    }
    fn at(&self, name: &str) -> Result<Option<Moment>, Failed> {
        let parse =
            |text: &&str| text.parse::<f64>().map(|s| Moment(Duration::from_millis((s * 1000.0) as u64)));
        Ok(self.1.get(name).map(parse).transpose()?)
    }
}

impl Script {
    fn cluster(me: &str) -> Script {
        let config = json!({"ttl": 5, "loop_wait": 1, "retry_timeout": 1});
        let leads = me == "n1";
        let role = if leads { primary(0x5000) } else { standby(0x5000, Some("n1")) };
        let member = |name: &str| MemberRecord {
            conn_url: format!("postgres://{name}:5432/postgres"),
            api_url: format!("http://{name}:8008/patroni"),
            version: "0.1.0".to_owned(),
            state: MemberState::Running,
            role: if name == "n1" { MemberRole::Primary } else { MemberRole::Replica },
            timeline: Some(TimelineId(1)),
            xlog_location: Some(Lsn(0x5000)),
            receive_lsn: (name != "n1").then_some(Lsn(0x5000)),
            replay_lsn: (name != "n1").then_some(Lsn(0x5000)),
            replication_state: (name != "n1").then(|| "streaming".to_owned()),
            checkpoint_after_promote: true,
            ..MemberRecord::default()
        };
        let members: BTreeMap<String, MemberRecord> =
            ["n1", "n2", "n3"].map(|name| (name.to_owned(), member(name))).into();
        let until = |seconds| Moment(Duration::from_secs(seconds));
        let held = Held { holder: "n1".to_owned(), lease: LeaseId(7), create_revision: Revision(20) };
        let view = ClusterView {
            revision: Revision(30),
            initialize: Some(key(Initialize::Done(SystemId(7_710_395_948_784_291_904)), 10, None)),
            lock: Lock::Held(held),
            members: members.iter().map(|(n, r)| (n.clone(), key(r.clone(), 25, Some(5)))).collect(),
            config: Some(key(config.clone(), 11, None)),
            sync: None,
            history: None,
            failover: None,
            status: Some(key(Status { optime: Lsn(0x5000), ..Status::default() }, 29, None)),
            suspicion: None,
        };
        let o = Observation {
            now: until(100),
            policy: policy(me, &config),
            instance: InstanceFacts {
                data_directory: DataDirectory::Initialised(data(leads)),
                process: running(role),
            },
            operation: OperationFacts::Idle,
            store: StoreFacts::Available(view),
            remembered: members,
            missing: BTreeMap::new(),
            member_lease: Some(LeaseFacts { id: LeaseId(5), valid_until: until(104) }),
            primary_lease: leads.then(|| LeaseFacts { id: LeaseId(7), valid_until: until(104) }),
            scheduled_in: None,
            voters: VoterFacts {
                answering: ["n1", "n2", "n3"].map(str::to_owned).into_iter().filter(|n| n != me).collect(),
                ..VoterFacts::default()
            },
        };
        Script { o, config, chronicle: Chronicle::default(), away: None }
    }

    fn view(&mut self) -> Result<&mut ClusterView, Failed> {
        match &mut self.o.store {
            StoreFacts::Available(view) => Ok(view),
            StoreFacts::Unavailable { .. } => Err("the store is down".into()),
        }
    }

    fn data(&mut self) -> Result<&mut Initialised, Failed> {
        match &mut self.o.instance.data_directory {
            DataDirectory::Initialised(data) => Ok(data),
            _ => Err("no data directory".into()),
        }
    }

    fn running(&mut self) -> Result<&mut Running, Failed> {
        match &mut self.o.instance.process {
            Process::Running(running) => Ok(running),
            _ => Err("not running".into()),
        }
    }

    fn primary(&mut self) -> Result<&mut PrimaryFacts, Failed> {
        match &mut self.running()?.role {
            Role::Primary(facts) => Ok(facts),
            Role::Standby(_) => Err("not a primary".into()),
        }
    }

    fn line(&mut self, name: &str, words: &Words<'_>) -> Result<String, Failed> {
        let now = self.o.now;
        match name {
            "cluster" => *self = Script::cluster(words.1.get("me").copied().unwrap_or("n1")),
            "now" => {
                self.o.now = Moment(Duration::from_millis((words.first().parse::<f64>()? * 1000.0) as u64))
            }
            "config" => {
                for (name, value) in &words.1 {
                    self.config[*name] = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
                }
                let (tags, config) = (self.o.policy.local.tags.clone(), self.config.clone());
                self.o.policy = policy(&self.o.policy.local.name, &config);
                self.o.policy.local.tags = tags;
            }
            "tags" => {
                let tags = words.1.iter().map(|(n, v)| ((*n).to_owned(), serde_json::from_str(v).unwrap()));
                self.o.policy.local.tags = Tags(tags.collect());
            }
            "unfit" => {
                // As the agent publishes it.
                self.o.policy.local.tags.0.insert("nofailover".to_owned(), json!(true));
                let why = "there is no guard process: it has ended (signal: 9)".to_owned();
                let step_down = words.0.contains(&"required");
                self.o.policy.local.unfit = Some(Unfit { why, step_down });
            }
            "store" if words.has("back") => self.o.store = self.away.take().ok_or("it was not away")?,
            "store" => {
                self.away.get_or_insert(self.o.store.clone());
                self.o.store = StoreFacts::Unavailable { since: words.at("since")?.unwrap_or(now) };
            }
            "lock" => {
                let revision = Revision(words.number("rev")?.unwrap_or(30));
                let since = words.at("since")?.unwrap_or(now);
                let lease = LeaseId(words.number("lease")?.unwrap_or(7));
                self.view()?.lock = match words.first() {
                    "none" => Lock::Absent { since_revision: revision, since },
                    holder => {
                        Lock::Held(Held { holder: holder.to_owned(), lease, create_revision: revision })
                    }
                };
            }
            "lease" => {
                let lease = match words.at("until")? {
                    None => None,
                    Some(valid_until) => {
                        let default = if words.first() == "primary" { 7 } else { 5 };
                        Some(LeaseFacts { id: LeaseId(words.number("id")?.unwrap_or(default)), valid_until })
                    }
                };
                match words.first() {
                    "primary" => self.o.primary_lease = lease,
                    _ => self.o.member_lease = lease,
                }
            }
            "member" => {
                let name = words.first().to_owned();
                if words.has("gone") {
                    self.view()?.members.remove(&name);
                    return Ok(String::new());
                }
                let mut record = self.o.remembered.get(&name).cloned().unwrap_or_default();
                for word in &words.0[1..] {
                    match *word {
                        "primary" | "replica" => record.role = MemberRole::parse(word),
                        "nofailover" => drop(record.tags.0.insert("nofailover".to_owned(), json!(true))),
                        "nosync" => drop(record.tags.0.insert("nosync".to_owned(), json!(true))),
                        "nocheckpoint" => record.checkpoint_after_promote = false,
                        "checkpoint" => record.checkpoint_after_promote = true,
                        state => record.state = MemberState::parse(state),
                    }
                }
                if words.1.contains_key("timeline") {
                    record.timeline = Some(words.timeline()?);
                }
                if let Some(lsn) = words.lsn("lsn")? {
                    record.xlog_location = Some(lsn);
                }
                if let Some(lsn) = words.lsn("oldest")? {
                    record.wal_start = Some(lsn);
                }
                if let Some(priority) = words.number("priority")? {
                    record.tags.0.insert("failover_priority".to_owned(), json!(priority));
                }
                if let Some(revision) = words.number("race")? {
                    let lsn = record.xlog_location.unwrap_or_default();
                    let position = Position { timeline: record.timeline.unwrap_or(TimelineId(1)), lsn };
                    record.race = Some(RaceStamp { revision: Revision(revision), position });
                }
                self.o.remembered.insert(name.clone(), record.clone());
                self.view()?.members.insert(name, key(record, 26, Some(5)));
            }
            "data" => match words.first() {
                "missing" => self.o.instance.data_directory = DataDirectory::Missing,
                "empty" => self.o.instance.data_directory = DataDirectory::Empty,
                "cloning" => self.o.instance.data_directory = DataDirectory::CloneInProgress,
                "unreadable" => {
                    let why = "/data/pg_control: checksum mismatch".to_owned();
                    self.o.instance.data_directory = DataDirectory::Unreadable { why };
                }
                state => {
                    let mut found = data(false);
                    found.state = match state {
                        "in-production" => ControlState::InProduction,
                        "in-archive-recovery" => ControlState::InArchiveRecovery,
                        "shut-down" => ControlState::ShutDown,
                        "shut-down-in-recovery" => ControlState::ShutDownInRecovery,
                        other => return Err(format!("state {other}").into()),
                    };
                    found.timeline = words.timeline()?;
                    found.wal_end = words.lsn("end")?;
                    let consistent = words.lsn("consistent")?;
                    let timeline = found.timeline;
                    found.consistent_from = consistent.map(|lsn| Position { timeline, lsn });
                    found.incomplete = words.has("incomplete");
                    found.asked = words.1.get("asked").map(|name| (*name).to_owned());
                    found.redo = words.lsn("redo")?.unwrap_or(found.redo);
                    found.standby_signal = words.has("standby.signal");
                    found.rewind_unfinished = words.has("half-rewound");
                    let was = words.number("was_primary_on")?;
                    found.was_primary_on = was.map(|t| TimelineId(u32::try_from(t).unwrap()));
                    if let Some(id) = words.number("sysid")? {
                        found.system_identifier = SystemId(u64::try_from(id)?);
                    }
                    self.o.instance.data_directory = DataDirectory::Initialised(found);
                }
            },
            "process" => {
                let since = words.at("since")?.unwrap_or(now);
                self.o.instance.process = match words.first() {
                    "stopped" => Process::Stopped,
                    "starting" => Process::Starting {
                        since,
                        as_standby: words.has("standby"),
                        upstream: words
                            .1
                            .get("upstream")
                            .map(|host| Endpoint { host: (*host).to_owned(), port: 5432 }),
                    },
                    "stopping" => Process::Stopping { since },
                    "unresponsive" => Process::Unresponsive { since },
                    "primary" => running(primary(words.lsn("lsn")?.unwrap_or(Lsn(0x5000)).0)),
                    "standby" => running(standby(
                        words.lsn("lsn")?.unwrap_or(Lsn(0x5000)).0,
                        words.1.get("upstream").copied(),
                    )),
                    other => return Err(format!("process {other}").into()),
                };
                if let Process::Running(running) = &mut self.o.instance.process {
                    running.timeline = words.timeline()?;
                    if let Role::Primary(facts) = &mut running.role {
                        facts.checkpointed = !words.has("nocheckpoint");
                        facts.oldest = words.lsn("oldest")?;
                        facts.since = words.at("since")?.unwrap_or(facts.since);
                        if let Some(at) = words.lsn("forked_at")? {
                            facts.forked = vec![Fork {
                                parent: TimelineId(running.timeline.0 - 1),
                                at,
                                why: "no recovery target specified".to_owned(),
                                timestamp: "2026-11-20T23:16:15+00:00".to_owned(),
                            }];
                        }
                    }
                    if let Role::Standby(facts) = &mut running.role {
                        facts.replay_paused = words.has("replay-paused");
                        facts.complete = !words.has("replaying");
                    }
                }
            }
            "replica" => {
                let name = words.first();
                let facts = self.primary()?;
                facts.replicas.retain(|replica| replica.name != name);
                if !words.has("gone") {
                    facts.replicas.push(ReplicaFacts {
                        name: name.to_owned(),
                        streaming: true,
                        flushed: words.lsn("flushed")?.unwrap_or(facts.written),
                        replayed: words.lsn("flushed")?.unwrap_or(facts.written),
                        sync_state: SyncState::Async,
                    });
                }
            }
            "forked" => {
                let parent = TimelineId(words.first().parse()?);
                let (at, why) =
                    (words.lsn("at")?.unwrap_or_default(), "no recovery target specified".to_owned());
                let timestamp = "2026-11-20T23:16:15+00:00".to_owned();
                self.primary()?.forked.push(Fork { parent, at, why, timestamp });
            }
            "names" => self.primary()?.synchronous_standby_names = words.first().to_owned(),
            "effective" => {
                let at = words.lsn("at")?.unwrap_or_default();
                self.primary()?.sync_effective = Some(SyncEffective { names: words.first().to_owned(), at });
            }
            "history-line-missing" => {
                let line = words.first().parse()?;
                let history = self.view()?.history.as_mut().ok_or("no history")?;
                history.value.0.retain(|l| l.timeline != TimelineId(line));
            }
            "not-streaming" => match &mut self.running()?.role {
                Role::Standby(facts) if words.has("gone") => facts.receiver = Receiver::Gone,
                Role::Standby(facts) => facts.receiver = Receiver::Waiting,
                Role::Primary(_) => return Err("not a standby".into()),
            },
            "missing" => {
                let since = words.at("since")?.unwrap_or(now);
                self.view()?.members.remove(words.first());
                self.o.missing.insert(words.first().to_owned(), since);
            }
            "slot" => {
                let (name, slots) = (words.first().to_owned(), &mut self.running()?.slots);
                slots.retain(|slot| slot.name != name);
                if !words.has("gone") {
                    let (active, physical) = (!words.has("idle"), !words.has("logical"));
                    slots.push(SlotFacts { name, active, physical });
                }
            }
            "noslots" => self.running()?.slots.clear(),
            "was_primary_on" => {
                self.data()?.was_primary_on = Some(TimelineId(words.first().parse()?));
            }
            "operation" => {
                let kind = match words.first() {
                    "idle" => {
                        self.o.operation = OperationFacts::Idle;
                        return Ok(String::new());
                    }
                    "bootstrap" => OperationKind::Bootstrap,
                    "clone" => OperationKind::Clone,
                    "rewind" => OperationKind::Rewind,
                    "start-as-standby" => OperationKind::StartAsStandby,
                    "start-as-primary" => OperationKind::StartAsPrimary,
                    "promote" => OperationKind::Promote,
                    "stop" => OperationKind::Stop,
                    "restart" => OperationKind::Restart,
                    other => return Err(format!("operation {other}").into()),
                };
                self.o.operation = if words.has("failed") {
                    let outcome = Outcome::Failed { why: "it did not work".to_owned() };
                    OperationFacts::Finished { kind, at: words.at("at")?.unwrap_or(now), outcome }
                } else if words.has("succeeded") {
                    OperationFacts::Finished {
                        kind,
                        at: words.at("at")?.unwrap_or(now),
                        outcome: Outcome::Succeeded,
                    }
                } else {
                    OperationFacts::Running { kind, started: words.at("since")?.unwrap_or(now) }
                };
            }
            "initialize" => {
                self.view()?.initialize = match words.first() {
                    "none" => None,
                    "claimed" => {
                        Some(key(Initialize::Claimed, 10, Some(words.number("lease")?.unwrap_or(99))))
                    }
                    id => Some(key(Initialize::parse(id), 10, None)),
                };
            }
            "history" => {
                let mut lines = Vec::new();
                for (timeline, end) in words.0.iter().enumerate() {
                    let (lsn, leader) = end.split_once('@').ok_or("LSN@leader")?;
                    lines.push(HistoryLine {
                        timeline: TimelineId(u32::try_from(timeline)? + 1),
                        ended_at: lsn.parse()?,
                        why: "no recovery target specified".to_owned(),
                        timestamp: Some("2026-11-20T23:16:15+00:00".to_owned()),
                        new_leader: Some(leader.to_owned()),
                    });
                }
                self.view()?.history = Some(key(History(lines), 21, None));
            }
            "sync" => {
                if words.first() == "none" {
                    self.view()?.sync = None;
                    return Ok(String::new());
                }
                let entry = |text: &&str| {
                    let (confirm, members) = text.split_once('@').expect("confirm@members");
                    let members = members.split('/').filter(|m| *m != "nobody").map(str::to_owned).collect();
                    SyncEntry { members, confirm: confirm.parse().expect("a number") }
                };
                let document = SyncDocument {
                    leader: words.1.get("leader").map(|name| (*name).to_owned()),
                    entries: words.0.iter().map(entry).collect(),
                };
                self.view()?.sync = Some(key(document, 28, None));
            }
            "failover" => {
                let field = |name: &str| words.1.get(name).map(|value| (*value).to_owned());
                let request = FailoverRequest {
                    leader: field("leader"),
                    member: field("member"),
                    scheduled_at: words.1.get("in").map(|_| "2026-11-21T10:00:00+00:00".to_owned()),
                };
                self.o.scheduled_in = words.at("in")?.map(|at| at.0);
                self.view()?.failover = Some(key(request, 31, None));
            }
            "status" => {
                let optime = words.first().parse()?;
                let revision = words.number("rev")?.unwrap_or(29);
                self.view()?.status = Some(key(Status { optime, ..Status::default() }, revision, None));
            }
            "voters" => {
                let voters = &mut self.o.voters;
                voters.leads_here = words.has("leads");
                if words.has("alone") {
                    voters.answering.clear();
                }
                if let Some(witness) = words.1.get("witness") {
                    voters.answering.insert((*witness).to_owned());
                }
                if let Some(mute) = words.1.get("mute") {
                    voters.answering.remove(*mute);
                }
            }
            "silent" => {
                let name = words.first().to_owned();
                let voters = &mut self.o.voters;
                let ms = words.number("ms")?.map(|ms| Duration::from_millis(ms.unsigned_abs()));
                match ms {
                    Some(silent) => drop(voters.silent.insert(name.clone(), silent)),
                    None => drop(voters.silent.remove(&name)),
                }
                if words.has("refuses") {
                    voters.refusing.insert(name);
                }
            }
            "suspicion" => {
                let revision = words.number("rev")?.unwrap_or(40);
                let document = Suspicion {
                    suspect: words.first().to_owned(),
                    lock: Revision(words.number("lock")?.unwrap_or(20)),
                    by: words.1.get("by").copied().unwrap_or("n3").to_owned(),
                    why: "it is silent".to_owned(),
                    revoked: words.has("revoked"),
                };
                let since = words.at("since")?.unwrap_or(now);
                self.view()?.suspicion = (words.first() != "none")
                    .then(|| Suspected { key: key(document, revision, None), since });
            }
            "noconfig" => self.view()?.config = None,
            "decide" => return Ok(crate::print::decision(&decide(&self.o))),
            // A tick: decided, and performed unless it says "failed"; prints what is recorded.
            "tick" => {
                let decision = decide(&self.o);
                let records = self.chronicle.note(&self.o, &decision, !words.has("failed"));
                return Ok(records.iter().map(crate::print::story).collect());
            }
            "fenced" => {
                let me = self.o.policy.name().to_owned();
                let by = if words.has("guard") { record::Fencer::Guard } else { record::Fencer::Agent };
                let record = self.chronicle.fenced(now, &me, by, words.number("margin_ms")?);
                return Ok(crate::print::story(&record));
            }
            "forecast" => {
                let of = |name| Ok::<_, Failed>(usize::try_from(words.number(name)?.unwrap_or(3))?);
                let voters = forecast::Voters { all: of("voters")?, heard: of("heard")?, with_primary: true };
                let decision = decide(&self.o);
                let forecast = forecast::forecast(&self.o, &decision.reason.sentence, Some(voters));
                return Ok(forecast.sentences().iter().map(|line| format!("{line}\n")).collect());
            }
            other => return Err(format!("unknown line {other}").into()),
        }
        Ok(String::new())
    }
}

impl goldenscript::Runner for Script {
    type Command = Command;
    fn run(&mut self, command: &Command, _: &goldenscript::Context) -> Result<String, Failed> {
        self.line(&command.name, &Words::of(command))
    }
}

fn run_all(area: &str) {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts").join(area);
    let entries = std::fs::read_dir(&directory).expect("the scripts");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "no scripts in {}", directory.display());
    for path in paths {
        goldenscript::run(&mut Script::default(), &path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

macro_rules! areas {
    ($($area:ident)*) => { $( #[test] fn $area() { run_all(stringify!($area)); } )* };
}

mod area {
    use super::run_all;
    areas!(primary standby race switchover sync quorum_loss bootstrap pause rejoin takeover record forecast);
}
