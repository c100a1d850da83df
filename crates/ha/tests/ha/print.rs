//! A decision as an operator reads it: the reason, then one line per action.

use quorate_ha::cluster::{MemberRecord, SyncDocument};
use quorate_ha::{Action, Decision, Record, Upstream};

pub(crate) fn decision(decision: &Decision) -> String {
    let mut text = String::new();
    if decision.reason.fatal {
        text.push_str("FATAL ");
    }
    text.push_str(&format!("\"{}\"\n", decision.reason));
    for action in &decision.actions {
        text.push_str(&format!("  {}\n", self::action(action)));
    }
    if let Some(wake) = decision.wake {
        text.push_str(&format!("  again within {} ms\n", wake.as_millis()));
    }
    text
}

/// Its kind, and what somebody would read.
pub(crate) fn story(record: &Record) -> String {
    let again = Record::parse(&record.to_json()).expect("what was written can be read");
    assert_eq!(Record { at: record.at, ..again }, *record, "JSON keeps everything");
    let lines: String = record.sentences().iter().map(|line| format!("  {line}\n")).collect();
    format!("{}\n{lines}", record.kind)
}

pub(crate) fn sync(document: &SyncDocument) -> String {
    let entries: Vec<String> = document
        .entries
        .iter()
        .map(|entry| {
            let members: Vec<&str> = entry.members.iter().map(String::as_str).collect();
            format!("{} of ({})", entry.confirm, members.join(" "))
        })
        .collect();
    format!("leader {}, {}", document.leader.as_deref().unwrap_or("-"), entries.join(" + "))
}

fn member(record: &MemberRecord) -> String {
    let mut text = format!("{} {}", record.role.as_str(), record.state.as_str());
    if let Some(timeline) = record.timeline {
        text.push_str(&format!(" timeline {timeline}"));
    }
    if let Some(lsn) = record.xlog_location {
        text.push_str(&format!(" at {lsn}"));
    }
    if let Some(lsn) = record.wal_start {
        text.push_str(&format!(" with WAL from {lsn}"));
    }
    if !record.checkpoint_after_promote {
        text.push_str(" (no checkpoint yet)");
    }
    if let Some(race) = &record.race {
        text.push_str(&format!(", race of revision {}: {}", race.revision.0, race.position));
    }
    text
}

fn upstream(upstream: &Option<Upstream>) -> &str {
    upstream.as_ref().map_or("nobody", |upstream| &upstream.name)
}

pub(crate) fn action(action: &Action) -> String {
    let revision = |guard: &quorate_ha::KeyGuard| match guard.mod_revision() {
        Some(revision) => format!("at {}", revision.0),
        None => "absent".to_owned(),
    };
    match action {
        Action::GrantMemberLease { ttl } => format!("grant member lease, ttl {ttl:?}"),
        Action::RenewMemberLease { .. } => "renew member lease".to_owned(),
        Action::PublishMember { record: r, .. } => format!("publish {}", member(r)),
        Action::AcquireLock { sync, .. } => {
            format!("ACQUIRE LOCK if there is none and /sync is {}", revision(sync))
        }
        Action::RenewPrimaryLease { .. } => "renew primary lease".to_owned(),
        Action::ReleaseLock { status: None, .. } => "RELEASE LOCK".to_owned(),
        Action::ReleaseLock { status: Some(status), .. } => {
            format!("RELEASE LOCK, everything ends at {}", status.optime)
        }
        Action::ClaimInitialize { .. } => "claim /initialize".to_owned(),
        Action::WriteInitialize { system_identifier, .. } => format!("write /initialize {system_identifier}"),
        Action::AbandonInitialize { .. } => "give up /initialize".to_owned(),
        Action::WriteConfig { guard, .. } => format!("write /config if {}", revision(guard)),
        Action::WriteSync { sync: guard, document, .. } => {
            let document = document.as_ref().map_or("delete".to_owned(), sync);
            format!("write /sync if {}: {document}", revision(guard))
        }
        Action::WriteHistory { document, .. } => format!("write /history {}", document.to_json()),
        Action::WriteStatus { status, .. } => format!("write /status {}", status.optime),
        Action::NameCandidate { document, .. } => format!("write /failover {}", document.to_json()),
        Action::ClearFailoverRequest { .. } => "clear /failover".to_owned(),
        Action::Suspect { guard, document } => {
            format!("SUSPECT {} if /suspicion is {}", document.suspect, revision(guard))
        }
        Action::ClearSuspicion { suspicion, .. } => format!("clear /suspicion if {}", revision(suspicion)),
        Action::RevokeLock { lock, suspicion, sync, .. } => format!(
            "REVOKE LOCK {} of {} if /suspicion is {} and /sync is {}",
            lock.create_revision.0,
            lock.holder,
            revision(suspicion),
            revision(sync)
        ),
        Action::MoveStoreLeadership { to } => format!("move the store's leadership to {}", to.join(", or ")),
        Action::Fence => "FENCE".to_owned(),
        Action::Follow { upstream, slot } => {
            format!("follow {} (slot {})", upstream.name, slot.as_deref().unwrap_or("-"))
        }
        Action::TryStreaming => "try to stream at once".to_owned(),
        Action::StopReceiver => "stop the WAL receiver".to_owned(),
        Action::SetSynchronousStandbyNames { names } => format!("set synchronous_standby_names '{names}'"),
        Action::ConfirmSyncEffective { names } => format!("confirm synchronous_standby_names '{names}'"),
        Action::SetSlots { create, drop } => {
            let list = |names: &std::collections::BTreeSet<String>| {
                names.iter().cloned().collect::<Vec<_>>().join(" ")
            };
            format!("slots: create ({}) drop ({})", list(create), list(drop))
        }
        Action::Checkpoint => "checkpoint".to_owned(),
        Action::Bootstrap => "BOOTSTRAP".to_owned(),
        Action::Clone { from, .. } => format!("CLONE from {}", from.name),
        Action::Rewind { from } => format!("REWIND from {}", from.name),
        Action::StartAsStandby { upstream: from, .. } => format!("START as standby of {}", upstream(from)),
        Action::StartAsPrimary { names, .. } => format!("START as primary under '{names}'"),
        Action::Promote { from, marker, slots, .. } => {
            let marked = match marker.0 == from.0 + 1 {
                true => String::new(),
                false => format!(", still marked with {marker}"),
            };
            let slots: Vec<&str> = slots.iter().map(String::as_str).collect();
            let made = match slots.is_empty() {
                true => String::new(),
                false => format!(", slots ({})", slots.join(" ")),
            };
            format!("PROMOTE from timeline {from}{marked}{made}")
        }
        Action::Stop { mode, checkpoint_first } => {
            format!("STOP {mode:?}{}", if *checkpoint_first { " after a checkpoint" } else { "" })
        }
        Action::Restart { .. } => "RESTART".to_owned(),
    }
}
