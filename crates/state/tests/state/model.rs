//! The naive model: the whole map of every revision, kept for ever. It shares no code with the state machine: duplicates
//! are found by writing out every way a transaction could run, ranges by filtering a map, history by indexing.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_state::{
    Body, Command, Compare, CompareTarget, DeleteRange, DeleteRangeReply, Done, Event, KeyValue, Put,
    PutReply, Range, RangeReply, Rejection, Reply, ReplyBody, Revision, Txn, TxnOp, TxnOpBody, TxnOpReply,
    TxnOpReplyBody, TxnReply,
};

use crate::auth_model::AuthModel;

type Map = BTreeMap<Bytes, KeyValue>;

pub(crate) struct Model {
    /// By revision; 0 is unused, 1 is empty.
    maps: Vec<Map>,
    /// By revision.
    events: Vec<Vec<Event>>,
    pub(crate) compacted: Revision,
    /// (ttl, stamp, what remains or 0).
    pub(crate) leases: BTreeMap<i64, (u64, u64, u64)>,
    /// Of kind 1 (NOSPACE) and 2 (CORRUPT), by member.
    alarms: Vec<(u64, i32)>,
    pub(crate) auth: AuthModel,
}

/// One revision in the making.
struct Working {
    map: Map,
    events: Vec<Event>,
    main: Revision,
}

pub(crate) fn within(key: &[u8], from: &[u8], end: &[u8]) -> bool {
    match end {
        b"" => key == from,
        b"\0" => key >= from,
        end => key >= from && key < end,
    }
}

impl Model {
    pub(crate) fn new() -> Model {
        Model {
            maps: vec![Map::new(), Map::new()],
            events: vec![Vec::new(), Vec::new()],
            compacted: 0,
            leases: BTreeMap::new(),
            alarms: Vec::new(),
            auth: AuthModel::new(),
        }
    }

    pub(crate) fn revision(&self) -> Revision {
        Revision::try_from(self.maps.len()).expect("small") - 1
    }

    pub(crate) fn map(&self, revision: Revision) -> &Map {
        &self.maps[usize::try_from(revision).expect("not negative")]
    }

    fn now(&self) -> &Map {
        self.map(self.revision())
    }

    pub(crate) fn apply(&mut self, command: &Command) -> (Reply, Vec<Event>) {
        let mut working = Working { map: self.now().clone(), events: Vec::new(), main: self.revision() + 1 };
        let body = command.body.as_ref().expect("a body");
        let permitted = self.auth.check(command.actor.as_ref(), body, &|lease| self.lease_keys(lease));
        let outcome = permitted.and_then(|()| self.outcome(&mut working, body));
        let body = match outcome {
            Ok(body) => {
                if !working.events.is_empty() {
                    self.maps.push(working.map);
                    self.events.push(working.events.clone());
                }
                body
            }
            Err(rejection) => {
                working.events.clear();
                ReplyBody::Rejected(rejection.into())
            }
        };
        (Reply { revision: self.revision(), body: Some(body) }, working.events)
    }

    fn outcome(&mut self, working: &mut Working, body: &Body) -> Result<ReplyBody, Rejection> {
        let raised = |kind| self.alarms.iter().any(|(_, raised)| *raised == kind);
        let (no_space, corrupt) = (raised(1), raised(2));
        match body {
            Body::Alarm(_) | Body::PublishMember(_) | Body::LeaseCheckpoint(_) | Body::Auth(_) => {}
            _ if corrupt => return Err(Rejection::Corrupt),
            Body::Put(_) | Body::LeaseGrant(_) if no_space => return Err(Rejection::NoSpace),
            Body::Txn(txn)
                if no_space && ways(&txn.success, &txn.failure).iter().flatten().any(Write::is_put) =>
            {
                return Err(Rejection::NoSpace);
            }
            _ => {}
        }
        match body {
            Body::Put(put) => {
                self.check_put(put)?;
                Ok(ReplyBody::Put(working.put(put)))
            }
            Body::DeleteRange(delete) => {
                check_key(&delete.key)?;
                Ok(ReplyBody::DeleteRange(working.delete(delete)))
            }
            Body::Txn(txn) => self.txn(working, txn).map(ReplyBody::Txn),
            Body::Compact(compact) => {
                if compact.revision <= self.compacted {
                    return Err(Rejection::Compacted);
                }
                if compact.revision > self.revision() {
                    return Err(Rejection::FutureRevision);
                }
                self.compacted = compact.revision;
                Ok(ReplyBody::Done(Done {}))
            }
            Body::LeaseGrant(grant) => {
                if self.leases.contains_key(&grant.id) {
                    return Err(Rejection::LeaseExists);
                }
                self.leases.insert(grant.id, (grant.ttl_ms, grant.stamp, 0));
                Ok(ReplyBody::LeaseGrant(grant.clone()))
            }
            Body::LeaseCheckpoint(checkpoint) => {
                for judged in &checkpoint.leases {
                    if let Some((ttl, stamp, remaining)) = self.leases.get_mut(&judged.id)
                        && *stamp == judged.stamp
                    {
                        *stamp += 1;
                        *remaining = if judged.remaining_ms >= *ttl { 0 } else { judged.remaining_ms };
                    }
                }
                Ok(ReplyBody::Done(Done {}))
            }
            Body::LeaseRevoke(revoke) => {
                let (_, stamp, _) = *self.leases.get(&revoke.id).ok_or(Rejection::LeaseNotFound)?;
                if revoke.judged.is_some_and(|judged| judged > stamp) {
                    return Err(Rejection::LeaseNotFound);
                }
                self.leases.remove(&revoke.id);
                let keys: Vec<Bytes> = working
                    .map
                    .values()
                    .filter(|kv| kv.lease == revoke.id)
                    .map(|kv| kv.key.clone())
                    .collect();
                for key in keys {
                    working.delete(&DeleteRange { key, ..DeleteRange::default() });
                }
                Ok(ReplyBody::Done(Done {}))
            }
            Body::Alarm(alarm) => {
                if alarm.clear {
                    self.alarms.retain(|(member, kind)| {
                        (alarm.member != 0 && alarm.member != *member)
                            || (alarm.kind != 0 && alarm.kind != *kind)
                    });
                } else if alarm.kind != 0 && !self.alarms.contains(&(alarm.member, alarm.kind)) {
                    self.alarms.push((alarm.member, alarm.kind));
                }
                Ok(ReplyBody::Done(Done {}))
            }
            Body::PublishMember(_) => Ok(ReplyBody::Done(Done {})),
            Body::Auth(auth) => self.auth.apply(auth).map(ReplyBody::Auth),
        }
    }

    fn lease_keys(&self, lease: i64) -> Vec<Bytes> {
        let attached = self.now().values().filter(|kv| kv.lease != 0 && kv.lease == lease);
        attached.map(|kv| kv.key.clone()).collect()
    }

    fn check_put(&self, put: &Put) -> Result<(), Rejection> {
        check_put_shape(put)?;
        if put.lease != 0 && !self.leases.contains_key(&put.lease) {
            return Err(Rejection::LeaseNotFound);
        }
        if (put.ignore_value || put.ignore_lease) && !self.now().contains_key(&put.key) {
            return Err(Rejection::KeyNotFound);
        }
        Ok(())
    }

    fn check_revision(&self, revision: Revision) -> Result<(), Rejection> {
        match revision {
            ..=0 => Ok(()),
            revision if revision > self.revision() => Err(Rejection::FutureRevision),
            revision if revision < self.compacted => Err(Rejection::Compacted),
            _ => Ok(()),
        }
    }

    fn txn(&self, working: &mut Working, txn: &Txn) -> Result<TxnReply, Rejection> {
        check_shapes(txn)?;
        for branch in [&txn.success, &txn.failure] {
            for way in ways(branch, &[]) {
                for (index, write) in way.iter().enumerate() {
                    if way[..index].iter().any(|earlier| earlier.clashes(write)) {
                        return Err(Rejection::DuplicateKey);
                    }
                }
            }
        }
        self.check_path(txn)?;
        Ok(self.run(working, txn))
    }

    /// Compares see the state before, so this may be asked at any time of the transaction.
    fn succeeds(&self, txn: &Txn) -> bool {
        txn.compare.iter().all(|compare| self.holds(compare))
    }

    fn holds(&self, compare: &Compare) -> bool {
        let missing = KeyValue::default();
        let mut found: Vec<&KeyValue> =
            self.now().values().filter(|kv| within(&kv.key, &compare.key, &compare.range_end)).collect();
        if found.is_empty() {
            if matches!(compare.target, Some(CompareTarget::Value(_))) {
                return false;
            }
            found.push(&missing);
        }
        found.iter().all(|kv| {
            let order = match compare.target.as_ref().expect("a target") {
                CompareTarget::Version(version) => kv.version.cmp(version),
                CompareTarget::Create(revision) => kv.create_revision.cmp(revision),
                CompareTarget::Mod(revision) => kv.mod_revision.cmp(revision),
                CompareTarget::Value(value) => kv.value.cmp(value),
                CompareTarget::Lease(lease) => kv.lease.cmp(lease),
            };
            match compare.result {
                0 => order.is_eq(),
                1 => order.is_gt(),
                2 => order.is_lt(),
                3 => order.is_ne(),
                other => panic!("{other} was not generated"),
            }
        })
    }

    fn check_path(&self, txn: &Txn) -> Result<(), Rejection> {
        let branch = if self.succeeds(txn) { &txn.success } else { &txn.failure };
        branch.iter().try_for_each(|op| match op.body.as_ref().expect("a body") {
            TxnOpBody::Range(range) => self.check_revision(range.revision),
            TxnOpBody::Put(put) => self.check_put(put),
            TxnOpBody::DeleteRange(_) => Ok(()),
            TxnOpBody::Txn(nested) => self.check_path(nested),
        })
    }

    fn run(&self, working: &mut Working, txn: &Txn) -> TxnReply {
        let succeeded = self.succeeds(txn);
        let branch = if succeeded { &txn.success } else { &txn.failure };
        let replies = branch.iter().map(|op| {
            let body = match op.body.as_ref().expect("a body") {
                TxnOpBody::Range(range) => {
                    let wrote = !working.events.is_empty();
                    let current = if wrote { working.main } else { self.revision() };
                    let map = match range.revision {
                        1.. => self.map(range.revision),
                        _ => &working.map,
                    };
                    TxnOpReplyBody::Range(read(map, range, current))
                }
                TxnOpBody::Put(put) => TxnOpReplyBody::Put(working.put(put)),
                TxnOpBody::DeleteRange(delete) => TxnOpReplyBody::DeleteRange(working.delete(delete)),
                TxnOpBody::Txn(nested) => TxnOpReplyBody::Txn(self.run(working, nested)),
            };
            TxnOpReply { body: Some(body) }
        });
        TxnReply { succeeded, replies: replies.collect() }
    }

    pub(crate) fn range(&self, range: &Range) -> Result<RangeReply, Rejection> {
        check_key(&range.key)?;
        self.check_revision(range.revision)?;
        let at = if range.revision <= 0 { self.revision() } else { range.revision };
        Ok(read(self.map(at), range, self.revision()))
    }

    pub(crate) fn txn_read(&self, txn: &Txn) -> Result<TxnReply, Rejection> {
        let mut working = Working { map: self.now().clone(), events: Vec::new(), main: self.revision() + 1 };
        self.txn(&mut working, txn)
    }

    /// Without `prev_kv`.
    pub(crate) fn events(&self, from: Revision, max: usize) -> Result<Vec<Event>, Rejection> {
        if from < self.compacted {
            return Err(Rejection::Compacted);
        }
        let mut told: Vec<Event> = Vec::new();
        for events in self.events.iter().skip(usize::try_from(from).unwrap_or(0)) {
            if told.len() >= max && !told.is_empty() {
                break;
            }
            told.extend(events.iter().map(|event| Event { prev_kv: None, ..event.clone() }));
        }
        Ok(told)
    }

    pub(crate) fn prev_kv(&self, event: &Event) -> Option<KeyValue> {
        let before = event.kv.mod_revision - 1;
        if before < self.compacted { None } else { self.map(before).get(&event.kv.key).cloned() }
    }

    /// How many versions physical compaction must leave: what a read at the compacted revision shows, and every event from
    /// it on.
    pub(crate) fn versions_after_compaction(&self) -> usize {
        let compacted = usize::try_from(self.compacted).expect("not negative");
        let shown = self.maps[compacted].values().filter(|kv| kv.mod_revision < self.compacted).count();
        shown + self.events.iter().skip(compacted).map(Vec::len).sum::<usize>()
    }
}

impl Working {
    fn event(&mut self, kv: KeyValue, prev_kv: Option<KeyValue>, delete: bool) {
        let sub = u32::try_from(self.events.len()).expect("small");
        self.events.push(Event { delete, kv, prev_kv, sub });
    }

    fn put(&mut self, put: &Put) -> PutReply {
        let prev = self.map.get(&put.key).cloned();
        let mut kv = prev.clone().unwrap_or(KeyValue { create_revision: self.main, ..KeyValue::default() });
        kv.key = put.key.clone();
        kv.version += 1;
        kv.mod_revision = self.main;
        if !put.ignore_value {
            kv.value = put.value.clone();
        }
        if !put.ignore_lease {
            kv.lease = put.lease;
        }
        self.map.insert(put.key.clone(), kv.clone());
        self.event(kv, prev.clone(), false);
        PutReply { prev_kv: prev.filter(|_| put.prev_kv) }
    }

    fn delete(&mut self, delete: &DeleteRange) -> DeleteRangeReply {
        let doomed: Vec<KeyValue> =
            self.map.values().filter(|kv| within(&kv.key, &delete.key, &delete.range_end)).cloned().collect();
        for kv in &doomed {
            self.map.remove(&kv.key);
            let tombstone = KeyValue { key: kv.key.clone(), mod_revision: self.main, ..KeyValue::default() };
            self.event(tombstone, Some(kv.clone()), true);
        }
        DeleteRangeReply {
            deleted: i64::try_from(doomed.len()).expect("small"),
            prev_kvs: if delete.prev_kv { doomed } else { Vec::new() },
        }
    }
}

fn read(map: &Map, range: &Range, current: Revision) -> RangeReply {
    let mut kvs: Vec<KeyValue> =
        map.values().filter(|kv| within(&kv.key, &range.key, &range.range_end)).cloned().collect();
    let count = i64::try_from(kvs.len()).expect("small");
    if range.count_only {
        return RangeReply { kvs: Vec::new(), more: false, count, revision: current };
    }
    kvs.retain(|kv| range.min_mod_revision == 0 || kv.mod_revision >= range.min_mod_revision);
    kvs.retain(|kv| range.max_mod_revision == 0 || kv.mod_revision <= range.max_mod_revision);
    kvs.retain(|kv| range.min_create_revision == 0 || kv.create_revision >= range.min_create_revision);
    kvs.retain(|kv| range.max_create_revision == 0 || kv.create_revision <= range.max_create_revision);
    let rank = |kv: &KeyValue| match range.sort_target {
        0 => (0, kv.key.clone()),
        1 => (kv.version, Bytes::new()),
        2 => (kv.create_revision, Bytes::new()),
        3 => (kv.mod_revision, Bytes::new()),
        4 => (0, kv.value.clone()),
        other => panic!("{other} was not generated"),
    };
    if range.sort_order == 2 {
        kvs.sort_by_key(|kv| std::cmp::Reverse(rank(kv)));
    } else {
        kvs.sort_by_key(rank);
    }
    let limit = if range.limit > 0 { usize::try_from(range.limit).expect("positive") } else { usize::MAX };
    let more = kvs.len() > limit;
    kvs.truncate(limit);
    if range.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
    }
    RangeReply { kvs, more, count, revision: current }
}

fn check_key(key: &[u8]) -> Result<(), Rejection> {
    if key.is_empty() { Err(Rejection::EmptyKey) } else { Ok(()) }
}

fn check_put_shape(put: &Put) -> Result<(), Rejection> {
    check_key(&put.key)?;
    if put.ignore_value && !put.value.is_empty() {
        return Err(Rejection::ValueProvided);
    }
    if put.ignore_lease && put.lease != 0 {
        return Err(Rejection::LeaseProvided);
    }
    Ok(())
}

fn check_shapes(txn: &Txn) -> Result<(), Rejection> {
    txn.compare.iter().try_for_each(|compare| check_key(&compare.key))?;
    txn.success.iter().chain(&txn.failure).try_for_each(|op| match op.body.as_ref().expect("a body") {
        TxnOpBody::Range(range) => check_key(&range.key),
        TxnOpBody::Put(put) => check_put_shape(put),
        TxnOpBody::DeleteRange(delete) => check_key(&delete.key),
        TxnOpBody::Txn(nested) => check_shapes(nested),
    })
}

#[derive(Clone)]
enum Write {
    Put(Bytes),
    Delete(Bytes, Bytes),
}

impl Write {
    fn is_put(&self) -> bool {
        matches!(self, Write::Put(_))
    }

    fn clashes(&self, other: &Write) -> bool {
        match (self, other) {
            (Write::Put(a), Write::Put(b)) => a == b,
            (Write::Put(key), Write::Delete(from, end)) | (Write::Delete(from, end), Write::Put(key)) => {
                within(key, from, end)
            }
            (Write::Delete(..), Write::Delete(..)) => false,
        }
    }
}

/// What is written in each way that one of two branches can run.
fn ways(success: &[TxnOp], failure: &[TxnOp]) -> Vec<Vec<Write>> {
    let mut all = Vec::new();
    for branch in [success, failure] {
        let mut so_far: Vec<Vec<Write>> = vec![Vec::new()];
        for op in branch {
            let alternatives = match op.body.as_ref().expect("a body") {
                TxnOpBody::Range(_) => vec![Vec::new()],
                TxnOpBody::Put(put) => vec![vec![Write::Put(put.key.clone())]],
                TxnOpBody::DeleteRange(delete) => {
                    vec![vec![Write::Delete(delete.key.clone(), delete.range_end.clone())]]
                }
                TxnOpBody::Txn(nested) => ways(&nested.success, &nested.failure),
            };
            so_far = so_far
                .iter()
                .flat_map(|way| alternatives.iter().map(|more| [way.as_slice(), more].concat()))
                .collect();
        }
        all.extend(so_far);
    }
    all
}
